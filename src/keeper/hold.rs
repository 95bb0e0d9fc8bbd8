//! The descriptors that a keeper holds for servers to come, by name.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::say;
use crate::sys::{descriptor, process};

/// Descriptors that are kept at most, as systemd has FileDescriptorStoreMax: a mount needs one.
const KEPT_MAX: usize = 4096;

/// Files that this process has open beside them, one message's among them.
const OTHERS_MAX: u64 = 48;

/// Of so many that could not be kept it is told.
const LOST_MAX: usize = 1024;

pub(super) struct Hold {
    room: usize,
    kept: Vec<Kept>,
    /// Names of what this server meant to have kept, and that is not.
    lost: BTreeSet<String>,
}

struct Kept {
    name: String,
    descriptor: OwnedFd,
}

impl Hold {
    /// As much as this process may have open. While the next server is being started, what it is given is open twice.
    pub(super) fn new() -> Self {
        let files = process::raise_open_files().unwrap_or_else(|error| {
            say(&format!("few mounts can be kept: {error}"));
            process::open_files_max()
        });
        let room = usize::try_from(files.saturating_sub(OTHERS_MAX) / 2).unwrap_or(KEPT_MAX);
        Self { room: room.min(KEPT_MAX), kept: Vec::new(), lost: BTreeSet::new() }
    }

    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Whether any of it is what a mount lives of. A socket that somebody listens at is made again where it is wanted.
    pub(super) fn has_mounts(&self) -> bool {
        self.kept.iter().any(|kept| !descriptor::is_listening(&kept.descriptor))
    }

    pub(super) fn names(&self) -> String {
        self.kept.iter().map(|kept| kept.name.as_str()).collect::<Vec<_>>().join(":")
    }

    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.kept.iter().map(|kept| kept.descriptor.as_fd()).collect()
    }

    /// Keeps what came under this name. `is_cut`: more was sent than came.
    pub(super) fn keep(&mut self, name: &str, descriptors: Vec<OwnedFd>, is_cut: bool) {
        let room = self.room.saturating_sub(self.kept.len());
        let is_kept = !is_cut && !descriptors.is_empty() && descriptors.len() <= room;
        if is_kept {
            self.lost.remove(name);
            self.kept.extend(descriptors.into_iter().map(|descriptor| Kept { name: name.to_owned(), descriptor }));
        } else {
            say(&format!("{name} cannot be kept, it ends with its server: {} are kept already", self.kept.len()));
            if self.lost.len() < LOST_MAX {
                self.lost.insert(name.to_owned());
            }
        }
    }

    pub(super) fn let_go(&mut self, name: &str) {
        self.lost.remove(name);
        self.kept.retain(|kept| kept.name != name);
    }

    /// Lets go of what nobody is at the other end of.
    pub(super) fn sweep(&mut self) {
        self.kept.retain(|kept| descriptor::is_connected(&kept.descriptor));
    }

    /// Another server: what was lost was lost to the one before.
    pub(super) fn forget_lost(&mut self) {
        self.lost.clear();
    }

    /// Says into the barrier that all is heard, by closing it, and what of it is not kept: a line for each.
    pub(super) fn answer(&self, barrier: Vec<OwnedFd>) {
        let lost = self.lost.iter().map(|name| format!("{name}\n")).collect::<String>();
        for writer in barrier.iter().filter(|_| !lost.is_empty()) {
            // A pipe takes 4096 bytes at least; who sends something else is not waited for.
            let said = rustix::fs::fcntl_setfl(writer, rustix::fs::OFlags::NONBLOCK)
                .and_then(|()| rustix::io::write(writer, lost.as_bytes()));
            if let Err(error) = said.map_err(io::Error::from) {
                say(&format!("the server cannot be told what is not kept: {error}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn end() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn said(hold: &Hold) -> String {
        let (mut reader, writer) = io::pipe().unwrap();
        hold.answer(vec![writer.into()]);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn what_finds_no_room_or_did_not_come_is_told_until_it_is_kept_or_let_go() {
        let mut hold = Hold { room: 2, kept: Vec::new(), lost: BTreeSet::new() };
        hold.keep("a", vec![end()], false);
        assert_eq!(said(&hold), "");
        hold.keep("cut", Vec::new(), true);
        hold.keep("b", vec![end()], false);
        hold.keep("c", vec![end()], false);
        assert_eq!((said(&hold).as_str(), hold.names().as_str()), ("c\ncut\n", "a:b"));
        hold.let_go("cut");
        hold.let_go("a");
        hold.keep("c", vec![end()], false);
        assert_eq!((said(&hold).as_str(), hold.names().as_str()), ("", "b:c"));
    }
}
