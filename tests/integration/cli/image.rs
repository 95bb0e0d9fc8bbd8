//! Images made of layers that a test writes: right ones, and wrong ones at exactly one place.

use std::path::Path;

use oncefs::digest::Digest;
use serde_json::{Value, json};

use crate::index::made;

pub(crate) const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// What this machine is called in an image's platform.
pub(crate) const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// A layer as it is named in a manifest, and its bytes.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Vec<u8>,
    pub(crate) diff_id: Digest,
    pub(crate) media_type: &'static str,
}

/// Manifest, config and layers.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

/// A tar of plain files, and of whatever else is appended to it.
pub(crate) struct Tar(tar::Builder<Vec<u8>>);

// === impl Tar ===

impl Tar {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    pub(crate) fn file(mut self, path: &str, content: &[u8]) -> Self {
        let mut header = header(tar::EntryType::Regular, 0o644, content.len());
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }

    /// A file whose name stands in the header as it is, whatever a decent builder would say to it.
    pub(crate) fn raw(mut self, path: &str, content: &[u8]) -> Self {
        let mut header = header(tar::EntryType::Regular, 0o644, content.len());
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    /// A file whose header says another size than it has.
    pub(crate) fn lying(mut self, path: &str, content: &[u8], size: u64) -> Vec<u8> {
        let mut header = header(tar::EntryType::Regular, 0o644, content.len());
        header.set_path(path).unwrap();
        header.set_size(size);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self.0.into_inner().unwrap()
    }

    /// A PAX record for the entry that follows.
    pub(crate) fn pax(mut self, key: &str, value: &[u8]) -> Self {
        self.0.append_pax_extensions([(key, value)]).unwrap();
        self
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_700_000_000);
    header.set_size(size as u64);
    header
}

// === impl Layer ===

impl Layer {
    pub(crate) fn gzip(tar: &[u8]) -> Self {
        Self { blob: made::gzip(tar, 6), diff_id: Digest::of(tar), media_type: made::GZIP }
    }

    pub(crate) fn zstd(tar: &[u8]) -> Self {
        Self { blob: zstd::bulk::compress(tar, 3).unwrap(), diff_id: Digest::of(tar), media_type: ZSTD }
    }

    pub(crate) fn plain(tar: &[u8]) -> Self {
        Self { blob: tar.to_vec(), diff_id: Digest::of(tar), media_type: PLAIN }
    }

    /// These bytes, said to be a gzipped tar.
    pub(crate) fn said_to_be_gzip(blob: &[u8], diff_id: Digest) -> Self {
        Self { blob: blob.to_vec(), diff_id, media_type: made::GZIP }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.blob)
    }

    fn descriptor(&self) -> Value {
        descriptor(self.media_type, &self.blob)
    }
}

// === impl Image ===

impl Image {
    pub(crate) fn of(layers: &[Layer]) -> Self {
        Self::for_architecture(layers, ARCHITECTURE)
    }

    pub(crate) fn for_architecture(layers: &[Layer], architecture: &str) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["/bin/hello"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config),
            "layers": layers.iter().map(Layer::descriptor).collect::<Vec<_>>(),
        });
        Self { layers: layers.to_vec(), config, manifest: manifest.to_string().into_bytes() }
    }

    /// Three layers, each packed in another way, with something of each to look at; `seed` makes it unlike others.
    pub(crate) fn usual(seed: u64) -> Self {
        let bottom = Tar::new()
            .file("etc/hello", b"hello from the bottom\n")
            .file("etc/gone", b"hidden by the layer above\n")
            .file("bin/program", &made::program(seed, 1_500_000));
        let middle = Tar::new().file("etc/.wh.gone", b"").file("srv/page", format!("page {seed}\n").as_bytes());
        let top = Tar::new().file("etc/hello", b"hello from the top\n").file("big", &made::program(!seed, 3_000_000));
        Self::of(&[Layer::plain(&bottom.done()), Layer::zstd(&middle.done()), Layer::gzip(&top.done())])
    }

    pub(crate) fn manifest_digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Digest and bytes of everything that is asked for by digest.
    pub(crate) fn blobs(&self) -> Vec<(Digest, Vec<u8>)> {
        let mut blobs = vec![(Digest::of(&self.config), self.config.clone())];
        blobs.extend(self.layers.iter().map(|layer| (layer.digest(), layer.blob.clone())));
        blobs
    }

    /// Writes it as an OCI image layout. Gives what the command line calls it.
    pub(crate) fn write_layout(&self, dir: &Path) -> String {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let manifest = (self.manifest_digest(), self.manifest.clone());
        for (digest, bytes) in self.blobs().into_iter().chain([manifest]) {
            std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        }
        let index = json!({"schemaVersion": 2, "manifests": [descriptor(MANIFEST, &self.manifest)]});
        std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
        format!("oci:{}", dir.display())
    }

    /// An index whose one entry is this image, said to be for another platform.
    pub(crate) fn index_for(&self, os: &str, architecture: &str) -> Vec<u8> {
        let mut entry = descriptor(MANIFEST, &self.manifest);
        entry["platform"] = json!({"os": os, "architecture": architecture});
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string().into_bytes()
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
}
