//! System calls and C: the only unsafe code of oncefs, each piece of it behind a safe function.
//!
//! Uses nothing else of oncefs and knows nothing of layers or images.
#![allow(unsafe_code)]

pub mod bdi;
pub mod child;
pub mod descriptor;
pub mod file;
pub mod idmap;
pub mod inflate;
pub mod mmap;
pub mod mount;
pub mod peer;
pub mod process;
pub mod signals;
mod tree;
pub mod user_namespace;

/// Whether it comes to be so, however slow the machine is. What this process closes may stay open for a while: a program that
/// another test starts has copies of all descriptors until it is that program.
#[cfg(test)]
pub(crate) fn comes_to_be(mut is_so: impl FnMut() -> bool) -> bool {
    let begun = std::time::Instant::now();
    while !is_so() {
        if begun.elapsed() > std::time::Duration::from_secs(60) {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    true
}
