//! From a name to an image: index, manifest and config, each checked against the digest that leads to it.

use std::path::Path;

use bytes::Bytes;

use crate::blob::Origin;
use crate::digest::{self, Digest};
use crate::registry::ask::{Access, Ask};
use crate::registry::client::Client;
use crate::registry::error::{ManifestError, RegistryError};
use crate::registry::layout::Layout;
use crate::registry::manifest::{
    ACCEPT, CONFIG_BYTES_MAX, DEPTH_MAX, Document, Entry, ImageConfig, Index, MANIFEST_BYTES_MAX, Manifest, Wanted,
    choose,
};
use crate::registry::platform::Platform;
use crate::registry::reference::{Reference, Remote};
use crate::registry::transport::Weight;
use crate::registry::{Resolved, Want};
use crate::sync::Arc;

/// Where an image's documents are.
pub(super) enum Source {
    Remote(Arc<Client>, Remote),
    Local(Arc<Layout>, Option<String>),
}

/// A document on the way to the image.
struct Found {
    digest: Digest,
    bytes: Bytes,
    document: Document,
}

/// One image being resolved.
pub(super) struct Search<'a> {
    pub(super) source: &'a Source,
    pub(super) reference: &'a Reference,
    pub(super) want: &'a Want,
    pub(super) origin: Origin,
}

// === impl Resolved ===

impl Resolved {
    /// An image whose documents were kept from an earlier [`crate::registry::Registry::resolve`]. They are checked again.
    ///
    /// # Errors
    /// Fails where the documents are not the ones that were kept, or are none of an image.
    pub fn from_parts(
        reference: Reference,
        platform: Platform,
        manifest_digest: Digest,
        manifest: Bytes,
        config: Bytes,
        origin: Origin,
    ) -> Result<Self, RegistryError> {
        let image = reference.to_string();
        let unusable = |source| RegistryError::Manifest { image: image.clone(), source };
        let mismatch = |source| RegistryError::Mismatch { what: format!("the remembered manifest of {image}"), source };
        let manifest = digest::check(manifest, &manifest_digest).map_err(mismatch)?.into_inner();
        let Document::Manifest(parsed) = Document::parse(&manifest, None).map_err(unusable)? else {
            return Err(unusable(ManifestError::Deep));
        };
        let mismatch = |source| RegistryError::Mismatch { what: format!("the remembered config of {image}"), source };
        let config = digest::check(config, &parsed.config.digest).map_err(mismatch)?.into_inner();
        let layers = ImageConfig::parse(&config).and_then(|config| parsed.layers(&config)).map_err(unusable)?;
        let media_type = parsed.media_type;
        Ok(Self { reference, manifest_digest, media_type, manifest, config, layers, platform, origin })
    }
}

// === impl Search ===

