//! The keeper: starts a server, keeps its descriptors while it is alive and when it is not, and starts it again.
//!
//! It speaks a service manager's protocol: the server's messages come to a socket of its own (NOTIFY_SOCKET), descriptors with them are
//! kept under their names (FDSTORE=1, FDNAME), and the next server finds them from number 3 on (LISTEN_FDS, LISTEN_FDNAMES). An outer service manager
//! is told what the server says. Its watchdog is the keeper's, which says that it is alive, and sees to the server's life itself: an outer one that
//! lost its patience would end both, and the mounts with them. It does nothing else, so that there is little for it to die of: one thread, no
//! files, no network. What is kept has nobody else: as long as there is any, nothing that may pass ends the keeper.

mod hold;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process};

use hold::Hold;

use crate::sys::child;
use crate::sys::descriptor;
use crate::sys::signals::Signals;

/// Who keeps, and what is run.
pub struct Keeper {
    /// Where the server's messages come.
    pub socket: PathBuf,
    pub program: PathBuf,
    pub arguments: Vec<std::ffi::OsString>,
    /// Where the service manager listens that started this process.
    pub outer: Option<PathBuf>,
    /// How often that one wants to be told that this process is alive.
    pub watchdog: Option<Duration>,
}

struct Keeping {
    socket: UnixDatagram,
    place: PathBuf,
    signals: Signals,
    outer: Option<PathBuf>,
    hold: Hold,
    /// None once it has been waited for: its number may be another's then.
    server: Option<Child>,
    /// The last server was started then, or could not be.
    began: Instant,
    watchdog: Option<Watchdog>,
    /// This server said so, and one of them ever did.
    is_ready: bool,
    was_ready: bool,
    /// Servers in a row that ended before they were ready, or could not be started.
    failures: u32,
    /// No server is started any more.
    is_over: bool,
}

/// An outer service manager's.
struct Watchdog {
    allowed: Duration,
    fed: Option<Instant>,
    /// The server is ready, and said that it is alive.
    heard: Option<Instant>,
}

const MESSAGE_BYTES_MAX: usize = 4096;

/// A server that ends is not started again sooner than so long after its start, one that was not even ready later and later.
const APART_MIN: Duration = Duration::from_millis(50);
const APART_MAX: Duration = Duration::from_secs(5);
/// So many that were never ready in a row are enough where no mount depends on the next.
const FAILURES_MAX: u32 = 8;

/// How long another keeper may take to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
const LOCK_AGAIN: Duration = Duration::from_millis(5);

/// How often it is looked whether what is kept is still of use.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// So often in the time that a watchdog allows it is said that this process is alive.
const WATCHDOG_LOOKS: u32 = 4;

/// Ends in order; to the keeper, and with USR1 before it to a server: for good.
const TERM: i32 = Signal::TERM.as_raw();
const INT: i32 = Signal::INT.as_raw();
const HUP: i32 = Signal::HUP.as_raw();
const USR1: i32 = Signal::USR1.as_raw();
const CHLD: i32 = Signal::CHILD.as_raw();

// === impl Keeper ===

impl Keeper {
    /// Keeps until the server has ended in order, or cannot be started. How the last one ended.
    pub fn run(&self) -> io::Result<ExitStatus> {
        let signals = Signals::listen(&[TERM, INT, HUP, USR1, CHLD])?;
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
        let hold = Hold::new();
        let server = self.start(&hold)?;
        let mut keeping = Keeping {
            socket,
            place: self.socket.clone(),
            signals,
            outer: self.outer.clone(),
            hold,
            server: Some(server),
            began: Instant::now(),
            watchdog: self.watchdog.map(|allowed| Watchdog { allowed, fed: None, heard: None }),
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
            say(&format!("the server has ended ({status}); the next takes over what it served"));
            self.start_next(&mut keeping)?;
        }
    }

