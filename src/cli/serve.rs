//! `oncefs serve`: the server as a service, and as `oncefs mount` and `oncefs pull` start it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Setting, print_line};
use crate::control::{Call, Failure, FailureKind};
use crate::daemon::{self, Interrupts, Keeping, Lifetime, Start};
use crate::keeper::{self, Keeper};
use crate::sys::process::{keep_from_view, raise_open_files};

const ABOUT: &str = "\
Serves until it is told to end: containers' root file systems to containerd, image pulls to kubelet, and calls to the other \
commands of oncefs, which then need no server of their own. Under systemd it is oncefs.service.

It listens in the run directory (/run/oncefs):
  snapshotter.sock  containerd's snapshots service: [proxy_plugins.oncefs] there
  cri.sock          CRI, passed on to containerd: --image-service-endpoint of
                    kubelet; not with [cri] enabled = false
  control.sock      calls of the other commands; also /metrics and /healthz:
      curl --unix-socket /run/oncefs/control.sock http://oncefs/metrics

Sockets that a service manager hands over (LISTEN_FDS), known by these places or by the names snapshotter, cri and control, \
are used instead.

Where a service manager keeps descriptors (systemd: FileDescriptorStoreMax=), or a keeper does (--keeper), mounts outlive the \
server: one that is killed, or terminated to make place for another version, is followed by the next, and readers see a pause.

Signals:
  TERM, INT  end in order: take nothing new, let what is under way come to its
             end ([server] drain_secs); the second one ends at once. With INT,
             or USR1 before TERM, and where nobody keeps them, mounts are taken
             away. The keeper itself takes both for the end
  HUP        read the configuration again: log, [registry], [cache], [fetch],
             [scan.limits] and drain_secs count at once, others from the next
             start on, and the log says which";

/// Serve images to containerd and to the other commands
#[derive(Debug, Args)]
#[command(after_help = ABOUT)]
pub(super) struct Serve {
    /// Where containerd finds the snapshots service [default: snapshotter.sock in the run directory]
    #[arg(long, value_name = "SOCKET")]
    pub(super) address: Option<PathBuf>,
    /// End when nothing is mounted and nobody is being answered
    #[arg(long, hide = true)]
    on_demand: bool,
    /// Stay beside the server, keep its mounts should it die, and start it again. A service manager with a descriptor store does the same
    #[arg(long)]
    keeper: bool,
    /// It is the keeper's
    #[arg(long, hide = true, conflicts_with = "keeper")]
    kept: bool,
}

impl Serve {
    pub(super) fn is_keeper(&self) -> bool {
        self.keeper
    }

    /// Without a runtime: this process shall have little to die of. What it starts is this very command without it.
    pub(super) fn keep(&self, setting: &Setting) -> Result<ExitCode, Failure> {
        let failed =
            |error: &dyn std::fmt::Display| Failure::new(FailureKind::Other, format!("cannot keep a server: {error}"));
        if self.on_demand {
            // A process group of its own: Ctrl-C on the command that started it is not meant for it.
            let _leads_one_already = rustix::process::setsid();
        }
        let run = &setting.config.run;
        daemon::prepare_run(run).map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))?;
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let without = std::env::args_os().skip(1).map(|word| if word == "--keeper" { "--kept".into() } else { word });
        let keeper = Keeper {
            socket: run.join("keeper.sock"),
            program,
            arguments: without.collect(),
            outer: setting.environment.notified().filter(|_| !self.on_demand),
            watchdog: daemon::watchdog().filter(|_| !self.on_demand),
        };
        let ended = keeper.run().map_err(|error| failed(&error))?;
        Ok(ExitCode::from(keeper::exit_code(ended)))
    }

    /// The first line of output is the answer to who started it: ready, or why not.
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let lifetime = if self.on_demand { Lifetime::OnDemand } else { Lifetime::Service };
        keep_logins_from_view();
        if let Err(error) = raise_open_files() {
            tracing::warn!(%error, "few layers and mounts fit: raise LimitNOFILE= (ulimit -n)");
        }
        if self.on_demand {
            // A process group of its own: Ctrl-C on the command that started it is not meant for it.
            let _leads_one_already = rustix::process::setsid();
        }
        let ready = || {
            print_line(daemon::READY);
            let _reader_gone = std::io::stdout().flush();
        };
        let is_kept = self.kept || lifetime == Lifetime::Service;
        let keeping = Keeping::at(setting.environment.keeps_descriptors().filter(|_| is_kept));
        let start = Start { keeping, ..setting.serve(lifetime, None) };
        let served = daemon::serve(start, ready, interrupts()?).await;
        if let Err(failure) = &served
            && self.on_demand
        {
            print_line(&serde_json::to_string(failure).unwrap_or_else(|_| failure.message.clone()));
        }
        served.map(|()| ExitCode::SUCCESS)
    }
}

impl Setting {
    /// What a server in this process begins with.
    pub(super) fn serve(&self, lifetime: Lifetime, first: Option<Call>) -> Start {
        let (config, flags, log) = (self.config.clone(), self.flags.clone(), self.log.clone());
        Start { config, flags, lifetime, first, keeping: Keeping::default(), log }
    }
}

/// To be called before a registry is asked.
pub(super) fn keep_logins_from_view() {
    if let Err(error) = keep_from_view() {
        tracing::warn!(%error, "a core of this process would have logins in it");
    }
}

/// From now on, signals end this process in order.
pub(super) fn interrupts() -> Result<Interrupts, Failure> {
    let failed = |error| Failure::new(FailureKind::Other, format!("cannot listen for signals: {error}"));
    Interrupts::listen().map_err(failed)
}
