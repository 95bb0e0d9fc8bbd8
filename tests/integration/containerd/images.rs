//! Images that run: built of Debian's packages once for all tests, or put together of their layers and a test's own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr as _;

use oncefs::digest::Digest;
use serde_json::{Value, json};

pub(crate) use crate::cli::image::Image;
use crate::cli::image::{Layer, MANIFEST, Tar};
use crate::cli::node::run;
use crate::index::made;

/// The layout of an image of `tests/images`, built if it is not there yet.
pub(crate) fn layout(name: &str) -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let images = top.join("target/images");
    fs::create_dir_all(&images).unwrap();
    let lock = File::create(images.join(".lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let layout = images.join(name);
    if !layout.join("index.json").exists() {
        let mut build = Command::new("python3");
        build.arg(top.join("tests/images/build.py")).arg("--out").arg(&images);
        run_long(build.arg("--cache").arg(top.join("target/images-cache")).arg(name));
    }
    layout
}

/// Building takes as long as the archive takes to give the packages.
fn run_long(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// What a layout's manifest says.
pub(crate) fn manifest(layout: &Path) -> Value {
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    serde_json::from_slice(&blob(layout, digest)).unwrap()
}

/// Digests and sizes of a layout's layers.
pub(crate) fn layers(layout: &Path) -> Vec<(String, u64)> {
    let manifest = manifest(layout);
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| (hex(layer["digest"].as_str().unwrap()), layer["size"].as_u64().unwrap())).collect()
}

pub(crate) fn hex(digest: &str) -> String {
    digest.trim_start_matches("sha256:").to_owned()
}

fn blob(layout: &Path, digest: &str) -> Vec<u8> {
    fs::read(layout.join("blobs/sha256").join(hex(digest))).unwrap()
}

/// The one layer of the smallest image that has a shell.
pub(crate) fn shell() -> Layer {
    let layout = layout("tiny");
    let manifest = manifest(&layout);
    let config: Value = serde_json::from_slice(&blob(&layout, manifest["config"]["digest"].as_str().unwrap())).unwrap();
    let diff_id = Digest::from_str(config["rootfs"]["diff_ids"][0].as_str().unwrap()).unwrap();
    let layer = blob(&layout, manifest["layers"][0]["digest"].as_str().unwrap());
    Layer { blob: layer, diff_id, media_type: made::GZIP }
}

/// A layer with one file of so many bytes that gzip can do little about, and that is like no other seed's.
pub(crate) fn noise(path: &str, seed: u64, bytes: usize) -> Layer {
    Layer::gzip(&Tar::new().file(path, &crate::support::sample::noise(bytes, seed)).done())
}

/// A layer with one small file.
pub(crate) fn file(path: &str, content: &str) -> Layer {
    Layer::gzip(&Tar::new().file(path, content.as_bytes()).done())
}

/// The shell's layer and these above it.
pub(crate) fn with_shell(layers: &[Layer]) -> Image {
    Image::of(&[&[shell()], layers].concat())
}

/// An archive of an image for `ctr images import`, under this name.
pub(crate) fn archive(image: &Image, dir: &Path, name: &str) -> PathBuf {
    let source = image.write_layout(&dir.join("archived-layout"));
    let archive = dir.join("archive.tar");
    let target = format!("oci-archive:{}:{name}", archive.display());
    run(Command::new("skopeo").args(["copy", "--quiet", &source, &target])).well();
    archive
}

/// An archive with nothing of an image but manifest and config, for `ctr images import`.
pub(crate) fn without_layers(image: &Image, dir: &Path, name: &str) -> PathBuf {
    let manifest = json!({
        "mediaType": MANIFEST, "digest": image.manifest_digest(), "size": image.manifest.len(),
        "annotations": {"io.containerd.image.name": name},
    });
    let index = json!({"schemaVersion": 2, "manifests": [manifest]}).to_string();
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let tar = Tar::new()
        .file("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#)
        .file("index.json", index.as_bytes())
        .file(&blob(&image.manifest), &image.manifest)
        .file(&blob(&image.config), &image.config);
    let archive = dir.join("without-layers.tar");
    fs::write(&archive, tar.done()).unwrap();
    archive
}
