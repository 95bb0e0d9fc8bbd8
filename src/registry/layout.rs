//! OCI image layouts as a source of images with no registry at all: a directory, or a tar of one (`oci-archive:`).
//!
//! Blocking, for a thread that may wait. Names of files are made from parsed digests alone, and of an archive only
//! the headers are read: a blob is a range of it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use serde::Deserialize;

use crate::blob::{Blob, BlobError};
use crate::digest::Digest;
use crate::registry::archive::Members;
use crate::registry::error::RegistryError;
use crate::registry::manifest::{Entry, Index, MANIFEST_BYTES_MAX};
use crate::sync::Arc;

#[derive(Debug)]
pub(super) enum Layout {
    Directory(PathBuf),
    Archive { path: PathBuf, file: Arc<File>, identity: Identity, members: Members },
}

/// What tells whether the file at a path is still the one that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity([i64; 5]);

/// A stretch of a file: one blob.
#[derive(Debug, Clone)]
pub(super) struct Section {
    file: Arc<File>,
    path: Arc<Path>,
    at: u64,
    len: u64,
}

/// The marker file `oci-layout` (image-spec, "image-layout.md").
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

const MARKER_BYTES_MAX: u64 = 4 << 10;
/// Enough for the disk to be busy with while the piece before is looked at, little enough to hold several.
const PIECE_BYTES: u64 = 1 << 20;

// === impl Layout ===

impl Layout {
    pub(super) fn open_directory(path: &Path) -> Result<Self, RegistryError> {
        let layout = Self::Directory(path.to_path_buf());
        layout.check_marker()?;
        Ok(layout)
    }

    pub(super) fn open_archive(path: &Path) -> Result<Self, RegistryError> {
        let file = open_regular(path).map_err(failed(path))?;
        let identity = Identity::of(&file).map_err(failed(path))?;
        let members = Members::read(&file, path)?;
        let layout = Self::Archive { path: path.to_path_buf(), file: Arc::new(file), identity, members };
        layout.check_marker()?;
        Ok(layout)
    }

