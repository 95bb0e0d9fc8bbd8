//! File descriptors that a process is born with.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// Takes over a descriptor that whoever started this process left open for it. Each may be taken once: who takes it closes it.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the borrow ends with this line, and a number that is no open descriptor gives EBADF and nothing worse.
    rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) })?;
    // SAFETY: it is open, and nobody else in this process knows of it: it was there before `main`, above the three standard
    // ones, and callers take each number once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_open_or_belongs_to_everybody_is_not_taken() {
        assert_eq!(inherited(2).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(inherited(1_000_000).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
