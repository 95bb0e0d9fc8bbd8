//! Bounds of what is fetched, in bytes and requests a second. The registry is the witness: what it has
//! sent until now is compared with what may have passed until then, so a slow machine changes nothing.

use std::time::Instant;

use super::made::{converted, indexes};
use crate::cli::node::{Node, cat, ls, until};

#[test]
fn what_is_fetched_in_the_background_keeps_within_the_bandwidth() {
    const PER_SECOND: f64 = 700_000.0;
    /// The tables of contents, which somebody waits for.
    const TABLES: f64 = 300_000.0;
    let (node, image) = (Node::new(), converted(&["--estargz"]));
    node.configure(&format!("[fetch]\nbackground = \"always\"\nbandwidth = {PER_SECOND}\n"));
    let registry = image.registry();
    let begun = Instant::now();
    ls(&node.mount(&registry.image(), "mnt"));
    until("all blobs are verified", || {
        let sent: usize = (0..3).map(|n| registry.count(image.layer_digest(n)).bytes).sum();
        let may_have_passed = TABLES + begun.elapsed().as_secs_f64() * PER_SECOND;
        assert!((sent as f64) < may_have_passed, "{sent} bytes of {may_have_passed}");
        indexes(&node).iter().all(|index| index.ends_with("(blob verified as a whole)"))
    });
}

#[test]
fn all_requests_of_a_node_to_a_host_keep_within_their_number_a_second() {
    const PER_SECOND: f64 = 5.0;
    let (node, image) = (Node::new(), converted(&["--estargz"]));
    node.configure(&format!("requests_per_second = {PER_SECOND}\n"));
    let registry = image.registry();
    let begun = Instant::now();
    let at = node.mount(&registry.image(), "mnt");
    for n in 0..9 {
        cat(&at.join(format!("usr/bin/program-{n}")));
        let (sent, burst) = (registry.requests(), (PER_SECOND / 4.0).max(1.0));
        let may_have_passed = burst + begun.elapsed().as_secs_f64() * PER_SECOND;
        assert!((sent as f64) <= may_have_passed, "{sent} requests of {may_have_passed}");
    }
    assert!(registry.requests() > 10, "{}", registry.requests());
}
