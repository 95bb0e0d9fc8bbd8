//! User namespaces that nobody lives in: what is wanted of them are their maps, for idmapped mounts (user_namespaces(7)).

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// An open user namespace with these maps, in the kernel's form: lines of `INSIDE OUTSIDE LENGTH`. Needs CAP_SETUID and CAP_SETGID.
pub fn with_maps(users: &str, groups: &str) -> io::Result<OwnedFd> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let child = Child::fork(theirs.as_raw_fd())?;
    drop(theirs);
    let mut errno = [0];
    ours.read_exact(&mut errno)?;
    if errno != [0] {
        return Err(io::Error::from_raw_os_error(errno[0].into()));
    }
    let of_child = |name: &str| format!("/proc/{}/{name}", child.0);
    fs::write(of_child("uid_map"), users)?;
    fs::write(of_child("gid_map"), groups)?;
    Ok(File::open(of_child("ns/user"))?.into())
}

/// A process in a user namespace of its own, which says so and then waits for its end.
struct Child(libc::pid_t);

impl Child {
    fn fork(told: RawFd) -> io::Result<Self> {
        // SAFETY: the child has one thread and calls only what is safe between fork(2) and the end of a process that had several
        // (signal-safety(7)); it touches no memory but its own stack's, and never returns.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: this is the process just forked.
            0 => unsafe { live(told) },
            child => Ok(Self(child)),
        }
    }
}

/// # Safety
/// For a process just forked, which this ends.
unsafe fn live(told: RawFd) -> ! {
    // SAFETY: these take no pointer but that of `errno`, which lives on the stack.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let done = libc::unshare(libc::CLONE_NEWUSER);
        let errno = if done == 0 { 0 } else { u8::try_from(*libc::__errno_location()).unwrap_or(u8::MAX) };
        libc::write(told, (&raw const errno).cast(), 1);
        loop {
            libc::pause();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: the process is our child and not waited for yet, so the number is still its own.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_are_none_are_refused_and_no_process_is_left() {
        let children = || {
            let of_thread = format!("/proc/self/task/{}/children", rustix::thread::gettid().as_raw_nonzero());
            let numbers = fs::read_to_string(of_thread).unwrap_or_default();
            numbers.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        // Where tests have one thread for all, it may have children already.
        let before = children();
        assert!(with_maps("nonsense", "0 1 1").is_err());
        assert!(children().iter().all(|child| before.contains(child)), "{before:?}, {:?}", children());
    }
}
