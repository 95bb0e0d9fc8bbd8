//! The server of the run directory, if one runs.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _};

use super::{Machine, Report};
use crate::control::{self, Answer, Call, ClientError, Failure, Outcome, State, StatusReport};
use crate::daemon;
use crate::errors::with_causes;

/// A healthy server answers within a few milliseconds, one with many layers within some more.
const PATIENCE: Duration = Duration::from_secs(10);

/// How soon after a server that went away while it was asked.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

const RESTART: &str = "restart it (systemctl restart oncefs; oncefs umount --all ends one that a command started)";

pub(super) fn look<'a>(machine: &'a Machine, report: &'a mut Report) -> BoxFuture<'a, ()> {
    async move {
        let patience = Instant::now() + PATIENCE;
        loop {
            let mut client = match daemon::running(&machine.config.run).await {
                Ok(Some(client)) => client,
                Ok(None) => return nobody(machine, report),
                Err(error) => return report.warning(with_causes(&error), "run this as one of them"),
            };
            match client.call(&Call::Status, &mut |_| {}, tokio::time::sleep(PATIENCE)).await {
                // It ended just then: the next is there in a moment, or nobody is.
                Err(ClientError::Gone(_)) if Instant::now() < patience => tokio::time::sleep(LOOK_AGAIN).await,
                answered => return judge(machine, answered, report),
            }
        }
    }
    .boxed()
}

fn nobody(machine: &Machine, report: &mut Report) {
    let socket = control::socket(&machine.config.run);
    if socket.exists() {
        report.warning(
            format!("no server answers at {}, which one has left that was killed", socket.display()),
            "nothing: the next server replaces it; the log and journalctl -u oncefs may say why",
        );
    } else {
        report.ok("no server runs: the first `oncefs mount` starts one, systemctl start oncefs the service");
    }
}

fn judge(machine: &Machine, answered: Result<Result<Answer, Failure>, ClientError>, report: &mut Report) {
    match answered {
        Ok(Ok(Answer { outcome: Outcome::Status(status), .. })) => tell(machine, &status, report),
        Ok(Ok(_)) => report.problem("the server answers something else than it is asked", RESTART),
        Ok(Err(failure)) => report.problem(format!("the server is not well: {}", failure.message), RESTART),
        Err(ClientError::Interrupted) => {
            report.problem(format!("the server does not answer within {} s", PATIENCE.as_secs()), RESTART);
        }
        Err(error) => report.problem(format!("the server is not well: {}", with_causes(&error)), RESTART),
    }
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
