//! `hosts.toml`: containerd's form of saying where a registry's images are had (containerd, docs/hosts.md), with the same meaning.
//!
//! ```toml
//! server = "https://registry.example"       # the upstream, asked last
//! [host."https://mirror.example"]           # asked first, in the order of the file
//!   capabilities = ["pull", "resolve"]
//!   ca = "mirror.pem"                       # relative to the file
//! ```
//!
//! Keys that are not known are passed over, as containerd does: newer ones must not stop a node.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use crate::errors::of_toml;
use crate::registry::duration;
use crate::registry::hosts::{Need, shown};
use crate::sync::Arc;

/// Places where one registry's images are had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::registry) struct HostFile {
    /// Asked before the upstream, in this order.
    pub(super) mirrors: Vec<Place>,
    /// The upstream, if the file says where it is.
    pub(super) server: Option<Place>,
    /// How the upstream is spoken to, wherever it is.
    pub(super) of_server: Manner,
}

/// One place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Of its API, with a slash at the end: `https://mirror.example/v2/`.
    pub(super) url: Url,
    pub(super) manner: Manner,
}

/// How a place is spoken to, and what it may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manner {
    pub(super) may: Vec<Need>,
    pub(super) headers: HeaderMap,
    pub(super) tls: Arc<Tls>,
}

/// How a connection is made. Clients that say the same share theirs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(in crate::registry) struct Tls {
    /// Authorities to trust besides the system's.
    pub(in crate::registry) ca: Vec<PathBuf>,
    /// Certificate and key; without a key the first file holds both.
    pub(in crate::registry) client: Vec<(PathBuf, Option<PathBuf>)>,
    /// Whoever answers is believed.
    pub(in crate::registry) skip_verify: bool,
    pub(in crate::registry) dial_timeout: Option<Duration>,
}

#[derive(Deserialize)]
struct FileText {
    server: Option<String>,
    #[serde(default)]
    host: HashMap<Spanned<String>, EntryText>,
    capabilities: Option<Vec<String>>,
    ca: Option<Several>,
    client: Option<ClientText>,
    skip_verify: Option<bool>,
    header: Option<BTreeMap<String, Several>>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
}

