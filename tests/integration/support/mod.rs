//! Pieces that several topics' tests are built from: images, registries.

pub(crate) mod debian_registry;
pub(crate) mod ports;
pub(crate) mod recorded_disk;
pub(crate) mod sample;
pub(crate) mod scripted_registry;
