//! SIGINT and SIGTERM, counted: the first asks for an orderly end, the second for an end at once.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How often this process was asked to end.
#[derive(Debug, Clone)]
pub struct Interrupts(watch::Receiver<usize>);

impl Interrupts {
    /// From now on these signals no longer end the process by themselves.
    pub fn listen() -> io::Result<Self> {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // These mean nothing here; unheard, they would end the process and whatever runs over its mounts.
        let meaningless = [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?];
        let (count, counted) = watch::channel(0);
        crate::sync::spawn(async move {
            let _heard = meaningless;
            loop {
                let went_on = tokio::select! {
                    more = interrupt.recv() => more,
                    more = terminate.recv() => more,
                };
                if went_on.is_none() || count.receiver_count() == 0 {
                    return;
                }
                count.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(counted))
    }

    /// Resolves when so many have come.
    pub(super) async fn reach(&self, number: usize) {
        let mut counted = self.0.clone();
        if counted.wait_for(|count| *count >= number).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
