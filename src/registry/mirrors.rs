//! What is remembered of mirrors: which of them are away just now, and what they gave wrongly.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::registry::ask::Ask;
use crate::registry::error::RegistryError;
use crate::registry::hosts::Host;
use crate::sync::Mutex;

/// Mirrors and their failures. The upstream is never passed over.
#[derive(Debug, Default)]
pub(super) struct Mirrors {
    /// Until when a mirror is passed over, by its name.
    away: Mutex<HashMap<String, Instant>>,
    /// The same for one thing that it gave wrongly, by its name and the thing's path.
    wrong: Mutex<HashMap<(String, String), Instant>>,
}

/// A mirror that cannot be reached costs everybody who asks its time-out: so long it is not asked.
const AWAY: Duration = Duration::from_secs(30);
/// Wrong bytes in a cache stay there until somebody cleans it.
const WRONG: Duration = Duration::from_secs(600);
const KEPT_MAX: usize = 4096;

// === impl Mirrors ===

impl Mirrors {
    /// Those of the places that are worth asking; the last of them, which is the upstream, always is.
    pub(super) fn useful(&self, places: Vec<Host>, ask: &Ask) -> Vec<Host> {
        let now = Instant::now();
        let (away, wrong) = (self.away.lock(), self.wrong.lock());
        let is_until = |until: Option<&Instant>| until.is_some_and(|until| *until > now);
        let last = places.len().saturating_sub(1);
        let is_useful = |host: &Host| {
            let key = (host.name.clone(), ask.path.clone());
            !is_until(away.get(&host.name)) && !is_until(wrong.get(&key))
        };
        let useful = places.into_iter().enumerate().filter(|(at, host)| *at == last || is_useful(host));
        useful.map(|(_, host)| host).collect()
    }

    /// Takes note of a failure. A mirror's is for the log; what counts is what the last place says.
    pub(super) fn failed(&self, host: &Host, ask: &Ask, error: RegistryError) -> RegistryError {
        if host.mirrored.is_none() {
            return error;
        }
        tracing::info!(mirror = host.name, error = %error, "the next place is asked");
        match &error {
            RegistryError::Unreachable { .. } | RegistryError::Silent { .. } | RegistryError::Untrusted { .. } => {
                put(&mut self.away.lock(), host.name.clone(), AWAY);
            }
            RegistryError::Mismatch { .. } => drop(self.distrust(&host.name, &ask.path)),
            _ => {}
        }
        error
    }

    /// What `path` names is not asked of this mirror for a while. False if that was so before.
    pub(super) fn distrust(&self, mirror: &str, path: &str) -> bool {
        tracing::warn!(mirror, path, "a mirror gave wrong bytes; they are had elsewhere");
        put(&mut self.wrong.lock(), (mirror.to_owned(), path.to_owned()), WRONG)
    }
}

/// Whether the key is new.
fn put<K: std::hash::Hash + Eq>(until: &mut HashMap<K, Instant>, key: K, lasts: Duration) -> bool {
    let now = Instant::now();
    until.retain(|_, until| *until > now);
    if until.len() >= KEPT_MAX {
        return false;
    }
    until.insert(key, now + lasts).is_none()
}
