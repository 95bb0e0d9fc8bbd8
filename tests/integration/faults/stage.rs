//! An image of many layers with an index of their own, in docker's registry; and a node that has it mounted through a proxy.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use oncefs::digest::Digest;
use serde_json::json;

use super::proxy::Proxy;
use crate::cli::image::{Image, Layer, MANIFEST, Tar};
use crate::cli::node::{Node, Ran, Running, ls, run};
use crate::daemon::stage::get;
use crate::index::made::program;
use crate::sources::made::{Indexed, convert};
use crate::support::debian_registry::DebianRegistry;

/// Files of each layer: each in a frame of its own.
pub(super) const FILES: usize = 3;
const FILE_BYTES: usize = 30_000;

/// The registry, with the image as `image:1`.
pub(super) struct Hub {
    pub(super) registry: DebianRegistry,
    /// Digests of the image's layers.
    layers: Vec<String>,
}

/// A node that has it mounted.
pub(super) struct Mounted {
    pub(super) node: Node,
    at: PathBuf,
}

// === impl Hub ===

impl Hub {
    /// An image of so many layers, unlike any other test's.
    pub(super) fn with_layers(layers: usize, seed: u64) -> Self {
        let image = convert(&image(layers, seed), &["--estargz"]);
        let digests = (0..layers).map(|n| image.layer_digest(n)).collect();
        Self::holding(digests, |dir| write_layout(&image, dir))
    }

    /// The same without an index: its layers must be scanned.
    pub(super) fn with_plain_layers(layers: usize, seed: u64) -> Self {
        let image = image(layers, seed);
        let digests = image.layers.iter().map(|layer| layer.digest().to_string()).collect();
        Self::holding(digests, |dir| drop(image.write_layout(dir)))
    }

    fn holding(layers: Vec<String>, write: impl FnOnce(&Path)) -> Self {
        let (registry, dir) = (DebianRegistry::start(None), tempfile::tempdir().unwrap());
        write(dir.path());
        registry.push_only(dir.path(), "image:1");
        Self { registry, layers }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.registry.address
    }

    pub(super) fn layer(&self, n: usize) -> String {
        self.layers[n].clone()
    }
}

fn image(layers: usize, seed: u64) -> Image {
    let layer = |layer: usize| {
        let tar = (0..FILES).fold(Tar::new(), |tar, file| {
            tar.file(&name(layer, file), &program(seed + (layer * FILES + file) as u64, FILE_BYTES))
        });
        Layer::gzip(&tar.done())
    };
    Image::of(&(0..layers).map(layer).collect::<Vec<_>>())
}

fn write_layout(image: &Indexed, dir: &Path) {
    let blobs = dir.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let manifest = image.manifest.to_string().into_bytes();
    for (digest, bytes) in &image.blobs {
        std::fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).unwrap();
    }
    let digest = Digest::of(&manifest);
    std::fs::write(blobs.join(digest.hex()), &manifest).unwrap();
    let entry = json!({"mediaType": MANIFEST, "digest": digest.to_string(), "size": manifest.len()});
    std::fs::write(dir.join("index.json"), json!({"schemaVersion": 2, "manifests": [entry]}).to_string()).unwrap();
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
}

// === impl Mounted ===

impl Mounted {
    /// Through the proxy. Readers wait so long; a body that pauses for a second is taken for lost.
    pub(super) fn through(proxy: &Proxy, outage_secs: u32) -> Self {
        Self::of(&proxy.address().to_string(), outage_secs, "")
    }

    /// With more lines for the section `registry`.
    pub(super) fn of(host: &str, outage_secs: u32, registry: &str) -> Self {
        let mounted = Self::unread(host, outage_secs, registry);
        // All trees are known from now on, and no content.
        ls(&mounted.at);
        mounted
    }

    /// Nobody has looked into it yet.
    pub(super) fn unread(host: &str, outage_secs: u32, registry: &str) -> Self {
        let node = Node::new();
        node.configure(&format!(
            "connect_timeout_secs = 60\nresponse_timeout_secs = 60\nidle_timeout_secs = 1\n{registry}[profile]\nrecord_secs = 0\n\
             [fetch]\nbackground = \"off\"\nread_ahead_bytes_max = 0\noutage_secs = {outage_secs}\n"
        ));
        let at = node.mount(&format!("{host}/image:1"), "mnt");
        Self { node, at }
    }

    pub(super) fn starts_reading(&self, layer: usize, file: usize) -> Running {
        Running::start(Command::new("sha256sum").arg(self.at.join(name(layer, file))))
    }

    pub(super) fn reads(&self, layer: usize, file: usize) -> Ran {
        self.starts_reading(layer, file).end()
    }

    /// The server's log.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.node.run().join("oncefs.log")).unwrap_or_default()
    }

    /// The value of a metric, as it is written.
    pub(super) fn metric(&self, name: &str) -> f64 {
        let page = get(UnixStream::connect(self.node.run().join("control.sock")).unwrap(), "/metrics");
        let line = page.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{}", page.body)).parse().unwrap()
    }
}

fn name(layer: usize, file: usize) -> String {
    format!("layer-{layer}/file-{file}")
}

/// That the reader has ended well, with the bytes that were put into the image.
#[track_caller]
pub(super) fn assert_read(ran: Ran, seed: u64, layer: usize, file: usize) {
    let want = Digest::of(&program(seed + (layer * FILES + file) as u64, FILE_BYTES));
    assert_eq!(ran.well().out.split(' ').next().unwrap(), want.hex());
}

/// That it got an error, and said which.
#[track_caller]
pub(super) fn assert_eio(ran: &Ran) {
    assert!(ran.code == Some(1) && ran.err.contains("Input/output error"), "{ran:?}");
}

/// Runs what must be there.
pub(super) fn needed(program: &str) -> String {
    run(Command::new("sh").args(["-c", &format!("command -v {program}")])).well().out.trim().to_owned()
}
