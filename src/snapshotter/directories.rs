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
use crate::sys::file;

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
    pub(super) fn delete_all_but(&self, kept: &HashSet<u64>) {
        let Ok(numbers) = self.numbers() else { return };
        numbers.into_iter().filter(|number| !kept.contains(number)).for_each(|number| self.delete(number));
    }

    pub(super) fn upper(&self, id: u64) -> Upper {
        let directory = self.directory(id);
        Upper { fs: directory.join("fs"), work: directory.join("work") }
    }

    /// Makes the directories of a snapshot. They have the owner of what is `below`, for in an overlay the upper directory's
    /// is shown; the mode is always the same, as containerd has it.
    pub(super) async fn make(
        &self,
        id: u64,
        is_written: bool,
        below: Option<PathBuf>,
        owner: Option<(u32, u32)>,
    ) -> Result<(), SnapshotError> {
        let directories = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            make(&directories.directory(id), PARENT_MODE)?;
            directories.make_inner(id, is_written, below, owner)
        });
        made.await.unwrap_or(Err(SnapshotError::Stopping))
    }

    fn make_inner(
        &self,
        id: u64,
        is_written: bool,
        below: Option<PathBuf>,
        owner: Option<(u32, u32)>,
    ) -> Result<(), SnapshotError> {
        let Upper { fs: shown, work } = self.upper(id);
        make(&shown, FS_MODE)?;
        // A view that is not loaded answers as an empty directory of root's.
        let owner = owner.or_else(|| below?.symlink_metadata().ok().map(|like| (like.uid(), like.gid())));
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::lchown(&shown, Some(uid), Some(gid))
                .map_err(SnapshotError::io("set the owner of", &shown))?;
        }
        if is_written { make(&work, WORK_MODE) } else { Ok(()) }
    }

    /// Makes what a power loss took of the directories of a snapshot, which only its record was flushed of: nobody has had
    /// anything in them on disk. The last to be made says whether all are there. Blocking.
    pub(super) fn make_again(
        &self,
        id: u64,
        is_written: bool,
        below: Option<PathBuf>,
        owner: Option<(u32, u32)>,
    ) -> Result<(), SnapshotError> {
        let Upper { fs: shown, work } = self.upper(id);
        if (if is_written { &work } else { &shown }).is_dir() {
            return Ok(());
        }
        tracing::warn!(
            snapshot = id,
            "the directories of a snapshot are gone, as a power loss leaves it; they are made again"
        );
        let directory = self.directory(id);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(PARENT_MODE)
            .create(&directory)
            .map_err(SnapshotError::io("make", &directory))?;
        if shown.is_dir() {
            return make(&work, WORK_MODE);
        }
        self.make_inner(id, is_written, below, owner)
    }

    /// Has the directories of a snapshot on disk before its record says that it is for good. Blocking.
    pub(super) fn sync(&self, id: u64) -> Result<(), SnapshotError> {
        let directory = self.directory(id);
        file::sync_directory(&directory).map_err(SnapshotError::io("sync", &directory))
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
    if let Err(error) = remove_level_by_level(directory)
        && directory.exists()
    {
        tracing::warn!(directory = %directory.display(), %error, "a removed snapshot is left; the next start tries again");
    }
}

/// Containers may nest directories deeper than a stack, or a path, goes. So each directory is first moved up to the top, where its
/// name is ours and no container reaches it, and is emptied there.
fn remove_level_by_level(top: &Path) -> io::Result<()> {
    let mut number = 0u64;
    loop {
        let mut is_empty = true;
        for entry in fs::read_dir(top)? {
            let entry = entry?;
            is_empty = false;
            if !entry.file_type()?.is_dir() {
                fs::remove_file(entry.path())?;
                continue;
            }
            for inner in fs::read_dir(entry.path())? {
                let inner = inner?;
                if inner.file_type()?.is_dir() {
                    number = free_number(top, number);
                    fs::rename(inner.path(), top.join(number.to_string()))?;
                } else {
                    fs::remove_file(inner.path())?;
                }
            }
            fs::remove_dir(entry.path())?;
        }
        if is_empty {
            return fs::remove_dir(top);
        }
    }
}

/// The next number of which there is no directory: an interrupted removal may have left some.
fn free_number(top: &Path, last: u64) -> u64 {
    (last + 1..u64::MAX).find(|number| top.join(number.to_string()).symlink_metadata().is_err()).unwrap_or(last)
}

/// Without following links or leaving the file system. What goes away meanwhile is not counted, nor what lies so deep that no path
/// leads there.
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
            Err(error) if is_out_of_reach(&error) => continue,
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

fn is_out_of_reach(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directories one in the other, so many, made as no path could name them.
    fn nest(at: &Path, levels: usize) {
        use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, statat};
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut inner = rustix::fs::open(at, flags, Mode::empty()).unwrap();
        for _ in 0..levels {
            mkdirat(&inner, "d", Mode::RWXU).unwrap();
            inner = openat(&inner, "d", flags, Mode::empty()).unwrap();
        }
        assert!(statat(&inner, ".", AtFlags::empty()).is_ok());
    }

    #[test]
    fn directories_deeper_than_any_stack_or_path_are_counted_as_far_as_can_be_and_deleted() {
        // In memory: a disk looks for a place far away for each of them.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (top, outside) = (dir.path().join("7"), dir.path().join("outside"));
        fs::create_dir_all(top.join("fs/1")).unwrap();
        fs::create_dir_all(top.join("work")).unwrap();
        fs::write(&outside, b"kept").unwrap();
        std::os::unix::fs::symlink(dir.path(), top.join("fs/1/link")).unwrap();
        nest(&top.join("fs"), 20_000);
        assert!(count(&top.join("fs")).unwrap().inodes > 1000);
        remove_level_by_level(&top).unwrap();
        assert!(!top.exists());
        assert_eq!(fs::read(&outside).unwrap(), b"kept");
    }

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
