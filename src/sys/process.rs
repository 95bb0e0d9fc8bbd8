//! What the kernel says of another thread, whether it is about to die; and what this process may do.

use std::fs;
use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

/// Signals whose default is not to end the process: SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH
/// (signal(7), "Standard signals").
const HARMLESS: u64 = bit(17) | bit(18) | bit(19) | bit(20) | bit(21) | bit(22) | bit(23) | bit(28);
const KILL: u64 = bit(9);

const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// Whether the thread `tid` is gone, or has a signal pending that ends it: SIGKILL, which the kernel also sends to
/// every thread of a process that another fatal signal hits, or one that ends it by default and that it neither
/// catches, blocks nor ignores. A program that catches a signal wants to go on, and its read(2) of a file must not
/// fail with EINTR: no local file system does that.
///
/// A thread that waits in the kernel for a file system that will not let go shows its signals here and nowhere else
/// (proc(5), /proc/pid/status).
pub fn is_ending(tid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{tid}/status")) {
        Ok(status) => ends(&status),
        // ESRCH: it went between open and read.
        Err(error) => error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH),
    }
}

fn ends(status: &str) -> bool {
    let set = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.and_then(|value| u64::from_str_radix(value.trim(), 16).ok()).unwrap_or(0)
    };
    let pending = set("SigPnd") | set("ShdPnd");
    let endured = HARMLESS | set("SigBlk") | set("SigIgn") | set("SigCgt");
    pending & KILL != 0 || pending & !endured != 0
}

/// Gives up all capabilities of the calling thread. Programs that it starts as root have them again.
pub fn give_up_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// From now on this process leaves no core, and nobody but root looks into its memory: there are others' passwords in it. A program
/// that it starts is as it would be.
pub fn keep_from_view() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Open files that are worth asking for. Programs that close every number there could be take their time over more.
const OPEN_FILES: u64 = 1 << 20;

/// From now on this process, and what it starts, may have as many files open as it may ask for. The bound that a process
/// begins with is often 1024, for the sake of programs that use select(2). How many that are.
pub fn raise_open_files() -> io::Result<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(OPEN_FILES).min(OPEN_FILES);
    if current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })?;
    }
    Ok(open_files_max())
}

/// How many files this process may have open.
pub fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: u64 = bit(15);

    fn status(pending: u64, blocked: u64, ignored: u64, caught: u64) -> String {
        format!(
            "Name:\tcat\nSigPnd:\t{pending:016x}\nShdPnd:\t0\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        )
    }

    #[test]
    fn kill_ends_always_and_other_signals_where_nothing_is_done_about_them() {
        assert!(ends(&status(KILL, KILL, 0, 0)));
        assert!(ends(&status(TERM, 0, 0, 0)));
        assert!(ends(&status(bit(34), 0, 0, 0)), "a real-time signal ends too");
        assert!(!ends(&status(TERM, TERM, 0, 0)));
        assert!(!ends(&status(TERM, 0, TERM, 0)));
        assert!(!ends(&status(TERM, 0, 0, TERM)), "who catches a signal goes on");
        assert!(!ends(&status(HARMLESS, 0, 0, 0)), "a child's end is no reason");
        assert!(!ends(&status(0, 0, 0, 0)));
    }

    #[test]
    fn this_thread_lives_and_an_impossible_one_does_not() {
        assert!(!is_ending(std::process::id()));
        assert!(is_ending(u32::MAX));
    }
}
