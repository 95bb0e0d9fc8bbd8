//! Waiting on behalf of a caller, who may be killed meanwhile.
//!
//! The kernel lets a process that a fatal signal hits leave a request alone only as long as nobody has read it from
//! /dev/fuse; after that it waits for the answer in the D state (fs/fuse/dev.c, `request_wait_answer`). fuser
//! answers FUSE_INTERRUPT itself, with ENOSYS. So who waits here looks, a few times a second, whether the caller
//! still wants the answer. Readers of pages that are being read ahead need none of this, they wait killably for the
//! page; lookups, listings, single pages and direct reads do.
//!
//! How many wait is bounded by the kernel: one for each thread that waits in a system call, and
//! [`super::BACKGROUND_MAX`] reads ahead. A waiter is a task of a few hundred bytes.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use fuser::Request;

use crate::sys::process;

/// How soon the first look is taken, and how soon each later one at most. A killed process stays no longer than that, and
/// thousands of waiters cost next to nothing.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LOOKS_APART_MAX: Duration = Duration::from_secs(1);

/// Who asked: a thread's number, 0 for one outside this pid namespace and for the kernel itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller(u32);

impl From<&Request> for Caller {
    fn from(request: &Request) -> Self {
        Self(request.pid())
    }
}

impl Caller {
    /// What `work` gives, or `None` as soon as the caller is about to die; the work is dropped then.
    pub(super) async fn waits_for<T>(self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let mut pause = FIRST_LOOK;
        loop {
            if let Ok(result) = tokio::time::timeout(pause, work.as_mut()).await {
                return Some(result);
            }
            if self.0 != 0 && process::is_ending(self.0) {
                return None;
            }
            pause = (pause * 2).min(LOOKS_APART_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[tokio::test]
    async fn who_lives_waits_and_who_is_killed_does_not() {
        let slow = tokio::time::sleep(FIRST_LOOK * 4);
        assert_eq!(Caller(std::process::id()).waits_for(slow).await, Some(()));
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let caller = Caller(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(caller.waits_for(std::future::pending::<()>()).await, None);
    }

    #[tokio::test]
    async fn a_caller_that_nobody_knows_waits_to_the_end() {
        let slow = async {
            tokio::time::sleep(FIRST_LOOK * 4).await;
            7
        };
        assert_eq!(Caller(0).waits_for(slow).await, Some(7));
    }
}
