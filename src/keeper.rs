//! The keeper: starts a server, keeps its descriptors while it is alive and when it is not, and starts it again.
//!
//! It speaks a service manager's protocol: the server's messages come to a socket of its own (NOTIFY_SOCKET), descriptors with them are
//! kept under their names (FDSTORE=1, FDNAME), and the next server finds them from number 3 on (LISTEN_FDS, LISTEN_FDNAMES). An outer service manager
//! is told what the server says. It does nothing else, so that there is little for it to die of: one thread, no files, no network.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process};

use crate::sys::child;
use crate::sys::descriptor::{self, Received};
use crate::sys::signals::Signals;

/// Who keeps, and what is run.
pub struct Keeper {
    /// Where the server's messages come.
    pub socket: PathBuf,
    pub program: PathBuf,
    pub arguments: Vec<std::ffi::OsString>,
    /// Where the service manager listens that started this process.
    pub outer: Option<PathBuf>,
}

struct Keeping {
    socket: UnixDatagram,
    signals: Signals,
    outer: Option<PathBuf>,
    kept: Vec<Kept>,
    server: Child,
    began: Instant,
    /// This server said so, and one of them ever did.
    is_ready: bool,
    was_ready: bool,
    /// Servers in a row that ended before they were ready.
    failures: u32,
    /// No server is started any more.
    is_over: bool,
}

struct Kept {
    name: String,
    descriptor: OwnedFd,
}

/// Descriptors that are kept at most, as systemd has FileDescriptorStoreMax: a mount needs one.
const KEPT_MAX: usize = 4096;
const MESSAGE_BYTES_MAX: usize = 4096;

/// A server that ends is not started again sooner than so long after its start, one that was not even ready later and later.
const APART_MIN: Duration = Duration::from_millis(50);
const APART_MAX: Duration = Duration::from_secs(5);
/// So many that were never ready in a row are enough where no mount depends on the next.
const FAILURES_MAX: u32 = 8;

/// How long another keeper may take to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_AGAIN: Duration = Duration::from_millis(5);

/// How often it is looked whether what is kept is still of use.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Ends in order; to the keeper, and with USR1 before it to a server: for good.
const TERM: i32 = Signal::TERM.as_raw();
const INT: i32 = Signal::INT.as_raw();
const HUP: i32 = Signal::HUP.as_raw();
const CHLD: i32 = Signal::CHILD.as_raw();

// === impl Keeper ===

impl Keeper {
    /// Keeps until the server has ended in order, or cannot be started. How the last one ended.
    pub fn run(&self) -> io::Result<ExitStatus> {
        let signals = Signals::listen(&[TERM, INT, HUP, CHLD])?;
        let _alone = self.alone()?;
        let _left_by_one_that_was_killed = std::fs::remove_file(&self.socket);
        let socket = UnixDatagram::bind(&self.socket)?;
        let ended = self.keep(signals, socket);
        let _gone_already = std::fs::remove_file(&self.socket);
        ended
    }

    /// For as long as the file is open. Another keeper of the place may be about to end, as its server has.
    fn alone(&self) -> io::Result<File> {
        let lock = File::create(self.socket.with_extension("lock"))?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(lock),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_AGAIN),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(io::Error::other("another keeper is at work in this run directory"));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn keep(&self, signals: Signals, socket: UnixDatagram) -> io::Result<ExitStatus> {
        let server = self.start(&[])?;
        let mut keeping = Keeping {
            socket,
            signals,
            outer: self.outer.clone(),
            kept: Vec::new(),
            server,
            began: Instant::now(),
            is_ready: false,
            was_ready: false,
            failures: 0,
            is_over: false,
        };
        loop {
            let status = keeping.until_it_ends()?;
            if keeping.has_done(status) {
                return Ok(status);
            }
            keeping.pause()?;
            eprintln!("oncefs: the server has ended ({status}); the next takes over what it served");
            keeping.server = self.start(&keeping.kept)?;
            (keeping.began, keeping.is_ready) = (Instant::now(), false);
        }
    }

    fn start(&self, kept: &[Kept]) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        let names = kept.iter().map(|kept| kept.name.as_str()).collect::<Vec<_>>().join(":");
        let descriptors: Vec<BorrowedFd<'_>> = kept.iter().map(|kept| kept.descriptor.as_fd()).collect();
        let (most, socket) = (KEPT_MAX.to_string(), self.socket.to_string_lossy());
        let variables = [("LISTEN_FDNAMES", &*names), ("FDSTORE", &most), ("NOTIFY_SOCKET", &socket)];
        child::spawn(command, &descriptors, &variables)
    }
}

