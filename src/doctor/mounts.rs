//! Mounts that a dead server has left.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};

use super::{Machine, Report};
use crate::daemon::MOUNT_KIND;
use crate::sys::mount;

/// A mount that lives answers at once; this one does not wait for the network.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn look<'a>(_machine: &'a Machine, report: &'a mut Report) -> BoxFuture<'a, ()> {
    async move {
        let Ok(table) = mount::table() else {
            return report.warning("the table of mounts cannot be read", "mount proc at /proc");
        };
        let ours: Vec<PathBuf> =
            table.into_iter().filter(|mount| mount.kind == MOUNT_KIND).map(|mount| mount.at).collect();
        let mut dead = 0;
        for at in &ours {
            if let Some(cause) = ails(at).await {
                dead += 1;
                let at = at.display();
                report.problem(
                    format!("{at}: {cause}"),
                    format!("oncefs umount {at}, then mount it, or start the container, again"),
                );
            }
        }
        if dead == 0 {
            report.ok(format!("mounts of oncefs that answer: {}", ours.len()));
        }
    }
    .boxed()
}

/// What is wrong with the mount, if something is.
async fn ails(at: &Path) -> Option<String> {
    let place = at.to_owned();
    // One that hangs keeps its thread, and the program ends without it.
    // The kernel knows attributes by heart, and gives them for a dead server, too; this it asks.
    let looked = tokio::task::spawn_blocking(move || rustix::fs::statfs(&place).map(drop));
    match tokio::time::timeout(PATIENCE, looked).await {
        Ok(Ok(Err(rustix::io::Errno::NOTCONN))) => Some("the server of this mount has died".to_owned()),
        Ok(_) => None, // gone meanwhile, or not ours to look at
        Err(_) => Some(format!("the mount does not answer within {} s", PATIENCE.as_secs())),
    }
}
