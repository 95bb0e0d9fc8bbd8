//! What of this machine keeps oncefs from working, or from working well, and what exactly to change.
//!
//! One file a group of checks, one line a group in `CHECKS`. Checks look and change nothing; what they find of others' files and
//! servers may be anything, and is never a reason to fail.

mod configuration;
mod containerd;
mod disk;
mod kernel;
mod kubelet;
mod mounts;
mod registry;
mod server;

use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use serde::Serialize;

use crate::config::Config;
use crate::registry::{Platform, Reference};

/// What is looked at.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Of oncefs, as it is in force; the defaults where it is wrong.
    pub config: Config,
    /// What is wrong with it.
    pub config_error: Option<String>,
    /// An image that should be usable here.
    pub image: Option<(Reference, Platform)>,
    /// Where containerd's configuration is, if not in its usual place.
    pub containerd_config: Option<PathBuf>,
    /// Where kubelet's is, if not in its usual place.
    pub kubelet_config: Option<PathBuf>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// It works, but less well than it could.
    Warning,
    /// Something does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The group of checks, as in `kernel`.
    pub group: &'static str,
    pub level: Level,
    /// What is.
    pub found: String,
    /// What to change; none where all is well.
    pub change: Option<String>,
}

/// A group of checks.
struct Check {
    group: &'static str,
    look: for<'a> fn(&'a Machine, &'a mut Report) -> BoxFuture<'a, ()>,
}

/// What a group has found.
struct Report {
    group: &'static str,
    findings: Vec<Finding>,
}

const CHECKS: &[Check] = &[
    Check { group: "kernel", look: kernel::look },
    Check { group: "configuration", look: configuration::look },
    Check { group: "disk", look: disk::look },
    Check { group: "server", look: server::look },
    Check { group: "mounts", look: mounts::look },
    Check { group: "containerd", look: containerd::look },
    Check { group: "kubelet", look: kubelet::look },
    Check { group: "registry", look: registry::look },
];

/// Makes all checks, one after the other.
pub async fn examine(machine: &Machine) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Check { group, look } in CHECKS {
        let mut report = Report { group, findings: Vec::new() };
        look(machine, &mut report).await;
        findings.append(&mut report.findings);
    }
    findings
}

// === impl Report ===

impl Report {
    fn ok(&mut self, found: impl Into<String>) {
        self.put(Level::Ok, found.into(), None);
    }

    fn warning(&mut self, found: impl Into<String>, change: impl Into<String>) {
        self.put(Level::Warning, found.into(), Some(change.into()));
    }

    fn problem(&mut self, found: impl Into<String>, change: impl Into<String>) {
        self.put(Level::Problem, found.into(), Some(change.into()));
    }

    fn put(&mut self, level: Level, found: String, change: Option<String>) {
        self.findings.push(Finding { group: self.group, level, found, change });
    }
}

/// Where administrators' programs are, whoever asks.
const PROGRAM_FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

fn program(name: &str) -> Option<PathBuf> {
    PROGRAM_FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

/// A file of somebody else's, read whole if it is no larger than any of its kind.
fn text(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    const BYTES_MAX: u64 = 4 << 20;
    let mut text = String::new();
    std::fs::File::open(path)?.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
