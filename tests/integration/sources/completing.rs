//! What is done in the background with layers whose index was not made here: completed, compared, and quarantined if they lie.

use std::path::Path;
use std::process::Command;

use oncefs::digest::Digest;
use serde_json::{Value, json};

use super::made::{Indexed, SMALL, assert_same_trees, converted, indexes, original, repacked, with_soci};
use crate::cli::node::{Node, cat, ls, run, until};
use crate::cli::registry::{Fault, Registry};

const ALWAYS: &str = "[fetch]\nbackground = \"always\"\n";

fn requests(registry: &Registry, image: &Indexed) -> usize {
    (0..3).map(|layer| registry.count(image.layer_digest(layer)).requests).sum()
}

#[test]
fn a_mounted_image_is_completed_once_and_then_needs_no_registry() {
    let (node, image) = (Node::new(), converted(&["--estargz"]));
    node.configure(ALWAYS);
    let mut registry = image.registry();
    let at = node.mount(&registry.image(), "mnt");
    ls(&at);
    until("all blobs are verified", || {
        indexes(&node).iter().all(|index| index == "eStargz, bound by the manifest (blob verified as a whole)")
    });
    node.umount(&at).well();
    node.assert_at_rest();

    // It is remembered: nothing is fetched again after a restart.
    let done = requests(&registry, &image);
    let at = node.mount(&registry.image(), "mnt");
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    assert!(indexes(&node).iter().all(|index| index.ends_with("(blob verified as a whole)")), "{:?}", indexes(&node));
    registry.go_away();
    let expected = Registry::with(&original());
    let (elsewhere, before) = (Node::new(), expected.image());
    assert_same_trees(&elsewhere.mount(&before, "expected"), &at);
    assert_eq!(requests(&registry, &image), done);
    assert!(node.oncefs(&["check"]).well().out.contains("all is well"));
}

#[test]
fn a_blob_that_is_another_as_a_whole_is_told_and_its_frames_still_serve() {
    let (node, image) = (Node::new(), converted(&["--estargz"]));
    node.configure(ALWAYS);
    let registry = image.registry();
    let (digest, len) = (image.layer_digest(0), image.layer(0).len());
    // In the large file.
    let at = node.mount(&registry.image(), "mnt");
    registry.fault(&digest, Fault::FlippedAt(len / 2));
    ls(&at);
    let log = || std::fs::read_to_string(node.run().join("oncefs.log")).unwrap();
    until("it is told", || log().contains("the layer's source has other bytes"));
    registry.heal();
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    assert!(indexes(&node)[0].contains("not verified"), "{:?}", indexes(&node));
}

/// A layer is found out not to be what its index says, told once, and read by nobody any more.
pub(super) fn assert_quarantined(node: &Node, at: &Path, told: &str) {
    until("it is found out", || node.oncefs(&["status"]).well().out.contains("quarantined"));
    let text = node.oncefs(&["status"]).well().out;
    assert!(text.contains(told), "{text}");
    let read = run(Command::new("cat").arg(at.join("large")));
    assert!(read.err.contains("Input/output error"), "{:?}", read.err);
    let log = std::fs::read_to_string(node.run().join("oncefs.log")).unwrap();
    assert_eq!(log.matches("layer quarantined").count(), 1, "{log}");
}

const REGISTRY: &str = "[index]\ntrust = \"registry\"\n";

#[test]
fn indexes_that_tell_the_truth_are_found_to_and_serve_a_pull_without_a_scan() {
    let soci = with_soci(&original(), &["--min-layer-size", "2000", "--span-size", "100000"]);
    for image in [
        converted(&["--estargz"]),
        converted(&["--zstdchunked", "--zstdchunked-chunk-size", "65536"]),
        repacked(),
        soci,
    ] {
        let node = Node::new();
        node.configure(REGISTRY);
        let registry = image.registry();
        let at = node.mount(&registry.image(), "mnt");
        ls(&at);
        let is_found =
            |index: &String| index.ends_with("(blob and content verified as a whole)") || index.starts_with("scan");
        until("all content is verified", || indexes(&node).iter().all(is_found));
        assert!(!indexes(&node)[0].starts_with("scan"), "{:?}", indexes(&node));
        let done = requests(&registry, &image);
        node.oncefs(&["pull", &registry.image()]).well();
        assert_eq!(requests(&registry, &image), done, "what was compared as a whole need not be scanned");
        assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    }
}

/// The image with the table of its first layer changed, and bound as it is then.
fn lying(lie: impl Fn(&mut Vec<Value>)) -> Indexed {
    let mut image = repacked();
    let mut blob = image.layer(0).to_vec();
    let annotation = |image: &mut Indexed, end: &str| {
        let (key, value) = image.annotations(0).iter().find(|(key, _)| key.ends_with(end)).unwrap();
        (key.clone(), value.as_str().unwrap().to_owned())
    };
    let (position_key, position) = annotation(&mut image, "manifest-position");
    let (checksum_key, _) = annotation(&mut image, "manifest-checksum");
    let numbers: Vec<usize> = position.split(':').map(|number| number.parse().unwrap()).collect();
    let (start, end) = (numbers[0], numbers[0] + numbers[1]);
    let mut table: Value = serde_json::from_slice(&zstd::decode_all(&blob[start..end]).unwrap()).unwrap();
    lie(table["entries"].as_array_mut().unwrap());
    let json = table.to_string();
    let packed = zstd::encode_all(json.as_bytes(), 3).unwrap();
    let after = blob.split_off(end);
    blob.truncate(start - 4);
    blob.extend((packed.len() as u32).to_le_bytes());
    blob.extend(&packed);
    blob.extend(after);
    image.annotations(0).insert(position_key, format!("{start}:{}:{}:1", packed.len(), json.len()).into());
    image.annotations(0).insert(checksum_key, Digest::of(&packed).to_string().into());
    let digest = Digest::of(&blob).to_string();
    image.manifest["layers"][0]["digest"] = digest.clone().into();
    image.manifest["layers"][0]["size"] = blob.len().into();
    image.blobs.insert(digest, blob);
    image
}

