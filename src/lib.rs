//! oncefs: a lazy container-image filesystem that downloads and materialises each layer once.

pub mod blob;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod digest;
pub mod errors;
pub mod flight;
pub mod fuse;
pub mod image;
pub mod index;
pub mod registry;
pub mod store;
pub mod sync;
pub mod sys;
pub mod view;
