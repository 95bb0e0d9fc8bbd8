//! Taking a root into possession, and bringing it in order after whatever happened to the process before.
//!
//! Reads names, not contents, so that a start is quick however much the store holds: a layer's files are looked at
//! when it is first opened, or by `check`.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::digest::LayerDigest;
use crate::store::StoreError;
use crate::store::db::{Db, Opened, Rebuilt};
use crate::store::layout::{DATA, FRAMES, Layout, RESIDENT, TREE};
use crate::store::records::LayerRecord;
use crate::sys::file;

/// sled writes a snapshot of some kilobytes when it opens, and whole segments of 512 KiB.
const RESERVE_BYTES: u64 = 2 << 20;

/// How long a lock of this process is waited for: a program that it starts has a copy of it until it is another program.
const CLOSING: Duration = Duration::from_secs(1);

/// Makes the root if it is not there, and locks it for this process as long as the file is open.
pub(super) fn take(layout: &Layout) -> Result<File, StoreError> {
    make_directory(layout.root())?;
    let path = layout.lock();
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut lock = opened.map_err(StoreError::io("open", &path))?;
    let give_up = Instant::now() + CLOSING;
    while !file::try_lock(&lock).map_err(StoreError::io("lock", &path))? {
        let mut pid = String::new();
        let _only_for_the_message = lock.rewind().and_then(|()| lock.read_to_string(&mut pid));
        let pid = pid.trim().parse().ok();
        if pid != Some(std::process::id()) || Instant::now() > give_up {
            return Err(StoreError::Locked { root: layout.root().to_path_buf(), pid });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // Always as long, so that it is overwritten in place: that works on a full disk too.
    let pid = format!("{:<10}\n", std::process::id());
    lock.write_all_at(pid.as_bytes(), 0).map_err(StoreError::io("write", &path))?;
    Ok(lock)
}

/// Empties staging, opens the database, and makes the layers' directories and records agree.
pub(super) fn bring_in_order(
    layout: &Layout,
    lock: &File,
) -> Result<(Db, BTreeMap<LayerDigest, LayerRecord>), StoreError> {
    make_directory(&layout.layers())?;
    make_directory(&layout.staging())?;
    for entry in list(&layout.staging())? {
        remove_all(&entry.path())?;
    }
    let Opened { db, layers: records, rebuilt } = open_database(layout, lock)?;
    let mut records: BTreeMap<LayerDigest, LayerRecord> = records.into_iter().collect();
    let mut layers = BTreeMap::new();
    let mut adopted = 0;
    for (digest, lacking) in found(layout)? {
        if let Some(file) = lacking {
            tracing::warn!(layer = %digest, file, "removing an incomplete layer; it will be scanned again when needed");
            remove_all(&layout.layer(&digest))?;
            continue;
        }
        let record = match records.remove(&digest) {
            Some(record) => record,
            None => {
                adopted += 1;
                adopt(&db, &digest)?
            }
        };
        layers.insert(digest, record);
    }
    for digest in records.keys() {
        tracing::warn!(layer = %digest, "the files of a layer are gone; it will be scanned again when needed");
        db.remove_layer(digest)?;
    }
    if let Some(rebuilt) = rebuilt {
        tell(layout, &rebuilt, layers.len(), adopted);
    }
    Ok((db, layers))
}

/// The one line that an operator reads of it.
fn tell(layout: &Layout, rebuilt: &Rebuilt, layers: usize, adopted: usize) {
    let Rebuilt { cause, kept, images, snapshots, damaged, unknown } = rebuilt;
    let kept = kept.as_ref().map_or_else(|| "nowhere".into(), |kept| kept.to_string_lossy());
    tracing::warn!(
        root = %layout.root().display(), cause, %kept, layers, layers_without_note = adopted, images, snapshots,
        damaged_notes = ?damaged, snapshots_put_aside = ?unknown,
        "the database was broken and is kept aside; another one was made of notes and directories"
    );
}

/// Opens the database, on a full disk in the space that was kept for this. sled writes when it opens, and leaves
/// a database that it cannot read itself if it finds no space then: so it must not be tried.
fn open_database(layout: &Layout, lock: &File) -> Result<Opened, StoreError> {
    let (path, root) = (layout.reserve(), layout.root());
    remove_all(&path)?;
    let space = file::space(lock).map_err(StoreError::io("ask for the space of", root))?;
    if space.available < RESERVE_BYTES / 2 {
        return Err(StoreError::io("open the database under", root)(io::ErrorKind::StorageFull.into()));
    }
    let opened = Db::open(layout)?;
    let reserve = File::create(&path).and_then(|reserve| file::reserve(&reserve, RESERVE_BYTES));
    if let Err(error) = reserve {
        tracing::debug!(root = %root.display(), %error, "no space is kept for opening the database the next time");
    }
    Ok(opened)
}

/// The layers that have a directory, and which file each lacks, if one.
pub(super) fn found(layout: &Layout) -> Result<Vec<(LayerDigest, Option<&'static str>)>, StoreError> {
    let mut layers = Vec::new();
    for entry in list(&layout.layers())? {
        match Layout::layer_named(&entry.file_name()) {
            Some(digest) => layers.push((digest, lacks(&entry.path()))),
            None => tracing::warn!(path = %entry.path().display(), "leaving alone what is no layer"),
        }
    }
    Ok(layers)
}

/// The first file that a layer's directory lacks.
pub(super) fn lacks(directory: &Path) -> Option<&'static str> {
    [DATA, TREE, FRAMES, RESIDENT].into_iter().find(|name| !directory.join(name).is_file())
}

/// Gives a layer that is on disk but not in the database a record. Its files say what it is; where its blob can be had
/// is known again when an image names it.
pub(super) fn adopt(db: &Db, digest: &LayerDigest) -> Result<LayerRecord, StoreError> {
    let record = |slot| LayerRecord { slot, origin: None };
    let slot = db.add_layer(digest, record)?;
    tracing::info!(layer = %digest, "took in a layer that the database did not know");
    Ok(record(slot))
}

/// The highest number among the directories of snapshots that were put aside.
pub(super) fn highest_lost_snapshot(layout: &Layout) -> Result<u64, StoreError> {
    let mut highest = 0;
    for aside in (0..u32::MAX).map(|number| layout.lost_snapshots(number)).take_while(|aside| aside.is_dir()) {
        let numbers = list(&aside)?.into_iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        highest = numbers.fold(highest, u64::max);
    }
    Ok(highest)
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
pub(super) fn make_directory(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StoreError::io("make", path))
}
