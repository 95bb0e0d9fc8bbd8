//! What registries say of images: indexes, manifests and configs, read with limits and refused with a reason.
//!
//! Pure: bytes in, words out. Whether the bytes are the promised ones is `resolve`'s to check, before they come here.

use std::collections::BTreeMap;

use oci_spec::image::{Descriptor, ImageManifest, MediaType};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::blob::Layered;
use crate::digest::{DiffId, Digest, LayerDigest};
use crate::registry::error::ManifestError;
use crate::registry::platform::Platform;

/// Registries themselves take no larger manifest (distribution's limit, and Docker Hub's).
pub(super) const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Configs grow with the history; the largest seen are some 100 KiB.
pub(super) const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// containers get at most 128 through overlayfs's mount options; four times that is nobody's image.
pub(super) const LAYERS_MAX: usize = 512;
/// Indexes within indexes; BuildKit's layouts need one.
pub(super) const DEPTH_MAX: usize = 4;

/// What a registry is told that is understood here.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Both the signed and the plain form.
const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+";
const NYDUS_FEATURE: &str = "nydus.remoteimage.v1";

/// A piece of content as another one refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

#[derive(Debug)]
pub(super) enum Document {
    Index(Index),
    Manifest(Manifest),
}

#[derive(Debug)]
pub(super) struct Index {
    pub(super) entries: Vec<Entry>,
}

/// One of an index's entries.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) wanted: Wanted,
    pub(super) platform: Option<Platform>,
    /// How an OCI layout calls the entry.
    pub(super) names: Vec<String>,
    /// Whether it leads to an image, as far as can be told from outside.
    is_image: bool,
}

#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) media_type: String,
    pub(super) config: Wanted,
    layers: Vec<Descriptor>,
    /// Annotations of its own that speak of its layers.
    of_layers: Vec<(String, String)>,
}

/// What is needed of an image's config.
#[derive(Debug)]
pub(super) struct ImageConfig {
    pub(super) platform: Option<Platform>,
    diff_ids: Vec<DiffId>,
}

// What is read of the JSON before it is known what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct IndexText {
    manifests: Vec<EntryText>,
}

/// oci-spec's descriptor with a platform of our own: its reads `osFeatures` where the specification has `os.features`,
/// and nydus's mark is there.
#[derive(Deserialize)]
struct EntryText {
    #[serde(flatten)]
    descriptor: Descriptor,
    platform: Option<PlatformText>,
}

