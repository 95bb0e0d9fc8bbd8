//! What the kernel says of another thread: whether it is about to die.

use std::fs;

/// Signals that end a process which does not catch them and that people send to end one: SIGHUP, SIGINT, SIGQUIT, SIGTERM.
const ENDING: u64 = bit(1) | bit(2) | bit(3) | bit(15);
const KILL: u64 = bit(9);

const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// Whether the thread `tid` is gone, or has a signal pending that wants it gone: SIGKILL (which the kernel sends
/// to every thread of a process that a fatal signal hits), or a request to end that it does not block or ignore.
///
/// A thread that waits in the kernel for a file system that will not let go shows its signals here and nowhere else
/// (proc(5), /proc/pid/status, SigPnd and ShdPnd).
pub fn is_ending(tid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{tid}/status")) {
        Ok(status) => wants_to_end(&status),
        Err(_) => true,
    }
}

fn wants_to_end(status: &str) -> bool {
    let set = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.and_then(|value| u64::from_str_radix(value.trim(), 16).ok()).unwrap_or(0)
    };
    let pending = set("SigPnd") | set("ShdPnd");
    let heard = pending & !set("SigBlk") & !set("SigIgn");
    pending & KILL != 0 || heard & ENDING != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pending: u64, blocked: u64, ignored: u64) -> String {
        format!("Name:\tcat\nSigPnd:\t{pending:016x}\nShdPnd:\t0\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\n")
    }

    #[test]
    fn kill_counts_always_and_a_polite_request_if_it_is_heard() {
        assert!(wants_to_end(&status(KILL, KILL, 0)));
        assert!(wants_to_end(&status(bit(15), 0, 0)));
        assert!(!wants_to_end(&status(bit(15), bit(15), 0)));
        assert!(!wants_to_end(&status(bit(2), 0, bit(2))));
        assert!(!wants_to_end(&status(bit(17), 0, 0)), "a child's end is no reason");
        assert!(!wants_to_end(&status(0, 0, 0)));
    }

    #[test]
    fn this_thread_lives_and_an_impossible_one_does_not() {
        assert!(!is_ending(std::process::id()));
        assert!(is_ending(u32::MAX));
    }
}
