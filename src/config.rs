//! One typed configuration: defaults, then the file, then the environment, then flags.
//!
//! Every part owns its own `Config`; this file composes them, and is the only one that reads the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cri;
use crate::errors::of_toml;
use crate::fuse;
use crate::image;
use crate::registry;
use crate::snapshotter;
use crate::store;

mod service;
mod values;

pub use service::{LogFormat, Metrics, Server};

/// Everything a user may set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where layers and the database live; empty if nobody can say.
    pub root: PathBuf,
    /// Where the socket, the log and the FUSE mount live.
    pub run: PathBuf,
    /// What is logged: error, warn, info, debug, trace, or a filter like `oncefs::registry=debug`.
    pub log: String,
    /// How it is written: auto, text, json or journald.
    pub log_format: LogFormat,
    pub server: Server,
    pub metrics: Metrics,
    pub registry: registry::Config,
    pub scan: image::Config,
    pub index: image::IndexConfig,
    pub profile: image::ProfileConfig,
    pub store: store::Config,
    pub cache: store::CacheConfig,
    pub fetch: store::FetchConfig,
    pub fuse: fuse::Config,
    pub snapshotter: snapshotter::Config,
    pub cri: cri::Config,
}

/// What flags set; they win over everything else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    pub root: Option<PathBuf>,
    pub run: Option<PathBuf>,
    pub config: Option<PathBuf>,
    pub log: Option<String>,
    pub log_format: Option<LogFormat>,
    /// Of the snapshots service.
    pub address: Option<PathBuf>,
}

/// The environment, or a picture of one.
#[derive(Debug, Clone, Default)]
pub struct Environment(pub BTreeMap<String, String>);

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{origin}: {message}{hint}")]
    Wrong { origin: String, message: String, hint: String },
    #[error("{key} = {value}: {cause}")]
    Value { key: String, value: String, cause: String },
    #[error("HOME is not set, so there is no place for this user's layers: set it, or name one with --root")]
    NoHome,
}

/// Variables that name a key: `ONCEFS_REGISTRY__RETRIES=3` is `retries` in `[registry]`.
const PREFIX: &str = "ONCEFS_";
const NESTED: &str = "__";
/// Names the file, and so is no key of it.
const CONFIG_VARIABLE: &str = "ONCEFS_CONFIG";

const SYSTEM_FILE: &str = "/etc/oncefs/config.toml";
/// A configuration is read whole; a larger file is no configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;

// === impl Environment ===

impl Environment {
    /// Of this process. Variables that are not UTF-8 cannot be ours.
    pub fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        )
    }

    /// Device and inode of the journal's end of our standard error, as in `9:4711`, if the service manager gave us one.
    pub fn journal_stream(&self) -> Option<&str> {
        self.0.get("JOURNAL_STREAM").map(String::as_str)
    }

    /// Where the service manager that started this process hears of it.
    pub fn notified(&self) -> Option<PathBuf> {
        self.path("NOTIFY_SOCKET")
    }

    /// The same, if it keeps descriptors, and how many at most. systemd says so since version 254; for older ones the unit does.
    pub fn keeps_descriptors(&self) -> Option<(PathBuf, usize)> {
        let room = self.0.get("FDSTORE")?.parse().ok().filter(|room| *room > 0)?;
        Some((self.notified()?, room))
    }

    /// The configuration file that a variable names.
    pub fn named_file(&self) -> Option<PathBuf> {
        self.path(CONFIG_VARIABLE)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/oncefs".into(),
            run: "/run/oncefs".into(),
            log: "info".to_owned(),
            log_format: LogFormat::default(),
            server: Server::default(),
            metrics: Metrics::default(),
            registry: registry::Config::default(),
            scan: image::Config::default(),
            index: image::IndexConfig::default(),
            profile: image::ProfileConfig::default(),
            store: store::Config::default(),
            cache: store::CacheConfig::default(),
            fetch: store::FetchConfig::default(),
            fuse: fuse::Config::default(),
            snapshotter: snapshotter::Config::default(),
            cri: cri::Config::default(),
        }
    }
}

impl Config {
    /// The configuration of this process. `uid` decides between the system's places and a user's own.
    pub fn load(flags: &Flags, environment: &Environment, uid: u32) -> Result<Self, ConfigError> {
        let mut table = match file(flags, environment, uid) {
            Some((path, must_exist)) => read(&path, must_exist)?,
            None => toml::Table::new(),
        };
        let (root, run) = places(environment, uid);
        for (key, place) in [("root", root.unwrap_or_default()), ("run", run)] {
            table.entry(key).or_insert_with(|| place.to_string_lossy().into_owned().into());
        }
        for (name, value) in &environment.0 {
            if let Some(key) = name.strip_prefix(PREFIX).filter(|_| name != CONFIG_VARIABLE) {
                set(&mut table, &key.to_lowercase().split(NESTED).collect::<Vec<_>>(), value)?;
                // Checked by itself, so that the complaint names the variable.
                check(table.clone(), &format!("environment variable {name}"))?;
            }
        }
        let mut config = check(table, "configuration")?;
        config.check_places()?;
        let Flags { root, run, log, log_format, address, .. } = flags.clone();
        config.root = root.unwrap_or(config.root);
        config.run = run.unwrap_or(config.run);
        config.log = log.unwrap_or(config.log);
        config.server.address = address.unwrap_or(config.server.address);
        config.log_format = log_format.unwrap_or(config.log_format);
        if config.registry.docker_config.is_empty() {
            config.registry.docker_config.extend(docker_config(environment));
        }
        if config.registry.helper_path.is_empty() {
            // As docker finds them; what is relative depends on where one stands, and that may be anybody's folder.
            let path = environment.0.get("PATH").map_or("", String::as_str);
            config.registry.helper_path =
                path.split(':').filter(|folder| folder.starts_with('/')).map(PathBuf::from).collect();
        }
        config.check_values()?;
        Ok(config)
    }

