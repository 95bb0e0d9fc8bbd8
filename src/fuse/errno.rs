//! The one edge where what went wrong becomes an errno. errno has no word for a wrong digest or an absent registry, so what
//! a reader sees as EIO is said in the log: once, however many readers wait for the same and however often they try.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use fuser::Errno;

use super::read::{ReadFailed, Wanted};
use crate::errors::with_causes;
use crate::sync::Mutex;
use crate::view::ViewError;

/// For how long the same trouble is not worth another line.
const NO_NEWS: Duration = Duration::from_secs(10);

/// Different troubles that are remembered at once.
const TROUBLES_MAX: usize = 64;

/// What was logged lately, and when.
static LOGGED: Mutex<Option<HashMap<String, Instant>>> = Mutex::new(None);

pub(super) fn of_view(error: &ViewError) -> Errno {
    match error {
        ViewError::Stale { .. } => Errno::ESTALE,
        ViewError::Kind { .. } => Errno::EINVAL,
        other => {
            let error = with_causes(other);
            if is_news(&error, Instant::now()) {
                tracing::error!(error, "a view does not answer");
            }
            Errno::EIO
        }
    }
}

pub(super) fn of_read(wanted: &Wanted, failed: &ReadFailed) -> Errno {
    let (layer, error) = (wanted.layer.digest(), with_causes(failed));
    if is_news(&format!("{layer} {error}"), Instant::now()) {
        let from = wanted.layer.origin().map(|origin| origin.0);
        tracing::error!(%layer, from, at = wanted.at, error, "a read failed");
    }
    Errno::EIO
}

/// Whether this was not logged a moment ago; it is now.
fn is_news(trouble: &str, now: Instant) -> bool {
    let mut logged = LOGGED.lock();
    let logged = logged.get_or_insert_default();
    logged.retain(|_, then| now.saturating_duration_since(*then) < NO_NEWS);
    if logged.contains_key(trouble) {
        return false;
    }
    if logged.len() < TROUBLES_MAX {
        logged.insert(trouble.to_owned(), now);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_is_told_again_only_after_a_while() {
        let start = Instant::now();
        assert!(is_news("the registry is on fire", start));
        assert!(!is_news("the registry is on fire", start + NO_NEWS / 2));
        assert!(is_news("the disk is full", start + NO_NEWS / 2));
        assert!(is_news("the registry is on fire", start + NO_NEWS));
    }
}
