//! What a server began with, for callers whose flags say something else: another root is another store, and an error; another configuration or
//! log is for the next server, and they are told so.

use std::path::{Path, PathBuf};

use crate::config::{Config, Flags};
use crate::control::{Failure, FailureKind, Wanted, one_name};

pub(super) struct Terms {
    root: PathBuf,
    /// The file that flags or the environment have named.
    config: Option<PathBuf>,
    log: String,
}

// === impl Terms ===

impl Terms {
    /// The root must be there, or its name may be another one's.
    pub(super) fn new(config: &Config, flags: &Flags) -> Self {
        Self { root: one_name(&config.root), config: flags.config.as_deref().map(one_name), log: config.log.clone() }
    }

    /// What a caller is told beside the answer.
    ///
    /// # Errors
    /// Fails where the caller means another store.
    pub(super) fn compare(&self, wanted: &Wanted) -> Result<Vec<String>, Failure> {
        if let Some(root) = wanted.root.as_ref().filter(|root| **root != self.root) {
            let message = format!(
                "the server that runs has the store {}, and not {}; choose another run directory with --run, or leave --root out",
                self.root.display(),
                root.display()
            );
            return Err(Failure::new(FailureKind::Usage, message));
        }
        let mut told = Vec::new();
        if wanted.config.is_some() && wanted.config != self.config {
            let theirs = self.config.as_deref().map_or("no --config".into(), Path::to_string_lossy);
            told.push(format!("the server that runs was started with {theirs}; --config is for one that starts"));
        }
        if wanted.log.as_ref().is_some_and(|log| *log != self.log) {
            told.push(format!("the server that runs logs at {:?}; of it, --log is for one that starts", self.log));
        }
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_store_is_refused_and_what_else_is_not_heeded_is_told() {
        let config = Config { root: "/a".into(), ..Config::default() };
        let terms = Terms::new(&config, &Flags { config: Some("/c.toml".into()), ..Flags::default() });
        let same = Wanted { root: Some("/a".into()), config: Some("/c.toml".into()), log: Some("info".into()) };
        assert_eq!(terms.compare(&Wanted::default()), Ok(vec![]));
        assert_eq!(terms.compare(&same), Ok(vec![]));
        let other = Wanted { config: Some("/d.toml".into()), log: Some("debug".into()), ..same.clone() };
        let told = terms.compare(&other).unwrap();
        assert!(told.len() == 2 && told[0].contains("/c.toml") && told[1].contains("info"), "{told:?}");
        let refused = terms.compare(&Wanted { root: Some("/b".into()), ..same }).unwrap_err();
        assert!(refused.message.contains("/a") && refused.message.contains("--run"), "{refused}");
    }
}
