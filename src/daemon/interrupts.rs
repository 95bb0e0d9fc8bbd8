//! SIGINT and SIGTERM, counted: the first asks for an orderly end, the second for an end at once.
//!
//! A service whose mounts outlive it leaves them to the next server when it is terminated. With SIGINT, or SIGUSR1 before SIGTERM, it is the
//! end for good: service managers send the same SIGTERM for both.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How often this process was asked to end, and whether for good.
#[derive(Debug, Clone)]
pub struct Interrupts(watch::Receiver<Asked>);

#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    count: usize,
    for_good: bool,
}

impl Interrupts {
    /// From now on these signals no longer end the process by themselves.
    pub fn listen() -> io::Result<Self> {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let mut for_good = signal(SignalKind::user_defined1())?;
        // This means nothing here; unheard, it would end the process and whatever runs over its mounts.
        let meaningless = signal(SignalKind::user_defined2())?;
        let (asked, counted) = watch::channel(Asked::default());
        crate::sync::spawn(async move {
            let _heard = meaningless;
            loop {
                // In this order: of two that came at once, what the end is to be is known before it begins.
                let (went_on, is_end, is_for_good) = tokio::select! {
                    biased;
                    more = for_good.recv() => (more, 0, true),
                    more = interrupt.recv() => (more, 1, true),
                    more = terminate.recv() => (more, 1, false),
                };
                if went_on.is_none() || asked.receiver_count() == 0 {
                    return;
                }
                asked.send_modify(|asked| {
                    asked.count += is_end;
                    asked.for_good |= is_for_good;
                });
            }
        });
        Ok(Self(counted))
    }

    /// Whether no other server follows.
    pub(super) fn are_for_good(&self) -> bool {
        self.0.borrow().for_good
    }

    /// Resolves when so many have come.
    pub(super) async fn reach(&self, number: usize) {
        let mut counted = self.0.clone();
        if counted.wait_for(|asked| asked.count >= number).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
