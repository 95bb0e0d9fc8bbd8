//! The client of the configuration that counts now, and what outlives it.

use crate::registry::client::Client;
use crate::registry::config::Config;
use crate::registry::counters::Counters;
use crate::registry::error::RegistryError;
use crate::registry::learned::Learned;
use crate::sync::{Arc, Mutex};

/// Hands out the client that counts now. Clones share it.
#[derive(Clone)]
pub(super) struct Clients {
    shared: Arc<Shared>,
}

struct Shared {
    now: Mutex<(Config, Arc<Client>)>,
    lasting: Lasting,
}

/// What stays when the configuration changes.
#[derive(Debug, Clone, Default)]
pub(super) struct Lasting {
    pub(super) counters: Arc<Counters>,
    pub(super) learned: Learned,
}

// === impl Clients ===

impl Clients {
    pub(super) fn new(config: Config) -> Result<Self, RegistryError> {
        let lasting = Lasting::default();
        let client = Arc::new(Client::new(&config, &lasting)?);
        Ok(Self { shared: Arc::new(Shared { now: Mutex::new((config, client)), lasting }) })
    }

    /// To be asked for anew with each request.
    pub(super) fn now(&self) -> Arc<Client> {
        self.shared.now.lock().1.clone()
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.shared.lasting.counters
    }

    /// Does nothing if the configuration is the same: connections and tokens stay.
    pub(super) fn reload(&self, config: &Config) -> Result<(), RegistryError> {
        if self.shared.now.lock().0 == *config {
            return Ok(());
        }
        let client = Arc::new(Client::new(config, &self.shared.lasting)?);
        *self.shared.now.lock() = (config.clone(), client);
        Ok(())
    }
}