// === impl Keeping ===

impl Keeping {
    fn until_it_ends(&mut self) -> io::Result<ExitStatus> {
        loop {
            self.wait(LOOK_EVERY)?;
            if let Some(status) = self.server.try_wait()? {
                // Its last messages may have come after the signal of its end.
                self.hear();
                return Ok(status);
            }
        }
    }

    /// Whether no other server is needed after one that ended so. One that has ended in order has taken back what was kept; what is
    /// kept is what mounts live of.
    fn has_done(&mut self, status: ExitStatus) -> bool {
        self.failures = if self.is_ready { 0 } else { self.failures + 1 };
        self.kept.retain(|kept| descriptor::is_connected(&kept.descriptor));
        // Who is told to end while it takes over has not unmounted yet.
        let is_told = self.is_over && (self.is_ready || self.kept.is_empty() || self.failures >= FAILURES_MAX);
        let is_left_alone = self.kept.is_empty() || !self.was_ready;
        is_told || is_left_alone && (status.success() || !self.was_ready || self.failures >= FAILURES_MAX)
    }

    /// Waits until the next may start.
    fn pause(&mut self) -> io::Result<()> {
        let doubled = APART_MIN.saturating_mul(1 << self.failures.min(10));
        let until = self.began + doubled.min(APART_MAX);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.wait(left)?;
        }
    }

    /// Waits for messages and signals, and does what they say.
    fn wait(&mut self, patience: Duration) -> io::Result<()> {
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        match poll(&mut polled, Some(&patience)) {
            Ok(0) => self.kept.retain(|kept| descriptor::is_connected(&kept.descriptor)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.hear();
        while let Some(signal) = self.signals.take() {
            match signal {
                TERM | INT if !self.is_over || self.is_ready => self.end(signal),
                HUP if self.is_ready => self.signal(Signal::HUP),
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends the server for good; one that is not ready yet, when it is. Asked again, it is told again, and hurries.
    fn end(&mut self, signal: i32) {
        if self.is_ready {
            if !self.is_over {
                self.signal(Signal::USR1);
            }
            self.signal(if signal == INT { Signal::INT } else { Signal::TERM });
        }
        self.is_over = true;
    }

    fn signal(&self, signal: Signal) {
        // It is our child and not waited for, so the number is still its own.
        let _gone_already = kill_process(Pid::from_child(&self.server), signal);
    }

    fn hear(&mut self) {
        let mut message = [0; MESSAGE_BYTES_MAX];
        while let Ok(Received { bytes, descriptors }) = descriptor::receive(&self.socket, &mut message) {
            let text = message.get(..bytes).map(String::from_utf8_lossy).unwrap_or_default();
            self.heed(&text, descriptors);
        }
    }

    fn heed(&mut self, text: &str, descriptors: Vec<OwnedFd>) {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let name = value("FDNAME").unwrap_or("stored");
        if value("FDSTORE") == Some("1") {
            let room = KEPT_MAX.saturating_sub(self.kept.len());
            let new = descriptors.into_iter().take(room).map(|descriptor| Kept { name: name.to_owned(), descriptor });
            return self.kept.extend(new);
        }
        if value("FDSTOREREMOVE") == Some("1") {
            return self.kept.retain(|kept| kept.name != name);
        }
        let is_ready = value("READY") == Some("1");
        self.is_ready |= is_ready;
        self.was_ready |= is_ready;
        // A server that ends and comes back does not stop the service.
        let is_told = descriptors.is_empty() && (self.is_over || value("STOPPING").is_none());
        if let Some(outer) = self.outer.as_deref().filter(|_| is_told) {
            let _nobody_listens = descriptor::datagrams_to(outer).and_then(|to| to.send(text.as_bytes()));
        }
        if is_ready && self.is_over {
            self.signal(Signal::USR1);
            self.signal(Signal::TERM);
        }
    }
}

/// The exit code that tells how a server ended.
pub fn exit_code(status: ExitStatus) -> u8 {
    status.code().or_else(|| Some(128 + status.signal()?)).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
