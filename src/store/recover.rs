//! Taking a root into possession, and bringing it in order after whatever happened to the process before.
//!
//! Reads names, not contents, so that a start is quick however much the store holds: a layer's files are looked at
//! when it is first opened, or by `check`.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::Path;

use crate::digest::LayerDigest;
use crate::store::StoreError;
use crate::store::db::{Db, Opened};
use crate::store::layout::{DATA, FRAMES, Layout, RESIDENT, TREE};
use crate::store::records::LayerRecord;
use crate::sys::file;

/// Makes the root if it is not there, and locks it for this process as long as the file is open.
pub(super) fn take(layout: &Layout) -> Result<File, StoreError> {
    make_directory(layout.root())?;
    let path = layout.lock();
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut lock = opened.map_err(StoreError::io("open", &path))?;
    if !file::try_lock(&lock).map_err(StoreError::io("lock", &path))? {
        let mut pid = String::new();
        let _ = lock.read_to_string(&mut pid); // only for the message
        return Err(StoreError::Locked { root: layout.root().to_path_buf(), pid: pid.trim().parse().ok() });
    }
    let pid = format!("{}\n", std::process::id());
    let written = lock.set_len(0).and_then(|()| lock.write_all_at(pid.as_bytes(), 0));
    written.map_err(StoreError::io("write", &path))?;
    Ok(lock)
}

/// Empties staging, opens the database, and makes the layers' directories and records agree.
pub(super) fn bring_in_order(layout: &Layout) -> Result<(Db, BTreeMap<LayerDigest, LayerRecord>), StoreError> {
    make_directory(&layout.layers())?;
    make_directory(&layout.staging())?;
    for entry in list(&layout.staging())? {
        remove_all(&entry.path())?;
    }
    let Opened { db, layers: records, lost } = Db::open(layout)?;
    if let Some(cause) = lost {
        tracing::warn!(root = %layout.root().display(), cause, "the database was lost and moved aside; starting a new one");
    }
    let mut records: BTreeMap<LayerDigest, LayerRecord> = records.into_iter().collect();
    let mut layers = BTreeMap::new();
    for digest in found(layout)? {
        let record = match records.remove(&digest) {
            Some(record) => record,
            None => adopt(&db, &digest)?,
        };
        layers.insert(digest, record);
    }
    for digest in records.keys() {
        tracing::warn!(layer = %digest, "the files of a layer are gone; it will be scanned again when needed");
        db.remove_layer(digest)?;
    }
    Ok((db, layers))
}

/// The layers whose directories have all their files. Others are removed.
pub(super) fn found(layout: &Layout) -> Result<Vec<LayerDigest>, StoreError> {
    let mut layers = Vec::new();
    for entry in list(&layout.layers())? {
        let path = entry.path();
        let Some(digest) = Layout::layer_named(&entry.file_name()) else {
            tracing::warn!(path = %path.display(), "leaving alone what is no layer");
            continue;
        };
        match [DATA, TREE, FRAMES, RESIDENT].iter().find(|name| !path.join(name).is_file()) {
            None => layers.push(digest),
            Some(missing) => {
                tracing::warn!(layer = %digest, missing, "removing an incomplete layer; it will be scanned again");
                remove_all(&path)?;
            }
        }
    }
    Ok(layers)
}

/// Gives a layer that is on disk but not in the database a record. Its files say what it is; where its blob can be had
/// is known again when an image names it.
pub(super) fn adopt(db: &Db, digest: &LayerDigest) -> Result<LayerRecord, StoreError> {
    let record = |slot| LayerRecord { slot, origin: None };
    let slot = db.add_layer(digest, record)?;
    tracing::info!(layer = %digest, "took in a layer that the database did not know");
    Ok(record(slot))
}

/// Removes a directory and all in it; one that is not there is removed already.
pub(super) fn remove_all(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            fs::remove_file(path).map_err(StoreError::io("remove", path))
        }
        result => result.map_err(StoreError::io("remove", path)),
    }
}

fn list(directory: &Path) -> Result<Vec<fs::DirEntry>, StoreError> {
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    entries.map_err(StoreError::io("list", directory))
}

/// Makes a directory and those above it, for the owner alone: layers hold set-user-id programs and other people's
/// secrets.
fn make_directory(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StoreError::io("make", path))
}
