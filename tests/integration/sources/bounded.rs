//! Bounds of what is fetched: by bytes and requests in a second, and by whether readers wait. The registry is the witness: what it has
//! sent until now is compared with what may have passed until then, so a slow machine changes nothing.

use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Instant;

use rustix::process::{Signal, kill_process};

use super::made::{Indexed, converted, indexes};
use crate::cli::node::{Node, Running, cat, ls, until};
use crate::cli::registry::{Fault, Registry};

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

/// A node whose background work begins when a reader waits already, for a layer that does not come.
struct Stalled {
    node: Node,
    registry: Registry,
    reader: Running,
    image: Indexed,
}

impl Stalled {
    fn with(background: &str) -> Self {
        let (node, image) = (Node::new(), converted(&["--estargz"]));
        let registry = image.registry();
        let at = node.mount(&registry.image(), "mnt");
        ls(&at);
        registry.fault(image.layer_digest(1), Fault::StallsAfter(0));
        let reader = Running::start(Command::new("cat").arg(at.join("usr/bin/program-3")));
        until("the reader waits", || {
            node.status()["mounts"][0]["image"]["layers"][1]["waiting"]["count"].as_u64().is_some_and(|count| count > 0)
        });
        node.configure(&format!("[fetch]\nbackground = \"{background}\"\n"));
        // Who listens there.
        let socket = UnixStream::connect(node.run().join("control.sock")).unwrap();
        kill_process(rustix::net::sockopt::socket_peercred(socket).unwrap().pid, Signal::HUP).unwrap();
        let log = || std::fs::read_to_string(node.run().join("oncefs.log")).unwrap();
        until("the configuration is read", || log().contains("configuration read again"));
        Self { node, registry, reader, image }
    }

    /// Bytes that were sent of the lowest layer, which nobody reads.
    fn sent(&self) -> usize {
        self.registry.count(self.image.layer_digest(0)).bytes
    }
}

#[test]
fn idle_work_waits_for_readers_and_work_that_is_always_wanted_does_not() {
    let idle = Stalled::with("idle");
    let before = idle.sent();
    let always = Stalled::with("always");
    let all = always.image.layer(0).len();
    until("the other has got on", || always.sent() >= all);
    assert_eq!(idle.sent(), before, "it was told first, and its reader waits");
    for Stalled { node, registry, reader, image } in [idle, always] {
        registry.heal();
        reader.end().well();
        until("there is nothing left to do", || registry.count(image.layer_digest(0)).bytes >= all);
        drop(node);
    }
}
