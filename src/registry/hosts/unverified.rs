//! Hosts that are believed without proof of who they are, since the configuration says so. The log tells of each once, and again when the file that says
//! it has changed; `oncefs doctor` tells of all.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use reqwest::Url;

use super::file::{HostFile, Manner, Place};
use super::{is_loopback, written};
use crate::sync::Mutex;

/// A host, and where it is said that it is believed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Unverified {
    /// As people write it; where it is that of all registries, in words.
    pub host: String,
    pub proof: Missing,
    /// A `hosts.toml`, or a key of our own configuration.
    pub said_in: String,
}

/// What is not asked of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    /// A certificate that somebody vouches for.
    Vouching,
    /// A certificate.
    Certificate,
}

/// Hosts that the log has told of.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashSet<Unverified>>);

/// Of our own configuration.
pub(super) const INSECURE_HOSTS: &str = "registry.insecure_hosts";

// === impl Unverified ===

impl Unverified {
    pub(super) fn tell(&self) {
        tracing::warn!(host = self.host, said_in = self.said_in, "{self}");
    }
}

impl fmt::Display for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, proof, said_in } = self;
        match proof {
            Missing::Vouching => {
                write!(f, "{host} is not verified: skip_verify in {said_in}; whoever answers in its place is believed")?
            }
            Missing::Certificate => write!(
                f,
                "{host} is not verified: it is spoken to over plain HTTP, by {said_in}; whoever answers in its place is believed"
            )?,
        }
        Ok(())
    }
}

// === impl HostFile ===

impl HostFile {
    /// What `path` says of `registry` that is no proof.
    pub(super) fn unverified(&self, registry: &str, path: &Path) -> Vec<Unverified> {
        let places =
            self.mirrors.iter().chain(&self.server).filter_map(|place| Some((written(&place.url), missing(place)?)));
        let upstream = self.server.is_none() && self.of_server.tls.skip_verify;
        let upstream = upstream.then(|| (registry.to_owned(), Missing::Vouching));
        let said_in = path.display().to_string();
        places.chain(upstream).map(|(host, proof)| Unverified { host, proof, said_in: said_in.clone() }).collect()
    }
}

fn missing(Place { url, manner: Manner { tls, .. } }: &Place) -> Option<Missing> {
    match url.scheme() {
        "https" => tls.skip_verify.then_some(Missing::Vouching),
        _ => (!is_loopback(url)).then_some(Missing::Certificate),
    }
}

/// A host that our own configuration names, unless it is on this machine.
pub(super) fn insecure(host: &str) -> Option<Unverified> {
    let url = Url::parse(&format!("http://{host}/")).ok()?;
    let unverified =
        Unverified { host: host.to_owned(), proof: Missing::Certificate, said_in: INSECURE_HOSTS.to_owned() };
    (!is_loopback(&url)).then_some(unverified)
}

// === impl Told ===

impl Told {
    /// Tells of it, unless it has.
    pub(super) fn once(&self, unverified: &Unverified) {
        if self.0.lock().insert(unverified.clone()) {
            unverified.tell();
        }
    }
}
