//! Waiting on behalf of a caller, who may be killed meanwhile.
//!
//! The kernel lets a process that a fatal signal hits leave a request alone only as long as nobody has read it from
//! /dev/fuse; after that it waits for the answer in the D state (fs/fuse/dev.c, `request_wait_answer`). fuser
//! answers FUSE_INTERRUPT itself, with ENOSYS. So who waits here looks, a few times a second, whether the caller
//! still wants the answer. Reads through the page cache need none of this, their readers wait killably for the page;
//! lookups, listings and direct reads do.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use fuser::Request;

use crate::sys::process;

/// How long a killed process stays at most, and no more than a wink to the one who pressed Ctrl-C.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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
        loop {
            if let Ok(result) = tokio::time::timeout(LOOK_EVERY, work.as_mut()).await {
                return Some(result);
            }
            if self.0 != 0 && process::is_ending(self.0) {
                return None;
            }
        }
    }
}
