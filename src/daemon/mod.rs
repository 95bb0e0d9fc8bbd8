//! The process that serves: one store, one registry client, all mounts, one control socket.
//!
//! `node` does what needs no mount and is also used by a command that finds no server; `mounts` keeps the mounts;
//! `server` is its life from the first socket to the last word, `calls` what it answers, `services` who listens where; `start`
//! finds a server or makes one.

mod access;
mod cache;
mod calls;
mod chains;
mod devices;
mod failure;
mod health;
mod index;
mod interrupts;
mod keeping;
mod logging;
mod metrics;
mod mounts;
mod node;
mod notify;
mod pulls;
mod reload;
mod report;
mod server;
mod services;
mod sockets;
mod start;
mod terms;
mod trace;

pub use chains::ServedChains;
pub use devices::noted as noted_devices;
pub use failure::of_config;
pub use interrupts::Interrupts;
pub use keeping::Keeping;
pub use logging::{Log, start_logging};
pub use mounts::{KIND as MOUNT_KIND, Mounts};
pub use node::{News, Node, check_config};
pub use notify::watchdog;
pub use pulls::NodePulls;
pub use server::{Lifetime, Start, nothing_to_compare, serve};
pub use start::{READY, StartError, connect_or_start, is_held, prepare_run, running, wait_until_gone};
