//! A change of the database that ends, whatever becomes of the disk.
//!
//! When a write of its fails, sled 0.34 notes that and lets whoever waits for the write go on waiting. Only who flushes after that finds the note, and
//! wakes all others to find it too (its `make_stable_inner`). So a change that takes long gets somebody who flushes. One that takes
//! longer still is given up, and the database with it; its thread waits on, where it holds nobody up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::trees::Trees;
use crate::sync::Arc;

/// Any disk that works has written a few kilobytes by then; if not, flushing once more does no harm.
const LONG: Duration = Duration::from_secs(2);

/// As long as a start waits.
const TOO_LONG: Duration = super::opening::PATIENCE;

/// Why a change was not made durable.
#[derive(Debug)]
pub(super) enum Undone {
    Failed(sled::Error),
    /// It panicked, or has not ended.
    Lost(&'static str),
}

/// Changes something and flushes it.
pub(super) fn flushed(
    trees: &Arc<Trees>,
    act: impl FnOnce(&Trees) -> sled::Result<()> + Send + 'static,
) -> Result<(), Undone> {
    let (done, ended) = channel();
    let own = trees.clone();
    let change = move || {
        let changed = catch_unwind(AssertUnwindSafe(|| act(&own).and_then(|()| own.flush())));
        drop(own);
        let _nobody_waits_any_more = done.send(changed);
    };
    spawn("change-database", change)?;
    let give_up = Instant::now() + TOO_LONG;
    loop {
        match ended.recv_timeout(LONG) {
            Ok(Ok(changed)) => return changed.map_err(Undone::Failed),
            Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => return Err(Undone::Lost("changing it panicked")),
            Err(RecvTimeoutError::Timeout) if Instant::now() < give_up => {
                let own = trees.clone();
                spawn("flush-database", move || drop(own.flush()))?;
            }
            Err(RecvTimeoutError::Timeout) => return Err(Undone::Lost("a change of it does not end")),
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Undone> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map(drop).map_err(|error| Undone::Failed(sled::Error::Io(error)))
}
