//! SIGHUP: the configuration is read again, and what can be changed without a new start is changed.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::logging::Log;
use super::node::Node;
use super::notify::Notify;
use crate::config::{Config, Environment, Flags};
use crate::errors::with_causes;
use crate::sync::Mutex;

/// What is in force, and where it came from.
pub(super) struct Reload {
    config: Mutex<Config>,
    flags: Flags,
    log: Log,
    node: Node,
    /// Listened for from the start: whoever does not is ended by it.
    asked: tokio::sync::Mutex<Option<Signal>>,
}

/// Keys, or whole sections, that are changed while the server runs. All others need a new start.
const CHANGED_AT_ONCE: [&str; 6] = ["log", "registry.", "cache.", "fetch.", "scan.limits.", "server.drain_secs"];

// === impl Reload ===

impl Reload {
    pub(super) fn new(config: Config, flags: Flags, log: Log, node: Node) -> Self {
        let asked = tokio::sync::Mutex::new(signal(SignalKind::hangup()).ok());
        Self { config: Mutex::new(config), flags, log, node, asked }
    }

    /// What is in force.
    pub(super) fn config(&self) -> Config {
        self.config.lock().clone()
    }

    /// For ever.
    pub(super) async fn whenever_asked(&self, notify: Notify) {
        let mut asked = self.asked.lock().await;
        let Some(signal) = asked.as_mut() else { return std::future::pending().await };
        while signal.recv().await.is_some() {
            notify.reloading();
            let status = self.reload();
            notify.ready(&status);
        }
        std::future::pending().await
    }

    /// What came of it, for the service manager's status.
    fn reload(&self) -> String {
        let uid = rustix::process::geteuid().as_raw();
        let new = match Config::load(&self.flags, &Environment::of_process(), uid) {
            Ok(new) => new.with_absolute_places(),
            Err(error) => {
                let error = with_causes(&error);
                tracing::error!(error, "the configuration cannot be read; the old one stays in force");
                return format!("serving with the old configuration: {error}");
            }
        };
        let old = self.config();
        let differences = old.differences(&new);
        let (at_once, later): (Vec<_>, Vec<_>) = differences.into_iter().partition(|key| is_changed_at_once(key));
        let kept = self.apply(&old, new, &at_once);
        if !later.is_empty() {
            tracing::warn!(keys = later.join(", "), "these keys have changed, and count from the next start on");
        }
        let changed = if at_once.is_empty() { "nothing".to_owned() } else { at_once.join(", ") };
        tracing::info!(changed, "configuration read again");
        match kept {
            Ok(()) => "serving".to_owned(),
            Err(error) => format!("serving; part of the new configuration was refused: {error}"),
        }
    }

    /// Changes what can be changed, and remembers that; each part by itself.
    fn apply(&self, old: &Config, new: Config, keys: &[String]) -> Result<(), String> {
        let mut config = old.clone();
        let mut refused = Ok(());
        let touches = |part: &str| keys.iter().any(|key| key.starts_with(part));
        if touches("log") {
            match self.log.set(&new.log) {
                Ok(()) => config.log = new.log,
                Err(error) => refused = Err(with_causes(&error)),
            }
        }
        if touches("registry.") {
            match self.node.images().registry().reload(&new.registry) {
                Ok(()) => config.registry = new.registry,
                Err(error) => refused = Err(with_causes(&error)),
            }
        }
        if touches("scan.limits.") {
            self.node.images().set_limits(new.scan.limits.clone());
            config.scan.limits = new.scan.limits;
        }
        self.node.images().store().set_cache(new.cache.clone());
        config.cache = new.cache;
        self.node.images().store().set_fetch(new.fetch.clone());
        config.fetch = new.fetch;
        config.server.drain_secs = new.server.drain_secs;
        if let Err(error) = &refused {
            tracing::error!(error, "a part of the new configuration is refused; the old values stay in force");
        }
        *self.config.lock() = config;
        refused
    }
}

fn is_changed_at_once(key: &str) -> bool {
    CHANGED_AT_ONCE.iter().any(|part| if part.ends_with('.') { key.starts_with(part) } else { key == *part })
}
