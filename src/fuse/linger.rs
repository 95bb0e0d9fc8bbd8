//! A thread that has answered looks out for the next request for a moment before it sleeps.
//!
//! Who asks one thing after the other (`ls -l`, `find`, a program that looks for its libraries) would have a thread woken for each, and
//! waking a processor that sleeps costs more than the answer; on a virtual machine, where it goes through the host, three times as much.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// About as long as being woken takes. Longer would find little more, and is paid at the end of each row of requests.
const LINGER: Duration = Duration::from_micros(50);

/// What the threads of one session know of how its requests come.
#[derive(Debug)]
pub(super) struct Linger {
    /// Where they come from, as soon as that is known.
    device: OnceLock<OwnedFd>,
    since: Instant,
    /// When the last answer was given, in nanoseconds.
    answered: AtomicU64,
    /// Whether somebody looks out. One is enough; the others sleep.
    is_watched: AtomicBool,
}

// === impl Linger ===

impl Linger {
    pub(super) fn new() -> Self {
        Self {
            device: OnceLock::new(),
            since: Instant::now(),
            answered: AtomicU64::new(0),
            is_watched: AtomicBool::new(false),
        }
    }

    /// Has the threads look out for what comes from here. Before that they sleep after each answer.
    pub(super) fn watch(&self, device: &impl AsFd) -> io::Result<()> {
        let _stays_the_first = self.device.set(device.as_fd().try_clone_to_owned()?);
        Ok(())
    }

    /// Answers, and then looks out if this request came soon after the answer before it. So a pause between requests is looked
    /// into once, and where they are rare nobody looks out at all.
    pub(super) fn after(&self, answer: impl FnOnce()) {
        let is_one_of_a_row = self.is_one_of_a_row();
        answer();
        self.answered.store(self.elapsed(), Ordering::Relaxed);
        if is_one_of_a_row && !self.is_watched.swap(true, Ordering::Relaxed) {
            self.look_out();
            self.is_watched.store(false, Ordering::Relaxed);
        }
    }

    fn is_one_of_a_row(&self) -> bool {
        let since_answer = self.elapsed().saturating_sub(self.answered.load(Ordering::Relaxed));
        Duration::from_nanos(since_answer) <= LINGER
    }

    /// Returns when there is a request, or the mount has ended, or nothing came. Does not yield in between: that would be sleeping again,
    /// and whoever has waited longer for the processor gets it after any of the calls.
    fn look_out(&self) {
        let Some(device) = self.device.get() else { return };
        let until = Instant::now() + LINGER;
        while Instant::now() < until {
            let mut polled = [PollFd::new(device, PollFlags::IN)];
            if poll(&mut polled, Some(&Timespec::default())) != Ok(0) {
                return;
            }
        }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// In the middle of a row: as if an answer had just been given.
    fn in_a_row(device: &UnixStream) -> Linger {
        let linger = Linger::new();
        linger.watch(device).unwrap();
        linger.answered.store(u64::MAX, Ordering::Relaxed);
        linger
    }

    #[test]
    fn a_request_is_one_of_a_row_if_it_comes_soon_after_an_answer() {
        let linger = Linger { since: Instant::now() - Duration::from_secs(1), ..Linger::new() };
        assert!(!linger.is_one_of_a_row());
        linger.answered.store(u64::MAX, Ordering::Relaxed);
        assert!(linger.is_one_of_a_row());
    }

    #[test]
    fn looking_out_ends_whether_something_comes_or_nothing_and_takes_nothing_away() {
        let (mut kernel, mut ours) = UnixStream::pair().unwrap();
        let linger = in_a_row(&ours);
        let mut answers = 0;
        linger.after(|| answers += 1);
        kernel.write_all(b"request").unwrap();
        linger.look_out();
        drop(kernel);
        linger.look_out();
        let mut request = Vec::new();
        ours.read_to_end(&mut request).unwrap();
        assert_eq!((answers, request.as_slice()), (1, b"request".as_slice()));
        assert!(!linger.is_watched.load(Ordering::Relaxed));
    }

    #[test]
    fn one_looks_out_for_all() {
        let (_kernel, ours) = UnixStream::pair().unwrap();
        let linger = in_a_row(&ours);
        linger.is_watched.store(true, Ordering::Relaxed);
        linger.after(|| {});
        assert!(linger.is_watched.load(Ordering::Relaxed), "it is another's to end");
    }
}
