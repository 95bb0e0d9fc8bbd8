//! Where images come from: registries, and OCI image layouts on disk in their place.
//!
//! [`Registry::resolve`] turns a name into manifest, config and layers, each byte of them checked against its digest;
//! [`Registry`] as [`Blobs`] opens the layers, whose bytes the reader checks. Nothing here writes a
//! file, reads the environment, or shows a credential to anybody but the host it is for.

mod archive;
mod ask;
mod challenge;
mod client;
mod clients;
mod clock;
mod config;
mod counters;
mod credential_helper;
mod credentials;
mod door;
mod duration;
mod error;
mod failure;
#[doc(hidden)] // for the fuzz targets
pub mod fuzzing;
mod hosts;
mod kubelet;
mod layout;
mod learned;
mod link;
mod login;
mod manifest;
mod mirrors;
mod platform;
mod program;
mod push;
mod ranges;
mod reference;
mod referrers;
mod resolve;
mod retry;
mod secret;
mod tls;
mod transport;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::blob::{Blob, BlobError, Blobs, Layered, Origin, Referrer};
use crate::digest::{self, Digest, LayerDigest};
use crate::registry::ask::{Access, Ask};
use crate::registry::client::Client;
use crate::registry::clients::Clients;
use crate::registry::layout::{Layout, Section};
use crate::registry::manifest::{ACCEPT, MANIFEST_BYTES_MAX};
use crate::registry::ranges::LayerBlob;
use crate::registry::resolve::{Search, Source, aside, local_origin};
use crate::registry::transport::Weight;
use crate::sync::{Arc, Mutex};

pub use config::Config;
pub use counters::{Counters, Counts};
pub use error::{ManifestError, RegistryError};
pub use hosts::{Missing, Unverified};
pub use learned::Login;
pub use platform::{Platform, PlatformError};
pub use reference::{Local, Reference, ReferenceError, Remote, Repository, Tag};

/// All registries, and the layouts on disk that stand in for one. Clones share connections, logins and counters.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    clients: Clients,
    /// Archives whose headers have been read.
    archives: Mutex<HashMap<PathBuf, Arc<Layout>>>,
}

/// A reference resolved to one platform's image. Manifest and config have been checked against their digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub reference: Reference,
    /// Of the platform's own manifest, also where the reference led to an index.
    pub manifest_digest: Digest,
    pub media_type: String,
    pub manifest: Bytes,
    pub config: Bytes,
    /// Bottom first.
    pub layers: Vec<Layered>,
    /// What the image's config says it runs on, or what was asked for where it says nothing.
    pub platform: Platform,
    /// Where its blobs can be had, now and after a restart.
    pub origin: Origin,
}

/// What of a reference is wanted, and what need not be asked again.
#[derive(Debug, Clone, Default)]
pub struct Want {
    /// `None` where the reference has a digest: whatever platform its manifest is for. Of an index that is this machine's.
    pub platform: Option<Platform>,
    /// A config from earlier. It is asked for if it is not the manifest's.
    pub config: Option<Bytes>,
}

const REMOTE: &str = "docker://";
const LAYOUT: &str = "oci:";
const ARCHIVE: &str = "oci-archive:";
/// Archives kept open; each holds one descriptor.
const ARCHIVES_MAX: usize = 16;

// === impl Registry ===

impl Registry {
    /// # Errors
    /// Fails where the configuration names a certificate file or a host that is none.
    pub fn new(config: Config) -> Result<Self, RegistryError> {
        let clients = Clients::new(config)?;
        Ok(Self { shared: Arc::new(Shared { clients, archives: Mutex::default() }) })
    }

    /// Goes on with another configuration. What is under way is finished as it began; each later request, also for blobs
    /// that are open, is made in the new manner. Logins that were learned stay, tokens and connections are had anew.
    ///
    /// # Errors
    /// Fails as [`Registry::new`] does, and then everything stays as it was.
    pub fn reload(&self, config: &Config) -> Result<(), RegistryError> {
        self.shared.clients.reload(config)
    }

    /// Hosts that the configuration has believed without proof of who they are. Reads files.
    pub fn unverified(&self) -> Vec<Unverified> {
        self.shared.clients.now().unverified()
    }

    /// What registries were asked so far.
    pub fn counters(&self) -> &Arc<Counters> {
        self.shared.clients.counters()
    }

    /// By how many seconds this machine's clock is ahead of that of the registry that answered last, if it said.
    pub fn clock_ahead_secs(&self) -> Option<i64> {
        self.shared.clients.now().clock_ahead_secs()
    }

    /// Remembers a login for a repository, in memory alone: it is taken before those of files. Whether it can be used.
    pub fn learn(&self, repository: &Repository, login: Login) -> bool {
        self.shared.clients.now().logins().learn(repository, login)
    }

