//! What oncefs must know of a layer to serve any byte of it alone: the tree plus the frames.
//!
//! Knows formats, not disks or networks: sources of bytes come in as [`crate::blob::Blob`], and what is made
//! goes into files that the store hands in.

pub mod codec;
pub mod frames;
pub mod profile;
pub mod published;
pub mod scan;
pub mod sources;
pub mod tar;
pub mod tree;
