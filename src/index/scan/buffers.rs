//! Buffers that go round: filled by the unpacker, read by the others, then filled again. Their number bounds
//! how far the unpacker may be ahead.

use std::ops::Deref;
use std::sync::mpsc::{Receiver, Sender, channel};

/// One handing-over between threads is for so many bytes: at 500 MB/s 2,000 times a second, which costs nothing, and
/// two such buffers still fit a core's cache.
pub(super) const BUFFER_BYTES: usize = 256 << 10;

/// 2 MiB in all: enough to bridge a slow write, little for a machine that scans ten layers at once. Twice as many were
/// no faster.
pub(super) const BUFFERS: usize = 8;

/// Where buffers come from and go back to.
pub(super) struct Pool {
    free: Receiver<Vec<u8>>,
    home: Sender<Vec<u8>>,
    made: usize,
}

/// Filled bytes; their memory goes back to the pool with the last who holds them.
#[derive(Debug)]
pub(super) struct Filled {
    bytes: Vec<u8>,
    len: usize,
    home: Sender<Vec<u8>>,
}

// === impl Pool ===

impl Pool {
    pub(super) fn new() -> Self {
        let (home, free) = channel();
        Self { free, home, made: 0 }
    }

    /// A buffer of [`BUFFER_BYTES`]; waits for one if all are in use.
    pub(super) fn take(&mut self) -> Vec<u8> {
        if let Ok(bytes) = self.free.try_recv() {
            return bytes;
        }
        if self.made < BUFFERS {
            self.made += 1;
            return vec![0; BUFFER_BYTES];
        }
        self.free.recv().expect("bug: the pool itself holds a sender, so the channel cannot be closed")
    }

    /// The first `len` bytes of a buffer, to hand on.
    pub(super) fn filled(&self, bytes: Vec<u8>, len: usize) -> Filled {
        Filled { len: len.min(bytes.len()), bytes, home: self.home.clone() }
    }
}

// === impl Filled ===

impl Deref for Filled {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let _ = self.home.send(std::mem::take(&mut self.bytes)); // the pool may be gone before its buffers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_is_let_go_is_used_again() {
        let mut pool = Pool::new();
        for _ in 0..10 * BUFFERS {
            let bytes = pool.take();
            drop(pool.filled(bytes, 7));
        }
        assert_eq!(pool.made, 1);
    }

    #[test]
    fn no_more_than_the_bound_are_made_and_the_next_waits() {
        let mut pool = Pool::new();
        let buffers: Vec<_> = (0..BUFFERS).map(|_| pool.take()).collect();
        let mut held: Vec<_> = buffers.into_iter().map(|bytes| pool.filled(bytes, 1)).collect();
        let one = held.pop();
        let waiting = std::thread::spawn(move || (pool.take().len(), pool.made));
        drop(one);
        assert_eq!(waiting.join().unwrap(), (BUFFER_BYTES, BUFFERS));
    }
}
