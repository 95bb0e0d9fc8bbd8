//! What may be set about serving containerd.

use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// When the layers of an image that containerd pulls are fetched: all at once with the `pull`, in the background, or
    /// at the first `touch` of a file.
    pub scan: ScanAt,
    /// How long a registry may take to show that an image is there and may be had. After that containerd pulls it
    /// itself, and says why it cannot.
    pub check_timeout_secs: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScanAt {
    Pull,
    Touch,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self { scan: ScanAt::Pull, check_timeout_secs: 5 }
    }
}

impl Config {
    pub fn check_timeout(&self) -> Duration {
        Duration::from_secs(self.check_timeout_secs.max(1))
    }
}
