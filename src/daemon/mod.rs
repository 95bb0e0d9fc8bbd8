//! The process that serves: one store, one registry client, all mounts, one control socket.
//!
//! `node` does what needs no mount and is also used by a command that finds no server; `mounts` keeps the mounts;
//! `server` answers the control socket and decides when to end; `start` finds a server or makes one.

mod chains;
mod failure;
mod logging;
mod mounts;
mod node;
mod pulls;
mod report;
mod server;
mod start;

pub use chains::ServedChains;
pub use failure::of_config;
pub use logging::start_logging;
pub use mounts::{KIND as MOUNT_KIND, Mounts};
pub use node::{News, Node};
pub use pulls::NodePulls;
pub use server::{Lifetime, serve};
pub use start::{READY, StartError, connect_or_start, hold_run, running, wait_until_gone};
