//! Credentials that somebody told this process, as kubelet does through the CRI proxy. In memory only, and forgotten with it.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use crate::registry::credentials::Credential;
use crate::registry::reference::Repository;
use crate::sync::{Arc, Mutex};

/// A login in the form that docker's configuration and CRI share: any of these may be empty. Shows nothing of itself.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub username: String,
    pub password: String,
    /// base64 of `user:password`.
    pub auth: String,
    pub identity_token: String,
    pub registry_token: String,
}

/// What was learned for each repository. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Learned {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    repositories: HashMap<Repository, Known>,
    /// Counts what was learned: the smallest number was learned first.
    learned: u64,
}

/// Of one repository.
#[derive(Debug, Default)]
struct Known {
    /// Those of several pods, newest first.
    credentials: VecDeque<Credential>,
    learned: u64,
}

/// A node has hundreds of images, not thousands. What was not learned for the longest time is forgotten first.
const REPOSITORIES_MAX: usize = 1024;
/// Each that is refused costs a request.
const CREDENTIALS_MAX: usize = 8;

// === impl Learned ===

impl Learned {
    /// Takes it as the newest. Whether it was not known.
    pub(super) fn learn(&self, repository: &Repository, credential: Credential) -> bool {
        let mut shared = self.shared.lock();
        shared.learned += 1;
        let number = shared.learned;
        let known = shared.repositories.entry(repository.clone()).or_default();
        known.learned = number;
        let place = known.credentials.iter().position(|old| *old == credential);
        if let Some(place) = place {
            known.credentials.remove(place);
        }
        known.credentials.push_front(credential);
        known.credentials.truncate(CREDENTIALS_MAX);
        if shared.repositories.len() > REPOSITORIES_MAX {
            let oldest = shared.repositories.iter().min_by_key(|(_, known)| known.learned);
            if let Some(oldest) = oldest.map(|(repository, _)| repository.clone()) {
                shared.repositories.remove(&oldest);
            }
        }
        place.is_none()
    }

    /// The newest that is none of the `refused`.
    pub(super) fn find(&self, repository: &Repository, refused: &[Credential]) -> Option<Credential> {
        let shared = self.shared.lock();
        let credentials = &shared.repositories.get(repository)?.credentials;
        credentials.iter().find(|credential| !refused.contains(credential)).cloned()
    }
}

// === impl Login ===

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::secret::Secret;

    fn repository(number: usize) -> Repository {
        format!("a.example/app-{number}").parse().unwrap()
    }

    fn token(text: &str) -> Credential {
        Credential::Token(Secret::new(text))
    }

    #[test]
    fn of_several_the_newest_comes_first_and_what_is_refused_is_passed_over() {
        let learned = Learned::default();
        assert!(learned.learn(&repository(1), token("a")));
        assert!(!learned.learn(&repository(1), token("a")));
        assert!(learned.learn(&repository(1), token("b")));
        assert_eq!(learned.find(&repository(1), &[]), Some(token("b")));
        assert_eq!(learned.find(&repository(1), &[token("b")]), Some(token("a")));
        assert_eq!(learned.find(&repository(1), &[token("b"), token("a")]), None);
        assert!(!learned.learn(&repository(1), token("a")));
        assert_eq!(learned.find(&repository(1), &[]), Some(token("a")));
        assert_eq!(learned.find(&repository(2), &[]), None);
    }

    #[test]
    fn what_was_not_learned_for_the_longest_time_is_forgotten_first() {
        let learned = Learned::default();
        learned.learn(&repository(0), token("a"));
        learned.learn(&repository(1), token("a"));
        learned.learn(&repository(0), token("a"));
        for number in 2..=REPOSITORIES_MAX {
            learned.learn(&repository(number), token("a"));
        }
        assert_eq!(learned.find(&repository(1), &[]), None);
        assert!([0, 2, REPOSITORIES_MAX].iter().all(|number| learned.find(&repository(*number), &[]).is_some()));
        for number in 0..100 {
            learned.learn(&repository(0), token(&number.to_string()));
        }
        let shared = learned.shared.lock();
        assert_eq!(shared.repositories.len(), REPOSITORIES_MAX);
        assert_eq!(shared.repositories[&repository(0)].credentials.len(), CREDENTIALS_MAX);
    }
}