    /// What keeps a server from being started may pass: its program is just being replaced, there is no memory.
    fn start_next(&self, keeping: &mut Keeping) -> io::Result<()> {
        loop {
            keeping.pause()?;
            keeping.began = Instant::now();
            match self.start(&keeping.hold) {
                Ok(server) => {
                    keeping.server = Some(server);
                    return Ok(());
                }
                Err(error) => {
                    say(&format!("cannot start {}: {error}", self.program.display()));
                    keeping.failures = keeping.failures.saturating_add(1);
                    if keeping.gives_up() {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn start(&self, hold: &Hold) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        let (names, room, socket) = (hold.names(), hold.room().to_string(), self.socket.to_string_lossy());
        let variables = [("LISTEN_FDNAMES", &*names), ("FDSTORE", &room), ("NOTIFY_SOCKET", &socket)];
        child::spawn(command, &hold.descriptors(), &variables)
    }
}

// === impl Keeping ===

impl Keeping {
    fn until_it_ends(&mut self) -> io::Result<ExitStatus> {
        loop {
            self.wait(LOOK_EVERY)?;
            if let Some(status) = self.server.as_mut().map(Child::try_wait).transpose()?.flatten() {
                self.server = None;
                // Its last messages may have come after the signal of its end.
                self.hear();
                return Ok(status);
            }
        }
    }

    /// Whether no other server is needed after one that ended so. One that has ended in order has taken back what was kept; what is
    /// kept is what mounts live of.
    fn has_done(&mut self, status: ExitStatus) -> bool {
        let was_ready = std::mem::take(&mut self.is_ready);
        self.failures = if was_ready { 0 } else { self.failures.saturating_add(1) };
        self.hold.forget_lost();
        self.hold.sweep();
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.heard = None;
        }
        // Who is told to end while it takes over has not unmounted yet.
        let is_told = self.is_over && was_ready;
        is_told || self.is_left_alone() && (status.success() || !self.was_ready) || self.gives_up()
    }

    /// Whether the server heeds signals. One that cannot say that it is ready, since somebody has cleared the run directory, does too.
    fn is_up(&self) -> bool {
        self.is_ready || !self.place.exists()
    }

    /// Whether no mount depends on the next server.
    fn is_left_alone(&self) -> bool {
        !self.hold.has_mounts() || !self.was_ready
    }

    /// Whether servers that fail have been tried often enough.
    fn gives_up(&self) -> bool {
        let is_enough = self.failures >= FAILURES_MAX && (self.is_over || self.is_left_alone());
        is_enough || self.is_over && !self.hold.has_mounts()
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
        let often = self.watchdog.as_ref().map_or(patience, |watchdog| watchdog.allowed / WATCHDOG_LOOKS);
        let patience = Timespec::try_from(patience.min(often)).map_err(io::Error::other)?;
        match poll(&mut polled, Some(&patience)) {
            Ok(0) => self.hold.sweep(),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.hear();
        while let Some(signal) = self.signals.take() {
            match signal {
                TERM | INT if !self.is_over || self.is_up() => self.end(signal),
                HUP if self.is_up() => self.signal(Signal::HUP),
                USR1 if self.is_up() => self.signal(Signal::USR1),
                _ => {}
            }
        }
        self.watch();
        Ok(())
    }

    /// Says that this process is alive, and ends a server that says so no more: the next is well.
    fn watch(&mut self) {
        let Some(watchdog) = &mut self.watchdog else { return };
        if watchdog.heard.is_some_and(|heard| heard.elapsed() > watchdog.allowed) {
            watchdog.heard = None;
            say(&format!("the server has not said for {:?} that it is alive; it is killed", watchdog.allowed));
            self.signal(Signal::KILL);
        } else if watchdog.fed.is_none_or(|fed| fed.elapsed() >= watchdog.allowed / WATCHDOG_LOOKS) {
            watchdog.fed = Some(Instant::now());
            self.tell_outer("WATCHDOG=1");
        }
    }

    fn tell_outer(&self, text: &str) {
        if let Some(outer) = self.outer.as_deref() {
            let _nobody_listens = descriptor::datagrams_to(outer).and_then(|to| to.send(text.as_bytes()));
        }
    }

    /// Ends the server for good; one that is not ready yet, when it is. Asked again, it is told again, and hurries.
    fn end(&mut self, signal: i32) {
        if self.is_up() {
            if !self.is_over {
                self.signal(Signal::USR1);
            }
            self.signal(if signal == INT { Signal::INT } else { Signal::TERM });
        }
        self.is_over = true;
    }

    fn signal(&self, signal: Signal) {
        if let Some(server) = &self.server {
            let _gone_already = kill_process(Pid::from_child(server), signal);
        }
    }

    fn hear(&mut self) {
        let mut message = [0; MESSAGE_BYTES_MAX];
        while let Ok(received) = descriptor::receive(&self.socket, &mut message) {
            let text = message.get(..received.bytes).map(String::from_utf8_lossy).unwrap_or_default();
            self.heed(&text, received.descriptors, received.is_cut);
        }
    }

    fn heed(&mut self, text: &str, descriptors: Vec<OwnedFd>, is_cut: bool) {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let (is_said, name) = (|name: &str| value(name) == Some("1"), value("FDNAME").unwrap_or("stored"));
        if is_said("FDSTORE") {
            return self.hold.keep(name, descriptors, is_cut);
        }
        if is_said("FDSTOREREMOVE") {
            return self.hold.let_go(name);
        }
        if is_said("BARRIER") {
            return self.hold.answer(descriptors);
        }
        let is_ready = is_said("READY");
        self.is_ready |= is_ready;
        self.was_ready |= is_ready;
        if let Some(watchdog) = &mut self.watchdog {
            let is_ending = value("STOPPING").is_some();
            let is_heard = is_ready || is_said("WATCHDOG") && watchdog.heard.is_some();
            watchdog.heard = if is_heard { Some(Instant::now()) } else { watchdog.heard.filter(|_| !is_ending) };
        }
        // A server that ends and comes back does not stop the service. That it is alive says the keeper.
        if (self.is_over || value("STOPPING").is_none()) && !is_said("WATCHDOG") {
            self.tell_outer(text);
        }
        if is_ready && self.is_over {
            self.signal(Signal::USR1);
            self.signal(Signal::TERM);
        }
    }
}

/// Tells whoever looks on, if anybody does: the keeper outlives terminals and pipes.
fn say(text: &str) {
    let _nobody_reads = writeln!(io::stderr(), "oncefs: {text}");
}

/// The exit code that tells how a server ended.
pub fn exit_code(status: ExitStatus) -> u8 {
    status.code().or_else(|| Some(128 + status.signal()?)).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
