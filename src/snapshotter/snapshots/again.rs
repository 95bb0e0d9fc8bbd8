//! What a power loss takes of snapshots. A Prepare flushes the record alone, and the file system writes the directories some
//! seconds later; nobody has had anything in them on disk before that. A Commit flushes them first.

use crate::snapshotter::book::{Book, Kind, Snapshot};
use crate::snapshotter::directories::Directories;
use crate::snapshotter::error::SnapshotError;
use crate::snapshotter::labels;

/// Makes the directories that are gone. Blocking.
pub(super) fn make_directories(book: &Book, directories: &Directories) -> Result<(), SnapshotError> {
    let unflushed = |snapshot: &Snapshot| snapshot.kind != Kind::Committed && snapshot.remote().is_none();
    for snapshot in book.iter().filter(|snapshot| unflushed(snapshot)) {
        let parent = snapshot.parent.as_ref().and_then(|parent| book.get(parent).ok());
        let below = parent.filter(|parent| parent.remote().is_none()).map(|parent| directories.upper(parent.id).fs);
        let owner = labels::root(&snapshot.labels);
        directories.make_again(snapshot.id, snapshot.kind == Kind::Active, below, owner)?;
    }
    Ok(())
}
