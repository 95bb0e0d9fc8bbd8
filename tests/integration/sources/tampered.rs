//! Frames that a registry gives other than the index says them: no byte of one reaches a reader, and the log says whose they are.

use std::process::Command;

use oncefs::index::frames::FrameId;
use oncefs::index::tree::Place;

use super::contract::all;
use crate::cli::node::{Node, ls, run, sha256sum};
use crate::cli::registry::Fault;

#[test]
fn a_turned_bit_in_a_frame_of_any_source_is_an_error_that_says_where_it_came_from() {
    // What nothing binds is judged as a whole, too: see `beside`.
    for (name, _, image) in all().iter().filter(|(name, ..)| *name != "SOCI, version 1") {
        let (tree, frames) = image.index_of(0).unwrap().unwrap();
        let (large, _) = tree.lookup(tree.root(), b"large").unwrap().unwrap();
        let Place::Data(at) = tree.extent(large, 2_500_000).unwrap().place else { panic!("{name}: where is it?") };
        let source = frames.source_range(FrameId(frames.covering(at..at + 1).start)).unwrap();
        let (node, registry, digest) = (Node::new(), image.registry(), image.layer_digest(0));
        let at = node.mount(&registry.image(), "mnt");
        ls(&at);
        registry.fault(&digest, Fault::FlippedAt(usize::midpoint(source.start as usize, source.end as usize)));
        let read = run(Command::new("cat").arg(at.join("large")));
        assert!(read.code != Some(0) && read.err.contains("Input/output"), "{name}: {:?}", read.err);
        let log = std::fs::read_to_string(node.run().join("oncefs.log")).unwrap();
        let is_said = |line: &&str| line.contains(&digest) && line.contains(&registry.host());
        let said = log.lines().find(|line| line.contains("a read failed") && is_said(line));
        let said =
            said.unwrap_or_else(|| panic!("{name}: nothing is said of {digest} from {}: {log}", registry.host()));
        assert!(said.contains("not what its index says") || said.contains("cannot unpack frame"), "{name}: {said}");
        registry.heal();
        assert_eq!(sha256sum(&at.join("large")).len(), 64, "{name}: what failed is tried again");
    }
}
