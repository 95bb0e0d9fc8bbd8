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
