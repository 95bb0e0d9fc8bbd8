//! oncefs: a lazy container-image filesystem that downloads and materialises each layer once.
//!
//! In reading order, which is also the order of dependence (upper uses lower; `tests/tidy.rs` checks it): [`cli`] asks
//! the [`daemon`] through [`control`], and the [`doctor`] of the machine; the daemon shows views through [`fuse`] and has [`image`] make them; an image's
//! layers are found in the [`store`] or brought there by the [`index`]'s scan, from the [`registry`]'s
//! [`blob`]s; a [`view`] merges them. [`flight`] is how everybody who wants the same thing shares the work, [`gate`] how
//! readers go first, and [`digest`] how it is known that bytes were checked.

pub mod blob;
pub mod cli;
pub mod config;
pub mod control;
pub mod cri;
pub mod daemon;
pub mod digest;
pub mod doctor;
pub mod errors;
pub mod flight;
pub mod fuse;
pub mod gate;
pub mod image;
pub mod index;
pub mod keeper;
pub mod metrics;
pub mod mount;
pub mod registry;
pub mod snapshotter;
pub mod store;
pub mod sync;
pub mod sys;
pub mod view;
