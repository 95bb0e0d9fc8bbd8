//! What values must be that a type does not say: a number that nothing could work with, or a place that is none, is told when the configuration
//! is read and not when it is used.

use std::path::Path;

use super::{Config, ConfigError};

/// Of the name of a socket (unix(7)).
const SOCKET_BYTES_MAX: usize = 107;

impl Config {
    /// Of places in a file or in the environment: whoever reads them may stand anywhere.
    pub(super) fn check_places(&self) -> Result<(), ConfigError> {
        for (key, place) in [("root", &self.root), ("run", &self.run), ("server.address", &self.server.address)] {
            if place.to_string_lossy().contains("://") {
                return Err(wrong(key, place.display(), "write the path alone, without unix://"));
            }
            let is_unset = key != "run" && place.as_os_str().is_empty();
            if !is_unset && !place.is_absolute() {
                return Err(wrong(key, place.display(), "it must begin with /"));
            }
        }
        Ok(())
    }

    /// Of everything, wherever it comes from.
    pub(super) fn check_values(&self) -> Result<(), ConfigError> {
        self.check_sockets()?;
        let (cache, registry, limits) = (&self.cache, &self.registry, &self.scan.limits);
        if !(1..=100).contains(&cache.high) {
            return Err(wrong("cache.high", cache.high, "it is a percentage, from 1 to 100"));
        }
        if cache.low > cache.high {
            let cause = format!("it may not be above cache.high, which is {}", cache.high);
            return Err(wrong("cache.low", cache.low, cause));
        }
        let none = [
            ("scan.concurrent_layers", self.scan.concurrent_layers as u64),
            ("scan.limits.data_bytes_max", limits.data_bytes_max),
            ("scan.limits.ratio_max", limits.ratio_max),
            ("scan.limits.inodes_max", limits.inodes_max.into()),
            ("scan.limits.names_bytes_max", limits.names_bytes_max),
            ("store.fetches_at_once", self.store.fetches_at_once as u64),
            ("registry.connections_per_host", registry.connections_per_host as u64),
            ("registry.helper_timeout_secs", registry.helper_timeout_secs),
            ("registry.connect_timeout_secs", registry.connect_timeout_secs),
            ("registry.response_timeout_secs", registry.response_timeout_secs),
            ("registry.idle_timeout_secs", registry.idle_timeout_secs),
            ("snapshotter.check_timeout_secs", self.snapshotter.check_timeout_secs),
        ];
        match none.into_iter().find(|(_, value)| *value == 0) {
            Some((key, value)) => Err(wrong(key, value, "it must be 1 or more")),
            None => Ok(()),
        }
    }

    fn check_sockets(&self) -> Result<(), ConfigError> {
        let address = &self.server.address;
        if address.to_string_lossy().contains("://") {
            return Err(wrong("server.address", address.display(), "write the path alone, without unix://"));
        }
        let longest = self.run.join("snapshotter.sock");
        for (key, place, socket) in [("run", &self.run, longest.as_path()), ("server.address", address, address)] {
            let bytes = absolute_bytes(socket);
            if bytes > SOCKET_BYTES_MAX {
                let cause = format!("a socket's name has {SOCKET_BYTES_MAX} bytes at most, and {bytes} here");
                return Err(wrong(key, place.display(), cause));
            }
        }
        Ok(())
    }
}

fn absolute_bytes(place: &Path) -> usize {
    std::path::absolute(place).map_or(0, |place| place.as_os_str().len())
}

fn wrong(key: &str, value: impl ToString, cause: impl Into<String>) -> ConfigError {
    ConfigError::Value { key: key.to_owned(), value: value.to_string(), cause: cause.into() }
}
