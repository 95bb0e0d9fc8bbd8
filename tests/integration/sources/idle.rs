//! What of mounted images nobody reads: when it is fetched, and that all of it is.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use super::made::{Indexed, converted};
use super::published::{SMALL, Stage};
use crate::cli::image::{Image, Layer, Tar};
use crate::cli::node::{Node, Running, cat, ls, sha256sum, until};
use crate::cli::registry::{Fault, Registry};
use crate::daemon::stage::Service;
use crate::support::debian_registry::bytes_of_blobs;
use crate::support::sample::noise;

const PASSED: &str = "oncefs_completion_bytes_total";
const VERIFIED: &str = "oncefs_completion_verified_total";

/// A server that has mounted an image with an index, and looked at its names.
struct Mounted {
    service: Service,
    registry: Registry,
    at: PathBuf,
}

impl Mounted {
    /// `background`: as the configuration has it.
    fn with(image: &Indexed, background: &str) -> Self {
        let (service, registry) = (Service::started(&fetch(background)), image.registry());
        let at = service.path("mnt");
        std::fs::create_dir(&at).unwrap();
        service.oncefs(&["mount", &registry.image(), at.to_str().unwrap()]).end().well();
        ls(&at);
        Self { service, registry, at }
    }

    fn reconfigure(&mut self, background: &str) {
        self.service.configure(&fetch(background));
        self.service.signal(Signal::HUP);
        self.service.hear("RELOADING=1");
        self.service.hear("READY=1");
    }

    fn metric(&self, name: &str) -> f64 {
        self.service.metric(name)
    }

    fn waits_until_complete(&self) {
        until("all blobs are verified", || self.metric(VERIFIED) == 3.0);
        assert_eq!(self.metric("oncefs_layers_resident_bytes"), self.metric("oncefs_layers_data_bytes"));
    }
}

fn fetch(background: &str) -> String {
    format!("[fetch]\nbackground = \"{background}\"\noutage_secs = 600\n")
}

/// What "always" does in the meantime says that there was time enough.
#[test]
fn what_nobody_reads_is_fetched_when_readers_are_quiet_at_once_or_never_as_is_set() {
    let image = converted(&["--estargz"]);
    let (mut idle, off) = (Mounted::with(&image, "off"), Mounted::with(&image, "off"));
    let digest = image.layer_digest(0);
    let before = idle.registry.count(&digest).requests;
    idle.registry.fault(&digest, Fault::StallsAfter(0));
    let reader = Running::start(Command::new("sha256sum").arg(idle.at.join("large")));
    until("a reader waits for the registry", || idle.registry.count(&digest).requests > before);
    idle.reconfigure("idle");
    let always = Mounted::with(&image, "always");
    always.waits_until_complete();
    assert_eq!(cat(&idle.at.join("usr/bin/program-0")), cat(&always.at.join("usr/bin/program-0")));
    let second = Mounted::with(&image, "always");
    second.waits_until_complete();
    assert_eq!((idle.metric(PASSED), idle.metric(VERIFIED)), (0.0, 0.0), "a reader waits");

    idle.registry.heal();
    assert_eq!(reader.end().well().out.split(' ').next().unwrap(), sha256sum(&always.at.join("large")));
    idle.waits_until_complete();
    let size: usize = (0..3).map(|n| image.layer(n).len()).sum();
    assert_eq!(idle.metric(PASSED), size as f64);
    assert_eq!((off.metric(PASSED), off.metric(VERIFIED)), (0.0, 0.0));
}

const LARGE_BYTES: usize = 40 << 20;

/// One zstd frame, which nobody can read a part of.
#[test]
fn a_layer_of_one_large_frame_is_completed_with_each_byte_fetched_once() {
    let tar = Tar::new().file(SMALL.0, SMALL.1.as_bytes()).file("large", &noise(LARGE_BYTES, 9));
    let stage = Stage::with(Image::of(&[Layer::zstd(&tar.done())]));
    let (name, lazy) = (stage.name(), stage.name().replace(":1", ":lazy"));
    Node::new().oncefs(&["convert", &name, &lazy]).well();
    let (layer, stage) = (stage.image.layers[0].clone(), stage.anew());

    let node = Node::new();
    node.configure("[fetch]\nbackground = \"always\"\n");
    let at = node.mount(&lazy, "mnt");
    assert_eq!(ls(&at), ["etc", "large"]);
    let layer_of = |status: serde_json::Value| status["mounts"][0]["image"]["layers"][0].clone();
    until("the blob is verified", || {
        layer_of(node.status())["index"].as_str().is_some_and(|index| index.ends_with("(blob verified as a whole)"))
    });
    let (answered, _stopped) = stage.registry.stop();
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    assert_eq!(sha256sum(&at.join("large")), oncefs::digest::Digest::of(&noise(LARGE_BYTES, 9)).hex());
    assert_eq!(bytes_of_blobs(&answered)[&layer.digest().hex()], layer.blob.len() as u64);
}
