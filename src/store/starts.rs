//! What was seen of images' starts, on disk: small files by manifest, which their writers can check themselves.
//!
//! They are worth a few round trips and no more: nothing here is synced, and of many the oldest go.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::digest::Digest;
use crate::store::recover::make_directory;
use crate::store::{Store, StoreError};
use crate::sync::atomic::Ordering;

/// What is kept of an image's starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFile {
    /// What its starts want: for the next one.
    Profile,
    /// All that happened during the last one: for people.
    Trace,
}

/// A file of either kind, in bytes.
const FILE_BYTES_MAX: u64 = 8 << 20;

impl StartFile {
    fn suffix(self) -> &'static str {
        match self {
            Self::Profile => "profile",
            Self::Trace => "trace",
        }
    }

    /// How many are kept.
    fn count_max(self) -> usize {
        match self {
            Self::Profile => 1024,
            Self::Trace => 64,
        }
    }
}

impl Store {
    /// Keeps `bytes` in place of what was kept. Blocking.
    pub fn put_start(&self, manifest: &Digest, file: StartFile, bytes: &[u8]) -> Result<(), StoreError> {
        let layout = &self.inner.shared.layout;
        make_directory(&layout.starts())?;
        let path = self.start_path(manifest, file);
        let number = self.inner.staged.fetch_add(1, Ordering::Relaxed);
        let staged = layout.staging().join(format!("{}.{}.{number}", manifest.hex(), file.suffix()));
        fs::write(&staged, bytes).map_err(StoreError::io("write", &staged)).inspect_err(|_| {
            let _nothing_was_written = fs::remove_file(&staged);
        })?;
        fs::rename(&staged, &path).map_err(StoreError::io("write", &path))?;
        self.forget_old_starts(file)
    }

    /// What is kept, whoever damaged it. Blocking.
    pub fn start(&self, manifest: &Digest, file: StartFile) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.start_path(manifest, file);
        let read = || {
            if fs::metadata(&path)?.len() > FILE_BYTES_MAX {
                Err(io::ErrorKind::FileTooLarge.into())
            } else {
                fs::read(&path)
            }
        };
        match read() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    fn start_path(&self, manifest: &Digest, file: StartFile) -> PathBuf {
        self.inner.shared.layout.starts().join(format!("{}.{}", manifest.hex(), file.suffix()))
    }

    fn forget_old_starts(&self, file: StartFile) -> Result<(), StoreError> {
        let starts = self.inner.shared.layout.starts();
        let entries = fs::read_dir(&starts).map_err(StoreError::io("list", &starts))?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == file.suffix()));
        let written = |path: &PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified());
        let mut all: Vec<_> = paths.map(|path| (written(&path).unwrap_or(SystemTime::UNIX_EPOCH), path)).collect();
        let too_many = all.len().saturating_sub(file.count_max());
        if too_many > 0 {
            all.sort();
            for (_, path) in all.iter().take(too_many) {
                let _somebody_else_has = fs::remove_file(path);
            }
        }
        Ok(())
    }
}
