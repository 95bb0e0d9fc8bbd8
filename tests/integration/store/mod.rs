//! The store through its public face: real scans go in, and what a disk and other processes can do is done to it.

mod cache;
mod disk;
mod failing;
mod power;
mod process;
mod rebuilt;
pub(crate) mod shelf;