impl Search<'_> {
    pub(super) async fn run(self) -> Result<Resolved, RegistryError> {
        let mut found = match self.source {
            Source::Remote(client, remote) => self.first(client, remote).await?,
            Source::Local(layout, tag) => {
                let (layout, tag) = (layout.clone(), tag.clone());
                let index = aside(move || layout.index(tag.as_deref())).await?;
                self.enter(&index).await?
            }
        };
        for _ in 0..=DEPTH_MAX {
            found = match &found.document {
                Document::Index(index) => self.enter(index).await?,
                Document::Manifest(manifest) => return self.finish(manifest, &found).await,
            };
        }
        Err(self.unusable(ManifestError::Deep))
    }

    /// The document that the name itself leads to.
    async fn first(&self, client: &Client, remote: &Remote) -> Result<Found, RegistryError> {
        let name = match (&remote.digest, &remote.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.to_string(),
            (None, None) => "latest".to_owned(),
        };
        let small = client.small(&ask(remote, format!("manifests/{name}"), self.image()), MANIFEST_BYTES_MAX).await?;
        let promised = remote.digest.or_else(|| small.digest());
        let bytes = small.bytes.clone();
        let bytes = match promised {
            Some(digest) => self.checked(bytes, &digest, &format!("the manifest of {}", self.image()))?,
            None => bytes,
        };
        self.parse(Digest::of(&bytes), bytes, small.media_type())
    }

    /// The document for our platform among those of an index.
    async fn enter(&self, index: &Index) -> Result<Found, RegistryError> {
        let entries: Vec<&Entry> = index.entries.iter().collect();
        let entry = choose(&entries, &self.platform()).map_err(|have| match have.is_empty() {
            true => self.unusable(ManifestError::Empty),
            false => self.no_platform(have),
        })?;
        let what = format!("the manifest {} of {}", entry.wanted.digest, self.image());
        let bytes = self.fetch("manifests", entry.wanted, &what, MANIFEST_BYTES_MAX).await?;
        self.parse(entry.wanted.digest, bytes, None)
    }

    async fn finish(&self, manifest: &Manifest, found: &Found) -> Result<Resolved, RegistryError> {
        let what = format!("the config of {}", self.image());
        let config = match self.known_config(manifest.config) {
            Some(config) => config,
            None => self.fetch("blobs", manifest.config, &what, CONFIG_BYTES_MAX).await?,
        };
        let parsed = ImageConfig::parse(&config).map_err(|source| self.unusable(source))?;
        if let (Some(want), Some(have)) = (&self.want.platform, &parsed.platform)
            && want.fit(have).is_none()
        {
            return Err(self.no_platform(vec![have.to_string()]));
        }
        let layers = manifest.layers(&parsed).map_err(|source| self.unusable(source))?;
        Ok(Resolved {
            reference: self.reference.clone(),
            manifest_digest: found.digest,
            media_type: manifest.media_type.clone(),
            manifest: found.bytes.clone(),
            config,
            layers,
            platform: parsed.platform.unwrap_or_else(|| self.platform()),
            origin: self.origin.clone(),
        })
    }

    /// The config that is known already, if it is this one.
    fn known_config(&self, wanted: Wanted) -> Option<Bytes> {
        let config = self.want.config.clone().filter(|config| config.len() as u64 == wanted.size)?;
        digest::check(config, &wanted.digest).map(digest::Checked::into_inner).ok()
    }

    fn platform(&self) -> Platform {
        self.want.platform.clone().unwrap_or_else(Platform::host)
    }

    /// What `wanted` describes, whole and checked.
    async fn fetch(&self, kind: &str, wanted: Wanted, what: &str, max: u64) -> Result<Bytes, RegistryError> {
        if wanted.size > max {
            return Err(RegistryError::TooLarge { what: what.to_owned(), max });
        }
        let bytes = match self.source {
            Source::Remote(client, remote) => {
                let ask = ask(remote, format!("{kind}/{}", wanted.digest), what.to_owned());
                client.small(&ask, max).await?.bytes
            }
            Source::Local(layout, _) => {
                let layout = layout.clone();
                let what = what.to_owned();
                aside(move || {
                    let section = layout.blob(&wanted.digest)?;
                    if section.len() != wanted.size {
                        return Err(RegistryError::Size { what, has: section.len(), want: wanted.size });
                    }
                    layout.read(&section)
                })
                .await?
            }
        };
        if bytes.len() as u64 != wanted.size {
            return Err(RegistryError::Size { what: what.to_owned(), has: bytes.len() as u64, want: wanted.size });
        }
        self.checked(bytes, &wanted.digest, what)
    }

    fn checked(&self, bytes: Bytes, digest: &Digest, what: &str) -> Result<Bytes, RegistryError> {
        let checked = digest::check(bytes, digest);
        checked
            .map(digest::Checked::into_inner)
            .map_err(|source| RegistryError::Mismatch { what: what.to_owned(), source })
    }

    fn parse(&self, digest: Digest, bytes: Bytes, media_type: Option<&str>) -> Result<Found, RegistryError> {
        let document = Document::parse(&bytes, media_type).map_err(|source| self.unusable(source))?;
        Ok(Found { digest, bytes, document })
    }

    fn image(&self) -> String {
        self.reference.to_string()
    }

    fn unusable(&self, source: ManifestError) -> RegistryError {
        RegistryError::Manifest { image: self.image(), source }
    }

    fn no_platform(&self, have: Vec<String>) -> RegistryError {
        RegistryError::NoPlatform { image: self.image(), want: self.platform().to_string(), have }
    }
}

fn ask(remote: &Remote, path: String, what: String) -> Ask {
    let accept = path.starts_with("manifests/").then_some(ACCEPT);
    Ask {
        repository: remote.repository.clone(),
        path,
        what,
        accept,
        range: None,
        only_head: false,
        weight: Weight::Light,
        access: Access::Pull,
        change: None,
    }
}

/// Runs what waits for the disk on a thread that may.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(RegistryError::Stopped("reading an image layout".to_owned())))
}

/// Where the blobs of a local layout can be had again.
pub(super) fn local_origin(prefix: &str, path: &Path) -> Result<Origin, RegistryError> {
    let text = path.to_str().ok_or_else(|| RegistryError::Origin(path.display().to_string(), None))?;
    Ok(Origin(format!("{prefix}{text}")))
}
