//! Mounts that are out of sight: they are served until their last user has left.

use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _, Shared, join_all};

use super::connection::Connection;
use super::remembered::ConnectionRecord;
use super::{Mounts, State};
use crate::daemon::node::blocking;
use crate::view::ViewSlot;

/// How long it is waited for users to leave. Without any, the kernel ends a mount within milliseconds.
const LEAVE: Duration = Duration::from_secs(2);

/// A mount that is out of sight, or soon will be.
pub(super) struct Leaving {
    /// The kernel has ended it.
    ended: Shared<BoxFuture<'static, ()>>,
    views: Vec<ViewSlot>,
    pub(super) record: ConnectionRecord,
}

// === impl Leaving ===

impl Leaving {
    fn of(connection: &Connection, views: Vec<ViewSlot>) -> Self {
        let in_use = views.iter().map(|slot| slot.0).collect();
        let record = ConnectionRecord { is_leaving: true, in_use, ..connection.record() };
        Self { ended: connection.session.ended().boxed().shared(), views, record }
    }

    pub(super) fn views(&self) -> &[ViewSlot] {
        &self.views
    }

    fn is_over(&self) -> bool {
        self.ended.clone().now_or_never().is_some()
    }
}

// === impl Mounts ===

impl Mounts {
    /// Counts a mount among those that leave; the future takes it out of sight.
    pub(super) fn retire(
        &self,
        state: &mut State,
        mut connection: Connection,
        views: Vec<ViewSlot>,
    ) -> BoxFuture<'static, ()> {
        self.let_go(state, &connection, views);
        let retiring = async move {
            let _panicked = blocking(move || connection.session.unmount()).await;
        };
        retiring.boxed()
    }

    /// Counts a mount among those that leave, as it is out of sight or will be. It is served to its end.
    pub(super) fn let_go(&self, state: &mut State, connection: &Connection, views: Vec<ViewSlot>) {
        let leaving = Leaving::of(connection, views);
        let (ended, mounts) = (leaving.ended.clone(), self.clone());
        state.leaving.push(leaving);
        crate::sync::spawn(async move {
            ended.await;
            mounts.sweep().await;
        });
    }

    /// Gives those who are about to leave a moment for it.
    pub(super) async fn let_leave(&self) {
        let leaving: Vec<_> = self.shared.state.lock().leaving.iter().map(|leaving| leaving.ended.clone()).collect();
        let _some_stay = tokio::time::timeout(LEAVE, join_all(leaving)).await;
        self.sweep().await;
    }

    /// Forgets mounts that have ended, and their views.
    async fn sweep(&self) {
        {
            let _one_at_a_time = self.shared.changing.lock().await;
            let mut state = self.shared.state.lock();
            let is_over = |leaving: &mut Leaving| leaving.is_over();
            for gone in state.leaving.extract_if(.., is_over) {
                self.shared.keeping.let_go_of_connection(gone.record.number);
            }
            self.put_away(&mut state);
        }
        self.shared.changed.send_replace(());
    }
}
