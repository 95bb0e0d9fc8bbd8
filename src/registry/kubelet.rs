//! Kubelet's credential providers: the programs by which a cloud's nodes log in to its registries, asked by us too.
//!
//! The protocol is kubelet's (KEP-2133): a `CredentialProviderRequest` on standard input, a `CredentialProviderResponse`
//! on standard output, which says for which images its credentials are and how long they may be kept.

mod pattern;
mod providers;
pub(super) use providers::parse;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::digest::Digest;
use crate::registry::config::Config;
use crate::registry::credentials::{Credential, key_of};
use crate::registry::duration;
use crate::registry::program::{self, Program};
use crate::registry::reference::Repository;
use crate::registry::secret::Secret;
use crate::sync::{Arc, Mutex};

use providers::Provider;

/// The configuration's providers and what they have said. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Kubelet {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// File of providers, folder of their programs.
    places: Option<(PathBuf, PathBuf)>,
    read: Mutex<Read>,
    said: Mutex<HashMap<Key, Kept>>,
    running: Semaphore,
}

/// The file's last reading.
#[derive(Debug, Default)]
struct Read {
    text: Option<Digest>,
    providers: Arc<Vec<Provider>>,
}

/// A provider's name, and for what it said its answer counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    provider: String,
    scope: Scope,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Scope {
    Image(String),
    Registry(String),
    Global,
}

#[derive(Debug, Clone)]
struct Kept {
    said: Said,
    until: Instant,
}

/// Credentials by the patterns of what they are for, the most specific first.
type Said = Arc<Vec<(String, Credential)>>;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestText<'a> {
    kind: &'static str,
    api_version: &'a str,
    image: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResponseText {
    kind: String,
    api_version: String,
    cache_key_type: String,
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, AuthText>>,
}

#[derive(Deserialize)]
struct AuthText {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// Kubelet's own.
const TIMEOUT: Duration = Duration::from_secs(60);
const FILE_BYTES_MAX: u64 = 1 << 20;
const RESPONSE_BYTES_MAX: u64 = 1 << 20;
const KEPT_MAX: usize = 1024;
/// A provider that says it may be kept for years is asked again every day.
const KEPT_LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Programs at the same time; each may be some cloud's whole toolkit.
const RUNNING_MAX: usize = 8;

// === impl Kubelet ===

impl Kubelet {
    pub(super) fn new(config: &Config) -> Self {
        let file = config.kubelet_credential_providers.clone();
        let places = file.zip(config.kubelet_credential_provider_bin_dir.clone());
        let (read, said, running) = (Mutex::default(), Mutex::default(), Semaphore::new(RUNNING_MAX));
        Self { shared: Arc::new(Shared { places, read, said, running }) }
    }