#[derive(Deserialize)]
struct PlatformText {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
    #[serde(rename = "os.features")]
    os_features: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct ConfigText {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
    rootfs: Option<RootfsText>,
}

#[derive(Deserialize)]
struct RootfsText {
    diff_ids: Option<Vec<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Index,
    Manifest,
}

// === impl Document ===

impl Document {
    /// Reads a manifest or an index. `header` is the media type that came beside it, if any did.
    pub(super) fn parse(bytes: &[u8], header: Option<&str>) -> Result<Self, ManifestError> {
        match kind(bytes, header)? {
            (Kind::Index, _) => Ok(Self::Index(Index::parse(bytes)?)),
            (Kind::Manifest, media_type) => Ok(Self::Manifest(Manifest::parse(bytes, media_type)?)),
        }
    }
}

/// What the bytes are. They must say the same in every way they say it: two programs that read one manifest
/// differently would see different images under one digest (CVE-2021-41190).
fn kind(bytes: &[u8], header: Option<&str>) -> Result<(Kind, String), ManifestError> {
    let outline: Outline = json("manifest", bytes)?;
    let header = header.map(|text| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let is_schema1 = |text: &Option<String>| text.as_ref().is_some_and(|text| text.starts_with(DOCKER_SCHEMA1));
    if outline.schema_version == Some(1) || outline.fs_layers.is_some() || is_schema1(&outline.media_type) {
        return Err(ManifestError::Schema1);
    }
    if outline.manifests.is_some() && outline.layers.is_some() {
        return Err(ManifestError::Ambiguous);
    }
    let of_header = header.as_deref().and_then(kind_of);
    let of_body = match &outline.media_type {
        Some(text) => Some(kind_of(text).ok_or_else(|| ManifestError::MediaType(shown(text)))?),
        None => None,
    };
    if let (Some(header), Some(body), Some(one), Some(other)) = (&header, &outline.media_type, of_header, of_body)
        && one != other
    {
        return Err(ManifestError::TwoTypes { body: shown(body), header: shown(header) });
    }
    let by_fields = match (&outline.manifests, &outline.layers) {
        (Some(_), None) => Some((Kind::Index, MediaType::ImageIndex)),
        (None, Some(_)) => Some((Kind::Manifest, MediaType::ImageManifest)),
        _ => None,
    };
    let told = of_body.or(of_header);
    match (told, by_fields) {
        (Some(told), Some((seen, _))) if told != seen => Err(ManifestError::Ambiguous),
        (Some(told), _) => Ok((told, outline.media_type.or(header).unwrap_or_default())),
        (None, Some((seen, media_type))) => Ok((seen, media_type.to_string())),
        (None, None) => Err(ManifestError::MediaType(shown(&header.unwrap_or_default()))),
    }
}

fn kind_of(media_type: &str) -> Option<Kind> {
    match MediaType::from(media_type) {
        MediaType::ImageIndex => Some(Kind::Index),
        MediaType::ImageManifest => Some(Kind::Manifest),
        MediaType::Other(other) if other == DOCKER_INDEX => Some(Kind::Index),
        MediaType::Other(other) if other == DOCKER_MANIFEST => Some(Kind::Manifest),
        _ => None,
    }
}

// === impl Index ===

impl Index {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let text: IndexText = json("index", bytes)?;
        let entries = text.manifests.into_iter().map(Entry::read).collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }
}

/// The entry that suits `want` best: of equally good ones the first, and where none says that it suits, the first that
/// says nothing. On failure the platforms there are.
pub(super) fn choose<'a>(entries: &[&'a Entry], want: &Platform) -> Result<&'a Entry, Vec<String>> {
    let images = || entries.iter().copied().filter(|entry| entry.is_image);
    let fit = |entry: &&Entry| entry.platform.as_ref().and_then(|have| want.fit(have));
    let best = images().rev().filter(|entry| fit(entry).is_some()).max_by_key(fit);
    best.or_else(|| images().find(|entry| entry.platform.is_none())).ok_or_else(|| {
        let mut have: Vec<String> = images().filter_map(|entry| Some(entry.platform.as_ref()?.to_string())).collect();
        have.sort();
        have.dedup();
        have
    })
}

impl Entry {
    fn read(text: EntryText) -> Result<Self, ManifestError> {
        let descriptor = text.descriptor;
        let platform = text.platform.as_ref();
        let is_nydus = platform.and_then(|text| text.os_features.as_ref());
        let is_nydus = is_nydus.is_some_and(|features| features.iter().any(|feature| feature == NYDUS_FEATURE));
        let platform =
            platform.and_then(|text| Platform::of_fields(&text.os, &text.architecture, text.variant.as_deref()));
        let annotation = |key: &str| descriptor.annotations().as_ref().and_then(|all| all.get(key));
        let is_attestation = platform.as_ref().is_some_and(Platform::is_unknown)
            || annotation("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest");
        let is_image = kind_of(descriptor.media_type().as_ref()).is_some() && !is_nydus && !is_attestation;
        let names = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];
        let names = names.iter().filter_map(|key| annotation(key).cloned()).collect();
        Ok(Self { wanted: Wanted::read(&descriptor)?, platform, names, is_image })
    }
}

// === impl Wanted ===

impl Wanted {
    fn read(descriptor: &Descriptor) -> Result<Self, ManifestError> {
        Ok(Self { digest: digest(descriptor.digest().as_ref())?, size: descriptor.size() })
    }
}

// === impl Manifest ===