    /// Manifest, config and layers of `image` for `platform`.
    ///
    /// # Errors
    /// Says which registry or file failed, and what to do about it.
    pub async fn resolve(&self, image: &Reference, platform: &Platform) -> Result<Resolved, RegistryError> {
        self.resolve_as(image, &Want { platform: Some(platform.clone()), config: None }).await
    }

    /// As [`Registry::resolve`], for who knows more of the image, or wants it as it is.
    ///
    /// # Errors
    /// Says which registry or file failed, and what to do about it.
    pub async fn resolve_as(&self, image: &Reference, want: &Want) -> Result<Resolved, RegistryError> {
        self.shared.resolve(image, want).await
    }

    /// The manifest of this digest where the origin's blobs are, compared with it.
    ///
    /// # Errors
    /// As resolving an image would.
    pub async fn manifest(&self, digest: Digest, origin: &Origin) -> Result<Bytes, RegistryError> {
        self.shared.manifest(digest, origin).await
    }

    /// The manifests that name `subject` as the one they are about; only those of this type, if one is given. An image
    /// layout on disk has none.
    ///
    /// # Errors
    /// As resolving an image would. A registry that has none is no error, nor is one that knows nothing of them.
    pub async fn referrers(
        &self,
        subject: Digest,
        artifact_type: Option<&str>,
        origin: &Origin,
    ) -> Result<Vec<Referrer>, RegistryError> {
        let Some(repository) = remote_of(origin)? else { return Ok(Vec::new()) };
        referrers::find(&self.shared.clients.now(), &repository, subject, artifact_type).await
    }

    /// The manifest that the tag names, whatever it is of. Nothing is compared.
    ///
    /// # Errors
    /// As resolving an image would.
    pub async fn manifest_of_tag(&self, repository: &Repository, tag: &Tag) -> Result<Bytes, RegistryError> {
        let ask = Ask {
            what: format!("the manifest {tag} of {repository}"),
            repository: repository.clone(),
            path: format!("manifests/{tag}"),
            accept: Some(ACCEPT),
            range: None,
            only_head: false,
            weight: Weight::Light,
            access: Access::Pull,
            change: None,
        };
        Ok(self.shared.clients.now().small(&ask, MANIFEST_BYTES_MAX).await?.bytes)
    }

    /// Whether the layer's blob is there and may be had, without a byte of it.
    ///
    /// # Errors
    /// As reading the blob would.
    pub async fn check(&self, layer: &Layered, origin: &Origin) -> Result<(), RegistryError> {
        self.shared.check(layer, origin).await
    }
}

impl Blobs for Registry {
    fn open(&self, layer: LayerDigest, size: u64, origin: Origin) -> BoxFuture<'_, Result<Arc<dyn Blob>, BlobError>> {
        Box::pin(async move { Ok(self.shared.open(layer, size, &origin).await?) })
    }

    fn may_have(&self, layer: &LayerDigest, origin: &Origin) -> bool {
        match remote_of(origin) {
            Ok(Some(_)) => true,
            Ok(None) => self.shared.local_blob(&layer.0, origin).is_ok(),
            Err(_) => false,
        }
    }
}

// === impl Remote ===

impl Remote {
    /// Where its blobs can be had.
    pub fn origin(&self) -> Origin {
        Origin(format!("{REMOTE}{}", self.repository))
    }
}

// === impl Shared ===

impl Shared {
    async fn resolve(&self, reference: &Reference, want: &Want) -> Result<Resolved, RegistryError> {
        let (source, origin) = match reference {
            Reference::Remote(remote) => (Source::Remote(self.clients.now(), remote.clone()), remote.origin()),
            Reference::Layout(local) => {
                let path = absolute(&local.path)?;
                let origin = local_origin(LAYOUT, &path)?;
                let layout = aside(move || Layout::open_directory(&path)).await?;
                (Source::Local(Arc::new(layout), local.tag.clone()), origin)
            }
            Reference::Archive(local) => {
                let path = absolute(&local.path)?;
                let origin = local_origin(ARCHIVE, &path)?;
                (Source::Local(self.archive(path).await?, local.tag.clone()), origin)
            }
        };
        Search { source: &source, reference, want, origin }.run().await
    }

    async fn open(&self, layer: LayerDigest, size: u64, origin: &Origin) -> Result<Arc<dyn Blob>, RegistryError> {
        let text = &origin.0;
        if let Some(repository) = remote_of(origin)? {
            return Ok(Arc::new(LayerBlob::new(self.clients.clone(), repository, layer, size)));
        }
        let layout = self.layout(origin).await?;
        let section = aside(move || layout.blob(&layer.0)).await?;
        if section.size() != size {
            let what = format!("layer {layer} in {text}");
            return Err(RegistryError::Size { what, has: section.size(), want: size });
        }
        Ok(Arc::new(section))
    }

