//! `oncefs umount DIR`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::Setting;
use super::progress::Shown;
use crate::control::{Call, Failure, FailureKind, UmountCall};
use crate::daemon;
use crate::sys::mount;

const EXAMPLES: &str = "\
Examples:
  oncefs umount /mnt
  oncefs umount --all

A mount in use leaves the sight at once and ends with its last user. Plain umount(8) works as well.";

/// Take a mounted image away
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Umount {
    /// Where it is mounted
    #[arg(value_name = "DIR", required_unless_present = "all", conflicts_with = "all")]
    at: Option<PathBuf>,
    /// Every mount of the server
    #[arg(long)]
    all: bool,
}

impl Umount {
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let at = self.at.as_deref().map(resolved);
        if daemon::running(&setting.config.run).await.is_none() {
            return clear(at.as_deref()).map(|()| ExitCode::SUCCESS);
        }
        let called = setting.call(&Call::Umount(UmountCall { at: at.clone() }), &mut Shown::new()).await;
        match called {
            Ok(_) => Ok(ExitCode::SUCCESS),
            // What an earlier server left is unknown to this one.
            Err(failed) if failed.kind == FailureKind::NotFound => clear(at.as_deref()).map(|()| ExitCode::SUCCESS),
            Err(failed) => Err(failed),
        }
    }
}

/// Free of symlinks. The last part is not looked at: it may be a mount whose server has died.
fn resolved(at: &Path) -> PathBuf {
    let at = std::path::absolute(at).unwrap_or_else(|_| at.to_owned());
    let Ok(whole) = at.canonicalize() else {
        return match (at.parent().and_then(|above| above.canonicalize().ok()), at.file_name()) {
            (Some(above), Some(name)) => above.join(name),
            _ => at,
        };
    };
    whole
}

/// A server that was killed leaves dead mounts, and they must go too.
fn clear(at: Option<&Path>) -> Result<(), Failure> {
    let Some(at) = at else { return Ok(()) };
    let failed = |error| Failure::new(FailureKind::Other, format!("cannot unmount {}: {error}", at.display()));
    match mount::mounted_at(at).map_err(failed)? {
        Some(mounted) if mounted.kind == daemon::MOUNT_KIND => mount::detach_as_anybody(at).map_err(failed),
        _ => {
            let message = format!("nothing of oncefs is mounted at {}", at.display());
            Err(Failure::new(FailureKind::NotFound, message))
        }
    }
}
