//! The server of the run directory, if one runs.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};

use super::{Machine, Report};
use crate::control::{self, Call, ClientError, Outcome, State, StatusReport};
use crate::daemon;
use crate::errors::with_causes;

/// A healthy server answers within a few milliseconds, one with many layers within some more.
const PATIENCE: Duration = Duration::from_secs(10);

const RESTART: &str = "restart it (systemctl restart oncefs; oncefs umount --all ends one that a command started)";

pub(super) fn look<'a>(machine: &'a Machine, report: &'a mut Report) -> BoxFuture<'a, ()> {
    async move {
        let run = &machine.config.run;
        let running = match daemon::running(run).await {
            Ok(running) => running,
            Err(error) => return report.warning(with_causes(&error), "run this as one of them"),
        };
        let Some(mut client) = running else {
            return match control::socket(run).exists() {
                true => report.warning(
                    format!(
                        "no server answers at {}, which one has left that was killed",
                        control::socket(run).display()
                    ),
                    "nothing: the next server replaces it; the log and journalctl -u oncefs may say why",
                ),
                false => {
                    report.ok("no server runs: the first `oncefs mount` starts one, systemctl start oncefs the service")
                }
            };
        };
        let mut ignored = |_| {};
        match client.call(&Call::Status, &mut ignored, tokio::time::sleep(PATIENCE)).await {
            Ok(Ok(answer)) => match answer.outcome {
                Outcome::Status(status) => tell(machine, &status, report),
                _ => report.problem("the server answers something else than it is asked", RESTART),
            },
            Ok(Err(failure)) => report.problem(format!("the server is not well: {}", failure.message), RESTART),
            Err(ClientError::Interrupted) => {
                report.problem(format!("the server does not answer within {} s", PATIENCE.as_secs()), RESTART);
            }
            Err(error) => report.problem(format!("the server is not well: {}", with_causes(&error)), RESTART),
        }
    }
    .boxed()
}

/// Whether a keeper has started it, as its command line says.
fn is_kept(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == b"--kept"))
}

fn tell(machine: &Machine, status: &StatusReport, report: &mut Report) {
    if let Some(failure) = &status.database_failure {
        report.problem(
            format!("the server can record nothing any more: {failure}"),
            format!("look at the disk, then {RESTART}"),
        );
    }
    let (ours, theirs) = (env!("CARGO_PKG_VERSION"), &status.version);
    let pid = status.server.unwrap_or(0);
    if theirs == ours {
        report.ok(format!("a server runs and answers: process {pid}, version {theirs}"));
    } else {
        report.warning(
            format!("the server is of version {theirs}, this program of {ours}"),
            "restart it: systemctl restart oncefs, or oncefs umount --all and mount again",
        );
    }
    if is_kept(pid)
        && UnixDatagram::unbound().is_ok_and(|to| to.connect(machine.config.run.join("keeper.sock")).is_err())
    {
        report.warning(
            "the keeper of this server is no more: should the server die too, what it has mounted is lost",
            "when it suits you, unmount (oncefs umount --all) and mount again; or restart the service that has oncefs serve --keeper",
        );
    }
    if status.root != machine.config.root {
        report.warning(
            format!(
                "the server's root is {}, the configuration says {}",
                status.root.display(),
                machine.config.root.display()
            ),
            "restart the server, or give it the same --root",
        );
    }
    let used =
        status.mounts.iter().map(|mount| &mount.image).chain(status.claimed.iter().map(|claimed| &claimed.image));
    for image in used {
        for layer in image.layers.iter().filter(|layer| layer.state == State::Failed) {
            let cause = layer.error.as_deref().unwrap_or("unknown cause");
            report.problem(
                format!("layer {} of {} cannot be had: {cause}", layer.digest, image.reference),
                format!("`oncefs doctor {}` looks at its registry; the next reader tries again", image.reference),
            );
        }
    }
}
