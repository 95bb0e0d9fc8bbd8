//! Descriptors that outlive this process: the service manager or the keeper holds them, and hands them to the next server.
//!
//! `fuse-<n>` is a FUSE connection, of which `mounts::remembered` says what it shows; `kept-<name>` a socket of ours.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::control::{Failure, FailureKind};
use crate::sys::descriptor;

/// The line to whoever keeps descriptors. Clones are the same line.
#[derive(Debug, Clone, Default)]
pub struct Keeping {
    socket: Option<PathBuf>,
}

/// What whoever started this process has left open for it.
#[derive(Default)]
pub(super) struct Inherited {
    /// By name.
    pub(super) sockets: Vec<(String, OwnedFd)>,
    /// FUSE connections, by number.
    pub(super) connections: BTreeMap<u64, OwnedFd>,
}

const CONNECTION: &str = "fuse-";

/// How long the service manager may take to look at a message. It is at work for others too.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

// === impl Keeping ===

impl Keeping {
    /// With nothing to `socket`, nothing is kept.
    pub fn at(socket: Option<PathBuf>) -> Self {
        Self { socket }
    }

    pub(super) fn is_on(&self) -> bool {
        self.socket.is_some()
    }

    pub(super) fn keep_connection(&self, number: u64, descriptor: &OwnedFd) -> io::Result<()> {
        self.keep(&format!("{CONNECTION}{number}"), descriptor)
    }

    pub(super) fn let_go_of_connection(&self, number: u64) {
        self.let_go(&format!("{CONNECTION}{number}"));
    }

    /// Returns when it is kept: from then on this process may die. Blocking, for a moment.
    pub(super) fn keep(&self, name: &str, descriptor: impl AsFd) -> io::Result<()> {
        self.tell(&format!("FDSTORE=1\nFDNAME={name}"), &[descriptor.as_fd()])?;
        let lost = self.wait_until_heard()?;
        match lost.lines().any(|lost| lost == name) {
            true => Err(io::Error::other("the keeper has no room for it: raise LimitNOFILE= (ulimit -n)")),
            false => Ok(()),
        }
    }

    /// What was kept ends with this process.
    pub(super) fn let_go(&self, name: &str) {
        if let Err(error) = self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]) {
            tracing::debug!(name, %error, "nobody keeps it");
        }
    }

    /// Whether there is somebody who keeps.
    pub(super) fn is_there(&self) -> bool {
        self.is_on() && self.wait_until_heard().is_ok()
    }

    /// sd_notify_barrier(3): the other end of a pipe is closed when all that was said before has been heard. A keeper of ours says
    /// before that what of it is not kept, a name on each line.
    fn wait_until_heard(&self) -> io::Result<String> {
        let (mut reader, writer) = io::pipe()?;
        self.tell("BARRIER=1", &[writer.as_fd()])?;
        drop(writer);
        if poll(&mut [PollFd::new(&reader, PollFlags::empty())], Some(&PATIENCE))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut lost = String::new();
        reader.read_to_string(&mut lost)?;
        Ok(lost)
    }

    fn tell(&self, message: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        descriptor::send(descriptor::datagrams_to(socket)?, message.as_bytes(), descriptors)
    }
}

// === impl Inherited ===

impl Inherited {
    /// To be called once, and first.
    pub(super) fn take() -> Result<Self, Failure> {
        let failed = |cause: String| {
            Failure::new(FailureKind::Usage, format!("the sockets of the service manager cannot be used: {cause}"))
        };
        let mut inherited = Self::default();
        // First: names that are meant for another process need not fit to the number of ours, which is none.
        if sd_notify::listen_fds().map_err(|error| failed(error.to_string()))?.len() == 0 {
            return Ok(inherited);
        }
        for (number, name) in sd_notify::listen_fds_with_names().map_err(|error| failed(error.to_string()))? {
            let descriptor = descriptor::inherited(number).map_err(|error| failed(format!("{name}: {error}")))?;
            match name.strip_prefix(CONNECTION).and_then(|number| number.parse().ok()) {
                Some(number) => drop(inherited.connections.insert(number, descriptor)),
                None => inherited.sockets.push((name, descriptor)),
            }
        }
        Ok(inherited)
    }
}
