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

/// Whose turn it is to start a server.
enum Turn {
    /// Ours, as long as the file is open.
    Ours(File),
    /// Nobody's: there is one.
    NotNeeded(Client),
}

/// What a server prints when it takes calls.
pub const READY: &str = "ready";

/// How long a dying server may take to end.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// How long a server that was started may take until it takes calls: it waits for a dying one, and opens its store on what may be a busy disk.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How long another may take to start one. Who loses patience says so itself, and then it is somebody else's turn.
const TURN_PATIENCE: Duration = Duration::from_secs(90);

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
    let _one_at_a_time = match turn(&config.run).await? {
        Turn::NotNeeded(client) => return Ok(client),
        Turn::Ours(held) => held,
    };
    let (run, flags, root) = (config.run.clone(), flags.clone(), config.root.clone());
    let started = tokio::task::spawn_blocking(move || start(&run, &root, &flags)).await;
    started.map_err(|_| StartError::Spawn(io::ErrorKind::Interrupted.into()))??;
    Ok(Client::connect(&config.run).await?)
}

/// Waits until nobody else looks for a server or starts one, or there is one.
async fn turn(run: &Path) -> Result<Turn, StartError> {
    let path = run.join("start.lock");
    let file = open_lock(&path)?;
    let deadline = Instant::now() + TURN_PATIENCE;
    loop {
        let is_ours = try_lock(&file, &path)?;
        if let Some(client) = running(run).await? {
            return Ok(Turn::NotNeeded(client));
        }
        match is_ours {
            true => return Ok(Turn::Ours(file)),
            false if Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY).await,
            false => return Err(held_for_ever(&path)),
        }
    }
}

/// Whether a server holds the run directory, be it one that begins or one that ends.
pub fn is_held(run: &Path) -> bool {
    let Ok(file) = File::open(run.join("server.lock")) else { return false };
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Waits until no server holds the run directory.
pub async fn wait_until_gone(run: &Path) {
    let _free_or_not_worth_waiting_for = lock(&run.join("server.lock"), END_PATIENCE).await;
}

/// Takes the place of the run directory's one server, for as long as the file is open.
pub(super) async fn hold_run(run: &Path) -> Result<File, Failure> {
    let held = async {
        prepare_run(run)?;
        lock(&run.join("server.lock"), END_PATIENCE).await
    };
    held.await.map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))
}

/// Holds the lock as long as the file is open.
pub(super) async fn lock(path: &Path, patience: Duration) -> Result<File, StartError> {
    let file = open_lock(path)?;
    let deadline = Instant::now() + patience;
    while !try_lock(&file, path)? {
        if Instant::now() >= deadline {
            return Err(held_for_ever(path));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(file)
}

fn open_lock(path: &Path) -> Result<File, StartError> {
    let mut open = OpenOptions::new();
    let open = open.create(true).truncate(false).write(true).mode(0o600);
    let open = open.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    open.open(path).map_err(|error| unusable(path, error.to_string()))
}

/// False while another holds it.
fn try_lock(file: &File, path: &Path) -> Result<bool, StartError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(unusable(path, error.to_string())),
    }
}

fn held_for_ever(path: &Path) -> StartError {
    unusable(path, "another process holds it and does not end".to_owned())
}

fn unusable(path: &Path, cause: String) -> StartError {
    StartError::Run { run: path.to_owned(), cause }
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
        "" if began.elapsed() < START_PATIENCE => {
            return Err(StartError::Ended { status: child.wait().map_err(StartError::Spawn)?, log });
        }
        "" => {
            let _ended_already = child.kill();
        }
        _ => {}
    }
    let _it_said_its_last_word = child.wait();
    match said.trim_end() {
        "" => Err(StartError::Silent { seconds: START_PATIENCE.as_secs(), log }),
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
    receive.recv_timeout(START_PATIENCE).unwrap_or_default()
}