    /// Whether it says where layers are; only who asks a server that runs need not know.
    ///
    /// # Errors
    /// Fails where nobody has said so, and this user has no home.
    pub fn check_root(&self) -> Result<(), ConfigError> {
        if self.root.as_os_str().is_empty() { Err(ConfigError::NoHome) } else { Ok(()) }
    }

    /// A server may have another working directory than whoever named its places.
    pub fn with_absolute_places(mut self) -> Self {
        for place in [&mut self.root, &mut self.run] {
            if let Ok(absolute) = std::path::absolute(&*place) {
                *place = absolute;
            }
        }
        let address = &mut self.server.address;
        if !address.as_os_str().is_empty()
            && let Ok(absolute) = std::path::absolute(&*address)
        {
            *address = absolute;
        }
        self
    }

    /// As a file that could be read again.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
    }

    /// The keys whose values differ, as in `scan.concurrent_layers`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let table = |config: &Self| toml::Table::try_from(config).unwrap_or_default();
        let mut keys = Vec::new();
        differ("", &table(self), &table(other), &mut keys);
        keys
    }
}

/// The root, unless nobody can say where a user's would be, and the run directory.
fn places(environment: &Environment, uid: u32) -> (Option<PathBuf>, PathBuf) {
    if uid == 0 {
        let Config { root, run, .. } = Config::default();
        return (Some(root), run);
    }
    let home = || environment.path("HOME").map(|home| home.join(".local/share"));
    let data = environment.path("XDG_DATA_HOME").or_else(home);
    let run = environment.path("XDG_RUNTIME_DIR").map(|run| run.join("oncefs"));
    (data.map(|data| data.join("oncefs")), run.unwrap_or_else(|| format!("/tmp/oncefs-{uid}").into()))
}

fn differ(above: &str, one: &toml::Table, other: &toml::Table, keys: &mut Vec<String>) {
    let all: std::collections::BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    for key in all {
        let name = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        match (one.get(key), other.get(key)) {
            (Some(toml::Value::Table(one)), Some(toml::Value::Table(other))) => differ(&name, one, other, keys),
            (one, other) if one == other => {}
            _ => keys.push(name),
        }
    }
}

/// The file to read, and whether it must be there because somebody named it.
fn file(flags: &Flags, environment: &Environment, uid: u32) -> Option<(PathBuf, bool)> {
    if let Some(named) = flags.config.clone().or_else(|| environment.named_file()) {
        return Some((named, true));
    }
    if uid == 0 {
        return Some((SYSTEM_FILE.into(), false));
    }
    let home = || environment.path("HOME").map(|home| home.join(".config"));
    let config = environment.path("XDG_CONFIG_HOME").or_else(home)?;
    Some((config.join("oncefs/config.toml"), false))
}

fn docker_config(environment: &Environment) -> Option<PathBuf> {
    let directory =
        environment.path("DOCKER_CONFIG").or_else(|| environment.path("HOME").map(|home| home.join(".docker")));
    directory.map(|directory| directory.join("config.json"))
}

fn read(path: &Path, must_exist: bool) -> Result<toml::Table, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let text = match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => Err(std::io::ErrorKind::FileTooLarge.into()),
        Ok(_) => std::fs::read_to_string(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(toml::Table::new()),
        Err(error) => Err(error),
    };
    let origin = path.display().to_string();
    let text = text.map_err(failed)?;
    // Twice: the first time for the complaint, which knows the line only when it sees the text.
    toml::from_str::<Config>(&text).map_err(|error| wrong(&origin, &text, &error))?;
    text.parse().map_err(|error: toml::de::Error| wrong(&origin, &text, &error))
}

fn check(table: toml::Table, origin: &str) -> Result<Config, ConfigError> {
    table.try_into().map_err(|error: toml::de::Error| wrong(origin, "", &error))
}

fn set(table: &mut toml::Table, keys: &[&str], value: &str) -> Result<(), ConfigError> {
    let Some((key, rest)) = keys.split_first() else { return Ok(()) };
    if rest.is_empty() {
        // A value is TOML where it can be (numbers, booleans, lists), and text otherwise.
        let parsed = format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut one| one.remove("value"));
        table.insert((*key).to_owned(), parsed.unwrap_or_else(|| value.into()));
        return Ok(());
    }
    match table.entry((*key).to_owned()).or_insert_with(|| toml::Table::new().into()) {
        toml::Value::Table(inner) => set(inner, rest, value),
        _ => Ok(()), // the check that follows says what is wrong
    }
}

fn wrong(origin: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let hint = nearest(error.message()).map_or(String::new(), |key| format!("; did you mean `{key}`?"));
    ConfigError::Wrong { origin: origin.to_owned(), message: of_toml(text, error), hint }
}

/// Of serde's "unknown field `x`, expected one of `a`, `b`": the one that is nearest to `x`, if any is near.
fn nearest(message: &str) -> Option<&str> {
    let mut words = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let unknown = words.next()?;
    let (distance, key) = words.map(|key| (edits(unknown, key), key)).min()?;
    (distance <= unknown.len().max(key.len()) / 2).then_some(key)
}

/// The Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, byte_a) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, byte_b) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            let change = diagonal + usize::from(byte_a != byte_b);
            left = change.min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
