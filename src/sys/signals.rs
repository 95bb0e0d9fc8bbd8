//! Signals as something to read (signalfd(2)), for a process that waits for several things without a runtime.

use std::fs::File;
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _};
use std::ptr::null_mut;

/// Some signals, which no longer do to this thread what they do by default.
pub struct Signals(File);

// === impl Signals ===

impl Signals {
    /// From now on these are read here. To be called before any other thread is made.
    pub fn listen(numbers: &[i32]) -> io::Result<Self> {
        let set = set_of(numbers);
        // SAFETY: the set was initialised, and the old one is not asked for.
        if unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the set was initialised; -1 makes a new descriptor.
        match unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: it was made just now and belongs to nobody else.
            descriptor => Ok(Self(unsafe { File::from_raw_fd(descriptor) })),
        }
    }

    /// One that has come, if one has.
    pub fn take(&mut self) -> Option<i32> {
        let mut one = [0; size_of::<libc::signalfd_siginfo>()];
        self.0.read_exact(&mut one).ok()?;
        // `ssi_signo` is the first field.
        i32::from_ne_bytes(*one.first_chunk()?).into()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets all signals do what they do. Made for the moment between fork and exec.
pub(super) fn unblock() -> io::Result<()> {
    let none = set_of(&[]);
    // SAFETY: the set was initialised, and the old one is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn set_of(numbers: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises all of it and cannot fail; sigaddset changes what is initialised, and refuses numbers that are
    // no signal's.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for number in numbers {
            libc::sigaddset(set.as_mut_ptr(), *number);
        }
        set.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_and_does_nothing_else() {
        let mut signals = Signals::listen(&[libc::SIGUSR2]).unwrap();
        assert_eq!(signals.take(), None);
        // SAFETY: it takes a number. To this very thread: others of the test program would end by it.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2) };
        assert_eq!(signals.take(), Some(libc::SIGUSR2));
    }
}
