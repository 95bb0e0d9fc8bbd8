//! Small images made up on the spot: their documents, and the OCI layout they fit in.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use oncefs::digest::{DiffId, Digest, LayerDigest};
use serde_json::{Value, json};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image of gzip layers. What is in them is not a tar: nobody here unpacks them.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) layers: Vec<Bytes>,
    pub(crate) diff_ids: Vec<DiffId>,
    pub(crate) config: Bytes,
    pub(crate) manifest: Bytes,
}

impl Sample {
    /// One layer for each size, of bytes that gzip cannot make smaller.
    pub(crate) fn of_sizes(sizes: &[usize]) -> Self {
        Self::on("amd64", sizes)
    }

    pub(crate) fn on(architecture: &str, sizes: &[usize]) -> Self {
        let contents: Vec<Vec<u8>> = sizes.iter().zip(1..).map(|(size, seed)| noise(*size, seed)).collect();
        let diff_ids: Vec<DiffId> = contents.iter().map(|content| DiffId(Digest::of(content))).collect();
        let layers: Vec<Bytes> = contents.iter().map(|content| gzip(content)).collect();
        let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
        let config = json!({"architecture": architecture, "os": "linux", "config": {}, "rootfs": rootfs});
        let config = Bytes::from(config.to_string());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": layers.iter().map(|layer| descriptor(GZIP, layer)).collect::<Vec<_>>(),
        });
        Self { layers, diff_ids, config, manifest: Bytes::from(manifest.to_string()) }
    }

    pub(crate) fn layer_digest(&self, n: usize) -> LayerDigest {
        LayerDigest(Digest::of(&self.layers[n]))
    }

    pub(crate) fn manifest_digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// All that can be asked for by digest, the manifest included.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Bytes> {
        self.layers.iter().chain([&self.config, &self.manifest])
    }

    /// The manifest as an index refers to it.
    pub(crate) fn entry(&self, architecture: &str) -> Value {
        let mut entry = descriptor(MANIFEST, &self.manifest);
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    }
}

/// An image index over these entries.
pub(crate) fn index(entries: &[Value]) -> Bytes {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string().into()
}

pub(crate) fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(content), "size": content.len()})
}

/// Writes an OCI image layout with these images under these tags.
pub(crate) fn write_layout(at: &Path, images: &[(&str, &Sample)]) {
    let blobs = at.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let mut entries = Vec::new();
    for (tag, sample) in images {
        for blob in sample.blobs() {
            fs::write(blobs.join(Digest::of(blob).hex()), blob).unwrap();
        }
        let mut entry = descriptor(MANIFEST, &sample.manifest);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        entries.push(entry);
    }
    fs::write(at.join("index.json"), index(&entries)).unwrap();
}

/// Bytes that look like chance and are the same each time (xorshift64).
pub(crate) fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

fn gzip(content: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap().into()
}
