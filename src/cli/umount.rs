//! `oncefs umount DIR`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::Setting;
use super::connection::unexpected;
use super::progress::Shown;
use crate::control::{Call, Failure, FailureKind, Outcome, UmountCall, one_name};
use crate::daemon;
use crate::sys::mount::{self, Mounted};

const EXAMPLES: &str = "\
Examples:
  oncefs umount /mnt
  oncefs umount --all

A mount in use leaves the sight at once and ends with its last user. Plain umount(8) works as well. DIR may also be a mount of a server of another run directory; --all leaves those alone.";

/// Take a mounted image away
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Umount {
    /// Where it is mounted
    #[arg(value_name = "DIR", required_unless_present = "all", conflicts_with = "all")]
    at: Option<PathBuf>,
    /// Every mount of the server, or all that a dead one left
    #[arg(long)]
    all: bool,
}

impl Umount {
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let (run, at) = (&setting.config.run, self.at.as_deref().map(resolved));
        let call = Call::Umount(UmountCall { at: at.clone() });
        match setting.call_running(&call, &mut Shown::new()).await {
            Some(Ok(Outcome::Unmounted { at: gone })) => {
                gone.iter().for_each(|at| forget(at));
                if at.is_some() {
                    return Ok(ExitCode::SUCCESS);
                }
                // What an earlier server left is unknown to this one.
            }
            Some(Ok(other)) => return Err(unexpected(&other)),
            Some(Err(failed)) if failed.kind == FailureKind::NotFound => {}
            Some(Err(failed)) => return Err(failed),
            // One that was killed just now holds its mounts until its last descriptor is closed.
            None => daemon::wait_until_gone(run).await,
        }
        clear(run, at.as_deref()).map(|()| ExitCode::SUCCESS)
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
fn clear(run: &Path, at: Option<&Path>) -> Result<(), Failure> {
    let Some(at) = at else { return clear_all(run) };
    let failed = |error| Failure::new(FailureKind::Other, format!("cannot unmount {}: {error}", at.display()));
    match mount::mounted_at(at).map_err(failed)? {
        Some(mounted) if mounted.kind == daemon::MOUNT_KIND => {
            let other = of_another(&mounted, run);
            mount::detach_as_anybody(at).map_err(failed)?;
            forget(at);
            if let Some(other) = other {
                eprintln!("oncefs: {} was a mount of the server of {}", at.display(), other.display());
            }
            Ok(())
        }
        _ => {
            let message = format!("nothing of oncefs is mounted at {}", at.display());
            Err(Failure::new(FailureKind::NotFound, message))
        }
    }
}

/// The run directory of the server that has made it, if that is another one and lives: it shows its file system whole there.
fn of_another(mounted: &Mounted, run: &Path) -> Option<PathBuf> {
    let table = mount::table().ok()?;
    let is_whole = |one: &&Mounted| one.device == mounted.device && one.root == Path::new("/") && one.at != mounted.at;
    let other = table.iter().find(is_whole)?.at.parent()?.to_owned();
    (other != one_name(run) && daemon::is_held(&other)).then_some(other)
}

/// umount(8) would: nobody shall wait for the network on behalf of what is gone. That it cannot be done is no failure of the unmounting.
fn forget(at: &Path) {
    if let Err(error) = mount::forget_notes(at) {
        tracing::warn!(%error, at = %at.display(), "/run/mount/utab may still tell of it");
    }
}

/// All that servers of the run directory left, the latest first.
fn clear_all(run: &Path) -> Result<(), Failure> {
    let unreadable = |error| Failure::new(FailureKind::Other, format!("cannot see what is mounted: {error}"));
    let (table, ours) = (mount::table().map_err(unreadable)?, daemon::noted_devices(run).map_err(unreadable)?);
    let is_ours = |mounted: &&Mounted| mounted.kind == daemon::MOUNT_KIND && ours.contains(&mounted.device);
    let mut failed = None;
    for mounted in table.iter().rev().filter(is_ours).filter(|mounted| mount::is_dead(&mounted.at)) {
        let Err(error) = mount::detach_as_anybody(&mounted.at) else {
            forget(&mounted.at);
            continue;
        };
        // A server that ends takes its own away.
        let is_still_there =
            mount::mounted_at(&mounted.at).is_ok_and(|now| now.is_some_and(|now| now.device == mounted.device));
        if is_still_there {
            let message = format!("cannot unmount {}: {error}", mounted.at.display());
            failed = Some(Failure::new(FailureKind::Other, message));
        }
    }
    failed.map_or(Ok(()), Err)
}
