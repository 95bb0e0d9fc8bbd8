//! The directories of snapshots: `<root>/snapshots/<id>/{fs,work}`. Named by number only, never by a key.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};

use super::chains::Usage;
use super::error::SnapshotError;
use crate::mount::Upper;

/// As containerd's overlay snapshotter makes them.
const FS_MODE: u32 = 0o755;
const WORK_MODE: u32 = 0o711;
/// Only root has business among the snapshots; what is in them has its own modes.
const PARENT_MODE: u32 = 0o700;

/// Clones share the thread that deletes.
#[derive(Clone)]
pub(super) struct Directories {
    path: PathBuf,
    /// Whole directories to be deleted, one after the other.
    deleting: Sender<PathBuf>,
}

// === impl Directories ===

impl Directories {
    pub(super) fn open(path: PathBuf) -> Result<Self, SnapshotError> {
        let made = fs::DirBuilder::new().recursive(true).mode(PARENT_MODE).create(&path);
        made.map_err(SnapshotError::io("make", &path))?;
        let (deleting, to_delete) = channel::<PathBuf>();
        let delete = move || to_delete.iter().for_each(|directory| remove(&directory));
        let thread = std::thread::Builder::new().name("snapshot-delete".to_owned()).spawn(delete);
        thread.map_err(SnapshotError::io("start the thread that deletes in", &path))?;
        Ok(Self { path, deleting })
    }

    /// The highest number of a directory that is there; 0 if none is.
    pub(super) fn highest(&self) -> Result<u64, SnapshotError> {
        Ok(self.numbers()?.into_iter().max().unwrap_or(0))
    }

    /// Deletes, in the background, what a crash has left.
    pub(super) fn delete_all_but(&self, kept: HashSet<u64>) {
        let Ok(numbers) = self.numbers() else { return };
        numbers.into_iter().filter(|number| !kept.contains(number)).for_each(|number| self.delete(number));
    }

    pub(super) fn upper(&self, id: u64) -> Upper {
        let directory = self.directory(id);
        Upper { fs: directory.join("fs"), work: directory.join("work") }
    }

    /// Makes the directories of a snapshot. What is written to has the owner and mode of what it is seen over, for in an
    /// overlay the upper directory's are shown.
    pub(super) async fn make(
        &self,
        id: u64,
        is_written: bool,
        below: Option<PathBuf>,
        owner: Option<(u32, u32)>,
    ) -> Result<(), SnapshotError> {
        let (directory, Upper { fs: shown, work }) = (self.directory(id), self.upper(id));
        let made = tokio::task::spawn_blocking(move || {
            make(&directory, PARENT_MODE)?;
            make(&shown, FS_MODE)?;
            if is_written {
                make(&work, WORK_MODE)?;
            }
            // A view that is not loaded answers as an empty directory of root's.
            let like = below.and_then(|below| below.symlink_metadata().ok());
            if let Some(like) = &like {
                fs::set_permissions(&shown, fs::Permissions::from_mode(like.mode() & 0o7777))
                    .map_err(SnapshotError::io("set the mode of", &shown))?;
            }
            if let Some((uid, gid)) = owner.or(like.map(|like| (like.uid(), like.gid()))) {
                std::os::unix::fs::lchown(&shown, Some(uid), Some(gid))
                    .map_err(SnapshotError::io("set the owner of", &shown))?;
            }
            Ok(())
        });
        made.await.unwrap_or(Err(SnapshotError::Stopping))
    }

    /// Deletes in the background.
    pub(super) fn delete(&self, id: u64) {
        let _at_the_next_start_then = self.deleting.send(self.directory(id));
    }

    /// What the snapshot's own files take: blocks on disk, each inode once, as containerd counts.
    pub(super) async fn usage(&self, id: u64) -> Result<Usage, SnapshotError> {
        let path = self.upper(id).fs;
        let counted = tokio::task::spawn_blocking(move || count(&path).map_err(SnapshotError::io("count", &path)));
        counted.await.unwrap_or(Err(SnapshotError::Stopping))
    }

    fn directory(&self, id: u64) -> PathBuf {
        self.path.join(id.to_string())
    }

    fn numbers(&self) -> Result<Vec<u64>, SnapshotError> {
        let entries = fs::read_dir(&self.path).map_err(SnapshotError::io("list", &self.path))?;
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
    }
}

fn make(directory: &Path, mode: u32) -> Result<(), SnapshotError> {
    let made = fs::DirBuilder::new().mode(mode).create(directory);
    // The process's umask is not what containers should see.
    let made = made.and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(mode)));
    made.map_err(SnapshotError::io("make", directory))
}

fn remove(directory: &Path) {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(directory = %directory.display(), %error, "a removed snapshot is left; the next start tries again");
        }
        _ => {}
    }
}

/// Depth first, without following links or leaving the file system. What goes away meanwhile is not counted.
fn count(path: &Path) -> io::Result<Usage> {
    let mut seen: HashSet<(u64, u64)> = HashSet::new();
    let (mut usage, mut directories) = (Usage::default(), vec![path.to_owned()]);
    let mut add = |metadata: &fs::Metadata| {
        if metadata.nlink() < 2 || metadata.is_dir() || seen.insert((metadata.dev(), metadata.ino())) {
            usage.bytes += metadata.blocks() * 512;
            usage.inodes += 1;
        }
    };
    let top = path.symlink_metadata()?;
    add(&top);
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else { continue };
            add(&metadata);
            if metadata.is_dir() && metadata.dev() == top.dev() {
                directories.push(entry.path());
            }
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_inode_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/file"), vec![1; 10_000]).unwrap();
        fs::hard_link(dir.path().join("sub/file"), dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        let usage = count(dir.path()).unwrap();
        assert_eq!(usage.inodes, 4);
        assert!((10_000..100_000).contains(&usage.bytes), "{usage:?}");
    }
}
