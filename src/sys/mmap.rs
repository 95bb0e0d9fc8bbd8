//! Files as memory. Only for files that are never changed again: the store's trees and frame tables, which
//! are written under a staging name, synced, renamed and then only read or unlinked.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt as _;

const PIECE_BYTES: usize = 256 << 10;

/// A whole file, readable as a slice for as long as this lives (also after the file was unlinked).
#[derive(Debug)]
pub struct Map(memmap2::Mmap);

impl Map {
    /// Maps `file`, as long as it is now. All of it is read once: what the disk does not give is an error here, and would be the end of
    /// the process (SIGBUS) when it is looked at through the map.
    pub fn open(file: &File) -> io::Result<Self> {
        read_through(file)?;
        // SAFETY: the bytes behind the slice must not change. The store's exclusive lock on its root keeps every
        // other oncefs away, and ours opens these files read-only once they have their final name. The safe
        // alternative, reading the file into memory, would cost each mounted layer its whole tree in memory.
        unsafe { memmap2::Mmap::map(file) }.map(Self)
    }
}

fn read_through(file: &File) -> io::Result<()> {
    let (mut buffer, mut at) = (vec![0; PIECE_BYTES], 0);
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(()),
            Ok(read) => at += read as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_mapped_file_reads_as_what_was_written_even_when_it_is_gone() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"some bytes").unwrap();
        let map = Map::open(&file).unwrap();
        drop(file);
        assert_eq!(&*map, b"some bytes");
    }

    #[test]
    fn an_empty_file_is_an_empty_slice() {
        assert!(Map::open(&tempfile::tempfile().unwrap()).unwrap().is_empty());
    }
}
