//! What the service manager is told of this process (sd_notify(3)), and the watchdog it may have set.

use std::time::Duration;

use sd_notify::NotifyState;

use super::keeping::Keeping;
use super::node::Node;
use super::server::Lifetime;

/// The line to the service manager, or to the keeper. A server that a command started, and no keeper, says nothing: the socket
/// in its environment is meant for whoever ran the command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Notify {
    is_on: bool,
}

/// What the watchdog looks at may take so much of the time it has.
const PATIENCE_OF_INTERVAL: u32 = 2;

/// How long a service manager waits to be told that this process is alive, if it does.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Each line of a message is an assignment of its own, and an error may quote any file.
fn on_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

// === impl Notify ===

impl Notify {
    pub(super) fn of(lifetime: Lifetime, keeping: &Keeping) -> Self {
        Self { is_on: lifetime == Lifetime::Service || keeping.is_on() }
    }

    pub(super) fn ready(self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(&on_one_line(status))]);
    }

    pub(super) fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(_) => self.tell(&[NotifyState::Reloading]),
        }
    }

    pub(super) fn stopping(self, status: &str) {
        self.tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    pub(super) fn status(self, status: &str) {
        self.tell(&[NotifyState::Status(status)]);
    }

    /// For ever: tells the service manager that this process is alive, as long as it is: tasks run, and the store's lock is let go.
    pub(super) async fn watch(self, node: Node) {
        let Some(allowed) = self.is_on.then(watchdog).flatten() else {
            return std::future::pending().await;
        };
        let every = (allowed / 2).max(Duration::from_millis(1));
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if node.answers_within(every / PATIENCE_OF_INTERVAL).await {
                self.tell(&[NotifyState::Watchdog]);
            } else {
                tracing::error!(
                    "the store does not answer; if that goes on, the service manager will start a new server"
                );
            }
        }
    }

    fn tell(self, state: &[NotifyState<'_>]) {
        if self.is_on
            && let Err(error) = sd_notify::notify(state)
        {
            tracing::warn!(%error, "the service manager cannot be told");
        }
    }
}
