//! What the standard library cannot do to a file: punch holes, find them, start write-back, lock, ask for free
//! space, copy ranges, make unnamed files.
//!
//! Never decides what to do on an error: every function hands back what the kernel said.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

/// Space of the file system under a file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    /// Free at all, including what is kept back for root.
    pub free: u64,
    /// Free for this process.
    pub available: u64,
}

/// As much as [`copy`] holds in memory at a time.
const COPY_BYTES: usize = 1 << 20;

/// Gives the blocks of `range` back to the file system: the bytes read as zeros from now on, the length stays.
pub fn punch(file: &File, range: Range<u64>) -> io::Result<()> {
    let len = range.end.saturating_sub(range.start);
    if len == 0 {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, flags, range.start, len)?)
}

/// Makes sure that writes before `end` find their blocks: a full disk shows here and not there. The length stays.
/// `Unsupported` if the file system cannot promise that.
pub fn reserve(file: &File, end: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, end.max(1))?)
}

/// The parts of `range` that have blocks, ascending. A file system that knows no holes says: all of it.
///
/// Moves the file's own offset; those who share the file use positioned reads and writes.
pub fn allocated(file: &File, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let mut parts = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) if start < range.end => start,
            Ok(_) | Err(Errno::NXIO) => break, // no data up to the end of the file
            Err(error) => return Err(error.into()),
        };
        at = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(range.end);
        parts.push(start..at);
    }
    Ok(parts)
}

/// Starts writing the dirty pages of `range` to disk and does not wait for it (sync_file_range(2)): a later fsync then
/// finds little left to do. Promises nothing about durability.
pub fn start_writeback(file: &File, range: Range<u64>) -> io::Result<()> {
    let (Ok(start), Ok(len)) = (i64::try_from(range.start), i64::try_from(range.end.saturating_sub(range.start)))
    else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // SAFETY: plain numbers and a descriptor that `file` keeps open for the whole call; no memory is passed.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, libc::SYNC_FILE_RANGE_WRITE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the file's exclusive lock without waiting; false if another open file description holds it. The lock ends
/// when the last descriptor of this open file description is closed, also by the death of the process.
pub fn try_lock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The space of the file system `file` is on.
pub fn space(file: &File) -> io::Result<Space> {
    let stat = rustix::fs::fstatvfs(file)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Space { total: bytes(stat.f_blocks), free: bytes(stat.f_bfree), available: bytes(stat.f_bavail) })
}

/// A file without a name in the file system of `directory`: it is gone when it is closed, whatever happens.
pub fn unnamed(directory: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Copies the first `len` bytes of `from` to `to` at `at`.
pub fn copy(from: &File, to: &File, at: u64, len: u64) -> io::Result<()> {
    copy_from(from, 0, to, at, len)
}

fn copy_from(from: &File, from_at: u64, to: &File, at: u64, len: u64) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut done = 0;
    while done < len {
        let piece = usize::try_from(len - done).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
        let piece = buffer.get_mut(..piece).unwrap_or_default();
        from.read_exact_at(piece, from_at + done)?;
        to.write_all_at(piece, at + done)?;
        done += piece.len() as u64;
    }
    Ok(())
}

/// Puts `len` bytes of `from` into `to`. Whole blocks that lie alike in both are shared by the two files where the file system can
/// do that (copy_file_range(2) tries it first); the kernel copies the rest, or we do.
pub fn share(from: &File, from_at: u64, to: &File, to_at: u64, len: u64) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let (mut source, mut target) = (from_at + done, to_at + done);
        let left = usize::try_from(len - done).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), left) {
            Ok(copied) if copied > 0 => done += copied as u64,
            Err(Errno::INTR) => {}
            Ok(_) | Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                return copy_from(from, from_at + done, to, to_at + done, len - done);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Makes a directory's entries durable: what was created in, renamed into or removed from it.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes everything durable that was written to the file system that this is on (syncfs(2)): for many files at once.
pub fn sync_file_system(at: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(at)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn content(file: &File) -> Vec<u8> {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn a_punched_range_reads_as_zeros_and_is_allocated_no_more() {
        let file = file_of(&[7; 256 << 10]);
        punch(&file, 64 << 10..128 << 10).unwrap();
        assert_eq!(allocated(&file, 0..256 << 10).unwrap(), [0..64 << 10, 128 << 10..256 << 10]);
        let bytes = content(&file);
        assert_eq!(bytes.len(), 256 << 10);
        assert!(bytes[64 << 10..128 << 10].iter().all(|byte| *byte == 0));
        assert!(bytes[128 << 10..].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn reserving_space_leaves_the_length_and_the_bytes() {
        let file = file_of(b"some bytes");
        reserve(&file, 1 << 20).unwrap();
        assert_eq!(content(&file), b"some bytes");
    }

    #[test]
    fn nothing_is_allocated_in_a_sparse_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 30).unwrap();
        assert_eq!(allocated(&file, 0..1 << 30).unwrap(), []);
        punch(&file, 5..5).unwrap();
    }

    #[test]
    fn a_lock_is_refused_to_a_second_opener_until_the_first_closes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = File::create(&path).unwrap();
        assert!(try_lock(&first).unwrap());
        let second = File::create(&path).unwrap();
        assert!(!try_lock(&second).unwrap());
        drop(first);
        assert!(crate::sys::comes_to_be(|| try_lock(&second).unwrap()));
    }

    #[test]
    fn a_copy_crosses_pieces_and_lands_at_its_offset() {
        let bytes: Vec<u8> = (0..COPY_BYTES + 77).map(|i| (i % 251) as u8).collect();
        let to = tempfile::tempfile().unwrap();
        copy(&file_of(&bytes), &to, 1000, bytes.len() as u64).unwrap();
        assert_eq!(content(&to)[1000..], bytes);
        assert_eq!(copy(&file_of(b"short"), &to, 0, 9).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_share_is_what_a_copy_would_be_and_ends_with_its_source() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        let to = tempfile::tempfile().unwrap();
        for (from_at, to_at, len) in
            [(0, 0, 100_000), (4096, 8192, 70_000), (17, 5, 9), (99_999, 300_000, 1), (5, 5, 0)]
        {
            share(&file_of(&bytes), from_at, &to, to_at, len).unwrap();
            let expected = &bytes[from_at as usize..(from_at + len) as usize];
            assert_eq!(content(&to)[to_at as usize..(to_at + len) as usize], *expected);
        }
        assert_eq!(share(&file_of(b"short"), 0, &to, 0, 9).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn an_unnamed_file_leaves_no_name_behind() {
        let dir = tempfile::tempdir().unwrap();
        let file = unnamed(dir.path()).unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        start_writeback(&file, 0..3).unwrap();
        assert_eq!(content(&file), b"abc");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_space_of_a_file_system_adds_up() {
        let space = space(&tempfile::tempfile().unwrap()).unwrap();
        assert!(space.total >= space.free && space.free >= space.available && space.total > 0);
    }
}
