//! containerd as Debian ships it, with runc and a real registry: what kubelet and `ctr` do to a node, done to oncefs.
//!
//! Every node has a containerd of its own in a directory of its own, so that tests run side by side and beside
//! a containerd of the machine's.

mod agreeing;
mod away;
mod broken;
mod comparing;
mod configuration;
mod credentials;
pub(crate) mod cri;
mod crowd;
pub(crate) mod daemon;
mod harness;
pub(crate) mod images;
mod killed;
mod leaving;
mod load;
mod local;
mod refused;
mod removing;
mod restarting;
mod running;
mod service;
pub(crate) mod snapshots;
mod user_namespaces;
