//! zstd:chunked, made by skopeo (containers/storage) and by ctr-remote (stargz-snapshotter).

use std::process::Command;

use super::made::{Indexed, SMALL, assert_same_trees, converted, indexes, original, repacked};
use crate::cli::node::{Node, cat, ls, run};
use crate::cli::registry::{Fault, Registry};

/// In both dialects, and with chunks smaller than files.
fn all() -> [Indexed; 3] {
    [repacked(), converted(&["--zstdchunked"]), converted(&["--zstdchunked", "--zstdchunked-chunk-size", "65536"])]
}

/// Where the table of a layer is.
fn table(image: &mut Indexed, layer: usize) -> (usize, usize) {
    let position = image.annotations(layer).iter().find(|(key, _)| key.ends_with("manifest-position"));
    let mut numbers = position.unwrap().1.as_str().unwrap().split(':').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn an_image_shows_the_same_as_the_one_it_was_made_of() {
    let node = Node::new();
    let before = Registry::with(&original());
    let expected = node.mount(&before.image(), "expected");
    for (n, image) in all().into_iter().enumerate() {
        // A repacked image has the diff ids of the original: on one node, neither would be believed without a scan.
        let (node, registry) = (Node::new(), image.registry());
        let at = node.mount(&registry.image(), "indexed");
        assert_same_trees(&expected, &at);
        let found = indexes(&node);
        assert!(found.iter().all(|index| index.starts_with("zstd:chunked, bound by the manifest")), "{n}: {found:?}");
        assert!(node.oncefs(&["check"]).well().out.contains("all is well"));
    }
}

#[test]
fn one_small_file_costs_one_request_for_the_table_and_one_for_little() {
    for mut image in all() {
        let (node, registry) = (Node::new(), image.registry());
        let at = node.mount(&registry.image(), "mnt");
        ls(&at);
        let layer = image.layer_digest(0);
        let index = registry.count(&layer);
        assert_eq!((index.requests, index.bytes), (1, table(&mut image, 0).1));
        assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
        let read = registry.count(&layer);
        assert_eq!(read.requests, 2);
        assert!(read.bytes - index.bytes < 2_000, "{} bytes for {}", read.bytes - index.bytes, SMALL.1.len());
    }
}

#[test]
fn what_was_tampered_with_never_reaches_a_reader() {
    for mut image in all() {
        let (digest, (table, _)) = (image.layer_digest(0), table(&mut image, 0));
        let (node, registry) = (Node::new(), image.registry());
        registry.fault(&digest, Fault::FlippedAt(table + 20));
        let at = node.mount(&registry.image(), "mnt");
        let read = run(Command::new("cat").arg(at.join(SMALL.0)));
        assert!(read.code != Some(0) && read.out.is_empty() && read.err.contains("Input/output"), "{read:?}");
        registry.heal();
        assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
        registry.fault(&digest, Fault::FlippedAt(table / 2));
        let read = run(Command::new("cat").arg(at.join("large")));
        assert!(read.code != Some(0) && read.err.contains("Input/output"), "{:?}", read.err);
        registry.heal();
        run(Command::new("cat").arg(at.join("large"))).well();
    }
}

#[test]
fn a_position_or_a_checksum_that_is_wrong_costs_a_scan() {
    let checksum = format!("sha256:{}", "5".repeat(64));
    for (ending, value) in [
        ("manifest-checksum", checksum.as_str()),
        ("manifest-position", "1:18446744073709551615:100:1"),
        ("manifest-position", "0:100:1000:1"),
        ("manifest-position", "nowhere"),
    ] {
        for mut image in [repacked(), converted(&["--zstdchunked"])] {
            let key = image.annotations(0).keys().find(|key| key.ends_with(ending)).unwrap().clone();
            image.annotations(0).insert(key, value.into());
            let (node, registry) = (Node::new(), image.registry());
            let at = node.mount(&registry.image(), "mnt");
            assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
            let found = indexes(&node);
            assert!(found[0] == "scan of zstd" && found[1].starts_with("zstd:chunked"), "{found:?}");
            assert!(node.oncefs(&["status"]).well().out.contains("declined"));
        }
    }
}