    /// The next credential for `repository` that is none of the `refused`. What was kept of a provider and is refused is
    /// asked for anew once. An error says what is wrong with the file.
    pub(super) async fn find(
        &self,
        repository: &Repository,
        refused: &[Credential],
    ) -> Result<Option<Credential>, String> {
        let Some((file, folder)) = &self.shared.places else { return Ok(None) };
        let image = repository.to_string();
        let providers = self.shared.providers(file).await?;
        for provider in providers.iter().filter(|provider| provider.is_for(&image)) {
            let found = match self.shared.found(provider, folder, &image, refused).await {
                Ok(found) => found,
                Err(cause) => {
                    // As kubelet: another provider may know, and the image may be public.
                    tracing::warn!(image, "no credentials from a provider of kubelet's: {cause}");
                    continue;
                }
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

// === impl Shared ===

impl Shared {
    /// The providers that the file names now. When it has changed, all that they said is forgotten.
    async fn providers(&self, path: &Path) -> Result<Arc<Vec<Provider>>, String> {
        let (shown, path) = (path.display().to_string(), path.to_owned());
        let text = tokio::task::spawn_blocking(move || read_bounded(&path)).await;
        let text = text.map_err(io::Error::other).and_then(|read| read);
        let text = text.map_err(|error| format!("cannot read {shown}: {error}"))?;
        let digest = Some(Digest::of(&text));
        let mut read = self.read.lock();
        if read.text != digest {
            let providers = Arc::new(providers::parse(&text).map_err(|cause| format!("{shown} {cause}"))?);
            *read = Read { text: digest, providers };
            self.said.lock().clear();
        }
        Ok(read.providers.clone())
    }

    async fn found(
        &self,
        provider: &Provider,
        folder: &Path,
        image: &str,
        refused: &[Credential],
    ) -> Result<Option<Credential>, String> {
        let first = |said: &Said| {
            let covering = said.iter().filter(|(pattern, _)| pattern::covers(pattern, image));
            covering.map(|(_, credential)| credential).find(|credential| !refused.contains(credential)).cloned()
        };
        if let Some((key, said)) = self.kept(provider, image) {
            let is_refused = said.iter().any(|(_, credential)| refused.contains(credential));
            let found = first(&said);
            if found.is_some() || !is_refused {
                return Ok(found);
            }
            self.said.lock().remove(&key);
        }
        Ok(first(&self.ask(provider, folder, image).await?))
    }

    /// What the provider said and may still be used, narrowest first, as kubelet looks.
    fn kept(&self, provider: &Provider, image: &str) -> Option<(Key, Said)> {
        let said = self.said.lock();
        let scopes = [Scope::Image(image.to_owned()), Scope::registry(image), Scope::Global];
        scopes.into_iter().find_map(|scope| {
            let key = Key { provider: provider.name.clone(), scope };
            let kept = said.get(&key).filter(|kept| Instant::now() < kept.until)?;
            Some((key, kept.said.clone()))
        })
    }

    async fn ask(&self, provider: &Provider, folder: &Path, image: &str) -> Result<Said, String> {
        let _place = self.running.acquire().await;
        let path = program::find(&provider.name, &[folder.to_owned()])?;
        let program = Program {
            name: &provider.name,
            path: &path,
            args: &provider.args,
            env: &provider.env.0,
            timeout: TIMEOUT,
            output_bytes_max: RESPONSE_BYTES_MAX,
        };
        let request = RequestText { kind: "CredentialProviderRequest", api_version: &provider.api_version, image };
        let request = serde_json::to_vec(&request).map_err(|error| error.to_string())?;
        let (ended, response) = program.run(&request).await?;
        if !ended.success() {
            return Err(format!("{} failed ({ended}); run it by hand to see why", provider.name));
        }
        let (scope, lasts, said) =
            understand(&response, provider, image).map_err(|cause| format!("{} {cause}", provider.name))?;
        self.keep(Key { provider: provider.name.clone(), scope }, lasts, said.clone());
        Ok(said)
    }

    fn keep(&self, key: Key, lasts: Duration, said: Said) {
        let now = Instant::now();
        let Some(until) = now.checked_add(lasts.min(KEPT_LONGEST)).filter(|_| !lasts.is_zero()) else { return };
        let mut kept = self.said.lock();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, kept| now < kept.until);
        }
        if kept.len() < KEPT_MAX {
            kept.insert(key, Kept { said, until });
        }
    }
}

/// For what a response counts, how long, and what it says. Nothing of it is quoted: it holds passwords.
fn understand(response: &[u8], provider: &Provider, image: &str) -> Result<(Scope, Duration, Said), String> {
    let response: ResponseText =
        serde_json::from_slice(response).map_err(|_| "gave an answer that is no CredentialProviderResponse")?;
    if response.kind != "CredentialProviderResponse" || response.api_version != provider.api_version {
        return Err(format!("gave an answer that is no CredentialProviderResponse of {}", provider.api_version));
    }
    let scope = match response.cache_key_type.as_str() {
        "Image" => Scope::Image(image.to_owned()),
        "Registry" => Scope::registry(image),
        "Global" => Scope::Global,
        _ => return Err("gave an answer whose cacheKeyType is none of Image, Registry, Global".to_owned()),
    };
    let lasts = match response.cache_duration {
        None => provider.cache,
        Some(text) => duration::parse(&text).ok_or("gave an answer whose cacheDuration is no duration")?,
    };
    let auth = response.auth.unwrap_or_default().into_iter();
    let auth = auth.filter(|(_, auth)| !auth.username.is_empty() || !auth.password.is_empty());
    let mut said: Vec<(String, Credential)> = auth
        .map(|(pattern, auth)| {
            let credential = Credential::Password { user: auth.username, password: Secret::new(auth.password) };
            (key_of(&pattern), credential)
        })
        .collect();
    // Reversed, what is longer comes before what it begins with.
    said.sort_by(|(one, _), (other, _)| other.cmp(one));
    Ok((scope, lasts, Arc::new(said)))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX { Err(io::Error::other("it is larger than 1 MiB")) } else { Ok(text) }
}

// === impl Scope ===

impl Scope {
    fn registry(image: &str) -> Self {
        Self::Registry(image.split('/').next().unwrap_or_default().to_owned())
    }
}

// === impl Provider ===

impl Provider {
    fn is_for(&self, image: &str) -> bool {
        !self.needs_pod && self.match_images.iter().any(|pattern| pattern::covers(pattern, image))
    }
}

#[cfg(test)]
mod tests;