    /// The layout on disk that an origin names.
    async fn layout(&self, origin: &Origin) -> Result<Arc<Layout>, RegistryError> {
        let text = &origin.0;
        if let Some(path) = text.strip_prefix(ARCHIVE) {
            return self.archive(PathBuf::from(path)).await;
        }
        let path = text.strip_prefix(LAYOUT).ok_or_else(|| RegistryError::Origin(text.clone(), None))?;
        let path = PathBuf::from(path);
        aside(move || Layout::open_directory(&path).map(Arc::new)).await
    }

    /// A blob on this machine's disk, which the origin names. Blocking.
    fn local_blob(&self, blob: &Digest, origin: &Origin) -> Result<Section, RegistryError> {
        let text = &origin.0;
        if let Some(path) = text.strip_prefix(ARCHIVE).map(Path::new) {
            let known = self.archives.lock().get(path).cloned().filter(|archive| archive.is_current());
            let archive = known.map_or_else(|| Layout::open_archive(path).map(Arc::new), Ok)?;
            return archive.blob(blob);
        }
        let path = text.strip_prefix(LAYOUT).ok_or_else(|| RegistryError::Origin(text.clone(), None))?;
        Layout::open_directory(Path::new(path))?.blob(blob)
    }

    fn pushed_to(&self, origin: &Origin) -> Result<(Arc<Client>, Repository), RegistryError> {
        let repository = remote_of(origin)?.ok_or_else(|| RegistryError::NotPushed(origin.clone()))?;
        Ok((self.clients.now(), repository))
    }

    async fn manifest(&self, digest: Digest, origin: &Origin) -> Result<Bytes, RegistryError> {
        let what = format!("the manifest {digest} in {origin}");
        let bytes = if let Some(repository) = remote_of(origin)? {
            let ask = Ask {
                what: what.clone(),
                repository,
                path: format!("manifests/{digest}"),
                accept: Some(ACCEPT),
                range: None,
                only_head: false,
                weight: Weight::Light,
                access: Access::Pull,
                change: None,
            };
            self.clients.now().small(&ask, MANIFEST_BYTES_MAX).await?.bytes
        } else {
            let (layout, what) = (self.layout(origin).await?, what.clone());
            aside(move || {
                let section = layout.blob(&digest)?;
                let max = MANIFEST_BYTES_MAX;
                if section.len() > max { Err(RegistryError::TooLarge { what, max }) } else { layout.read(&section) }
            })
            .await?
        };
        let checked = digest::check(bytes, &digest).map_err(|source| RegistryError::Mismatch { what, source })?;
        Ok(checked.into_inner())
    }

    async fn check(&self, layer: &Layered, origin: &Origin) -> Result<(), RegistryError> {
        let Some(repository) = remote_of(origin)? else {
            return self.open(layer.digest, layer.size, origin).await.map(drop);
        };
        let ask = Ask {
            what: format!("layer {} of {repository}", layer.digest),
            repository,
            path: format!("blobs/{}", layer.digest),
            accept: None,
            range: None,
            only_head: true,
            weight: Weight::Light,
            access: Access::Pull,
            change: None,
        };
        self.clients.now().get(&ask).await.map(drop)
    }

    /// The archive at `path`, whose headers are read again only if the file has changed.
    async fn archive(&self, path: PathBuf) -> Result<Arc<Layout>, RegistryError> {
        let known = self.archives.lock().get(&path).cloned();
        let key = path.clone();
        let layout = aside(move || match known {
            Some(layout) if layout.is_current() => Ok(layout),
            _ => Layout::open_archive(&path).map(Arc::new),
        })
        .await?;
        let mut archives = self.archives.lock();
        if archives.len() >= ARCHIVES_MAX && !archives.contains_key(&key) {
            archives.clear();
        }
        archives.insert(key, layout.clone());
        Ok(layout)
    }
}

/// The repository that an origin is, unless it is on this machine's disk.
fn remote_of(origin: &Origin) -> Result<Option<Repository>, RegistryError> {
    let repository = origin.0.strip_prefix(REMOTE).map(str::parse).transpose();
    repository.map_err(|error| RegistryError::Origin(origin.0.clone(), Some(error)))
}

/// An origin outlives the working directory.
fn absolute(path: &Path) -> Result<PathBuf, RegistryError> {
    let io = |source| RegistryError::Io { path: path.to_path_buf(), source: Arc::new(source) };
    std::path::absolute(path).map_err(io)
}