impl Manifest {
    fn parse(bytes: &[u8], media_type: String) -> Result<Self, ManifestError> {
        let manifest: ImageManifest = json("manifest", bytes)?;
        let config = manifest.config();
        match config.media_type() {
            MediaType::ImageConfig => {}
            MediaType::Other(other) if other == DOCKER_CONFIG => {}
            other => return Err(ManifestError::Artifact(shown(other.as_ref()))),
        }
        if manifest.layers().len() > LAYERS_MAX {
            return Err(ManifestError::Layers(manifest.layers().len()));
        }
        let config = Wanted::read(config)?;
        let all = manifest.annotations().iter().flatten();
        let of_layers =
            all.filter(|(key, value)| OF_LAYERS.contains(&key.as_str()) && value.len() <= OF_LAYERS_BYTES_MAX);
        let of_layers = of_layers.map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Self { media_type, config, layers: manifest.layers().clone(), of_layers })
    }

    /// The layers with their diff ids, bottom first.
    pub(super) fn layers(&self, config: &ImageConfig) -> Result<Vec<Layered>, ManifestError> {
        let (layers, diff_ids) = (self.layers.len(), config.diff_ids.len());
        if layers != diff_ids {
            return Err(ManifestError::DiffIds { layers, diff_ids });
        }
        self.layers
            .iter()
            .zip(&config.diff_ids)
            .map(|(layer, diff_id)| layered(layer, *diff_id, &self.of_layers))
            .collect()
    }
}

fn layered(layer: &Descriptor, diff_id: DiffId, of_all: &[(String, String)]) -> Result<Layered, ManifestError> {
    let Wanted { digest, size } = Wanted::read(layer)?;
    let mut annotations: BTreeMap<String, String> =
        layer.annotations().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    annotations.extend(of_all.iter().cloned());
    let media_type = layer.media_type().to_string();
    if let Some(kind) = unusable(&media_type, &annotations) {
        return Err(ManifestError::Layer { layer: digest.to_string(), kind });
    }
    Ok(Layered { digest: LayerDigest(digest), diff_id, size, media_type, annotations })
}

/// Annotations of a manifest that are kept with each of its layers: where the index of them all is (SOCI).
const OF_LAYERS: &[&str] = &["com.amazon.soci.index-digest"];
/// A digest has 71 bytes.
const OF_LAYERS_BYTES_MAX: usize = 256;

/// Annotations that say a layer is not the files' tar, whatever its media type.
const STRANGE: &[(&str, &str)] = &[
    ("containerd.io/snapshot/nydus-", "a nydus layer"),
    ("containerd.io/snapshot/overlaybd/", "an overlaybd layer"),
    ("containerd.io/snapshot/fastoci/", "an overlaybd (turboOCI) layer"),
];

/// What kind of layer this is, if it is one that cannot be unpacked as a tar.
fn unusable(media_type: &str, annotations: &BTreeMap<String, String>) -> Option<String> {
    let marked = |prefix: &str| annotations.keys().any(|key| key.starts_with(prefix));
    if let Some((_, kind)) = STRANGE.iter().find(|(prefix, _)| marked(prefix)) {
        return Some((*kind).to_owned());
    }
    if media_type.ends_with("+encrypted") {
        return Some("encrypted, and oncefs has no keys".to_owned());
    }
    if media_type.contains("nydus") {
        return Some("a nydus layer".to_owned());
    }
    if media_type.contains("vnd.erofs") || media_type.contains("+erofs") {
        return Some("a native EROFS layer".to_owned());
    }
    if media_type.contains("nondistributable") || media_type.contains("rootfs.foreign") {
        return Some("a foreign layer, which registries do not hold".to_owned());
    }
    match MediaType::from(media_type) {
        MediaType::ImageLayer | MediaType::ImageLayerGzip | MediaType::ImageLayerZstd => None,
        MediaType::Other(other) if DOCKER_LAYERS.contains(&other.as_str()) => None,
        other => Some(format!("of the unknown media type {:?}", shown(other.as_ref()))),
    }
}

const DOCKER_LAYERS: &[&str] = &[
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

// === impl ImageConfig ===

impl ImageConfig {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let text: ConfigText = json("config", bytes)?;
        let platform = Platform::of_fields(&text.os, &text.architecture, text.variant.as_deref());
        let diff_ids = text.rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default();
        let diff_ids = diff_ids.iter().map(|text| digest(text).map(DiffId)).collect::<Result<_, _>>()?;
        Ok(Self { platform, diff_ids })
    }
}

fn digest(text: &str) -> Result<Digest, ManifestError> {
    text.parse().map_err(|source| ManifestError::Digest { text: shown(text), source })
}

fn json<T: DeserializeOwned>(document: &'static str, bytes: &[u8]) -> Result<T, ManifestError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let text = error.to_string();
        let cause = shown(text.split(" at line ").next().unwrap_or_default());
        ManifestError::Json { document, line, column, cause }
    })
}

/// A text from outside as it may stand in an error: short, and without control characters.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}

#[cfg(test)]
mod tests;
