//! Where images come from: registries, and OCI image layouts on disk in their place.
//!
//! [`Registry::resolve`] turns a name into manifest, config and layers, each byte of them checked against its digest;
//! [`Registry`] as [`Blobs`](crate::blob::Blobs) opens the layers, whose bytes the reader checks. Nothing here writes a
//! file, reads the environment, or shows a credential to anybody but the host it is for.

#![allow(dead_code)] // the clients of these parts come with the next commits

mod archive;
mod config;
mod counters;
mod error;
mod hosts;
mod layout;
mod manifest;
mod platform;
mod reference;
mod retry;

use bytes::Bytes;

use crate::blob::{Layered, Origin};
use crate::digest::Digest;

pub use config::Config;
pub use counters::{Counters, Counts};
pub use error::{ManifestError, RegistryError};
pub use platform::{Platform, PlatformError};
pub use reference::{Local, Reference, ReferenceError, Remote, Repository, Tag};

/// A reference resolved to one platform's image. Manifest and config have been checked against their digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    pub reference: Reference,
    /// Of the platform's own manifest, also where the reference led to an index.
    pub manifest_digest: Digest,
    pub media_type: String,
    pub manifest: Bytes,
    pub config: Bytes,
    /// Bottom first.
    pub layers: Vec<Layered>,
    /// What the image's config says it runs on, or what was asked for where it says nothing.
    pub platform: Platform,
    /// Where its blobs can be had, now and after a restart.
    pub origin: Origin,
}
