//! The seam between PullImage and the node that knows registries and layers: what is asked for, and how it may end.

use std::any::Any;
use std::fmt;

use futures::future::BoxFuture;

use crate::sync::Arc;

/// What a PullImage asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Asked {
    /// As the client wrote it.
    pub image: String,
    pub auth: Option<Auth>,
}

/// CRI's AuthConfig: any of these may be empty. Shows nothing of itself.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Auth {
    pub username: String,
    pub password: String,
    /// base64 of `user:password`.
    pub auth: String,
    /// The registry that it is for; empty is the image's.
    pub server_address: String,
    pub identity_token: String,
    pub registry_token: String,
}

/// A claim on an image's layers.
#[derive(Clone)]
pub struct Held(#[expect(dead_code, reason = "it is there to be dropped")] Arc<dyn Any + Send + Sync>);

/// Why an image could not be made verified and local.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PullFailed {
    pub cause: PullCause,
    /// Names image, layer and cause, and says what to do.
    pub message: String,
}

/// Whose failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullCause {
    NotFound,
    Denied,
    /// The registry answers no more, or asks to be left alone.
    Unavailable,
    /// What the registry sends is not what the image's digests say.
    Corrupt,
    /// The daemon ends: whoever tries again finds the next one.
    Stopping,
    /// oncefs cannot, containerd perhaps can.
    OursAlone,
}

/// Who learns of pulls and makes images local.
pub trait Pulls: Send + Sync + 'static {
    /// Remembers the credentials for what will be fetched of this image, now and later. Returns at once.
    fn learn(&self, asked: &Asked);

    /// Makes all layers of the image verified and local, once for all who ask at the moment; they stay here as long as the
    /// result is held. Dropping the future drops a claim on the work and takes nobody else down.
    fn pull(&self, asked: &Asked) -> BoxFuture<'static, Result<Held, PullFailed>>;
}

// === impl Auth ===

impl Auth {
    /// Whether it says nothing, as kubelet's does for public images.
    pub fn is_empty(&self) -> bool {
        [&self.username, &self.password, &self.auth, &self.identity_token, &self.registry_token]
            .iter()
            .all(|text| text.is_empty())
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auth(..)")
    }
}

// === impl Held ===

impl Held {
    pub fn new(claim: impl Any + Send + Sync) -> Self {
        Self(Arc::new(claim))
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held(..)")
    }
}
