//! What sled leaves half written when its process is killed while it opens a database, and would then take for damage.
//!
//! When it opens, it writes where its log is whole up to: to `snap.<position>.generating`, which is renamed when it is complete. After a
//! kill in between it takes that file for the newest of its kind, finds it broken, and gives up. The file before it, or the log
//! alone, says the same.

use std::fs;
use std::io;
use std::path::Path;

const PREFIX: &str = "snap.";
const SUFFIX: &str = ".generating";

/// Removes it. To be called before sled looks.
pub(super) fn remove(database: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(database) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Db, Opened};
    use crate::store::layout::Layout;

    /// Empty, cut short, and longer than what is written over it: each as a kill may leave it.
    #[test]
    fn a_database_whose_opening_was_killed_is_opened_with_all_that_it_holds() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::create_dir_all(layout.layers()).unwrap();
        let Opened { db, .. } = Db::open(&layout).unwrap();
        db.put_snapshot(7, b"record").unwrap();
        drop(db);
        for left in [&b""[..], b"half a file", &[7; 100_000]] {
            std::fs::write(layout.db().join("snap.7FFFFFFFFFFFFFFF.generating"), left).unwrap();
            let opened = Db::open(&layout).unwrap();
            assert!(opened.rebuilt.is_none(), "lost");
            assert_eq!(opened.db.snapshots().unwrap(), [(7, b"record".to_vec())]);
        }
    }
}