#[derive(Deserialize, Default)]
struct EntryText {
    capabilities: Option<Vec<String>>,
    ca: Option<Several>,
    client: Option<ClientText>,
    skip_verify: Option<bool>,
    header: Option<BTreeMap<String, Several>>,
    override_path: Option<bool>,
    dial_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Several {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ClientText {
    One(String),
    Many(Vec<String>),
    Pairs(Vec<Vec<String>>),
}

/// A node has a handful of mirrors; each is one more to wait for when all are down.
const MIRRORS_MAX: usize = 64;
/// containerd refuses a file with any other, so that a slip of the pen does not take one away in silence.
const CAPABILITIES: [(&str, Need); 4] =
    [("pull", Need::Pull), ("resolve", Need::Resolve), ("push", Need::Push), ("referrers", Need::Referrers)];
const DIAL_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

// === impl HostFile ===

impl HostFile {
    /// Reads the text of a file in `directory`, to which its paths are relative.
    pub(in crate::registry) fn parse(text: &str, directory: &Path) -> Result<Self, String> {
        let FileText { server, host, capabilities, ca, client, skip_verify, header, override_path, dial_timeout } =
            toml::from_str(text).map_err(|error| of_toml(text, &error))?;
        if host.len() > MIRRORS_MAX {
            return Err(format!("{} hosts, {MIRRORS_MAX} are the most", host.len()));
        }
        let own = EntryText { capabilities, ca, client, skip_verify, header, override_path, dial_timeout };
        let mut mirrors: Vec<(Spanned<String>, EntryText)> = host.into_iter().collect();
        mirrors.sort_by_key(|(name, _)| name.span().start);
        let mirrors = mirrors.into_iter().map(|(name, entry)| entry.place(name.get_ref(), directory));
        let mirrors = mirrors.collect::<Result<_, _>>()?;
        let server = server.map(|server| own.place(&server, directory)).transpose()?;
        Ok(Self { mirrors, server, of_server: own.manner(directory)? })
    }

    /// What certificates alone say, for a directory without a `hosts.toml`, as docker has them: `*.crt` are authorities,
    /// `*.cert` and `*.key` of one name are the client's.
    pub(super) fn of_certificates(files: &[PathBuf]) -> Self {
        let named =
            |ending: &'static str| files.iter().filter(move |file| file.extension().is_some_and(|has| has == ending));
        let tls = Tls {
            ca: named("crt").cloned().collect(),
            client: named("cert").map(|cert| (cert.clone(), Some(cert.with_extension("key")))).collect(),
            ..Tls::default()
        };
        let may = CAPABILITIES.map(|(_, need)| need).to_vec();
        let of_server = Manner { may, headers: HeaderMap::new(), tls: Arc::new(tls) };
        Self { mirrors: Vec::new(), server: None, of_server }
    }
}

// === impl EntryText ===

impl EntryText {
    fn place(&self, url: &str, directory: &Path) -> Result<Place, String> {
        let wrong = |cause: &str| format!("host {:?}: {cause}", shown(url));
        let full = if url.starts_with("http://") || url.starts_with("https://") {
            url.to_owned()
        } else {
            format!("https://{url}")
        };
        let mut parsed = Url::parse(&full).map_err(|error| wrong(&error.to_string()))?;
        let has_login = !parsed.username().is_empty() || parsed.password().is_some();
        if has_login || parsed.host_str().is_none_or(str::is_empty) || parsed.query().is_some() {
            return Err(wrong("write http(s)://HOST[:PORT][/PATH], and a login where docker has it"));
        }
        let path = parsed.path().trim_end_matches('/');
        let is_complete = self.override_path.unwrap_or(false) || path.ends_with("/v2");
        let path = if is_complete { format!("{path}/") } else { format!("{path}/v2/") };
        parsed.set_path(&path);
        let manner = self.manner(directory).map_err(|cause| wrong(&cause))?;
        Ok(Place { url: parsed, manner })
    }

    fn manner(&self, directory: &Path) -> Result<Manner, String> {
        let at = |path: &String| directory.join(path);
        let client = match &self.client {
            None => Vec::new(),
            Some(ClientText::One(path)) => vec![(at(path), None)],
            Some(ClientText::Many(paths)) => paths.iter().map(|path| (at(path), None)).collect(),
            Some(ClientText::Pairs(pairs)) => pairs
                .iter()
                .map(|pair| match pair.as_slice() {
                    [certificate] => Ok((at(certificate), None)),
                    [certificate, key] => Ok((at(certificate), (!key.is_empty()).then(|| at(key)))),
                    _ => Err("client: each pair is a certificate and a key".to_owned()),
                })
                .collect::<Result<_, _>>()?,
        };
        let tls = Tls {
            ca: self.ca.iter().flat_map(Several::all).map(at).collect(),
            client,
            skip_verify: self.skip_verify.unwrap_or(false),
            dial_timeout: self.dial_timeout.as_deref().map(dial_timeout).transpose()?,
        };
        Ok(Manner { may: self.may()?, headers: self.headers()?, tls: Arc::new(tls) })
    }

    /// All, where none is named.
    fn may(&self) -> Result<Vec<Need>, String> {
        let named = self.capabilities.as_deref().unwrap_or_default();
        if named.is_empty() {
            return Ok(CAPABILITIES.map(|(_, need)| need).to_vec());
        }
        let need = |name: &String| {
            let known = CAPABILITIES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
            known.map(|(_, need)| *need).ok_or_else(|| {
                let known = CAPABILITIES.map(|(known, _)| known);
                format!("unknown capability {name:?}; there are {}", known.join(", "))
            })
        };
        named.iter().map(need).collect()
    }

    fn headers(&self) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        for (name, values) in self.header.iter().flatten() {
            // What it holds may be a secret, so the value is not shown.
            let wrong = || format!("header {name:?} cannot be sent");
            let key: HeaderName = name.parse().map_err(|_| wrong())?;
            for value in values.all() {
                let mut value: HeaderValue = value.parse().map_err(|_| wrong())?;
                value.set_sensitive(true);
                headers.append(key.clone(), value);
            }
        }
        Ok(headers)
    }
}

// === impl Several ===

impl Several {
    fn all(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

fn dial_timeout(text: &str) -> Result<Duration, String> {
    let is_useful = |value: &Duration| *value > Duration::ZERO && *value < DIAL_TIMEOUT_MAX;
    let wrong = || format!("dial_timeout {text:?} is no duration (as in \"200ms\" or \"5s\")");
    duration::parse(text).filter(is_useful).ok_or_else(wrong)
}

#[cfg(test)]
mod tests;
