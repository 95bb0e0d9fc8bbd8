//! `oncefs check`

use std::process::ExitCode;

use clap::Args;

use super::connection::{Asked, with_news};
use super::progress::{Shown, bytes};
use super::{Setting, counted, print_line};
use crate::control::{Call, CheckSummary, Failure, Outcome};

/// Problems were found and are still there.
const PROBLEMS_LEFT: u8 = 3;

const EXAMPLES: &str = "\
Examples:
  oncefs check
  oncefs check --repair

Reads every byte of the store and compares it with its digest. Repairing drops what is damaged: it is fetched again when \
somebody reads it. Exits with 0 if all is well or was repaired, with 3 if problems are left.";

/// Verify the whole store, and repair it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Check {
    /// Drop what is damaged
    #[arg(long)]
    repair: bool,
}

impl Check {
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let repair = self.repair;
        let mut shown = Shown::new();
        let summary = match setting.ask(&Call::Check { repair }, &mut shown).await? {
            Asked::Answered(Outcome::Checked(summary)) => summary,
            Asked::Answered(other) => return Err(super::connection::unexpected(&other)),
            Asked::Here(node) => {
                let checked = with_news(&mut shown, |news| {
                    let node = node.clone();
                    async move { node.check(repair, &news).await }
                });
                checked.await?
            }
        };
        print(&summary, repair);
        let is_well = summary.problems.is_empty() || summary.repaired;
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
}
