//! The integration tests, one program of them: linked once, run side by side. A folder a topic.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a test that panics has said what it had to say

mod chains;
mod cli;
mod containerd;
mod cri;
mod daemon;
mod faults;
mod fuzzed;
mod index;
mod model;
mod mount;
mod registry;
mod snapshotter;
mod sources;
mod store;
mod support;
mod system;
mod takeover;
mod tar;
mod tree;
mod view;
