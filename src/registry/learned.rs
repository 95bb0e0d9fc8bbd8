//! Credentials that somebody told this process, as kubelet does through the CRI proxy. In memory only, and forgotten with it.

use std::collections::HashMap;
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

/// What was learned last for each repository. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Learned {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    credentials: HashMap<Repository, (Credential, u64)>,
    /// Counts what was learned: the smallest number was learned first.
    learned: u64,
}

/// A node has hundreds of images, not thousands. What was learned first is forgotten first.
const REPOSITORIES_MAX: usize = 4096;

// === impl Learned ===

impl Learned {
    /// Whether this is news.
    pub(super) fn learn(&self, repository: &Repository, credential: Credential) -> bool {
        let mut shared = self.shared.lock();
        shared.learned += 1;
        let number = shared.learned;
        let before = shared.credentials.insert(repository.clone(), (credential.clone(), number));
        if shared.credentials.len() > REPOSITORIES_MAX {
            let oldest = shared.credentials.iter().min_by_key(|(_, (_, number))| *number);
            if let Some(oldest) = oldest.map(|(repository, _)| repository.clone()) {
                shared.credentials.remove(&oldest);
            }
        }
        before.is_none_or(|(before, _)| before != credential)
    }

    pub(super) fn find(&self, repository: &Repository) -> Option<Credential> {
        self.shared.lock().credentials.get(repository).map(|(credential, _)| credential.clone())
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

    #[test]
    fn the_last_that_was_learned_of_a_repository_counts() {
        let learned = Learned::default();
        let token = |text: &str| Credential::Token(Secret::new(text));
        assert!(learned.learn(&repository(1), token("a")));
        assert!(!learned.learn(&repository(1), token("a")));
        assert!(learned.learn(&repository(1), token("b")));
        assert_eq!(learned.find(&repository(1)), Some(token("b")));
        assert_eq!(learned.find(&repository(2)), None);
    }

    #[test]
    fn what_was_learned_first_is_forgotten_first() {
        let learned = Learned::default();
        for number in 0..=REPOSITORIES_MAX {
            learned.learn(&repository(number), Credential::Token(Secret::new("a")));
        }
        assert_eq!(learned.find(&repository(0)), None);
        assert!(learned.find(&repository(1)).is_some() && learned.find(&repository(REPOSITORIES_MAX)).is_some());
        assert_eq!(learned.shared.lock().credentials.len(), REPOSITORIES_MAX);
    }
}
