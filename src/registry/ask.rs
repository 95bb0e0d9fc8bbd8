//! A question to a registry.

use bytes::Bytes;
use reqwest::{Method, Url};

use crate::digest::Digest;
use crate::registry::counters::Kind;
use crate::registry::hosts::Need;
use crate::registry::reference::Repository;
use crate::registry::transport::Weight;

/// What is asked of a repository.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) repository: Repository,
    /// After `/v2/REPOSITORY/`: `manifests/TAG`, `blobs/DIGEST`.
    pub(super) path: String,
    /// What errors call it.
    pub(super) what: String,
    pub(super) accept: Option<&'static str>,
    /// First and last byte.
    pub(super) range: Option<(u64, u64)>,
    /// Only whether it is there and may be had: a redirect says so, too.
    pub(super) only_head: bool,
    pub(super) weight: Weight,
    pub(super) access: Access,
    /// What is done, if it is more than asking.
    pub(super) change: Option<Change>,
}

/// What a login must be good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Access {
    Pull,
    /// Pulling too.
    Push,
}

/// What a registry is to do. Doing it twice is doing it once.
#[derive(Clone)]
pub(super) struct Change {
    pub(super) method: Method,
    pub(super) media_type: &'static str,
    pub(super) body: Bytes,
    /// Where the registry itself said that it is done.
    pub(super) at: Option<Url>,
}

// === impl Access ===

impl Access {
    /// As scopes of tokens have it.
    pub(super) fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
        }
    }
}

// === impl Ask ===

impl Ask {
    /// What is asked for, if its name says it.
    pub(super) fn digest(&self) -> Option<Digest> {
        let (kind, name) = self.path.split_once('/')?;
        if matches!(kind, "manifests" | "blobs") { name.parse().ok() } else { None }
    }

    pub(super) fn need(&self) -> Need {
        match self.kind() {
            _ if self.access == Access::Push => Need::Push,
            Kind::Referrers => Need::Referrers,
            _ if self.digest().is_some() => Need::Pull,
            _ => Need::Resolve,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match (self.path.split('/').next(), self.range) {
            _ if self.change.is_some() => Kind::Push,
            (Some("manifests"), _) => Kind::Manifest,
            (Some("referrers"), _) => Kind::Referrers,
            (_, None) => Kind::Blob,
            (_, Some(_)) => Kind::Range,
        }
    }
}