fn entry<'a>(entries: &'a mut [Value], name: &str) -> &'a mut Value {
    entries.iter_mut().find(|entry| entry["name"].as_str().unwrap().trim_matches('/') == name).unwrap()
}

#[test]
fn an_index_that_lies_is_quarantined_and_the_layer_scanned_for_the_next() {
    let mode = lying(|entries| entry(entries, "with-attributes")["mode"] = json!(0o4755));
    // Bytes of another file, each with its right digest.
    let content = lying(|entries| {
        let other = entry(entries, "only/parents/implied").clone();
        for key in ["digest", "offset", "endOffset", "chunkDigest"] {
            entry(entries, "gone")[key] = other[key].clone();
        }
    });
    for (image, told) in [(mode, "/with-attributes has another mode"), (content, "other content")] {
        let node = Node::new();
        // Idle, so that what is read first is read before it is found out.
        node.configure(REGISTRY);
        let registry = image.registry();
        let at = node.mount(&registry.image(), "mnt");
        ls(&at);
        assert_quarantined(&node, &at, told);

        // A new mount shows what is really there, while the old one is still mounted, and after a restart.
        let second = node.mount(&registry.image(), "second");
        assert_eq!(cat(&second.join(SMALL.0)), SMALL.1);
        assert_eq!(
            run(Command::new("stat").args(["-c", "%a"]).arg(second.join("with-attributes"))).well().out,
            "640\n"
        );
        for at in [at, second] {
            node.umount(&at).well();
        }
        node.assert_at_rest();
        let third = node.mount(&registry.image(), "third");
        ls(&third);
        assert!(indexes(&node)[0].starts_with("scan of zstd"), "{:?}", indexes(&node));
        assert!(!node.oncefs(&["status"]).well().out.contains("quarantined"));
    }
}

#[test]
fn readers_wait_for_a_registry_that_is_away_and_ask_it_seldom() {
    let (node, image) = (Node::new(), converted(&["--estargz", "--estargz-chunk-size", "65536"]));
    node.configure("[fetch]\nbackground = \"off\"\noutage_secs = 50\n");
    let registry = image.registry();
    let at = node.mount(&registry.image(), "mnt");
    ls(&at);
    let digest = image.layer_digest(0);
    registry.fault(&digest, Fault::Status(503));
    let before = registry.count(&digest).requests;
    let readers: Vec<_> = ["large", SMALL.0, "holes", "with-attributes", "bin-su", "zeros"]
        .into_iter()
        .map(|name| crate::cli::node::Running::start(Command::new("sha256sum").arg(at.join(name))))
        .collect();
    let log = || std::fs::read_to_string(node.run().join("oncefs.log")).unwrap();
    until("they wait", || log().contains("its readers wait"));
    let asked = || registry.count(&digest).requests - before;
    until("it was asked again, twice", || node.metric("oncefs_fetch_outage_tries_total") >= 3.0);
    // Each reader's first, with its retries, and then one for all with growing pauses.
    assert!(asked() <= 64, "{} requests", asked());
    assert_eq!(log().matches("the layer's source is away; its readers wait").count(), 1, "{}", log());
    registry.heal();
    for reader in readers {
        reader.end().well();
    }
    assert_eq!(log().matches("the layer's source answers again").count(), 1, "{}", log());
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
}

#[test]
fn a_read_fails_when_the_registry_is_away_for_longer_than_is_set() {
    let (node, image) = (Node::new(), converted(&["--estargz"]));
    node.configure("[fetch]\nbackground = \"off\"\noutage_secs = 1\n");
    let registry = image.registry();
    let at = node.mount(&registry.image(), "mnt");
    ls(&at);
    registry.fault(image.layer_digest(0), Fault::Status(503));
    let read = run(Command::new("cat").arg(at.join(SMALL.0)));
    assert!(read.err.contains("Input/output error"), "{read:?}");
    registry.heal();
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
}

/// Chunks that neighbour each other come together, and who reads on finds what comes next here already.
#[test]
fn a_large_file_of_many_chunks_takes_few_requests() {
    let (node, image) = (Node::new(), converted(&["--estargz", "--estargz-chunk-size", "65536"]));
    node.configure("[fetch]\nbackground = \"off\"\n");
    let registry = image.registry();
    let at = node.mount(&registry.image(), "mnt");
    ls(&at);
    let digest = image.layer_digest(0);
    let before = registry.count(&digest);
    let expected = Node::new();
    let original = Registry::with(&original());
    let other = expected.mount(&original.image(), "expected");
    run(Command::new("cmp").arg(at.join("large")).arg(other.join("large"))).well();
    let after = registry.count(&digest);
    let (asked, bytes) = (after.requests - before.requests, after.bytes - before.bytes);
    assert!(asked <= 20, "{asked} requests for 77 chunks");
    assert!(bytes <= image.layer(0).len() * 11 / 10, "{bytes} bytes");
}
