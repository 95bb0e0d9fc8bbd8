//! The names of everything under a store's root. Nothing else in oncefs spells one of them.
//!
//! ```text
//! <root>/lock                     the pid of the owner; flock'ed while it lives
//! <root>/reserve                  space kept for opening the database on a full disk
//! <root>/db/                      sled
//! <root>/db.new/                  a database that is being made
//! <root>/db.broken-<n>/           a database that could not be read, kept for people to look at
//! <root>/notes/<kind>/<name>      the database's records once more, one a file, for when it cannot be read
//! <root>/notes.lost-<n>/          what could not be read of them when they were needed
//! <root>/notes/aside              the note of a record that is being changed
//! <root>/notes/boot               the boot of the machine in which notes and records were compared last
//! <root>/layers/sha256/<hex>/     one finished layer: data, tree, frames, resident, and sums where they are needed; and the note of its record
//! <root>/snapshots/<id>/{fs,work} what containers write, and what containerd unpacked
//! <root>/snapshots.lost-<n>/<id>  the same, of snapshots that neither the database nor a note knew any more
//! <root>/starts/<hex>.<kind>      what was seen of an image's starts, by its manifest
//! <root>/staging/<hex>.<n>/       a layer being received or removed; emptied when the store is opened
//! ```

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::digest::{Digest, LayerDigest};

pub(super) const DATA: &str = "data";
pub(super) const TREE: &str = "tree";
pub(super) const FRAMES: &str = "frames";
pub(super) const RESIDENT: &str = "resident";
/// Only where frames have no digest of their own data.
pub(super) const SUMS: &str = "sums";
const NOTE: &str = "note";

/// The root of a store, and from it every path.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(super) fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    pub(super) fn db(&self) -> PathBuf {
        self.root.join("db")
    }

    /// Where one is made, until it is whole.
    pub(super) fn new_db(&self) -> PathBuf {
        self.root.join("db.new")
    }

    pub(super) fn broken_db(&self, number: u32) -> PathBuf {
        self.root.join(format!("db.broken-{number}"))
    }

    /// The directory of the notes of a kind.
    pub(super) fn notes(&self, kind: &str) -> PathBuf {
        self.root.join("notes").join(kind)
    }

    /// What was no note where one should have been.
    pub(super) fn lost_notes(&self, number: u32) -> PathBuf {
        self.root.join(format!("notes.lost-{number}"))
    }

    pub(super) fn layer_note(&self, digest: &LayerDigest) -> PathBuf {
        self.layer(digest).join(NOTE)
    }

    pub(super) fn note_aside(&self) -> PathBuf {
        self.root.join("notes").join("aside")
    }

    pub(super) fn noted_boot(&self) -> PathBuf {
        self.root.join("notes").join("boot")
    }

    /// The directory that holds the layers' directories.
    pub(super) fn layers(&self) -> PathBuf {
        self.root.join("layers").join("sha256")
    }

    pub(super) fn layer(&self, digest: &LayerDigest) -> PathBuf {
        self.layers().join(digest.0.hex())
    }

    /// The layer whose directory has this name.
    pub(super) fn layer_named(name: &OsStr) -> Option<LayerDigest> {
        Digest::from_hex(name.to_str()?).ok().map(LayerDigest)
    }

    /// The directory that holds the snapshots' directories.
    pub(super) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// What snapshots held that nothing knows any more: containers may still write there.
    pub(super) fn lost_snapshots(&self, number: u32) -> PathBuf {
        self.root.join(format!("snapshots.lost-{number}"))
    }

    /// The directory of what was seen of images' starts.
    pub(super) fn starts(&self) -> PathBuf {
        self.root.join("starts")
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// A place in staging; `number` makes it unique within the process, and only one process owns the root.
    pub(super) fn staged(&self, digest: &LayerDigest, number: u64) -> PathBuf {
        self.staging().join(format!("{}.{number}", digest.0.hex()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_directory_is_known_by_its_name_and_nothing_else_is() {
        let layout = Layout::new(Path::new("/store"));
        let digest = LayerDigest(Digest::of(b"layer"));
        let path = layout.layer(&digest);
        assert_eq!(path, Path::new("/store/layers/sha256").join(digest.0.hex()));
        assert_eq!(Layout::layer_named(path.file_name().unwrap()), Some(digest));
        assert_eq!(Layout::layer_named(OsStr::new("lost+found")), None);
        assert_eq!(Layout::layer_named(layout.staged(&digest, 3).file_name().unwrap()), None);
    }
}
