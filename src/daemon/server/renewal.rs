//! Making place for another server where this one can do no more what it is there for.

use std::time::{Duration, Instant};

use crate::daemon::keeping::Keeping;
use crate::daemon::node::{Node, blocking};

/// How often a server that ails asks whether there is somebody to start another.
const FOLLOWED_LOOKS_APART: Duration = Duration::from_secs(60);

/// Resolves when the database has failed and somebody starts the next server, which opens it anew. Not soon after the start: where the
/// disk stays broken, that would be one server after the other.
pub(super) async fn until_another_is_better(node: &Node, keeping: &Keeping, may_renew: Instant) {
    loop {
        node.until_the_database_fails().await;
        tokio::time::sleep_until(may_renew.into()).await;
        let followed = keeping.clone();
        if blocking(move || followed.is_there()).await.unwrap_or(false) {
            tracing::error!("the database has failed: making place for the next server, which opens it anew");
            return;
        }
        tokio::time::sleep(FOLLOWED_LOOKS_APART).await;
    }
}
