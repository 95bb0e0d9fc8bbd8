//! Files that another image on the node has too: they are not fetched again.

use super::made::{convert, indexes};
use crate::cli::image::{Image, Layer, Tar};
use crate::cli::node::{Node, cat, ls, sha256sum};
use crate::index::made::program;

const LARGE: usize = 700_000;

/// Two images whose layers differ, and which have a large file and a small one in common, under other names and in another
/// order.
fn images() -> [Image; 2] {
    let (large, small) = (program(900, LARGE), program(901, 9_000));
    let one = Tar::new().file("usr/lib/large", &large).file("usr/lib/one", b"one\n").file("usr/lib/small", &small);
    let other = Tar::new().file("opt/other", &program(902, 40_000)).file("opt/small", &small).file("opt/large", &large);
    [Image::of(&[Layer::gzip(&one.done())]), Image::of(&[Layer::gzip(&other.done())])]
}

#[test]
fn what_another_image_has_here_is_not_fetched() {
    let [one, other] = images();
    let one = convert(&one, &["--estargz"]).registry();
    // Also from one format to another: the digest is of what is in the file.
    for options in [["--estargz"], ["--zstdchunked"]] {
        let (node, image) = (Node::new(), convert(&other, &options));
        let registry = image.registry();
        let a = node.mount(&one.image(), "one");
        let (large, small) = (sha256sum(&a.join("usr/lib/large")), sha256sum(&a.join("usr/lib/small")));
        let b = node.mount(&registry.image(), "other");
        ls(&b);
        assert_eq!(indexes(&node).len(), 1);
        let index = registry.count(image.layer_digest(0));
        assert_eq!(sha256sum(&b.join("opt/large")), large);
        assert_eq!(sha256sum(&b.join("opt/small")), small);
        assert_eq!(registry.count(image.layer_digest(0)), index, "{options:?}: bytes were fetched that are here");
        // What the other does not have is.
        cat(&a.join("usr/lib/one"));
        sha256sum(&b.join("opt/other"));
        assert_eq!(registry.count(image.layer_digest(0)).requests, index.requests + 1);
        assert_eq!(node.metric("oncefs_cache_deduplicated_bytes_total"), (LARGE + 9_000) as f64);
        assert!(node.oncefs(&["check"]).well().out.contains("all is well"));
    }
}
