//! Mounts that are out of sight: they are served until their last user has left.

use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _, Shared, join_all};

use super::{Mounts, State};
use crate::daemon::node::blocking;
use crate::fuse::Session;
use crate::view::ViewSlot;

/// How long it is waited for users to leave. Without any, the kernel ends a mount within milliseconds.
const LEAVE: Duration = Duration::from_secs(2);

/// A mount that is out of sight, or soon will be.
pub(super) struct Leaving {
    /// The kernel has ended it.
    ended: Shared<BoxFuture<'static, ()>>,
    views: Vec<ViewSlot>,
}

// === impl Leaving ===

impl Leaving {
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
        mut session: Session,
        views: Vec<ViewSlot>,
    ) -> BoxFuture<'static, ()> {
        let ended = session.ended().boxed().shared();
        state.leaving.push(Leaving { ended: ended.clone(), views });
        let mounts = self.clone();
        let retiring = async move {
            let _panicked_and_was_dropped_so = blocking(move || session.unmount()).await;
            crate::sync::spawn(async move {
                ended.await;
                mounts.sweep().await;
            });
        };
        retiring.boxed()
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
            state.leaving.retain(|leaving| !leaving.is_over());
            self.put_away(&mut state);
        }
        self.shared.changed.send_replace(());
    }
}
