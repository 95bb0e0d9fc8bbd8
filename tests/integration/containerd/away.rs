//! A registry that is away, refuses or hangs, for oncefs alone or for everybody.

use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;

use super::harness::{Node, Snapshotter, assert_says};
use super::images::{Image, file, noise, with_shell};
use super::snapshots::Snapshots;
use crate::cli::image::MANIFEST;
use crate::cli::node::until;
use crate::support::ports;
use crate::support::scripted_registry::{Act, Running, Script, registry};

const PAUSE: &str = "127.0.0.1:9/no/pods:here";

fn holding(script: Script, repository: &str, image: &Image) -> Script {
    let script =
        image.blobs().into_iter().fold(script, |script, (_, blob)| script.with_blob(repository, &Bytes::from(blob)));
    script.with_manifest(repository, "1", MANIFEST, &Bytes::from(image.manifest.clone()))
}

/// A node, and a registry that does to oncefs what the rule says.
fn node_with(image: &Image, part: &str, act: Act) -> (Node, Running, String) {
    // So long takes who waits for what never comes. A busy machine is no reason to give up on anything else.
    let check_timeout_secs = if matches!(act, Act::Silence) { 10 } else { 60 };
    let lines = format!("[snapshotter]\ncheck_timeout_secs = {check_timeout_secs}\n[fetch]\noutage_secs = 2\n");
    let node = Node::configured(Snapshotter::Oncefs, PAUSE, &lines);
    let script = holding(registry(), "some/image", image).always_for("oncefs/", part, act);
    let running = node.runtime.block_on(script.run());
    let name = format!("{}/some/image:1", running.address);
    (node, running, name)
}

fn falls_back(part: &str, act: Act) {
    let image = with_shell(&[noise("opt/noise", 91, 50_000), file("etc/said", "said\n")]);
    let (node, running, name) = node_with(&image, part, act);
    node.cri.pull(&name).unwrap();
    let asked = running.seen(part).iter().filter(|seen| seen.headers["user-agent"].starts_with("oncefs/")).count();
    assert!(asked > 0, "oncefs asked for {part}");
    let look = ["sh", "-c", "cat /etc/said; wc -c < /opt/noise"];
    let said = node.containerd.say("k8s.io", &["--rm"], &name, "look", &look);
    assert_eq!(said, "said\n50000\n");
    for layer in &image.layers {
        assert!(node.content().contains(&layer.digest().hex()), "containerd fetched {} itself", layer.digest());
    }
    until("its image is named in the log", || node.oncefs().log().contains(&name));
    node.cri.remove_image(&name);
    until("the snapshots are gone from the disk", || node.oncefs().snapshot_dirs().is_empty());
}

#[test]
fn what_the_registry_refuses_to_oncefs_is_unpacked_as_usual() {
    falls_back("manifests/", Act::Status(403, Vec::new()));
}

#[test]
fn what_the_registry_fails_to_give_oncefs_is_unpacked_as_usual() {
    falls_back("manifests/", Act::Status(500, Vec::new()));
}

#[test]
fn a_manifest_that_never_comes_is_waited_for_a_few_seconds_and_others_go_on() {
    let image = with_shell(&[noise("opt/noise", 92, 50_000)]);
    let (node, running, name) = node_with(&image, "manifests/", Act::Silence);
    let (say, hear) = mpsc::channel();
    std::thread::scope(|scope| {
        let pulling = scope.spawn(|| {
            let pulled = node.cri.pull(&name);
            let _heard = say.send(());
            pulled
        });
        let is_asked =
            || running.seen("manifests/").iter().any(|seen| seen.headers["user-agent"].starts_with("oncefs/"));
        until("oncefs asks for the manifest", is_asked);
        let mut others = Snapshots::at(&node.runtime, &node.oncefs().socket(), "other");
        others.prepare("other/1/active", "", &[]).unwrap();
        assert_eq!(others.stat("other/1/active").unwrap().name, "other/1/active");
        others.remove("other/1/active").unwrap();
        assert!(hear.try_recv().is_err(), "the others were answered while the pull was waiting");
        hear.recv_timeout(Duration::from_secs(60)).expect("the pull ends although the manifest never comes");
        pulling.join().unwrap().unwrap();
    });
    assert_eq!(node.containerd.run("k8s.io", &["--rm"], &name, "look", &["cat", "/opt/noise"]).end().code, Some(0));
}

#[test]
fn a_registry_that_is_away_is_containerds_own_error() {
    let (node, unused) = (Node::configured(Snapshotter::Oncefs, PAUSE, ""), ports::unused());
    let failed = node.cri.pull(&format!("{unused}/away/image:1")).unwrap_err();
    assert_says(failed.message(), "connection refused");
    let failed = node.ctr(&["images", "pull", &format!("{unused}/away/image:1")]);
    assert_ne!(failed.code, Some(0));
    assert_says(&failed.err, "connection refused");
}

#[test]
fn a_registry_that_goes_away_after_a_pull_is_told_by_the_layer_that_is_missing() {
    let image = with_shell(&[noise("opt/noise", 93, 50_000)]);
    let missing = image.layers[1].digest();
    let part = format!("blobs/{missing}");
    let (node, _running, name) = node_with(&image, &part, Act::CutAfter(100));
    node.cri.pull(&name).unwrap();
    let read = node.containerd.run("k8s.io", &["--rm"], &name, "reads", &["cat", "/opt/noise"]).end();
    assert_ne!(read.code, Some(0), "{read:?}");
    until("the log names the layer", || node.oncefs().log().contains(&missing.to_string()));
}
