//! `oncefs serve`: the server itself, as `oncefs mount` and `oncefs pull` start it.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;

use super::connection::interrupted;
use super::{Setting, print_line};
use crate::control::Failure;
use crate::daemon::{self, Lifetime};

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// End when nothing is mounted and nobody is being answered
    #[arg(long)]
    on_demand: bool,
}

impl Serve {
    /// The first line of output is the answer to who started it: ready, or why not.
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let lifetime = if self.on_demand { Lifetime::OnDemand } else { Lifetime::Service };
        if self.on_demand {
            // A process group of its own: Ctrl-C on the command that started it is not meant for it.
            let _leads_one_already = rustix::process::setsid();
        }
        let served = async {
            let _place = daemon::hold_run(&setting.config.run).await?;
            let ready = || {
                print_line(daemon::READY);
                let _reader_gone = std::io::stdout().flush();
            };
            daemon::serve(setting.config.clone(), lifetime, None, ready, interrupted()).await
        };
        let served = served.await;
        if let Err(failure) = &served
            && self.on_demand
        {
            print_line(&serde_json::to_string(failure).unwrap_or_else(|_| failure.message.clone()));
        }
        served.map(|()| ExitCode::SUCCESS)
    }
}