    /// Whether the archive at this path is still the same one.
    pub(super) fn is_current(&self) -> bool {
        match self {
            Self::Directory(_) => true,
            Self::Archive { path, identity, .. } => {
                fs::metadata(path).is_ok_and(|metadata| Identity::from(&metadata) == *identity)
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Archive { path, .. } => path,
        }
    }

    fn no_layout(&self, cause: &str) -> RegistryError {
        RegistryError::NoLayout { path: self.path().to_path_buf(), cause: cause.to_owned() }
    }

    fn check_marker(&self) -> Result<(), RegistryError> {
        let marker = self.small("oci-layout", MARKER_BYTES_MAX)?;
        let marker: Marker =
            serde_json::from_slice(&marker).map_err(|_| self.no_layout("its file oci-layout cannot be understood"))?;
        if marker.image_layout_version == "1.0.0" {
            Ok(())
        } else {
            Err(self.no_layout("its version is not 1.0.0, the only one there is"))
        }
    }

    /// The entries of `index.json` that `tag` names; without a tag, all, if they are one image.
    pub(super) fn index(&self, tag: Option<&str>) -> Result<Index, RegistryError> {
        let bytes = self.small("index.json", MANIFEST_BYTES_MAX)?;
        let image = self.path().display().to_string();
        let mut index =
            Index::parse(&bytes).map_err(|source| RegistryError::Manifest { image: image.clone(), source })?;
        let mut have: Vec<String> = index.entries.iter().flat_map(|entry| entry.names.first().cloned()).collect();
        have.sort();
        have.dedup();
        if let Some(tag) = tag {
            let is_named = |entry: &Entry| entry.names.iter().any(|name| name == tag);
            index.entries.retain(is_named);
            if index.entries.is_empty() {
                return Err(RegistryError::NoTag { image, tag: tag.to_owned(), have });
            }
        } else if have.len() > 1 {
            return Err(RegistryError::SeveralTags { image, have });
        }
        Ok(index)
    }

    /// A file of the layout's top, whole. `name` is ours.
    fn small(&self, name: &str, max: u64) -> Result<Bytes, RegistryError> {
        let section = match self {
            Self::Directory(path) => Section::of_file(&path.join(name)),
            Self::Archive { members, .. } => match members.named(name) {
                Some((at, len)) => self.section(at, len),
                None => Err(io::ErrorKind::NotFound.into()),
            },
        };
        let section = section.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory if self.path().exists() => {
                self.no_layout(&format!("it has no {name}"))
            }
            _ => failed(self.path())(error),
        })?;
        if section.len > max {
            return Err(RegistryError::TooLarge { what: format!("{name} of {}", self.path().display()), max });
        }
        section.read(0, section.len).map_err(failed(self.path()))
    }

    /// The blob with this digest; its bytes are the reader's to check.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Section, RegistryError> {
        let section = match self {
            Self::Directory(path) => Section::of_file(&path.join("blobs/sha256").join(digest.hex())),
            Self::Archive { members, .. } => match members.blob(digest) {
                Some((at, len)) => self.section(at, len),
                None => Err(io::ErrorKind::NotFound.into()),
            },
        };
        section.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.no_layout(&format!("the blob {digest} is missing")),
            _ => failed(self.path())(error),
        })
    }

    /// All of a blob that is known to be small.
    pub(super) fn read(&self, section: &Section) -> Result<Bytes, RegistryError> {
        section.read(0, section.len).map_err(failed(self.path()))
    }

    fn section(&self, at: u64, len: u64) -> io::Result<Section> {
        match self {
            Self::Archive { file, path, .. } => {
                Ok(Section { file: file.clone(), path: Arc::from(path.as_path()), at, len })
            }
            Self::Directory(_) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Opens only a regular file: opening a FIFO would wait for its writer.
fn open_regular(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    File::open(path)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> RegistryError {
    let path = path.to_path_buf();
    move |source| RegistryError::Io { path, source: Arc::new(source) }
}

// === impl Identity ===

impl Identity {
    fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from(&file.metadata()?))
    }
}

impl From<&fs::Metadata> for Identity {
    fn from(metadata: &fs::Metadata) -> Self {
        let number = |n: u64| n.cast_signed();
        let (dev, ino, len) = (number(metadata.dev()), number(metadata.ino()), number(metadata.len()));
        Self([dev, ino, len, metadata.mtime(), metadata.mtime_nsec()])
    }
}

// === impl Section ===

impl Section {
    fn of_file(path: &Path) -> io::Result<Self> {
        let file = open_regular(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), path: Arc::from(path), at: 0, len })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Exactly `len` bytes from `at`; waits for the disk.
    pub(super) fn read(&self, at: u64, len: u64) -> io::Result<Bytes> {
        let inside = at.checked_add(len).is_some_and(|end| end <= self.len);
        let (true, Ok(size)) = (inside, usize::try_from(len)) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, self.at + at)?;
        Ok(bytes.into())
    }

    /// The same on a thread that may wait.
    async fn read_aside(self, at: u64, len: u64) -> Result<Bytes, BlobError> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || self.read(at, len)).await;
        let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
        read.map_err(|error| BlobError::Other(format!("cannot read {}: {error}", path.display())))
    }
}

impl Blob for Section {
    fn size(&self) -> u64 {
        self.len
    }

    fn range(&self, range: std::ops::Range<u64>) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        Box::pin(async move {
            if range.start > range.end || range.end > self.len {
                return Err(BlobError::Size { has: self.len, want: range.end });
            }
            self.clone().read_aside(range.start, range.end - range.start).await
        })
    }

    fn stream(&self) -> BoxStream<'static, Result<Bytes, BlobError>> {
        let section = self.clone();
        stream::try_unfold(0, move |at| {
            let section = section.clone();
            async move {
                let len = PIECE_BYTES.min(section.len - at);
                if len == 0 {
                    return Ok(None);
                }
                Ok(Some((section.read_aside(at, len).await?, at + len)))
            }
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests;
