//! Descriptors that outlive this process: the service manager or the keeper holds them, and hands them to the next server.
//!
//! `fuse-<n>` is a FUSE connection, of which `mounts::remembered` says what it shows; `kept-<name>` a socket of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::control::{Failure, FailureKind};
use crate::sync::{Arc, Mutex};
use crate::sys::descriptor;

/// The line to whoever keeps descriptors. Clones are the same line.
#[derive(Debug, Clone, Default)]
pub struct Keeping {
    line: Option<Arc<Line>>,
}

#[derive(Debug)]
struct Line {
    socket: PathBuf,
    room: usize,
    /// Names of what is kept. systemd closes what finds no room, and says nothing.
    kept: Mutex<BTreeSet<String>>,
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
    /// At a socket, with room for so many descriptors. Without one, nothing is kept.
    pub fn at(place: Option<(PathBuf, usize)>) -> Self {
        Self { line: place.map(|(socket, room)| Arc::new(Line { socket, room, kept: Mutex::default() })) }
    }

    pub(super) fn is_on(&self) -> bool {
        self.line.is_some()
    }

    /// What was kept for this process still is.
    pub(super) fn goes_on_with(&self, inherited: &Inherited) {
        let Some(line) = &self.line else { return };
        let connections = inherited.connections.keys().map(|number| format!("{CONNECTION}{number}"));
        line.kept.lock().extend(connections.chain(inherited.sockets.iter().map(|(name, _)| name.clone())));
    }

    pub(super) fn keep_connection(&self, number: u64, descriptor: &OwnedFd) -> io::Result<()> {
        self.keep(&format!("{CONNECTION}{number}"), descriptor)
    }

    pub(super) fn let_go_of_connection(&self, number: u64) {
        self.let_go(&format!("{CONNECTION}{number}"));
    }

    /// Returns when it is kept: from then on this process may die. Blocking, for a moment.
    pub(super) fn keep(&self, name: &str, descriptor: impl AsFd) -> io::Result<()> {
        let Some(line) = &self.line else { return Ok(()) };
        let no_room = || {
            let remedy = "FileDescriptorStoreMax= and FDSTORE= of the unit, LimitNOFILE= (ulimit -Hn) of a keeper";
            io::Error::other(format!("there is room for {} only; raise {remedy}", line.room))
        };
        if line.kept.lock().len() >= line.room {
            return Err(no_room());
        }
        self.tell(&format!("FDSTORE=1\nFDNAME={name}"), &[descriptor.as_fd()])?;
        if self.wait_until_heard()?.lines().any(|lost| lost == name) {
            return Err(no_room());
        }
        line.kept.lock().insert(name.to_owned());
        Ok(())
    }

    /// What was kept ends with this process.
    pub(super) fn let_go(&self, name: &str) {
        if let Some(line) = &self.line {
            line.kept.lock().remove(name);
        }
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
        let Some(line) = &self.line else { return Ok(()) };
        descriptor::send(descriptor::datagrams_to(&line.socket)?, message.as_bytes(), descriptors)
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn more_than_there_is_room_for_is_not_taken_for_kept() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("notify");
        let manager = UnixDatagram::bind(&place).unwrap();
        // Hears all, as systemd does, and says nothing of what it has no room for.
        std::thread::spawn(move || {
            while poll(&mut [PollFd::new(&manager, PollFlags::IN)], None).is_ok() {
                let _closed_again = descriptor::receive(&manager, &mut [0; 256]);
            }
        });
        let (keeping, file) = (Keeping::at(Some((place, 2))), tempfile::tempfile().unwrap());
        keeping.goes_on_with(&Inherited {
            connections: [(7, file.try_clone().unwrap().into())].into(),
            ..Inherited::default()
        });
        keeping.keep_connection(8, &file.try_clone().unwrap().into()).unwrap();
        assert!(
            keeping
                .keep_connection(9, &file.try_clone().unwrap().into())
                .unwrap_err()
                .to_string()
                .contains("room for 2")
        );
        keeping.let_go_of_connection(7);
        keeping.keep_connection(9, &file.into()).unwrap();
    }
}
