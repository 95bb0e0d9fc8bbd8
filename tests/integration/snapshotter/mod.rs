//! containerd's snapshots over gRPC, as containerd asks: what it may expect, what it may send, and what survives a restart.
#![allow(clippy::disallowed_methods)] // tests hold tasks and end them; the model checker has no part in it

mod contract;
mod crowd;
mod hostile;
mod known;
mod measured;
mod mounted;
mod power;
mod random;
mod reference;
mod remote;
mod restarted;
mod served;

use known::Known;
