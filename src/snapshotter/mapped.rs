//! What is below a container in a user namespace, shown with the owners that it has in there.
//!
//! containerd would do it itself (`uidmap=` among the options of a mount), by mapping one mount of the directory that all lower
//! directories have in common (2.1, `core/mount`, `getCommonDirectory`), and it adds the upper one when it looks for a user's name. The
//! views and the snapshots' directories lie in two file systems and have none in common. So each is mapped here, and containerd told of no mapping.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use crate::mount::Mapping;
use crate::sync::Mutex;
use crate::sys::{idmap, mount, user_namespace};

/// `<folder>/<id>/<n>`: the n-th lower directory of a snapshot. They stay when the process dies: containerd may be about to use them.
pub(super) struct Mapped {
    folder: PathBuf,
    /// How many of each snapshot.
    shown: Mutex<HashMap<u64, usize>>,
}

// === impl Mapped ===

impl Mapped {
    /// Takes over what an earlier process shows there of these snapshots, if it lives, and takes away the rest. Blocking.
    pub(super) fn open(folder: PathBuf, snapshots: &HashSet<u64>) -> Self {
        let table = mount::table().unwrap_or_default();
        let mut shown = HashMap::new();
        for snapshot in names(&folder) {
            let id = snapshot.file_name().and_then(|name| name.to_str()?.parse().ok());
            match id.filter(|id| snapshots.contains(id)) {
                Some(id) if names(&snapshot).iter().all(|place| is_alive(&table, place)) => {
                    shown.insert(id, names(&snapshot).len());
                }
                _ => hide(&snapshot),
            }
        }
        Self { folder, shown: Mutex::new(shown) }
    }

    /// The same directories, mapped; they stay until [`Self::hide`]. Blocking.
    pub(super) fn show(&self, id: u64, lower: &[PathBuf], mapping: &Mapping) -> io::Result<Vec<PathBuf>> {
        let snapshot = self.folder.join(id.to_string());
        let places: Vec<PathBuf> = (0..lower.len()).map(|n| snapshot.join(n.to_string())).collect();
        let mut shown = self.shown.lock();
        match shown.remove(&id) {
            Some(count) if count == places.len() => {
                shown.insert(id, count);
                return Ok(places);
            }
            // The process before died while it showed them.
            Some(_) => hide(&snapshot),
            None => {}
        }
        let (users, groups) = mapping.maps().ok_or(io::ErrorKind::InvalidInput)?;
        let namespace = user_namespace::with_maps(&users, &groups)?;
        let done = lower.iter().zip(&places).try_for_each(|(from, to)| {
            fs::create_dir_all(to)?;
            idmap::bind(from, to, namespace.as_fd())
        });
        match done {
            Ok(()) => drop(shown.insert(id, places.len())),
            Err(_) => hide(&snapshot),
        }
        done.map(|()| places)
    }

    /// Containers that use them do not notice. Blocking.
    pub(super) fn hide(&self, id: u64) {
        let mut shown = self.shown.lock();
        if shown.remove(&id).is_some() {
            hide(&self.folder.join(id.to_string()));
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let shown = std::mem::take(&mut *self.shown.lock());
        shown.into_keys().for_each(|id| hide(&self.folder.join(id.to_string())));
    }
}

/// Whether something is mounted there that can still be read.
fn is_alive(table: &[mount::Mounted], place: &Path) -> bool {
    table.iter().any(|mounted| mounted.at == place) && !mount::is_dead(place)
}

/// Only empty directories are removed: what is still mounted there is somebody's files.
fn hide(snapshot: &Path) {
    for place in names(snapshot) {
        let _nothing_mounted = mount::detach(&place);
        let _still_mounted = fs::remove_dir(&place);
    }
    if let Err(error) = fs::remove_dir(snapshot) {
        tracing::warn!(directory = %snapshot.display(), %error, "an idmapped mount is left; the next start tries again");
    }
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}
