//! eStargz, made by ctr-remote.

use std::process::Command;

use super::made::{Indexed, SMALL, assert_same_trees, converted, indexes, original};
use crate::cli::node::{Node, cat, ls, run};
use crate::cli::registry::{Fault, Registry};

const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";

/// As it is usually made; with chunks smaller than files; with several files and chunks in one gzip member.
const VARIANTS: [&[&str]; 3] = [
    &["--estargz"],
    &["--estargz", "--estargz-chunk-size", "65536"],
    &["--estargz", "--estargz-chunk-size", "30000", "--estargz-min-chunk-size", "200000"],
];

fn usual() -> Indexed {
    converted(VARIANTS[0])
}

#[test]
fn an_image_shows_the_same_as_the_one_it_was_made_of() {
    let node = Node::new();
    let before = Registry::with(&original());
    let expected = node.mount(&before.image(), "expected");
    for (n, variant) in VARIANTS.into_iter().enumerate() {
        let registry = converted(variant).registry();
        let at = node.mount(&registry.image(), &format!("indexed-{n}"));
        assert_same_trees(&expected, &at);
    }
    let text = node.oncefs(&["status"]).well().out;
    assert_eq!(
        text.matches("index: eStargz, bound by the manifest (blob not verified as a whole)").count(),
        9,
        "{text}"
    );
    assert!(node.oncefs(&["check"]).well().out.contains("all is well"));
}

#[test]
fn one_small_file_costs_the_index_and_one_request_for_little() {
    let (node, image) = (Node::new(), usual());
    let registry = image.registry();
    let at = node.mount(&registry.image(), "mnt");
    ls(&at);
    let layer = image.layer_digest(0);
    let index = registry.count(&layer);
    assert!(index.requests <= 2 && index.bytes < 100_000, "{index:?} for the index");
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    let read = registry.count(&layer);
    assert_eq!(read.requests, index.requests + 1);
    assert!(read.bytes - index.bytes < 2_000, "{} bytes for {}", read.bytes - index.bytes, SMALL.1.len());
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    assert_eq!(registry.count(&layer), read, "what was read once is here");

    // It stays across a restart, and needs no registry.
    node.umount(&at).well();
    node.assert_at_rest();
    let at = node.mount(&registry.image(), "mnt");
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    assert_eq!(registry.count(&layer), read);
}

#[test]
fn a_table_that_is_not_the_manifests_is_declined_and_the_layer_scanned() {
    let (node, mut image) = (Node::new(), usual());
    let other = format!("sha256:{}", "7".repeat(64));
    image.annotations(0).insert(TOC_DIGEST.to_owned(), other.clone().into());
    let registry = image.registry();
    let at = node.mount(&registry.image(), "mnt");
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    let found = indexes(&node);
    assert!(found[0].starts_with("scan of gzip") && found[1].starts_with("eStargz"), "{found:?}");
    let text = node.oncefs(&["status"]).well().out;
    assert!(text.contains("declined") && text.contains(&other), "{text}");
}

#[test]
fn a_bit_turned_in_the_table_in_a_chunk_or_in_the_footer_never_reaches_a_reader() {
    let image = usual();
    let (digest, len) = (image.layer_digest(0), image.layer(0).len());
    // In the footer and in the table: the index is declined, and the scan finds that the blob is damaged too.
    for at in [len - 30, len - 300] {
        let node = Node::new();
        let registry = image.registry();
        registry.fault(&digest, Fault::FlippedAt(at));
        let mnt = node.mount(&registry.image(), "mnt");
        let read = run(Command::new("cat").arg(mnt.join(SMALL.0)));
        assert!(read.code != Some(0) && read.out.is_empty() && read.err.contains("Input/output"), "{read:?}");
        registry.heal();
        assert_eq!(cat(&mnt.join(SMALL.0)), SMALL.1, "what failed is tried again");
    }
    // In the large file: it cannot be read, others can.
    let node = Node::new();
    let registry = image.registry();
    let mnt = node.mount(&registry.image(), "mnt");
    ls(&mnt);
    registry.fault(&digest, Fault::FlippedAt(len / 2));
    let read = run(Command::new("cat").arg(mnt.join("large")));
    assert!(read.code != Some(0) && read.err.contains("Input/output"), "{:?}", read.err);
    assert_eq!(cat(&mnt.join(SMALL.0)), SMALL.1);
    registry.heal();
    run(Command::new("cat").arg(mnt.join("large"))).well();
}

#[test]
fn a_pull_verifies_what_a_mount_took_as_the_index_says() {
    let (node, image) = (Node::new(), usual());
    let registry = image.registry();
    let at = node.mount(&registry.image(), "mnt");
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    assert!(indexes(&node).iter().all(|index| index.starts_with("eStargz")));
    node.oncefs(&["pull", &registry.image()]).well();
    assert!(indexes(&node).iter().all(|index| index == "scan of gzip"), "{:?}", indexes(&node));
    // Who has it open reads on as before.
    run(Command::new("cat").arg(at.join("large"))).well();
    node.umount(&at).well();
    node.assert_at_rest();
    let at = node.mount(&registry.image(), "mnt");
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
}

#[test]
fn no_index_is_used_where_the_configuration_says_so() {
    let (node, image) = (Node::new(), usual());
    node.configure("[index]\ntrust = \"none\"\n");
    let registry = image.registry();
    let at = node.mount(&registry.image(), "mnt");
    ls(&at);
    assert!(indexes(&node).iter().all(|index| index == "scan of gzip"), "{:?}", indexes(&node));
}

#[test]
fn a_table_in_another_image_is_found_by_its_tag_and_counts_only_with_its_digest() {
    let image = converted(&["--estargz", "--estargz-external-toc"]);
    let (node, registry) = (Node::new(), image.registry());
    let at = node.mount(&registry.image(), "mnt");
    assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
    assert!(indexes(&node).iter().all(|index| index.starts_with("eStargz")), "{:?}", indexes(&node));
    let read = registry.count(image.layer_digest(0));
    assert!(read.bytes < image.layer(0).len() / 4, "{read:?} of {}", image.layer(0).len());

    // It is not there; it has the table of another layer.
    let missing = Indexed { tables: None, ..image.clone() };
    let mut swapped = image.clone();
    let tables = swapped.tables.as_mut().unwrap()["layers"].as_array_mut().unwrap();
    let annotations = tables.iter().map(|table| table["annotations"].clone()).collect::<Vec<_>>();
    (tables[0]["annotations"], tables[1]["annotations"]) = (annotations[1].clone(), annotations[0].clone());
    for (image, said) in [(missing, "-esgztoc"), (swapped, "not the one that the manifest names")] {
        let (node, registry) = (Node::new(), image.registry());
        let at = node.mount(&registry.image(), "mnt");
        assert_eq!(cat(&at.join(SMALL.0)), SMALL.1);
        assert_eq!(indexes(&node)[0], "scan of gzip");
        let text = node.oncefs(&["status"]).well().out;
        assert!(text.contains("declined") && text.contains(said), "{text}");
    }
}
