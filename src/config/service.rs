//! What may be set about the server as a service: where it listens, how it ends, what it logs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[server]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Where containerd finds the snapshots service; empty is `snapshotter.sock` in the run directory.
    pub address: PathBuf,
    /// A group, by name or number, whose members may ask the control socket how things are and decide what is in the cache; empty is nobody.
    pub group: String,
    /// How long calls under way may go on when the server is told to end.
    pub drain_secs: u64,
    /// How long after its start a server whose database has failed makes place for the next, where somebody starts one, at the earliest.
    pub renew_secs: u64,
}

/// `[metrics]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Where metrics and health are served beside the control socket, as in `127.0.0.1:9099`. Nobody is asked for a password there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

/// How lines of the log are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// To the journal where standard error is the journal's, else as text.
    #[default]
    Auto,
    Text,
    Json,
    Journald,
}

// === impl LogFormat ===

impl LogFormat {
    pub const ALL: [Self; 4] = [Self::Auto, Self::Text, Self::Json, Self::Journald];

    /// As it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
            Self::Journald => "journald",
        }
    }
}

// === impl Server ===

impl Default for Server {
    fn default() -> Self {
        Self { address: PathBuf::new(), group: String::new(), drain_secs: 20, renew_secs: 60 }
    }
}

impl Server {
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_secs)
    }

    pub fn renew(&self) -> Duration {
        // A year is as good as never.
        Duration::from_secs(self.renew_secs.min(365 * 24 * 3600))
    }
}
