//! `oncefs check`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::connection::{Asked, with_news};
use super::progress::{Shown, bytes};
use super::{Setting, counted, print_line};
use crate::control::{Call, CheckCall, CheckSummary, ContainerdCall, Failure, Outcome};
use crate::daemon;

/// Problems were found and are still there.
const PROBLEMS_LEFT: u8 = 3;

const EXAMPLES: &str = "\
Examples:
  oncefs check
  oncefs check --repair
  oncefs check --containerd
  oncefs check --containerd=/run/k3s/containerd/containerd.sock

Reads every byte of the store and compares it with its digest, and the database with its notes. Repairing drops what is damaged: it is fetched again when \
somebody reads it. With --containerd, snapshots too are compared with those that containerd knows in all its namespaces: one \
that is not here is lost, one that is only here is left over until containerd collects garbage; the line says what to do, and nothing of that is \
repaired here. \
Exits with 0 if all is well or was repaired, with 3 if problems are left or snapshots lost.";

/// Verify the whole store, and repair it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Check {
    /// Drop what is damaged
    #[arg(long)]
    repair: bool,
    /// Compare snapshots with those of the containerd at this socket [default: containerd in [cri] of the configuration]
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true)]
    containerd: Option<Option<PathBuf>>,
    /// What that containerd calls oncefs: its [proxy_plugins.NAME]
    #[arg(long, value_name = "NAME", default_value = "oncefs", requires = "containerd")]
    snapshotter: String,
}

impl Check {
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let repair = self.repair;
        let socket = self.containerd.map(|named| named.unwrap_or_else(|| setting.config.cri.containerd.clone()));
        let containerd = socket.map(|socket| ContainerdCall { socket, snapshotter: self.snapshotter });
        let mut shown = Shown::new();
        let call = CheckCall { repair, containerd };
        let summary = match setting.ask(&Call::Check(call.clone()), &mut shown).await? {
            Asked::Answered(Outcome::Checked(summary)) => summary,
            Asked::Answered(other) => return Err(super::connection::unexpected(&other)),
            // containerd asks nobody if no server runs.
            Asked::Here(_) if call.containerd.is_some() => return Err(daemon::nothing_to_compare()),
            Asked::Here(node) => {
                let checked = with_news(&mut shown, |news| {
                    let node = node.clone();
                    async move { node.check(repair, &news).await }
                });
                checked.await?
            }
        };
        print(&summary, repair);
        // containerd itself leaves what it has removed until it collects garbage.
        let is_lost = summary.snapshots.as_ref().is_some_and(|snapshots| !snapshots.lost.is_empty());
        let is_well = (summary.problems.is_empty() || summary.repaired) && !is_lost;
        Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(PROBLEMS_LEFT) })
    }
}

fn print(summary: &CheckSummary, repair: bool) {
    for problem in &summary.problems {
        print_line(problem);
    }
    let problems = counted(summary.problems.len() as u64, "problem");
    let found = match summary.problems.len() {
        0 => "all is well".to_owned(),
        _ if summary.repaired => format!("{problems}, all repaired"),
        _ if repair => format!("{problems}, not all repaired"),
        _ => format!("{problems}; oncefs check --repair drops what is damaged"),
    };
    let (layers, frames) = (counted(summary.layers, "layer"), counted(summary.frames, "resident frame"));
    print_line(&format!("{layers}, {frames}, {} checked: {found}", bytes(summary.bytes)));
    let Some(snapshots) = &summary.snapshots else { return };
    snapshots.lost.iter().chain(&snapshots.left_over).for_each(|told| print_line(told));
    let found = match (snapshots.lost.len(), snapshots.left_over.len()) {
        (0, 0) => "neither has others".to_owned(),
        (lost, left_over) => format!("{lost} lost, {left_over} left over"),
    };
    print_line(&format!("{} in common with containerd: {found}", counted(snapshots.common, "snapshot")));
}
