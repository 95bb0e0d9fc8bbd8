//! Where a tree's bytes go: nowhere but into a count, or hashed into a file.

use std::io::{self, Write};

use crate::digest::{Digest, Hasher};
use crate::index::tree::format::BLOCK;

/// Where bytes go, or would go.
pub(super) trait Out {
    fn at(&self) -> u64;
    fn put(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn zeros(&mut self, count: u64) -> io::Result<()>;

    fn align(&mut self, to: u64) -> io::Result<()> {
        self.zeros(self.at().next_multiple_of(to) - self.at())
    }
}

/// The first pass's: counts.
pub(super) struct Counted {
    at: u64,
}

/// The second pass's: gathers, hashes and writes.
pub(super) struct Streamed<W> {
    at: u64,
    buffer: Vec<u8>,
    hasher: Hasher,
    into: W,
}

/// Bytes gathered before each write: few system calls, and still next to nothing in memory.
const BUFFER_BYTES: usize = 256 << 10;

// === impl Counted, Streamed ===

impl Counted {
    pub(super) fn new(at: u64) -> Self {
        Self { at }
    }
}

impl Out for Counted {
    fn at(&self) -> u64 {
        self.at
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.zeros(bytes.len() as u64)
    }

    fn zeros(&mut self, count: u64) -> io::Result<()> {
        self.at += count;
        Ok(())
    }
}

impl<W: Write> Streamed<W> {
    pub(super) fn new(at: u64, into: W) -> Self {
        Self { at, buffer: Vec::with_capacity(BUFFER_BYTES), hasher: Hasher::default(), into }
    }

    /// Writes what is left, and gives the digest of all that was written.
    pub(super) fn finish(mut self) -> io::Result<Digest> {
        self.flush()?;
        Ok(self.hasher.finish())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        self.into.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl<W: Write> Out for Streamed<W> {
    fn at(&self) -> u64 {
        self.at
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn zeros(&mut self, count: u64) -> io::Result<()> {
        const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
        let mut left = count;
        while left > 0 {
            let some = ZEROS.get(..left.min(BLOCK) as usize).unwrap_or(&ZEROS);
            self.put(some)?;
            left -= some.len() as u64;
        }
        Ok(())
    }
}
