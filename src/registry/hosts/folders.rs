//! Which `hosts.toml` is a registry's: containerd's folders, and when their files are read again.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::Unverified;
use super::file::HostFile;
use crate::registry::error::RegistryError;
use crate::sync::{Arc, Mutex};

/// The folders of the configuration, and what was read of them.
#[derive(Debug, Default)]
pub(super) struct Folders {
    roots: Vec<PathBuf>,
    read: Mutex<HashMap<String, Read>>,
}

/// What a registry's folder said.
#[derive(Debug, Clone)]
struct Read {
    looked: Instant,
    stamp: Option<Stamp>,
    found: Result<Option<Arc<HostFile>>, RegistryError>,
}

/// A file, and by what it is seen that it has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    len: u64,
    modified: Option<SystemTime>,
}

/// Whoever changes a file waits so long at most until it is used.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Names of registries come from image references.
const KEPT_MAX: usize = 1024;
const FILE: &str = "hosts.toml";
const DEFAULT: &str = "_default";

// === impl Folders ===

impl Folders {
    pub(super) fn new(roots: &[PathBuf]) -> Self {
        Self { roots: roots.to_vec(), read: Mutex::default() }
    }

    /// What is said of the registry that images call `host`; `None` if nothing is.
    pub(super) fn of(&self, host: &str) -> Result<Option<Arc<HostFile>>, RegistryError> {
        if self.roots.is_empty() {
            return Ok(None);
        }
        let known = self.read.lock().get(host).cloned();
        if let Some(known) = &known
            && known.looked.elapsed() < LOOK_EVERY
        {
            return known.found.clone();
        }
        let stamp = self.folder(host).and_then(|folder| Stamp::of(&folder));
        let found = match known {
            Some(known) if known.stamp == stamp => known.found,
            _ => stamp.as_ref().map(|stamp| stamp.read().map(Arc::new)).transpose(),
        };
        let mut read = self.read.lock();
        if read.len() >= KEPT_MAX {
            read.clear();
        }
        let is_new = read.get(host).is_none_or(|read| read.stamp != stamp);
        if let (true, Some(stamp), Ok(Some(file))) = (is_new, &stamp, &found) {
            file.unverified(host, &stamp.path).iter().for_each(Unverified::tell);
        }
        read.insert(host.to_owned(), Read { looked: Instant::now(), stamp, found: found.clone() });
        found
    }

    /// What is believed without proof by any of the files, as they are now. What cannot be read says nothing.
    pub(super) fn unverified(&self) -> Vec<Unverified> {
        let mut seen = HashSet::new();
        let entries = self.roots.iter().flat_map(|root| fs::read_dir(root).into_iter().flatten().take(KEPT_MAX));
        let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        // In the order of the roots; of one name the first counts.
        folders.sort_by_key(|folder| self.roots.iter().position(|root| folder.starts_with(root)));
        let mut found = Vec::new();
        for folder in folders {
            let Some(name) = folder.file_name().and_then(|name| name.to_str()) else { continue };
            let Some(stamp) = Stamp::of(&folder).filter(|_| seen.insert(name.to_owned())) else { continue };
            let registry = if name == DEFAULT { "any registry without a folder of its own" } else { name };
            if let Ok(file) = stamp.read() {
                found.extend(file.unverified(registry, &stamp.path));
            }
        }
        found.sort_by(|one, other| one.said_in.cmp(&other.said_in));
        found
    }

    /// The first folder that there is, as containerd looks: `HOST_PORT_`, `HOST:PORT`, `_default`, in each root.
    fn folder(&self, host: &str) -> Option<PathBuf> {
        // Names of hosts have no slash and are no path upwards; the reference's grammar saw to that.
        let safe = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => format!("{name}_{port}_"),
            _ => host.to_owned(),
        };
        let names = [safe.as_str(), host, DEFAULT];
        self.roots.iter().find_map(|root| names.iter().map(|name| root.join(name)).find(|folder| folder.is_dir()))
    }
}

// === impl Stamp ===

impl Stamp {
    /// Of the folder's `hosts.toml`, or else of the folder itself for its certificates.
    fn of(folder: &Path) -> Option<Self> {
        let of = |path: PathBuf| {
            let metadata = path.metadata().ok()?;
            Some(Self { path, len: metadata.len(), modified: metadata.modified().ok() })
        };
        of(folder.join(FILE)).or_else(|| of(folder.to_owned()))
    }

    fn read(&self) -> Result<HostFile, RegistryError> {
        let refused = |cause: String| RegistryError::HostFile { path: self.path.clone(), cause };
        if !self.path.ends_with(FILE) {
            let entries = fs::read_dir(&self.path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            let mut files: Vec<PathBuf> =
                entries.map_err(|error| refused(error.to_string()))?.iter().map(fs::DirEntry::path).collect();
            files.sort();
            return Ok(HostFile::of_certificates(&files));
        }
        if self.len > FILE_BYTES_MAX {
            return Err(refused(format!("{} bytes are too many", self.len)));
        }
        let text = fs::read_to_string(&self.path).map_err(|error| refused(error.to_string()))?;
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        HostFile::parse(&text, directory).map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_folder_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        for (root, name) in
            [(&first, "r.example_5000_"), (&first, "r.example:5000"), (&second, "quay.io"), (&second, "_default")]
        {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        let folders = Folders::new(&[first.clone(), second.clone()]);
        assert_eq!(folders.folder("r.example:5000"), Some(first.join("r.example_5000_")));
        assert_eq!(folders.folder("quay.io"), Some(second.join("quay.io")));
        assert_eq!(folders.folder("docker.io"), Some(second.join("_default")));
        fs::remove_dir(first.join("r.example_5000_")).unwrap();
        assert_eq!(folders.folder("r.example:5000"), Some(first.join("r.example:5000")));
    }

    #[test]
    fn a_broken_file_is_named_and_concerns_its_own_registry_only() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("broken.example")).unwrap();
        fs::write(dir.path().join("broken.example/hosts.toml"), "[host").unwrap();
        let folders = Folders::new(&[dir.path().to_owned()]);
        let error = folders.of("broken.example").unwrap_err().to_string();
        assert!(error.contains("broken.example/hosts.toml"), "{error}");
        assert_eq!(folders.of("quay.io").unwrap(), None);
    }
}
