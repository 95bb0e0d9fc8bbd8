//! Finding the server of a run directory, or making one.
//!
//! `<run>/server.lock` is held by a server as long as it lives, `<run>/start.lock` by whoever looks whether there is
//! one: of twenty commands at once, one starts it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::failure::of_config;
use crate::config::{Config, Flags};
use crate::control::{Client, ClientError, Failure, FailureKind};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use the run directory {}: {cause}; choose another with --run", run.display())]
    Run { run: PathBuf, cause: String },
    #[error("cannot start a server")]
    Spawn(#[source] io::Error),
    #[error("a server was started but said nothing for {seconds} s; see {}", log.display())]
    Silent { seconds: u64, log: PathBuf },
    #[error("the server that was started ended at once ({status}); {} says why", log.display())]
    Ended { status: ExitStatus, log: PathBuf },
    #[error("{0}")]
    Failed(Failure),
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// What a server prints when it takes calls.
pub const READY: &str = "ready";

/// How long a server may take to open its store, or a dying one to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a lock that somebody holds is tried again.
const LOOK_EVERY: Duration = Duration::from_millis(5);

// === finding ===

/// Makes the run directory, for this user alone, or takes one that is.
pub fn prepare_run(run: &Path) -> Result<(), StartError> {
    let failed = |cause: String| StartError::Run { run: run.to_owned(), cause };
    DirBuilder::new().recursive(true).mode(0o700).create(run).map_err(|error| failed(error.to_string()))?;
    let metadata = run.symlink_metadata().map_err(|error| failed(error.to_string()))?;
    let uid = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || metadata.uid() != uid {
        return Err(failed(format!("it belongs to user {}, this is user {uid}", metadata.uid())));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(failed(format!("others may write to it (mode {:o})", metadata.mode() & 0o777)));
    }
    Ok(())
}

/// The server of this run directory, if there is one.
///
/// # Errors
/// Fails where it is not for this user to see whether there is one.
pub async fn running(run: &Path) -> Result<Option<Client>, ClientError> {
    match Client::connect(run).await {
        Ok(client) => Ok(Some(client)),
        Err(closed @ ClientError::Closed { .. }) => Err(closed),
        Err(_) => Ok(None),
    }
}

/// The server of this run directory; if there is none, one is started that ends when it has nothing left to do.
pub async fn connect_or_start(config: &Config, flags: &Flags) -> Result<Client, StartError> {
    if let Some(client) = running(&config.run).await? {
        return Ok(client);
    }
    config.check_root().map_err(|error| StartError::Failed(of_config(&error)))?;
    prepare_run(&config.run)?;
    let _one_at_a_time = lock(&config.run.join("start.lock"), PATIENCE).await?;
    if let Some(client) = running(&config.run).await? {
        return Ok(client);
    }
    let (run, flags, root) = (config.run.clone(), flags.clone(), config.root.clone());
    let started = tokio::task::spawn_blocking(move || start(&run, &root, &flags)).await;
    started.map_err(|_| StartError::Spawn(io::ErrorKind::Interrupted.into()))??;
    Ok(Client::connect(&config.run).await?)
}

/// Whether a server holds the run directory, be it one that begins or one that ends.
pub fn is_held(run: &Path) -> bool {
    let Ok(file) = File::open(run.join("server.lock")) else { return false };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Waits until no server holds the run directory.
pub async fn wait_until_gone(run: &Path) {
    let _free_or_not_worth_waiting_for = lock(&run.join("server.lock"), PATIENCE).await;
}

/// Takes the place of the run directory's one server, for as long as the file is open.
pub(super) async fn hold_run(run: &Path) -> Result<File, Failure> {
    let held = async {
        prepare_run(run)?;
        lock(&run.join("server.lock"), PATIENCE).await
    };
    held.await.map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))
}

pub(super) async fn lock(path: &Path, patience: Duration) -> Result<File, StartError> {
    let failed = |cause: String| StartError::Run { run: path.to_owned(), cause };
    let mut open = OpenOptions::new();
    let file = open
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    let file = file.open(path).map_err(|error| failed(error.to_string()))?;
    let deadline = Instant::now() + patience;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY).await,
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(failed("another process holds it and does not end".to_owned()));
            }
            Err(error) => return Err(failed(error.to_string())),
        }
    }
}

// === making ===

/// Starts this very program as a server in the background, and waits until it takes calls.
fn start(run: &Path, root: &Path, flags: &Flags) -> Result<(), StartError> {
    let log = run.join("oncefs.log");
    let stderr = OpenOptions::new().create(true).append(true).mode(0o600).open(&log).map_err(StartError::Spawn)?;
    let mut command = Command::new(std::env::current_exe().map_err(StartError::Spawn)?);
    // Both places are said outright: the server must be the one that this program looks for.
    command.arg("--root").arg(root).arg("--run").arg(run);
    if let Some(config) = &flags.config {
        // The server works elsewhere.
        command.arg("--config").arg(std::path::absolute(config).map_err(StartError::Spawn)?);
    }
    if let Some(level) = &flags.log {
        command.arg("--log").arg(level);
    }
    if let Some(format) = &flags.log_format {
        command.arg("--log-format").arg(format.name());
    }
    command.args(["serve", "--on-demand", "--keeper"]).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    let began = Instant::now();
    let mut child = command.spawn().map_err(StartError::Spawn)?;
    let said = child.stdout.take().map(first_line).unwrap_or_default();
    match said.trim_end() {
        READY => {
            // It goes on without us; should it end first, it must not stay as a zombie of a long-lived parent.
            std::thread::spawn(move || child.wait());
            return Ok(());
        }
        // Its end closes the pipe a moment before it can be waited for.
        "" if began.elapsed() < PATIENCE => {
            return Err(StartError::Ended { status: child.wait().map_err(StartError::Spawn)?, log });
        }
        "" => {
            let _ended_already = child.kill();
        }
        _ => {}
    }
    let _it_said_its_last_word = child.wait();
    match said.trim_end() {
        "" => Err(StartError::Silent { seconds: PATIENCE.as_secs(), log }),
        other => Err(match serde_json::from_str(other) {
            Ok(failure) => StartError::Failed(failure),
            Err(_) => StartError::Failed(Failure::new(FailureKind::Other, other)),
        }),
    }
}

/// The first line, or what came of it until the pipe was closed or patience ended.
fn first_line(pipe: std::process::ChildStdout) -> String {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _what_came_counts = BufReader::new(pipe.take(64 << 10)).read_line(&mut line);
        let _too_late_is_fine = send.send(line);
    });
    receive.recv_timeout(PATIENCE).unwrap_or_default()
}
