//! Background work steps aside while containerd is at work: a pull's own calls come first, on machines with few processors above all.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::sync::Mutex;

/// So long after containerd's last call nothing more of a pull is to be expected.
const PAUSE: Duration = Duration::from_millis(50);
/// A node where containerd is never quiet gets its layers all the same.
const LONGEST: Duration = Duration::from_secs(1);

/// Knows when containerd called last.
#[derive(Debug, Default)]
pub(in crate::image) struct Quiet(Mutex<Option<Instant>>);

impl Quiet {
    /// containerd calls.
    pub(in crate::image) fn disturb(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Resolves when it has not called for a while.
    pub(super) async fn wait(&self) {
        let latest = Instant::now() + LONGEST;
        loop {
            let now = Instant::now();
            let until = self.0.lock().map_or(now, |last| last + PAUSE).min(latest);
            if now >= until {
                return;
            }
            sleep_until(until).await;
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    async fn waited(quiet: &Quiet) -> Duration {
        let started = Instant::now();
        quiet.wait().await;
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_quiet_a_while_after_the_last_call() {
        let quiet = Quiet::default();
        assert_eq!(waited(&quiet).await, Duration::ZERO);
        quiet.disturb();
        let calls = async {
            for _ in 0..5 {
                tokio::time::sleep(PAUSE / 2).await;
                quiet.disturb();
            }
        };
        assert_eq!(tokio::join!(waited(&quiet), calls).0, PAUSE * 5 / 2 + PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_containerd_that_never_rests_does_not_hold_it_up_for_ever() {
        let quiet = Quiet::default();
        quiet.disturb();
        let calls = async {
            loop {
                tokio::time::sleep(PAUSE / 5).await;
                quiet.disturb();
            }
        };
        tokio::select! {
            waited = waited(&quiet) => assert_eq!(waited, LONGEST),
            () = calls => {}
        }
    }
}
