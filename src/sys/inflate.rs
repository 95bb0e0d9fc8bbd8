//! Inflate (RFC 1951, RFC 1952) that can stop at a block boundary and later start again at one.
//!
//! flate2 offers neither stopping at blocks nor priming, so this wraps the C interface of the same zlib-rs
//! that flate2 uses. Nothing here knows of frames, files or limits.

use std::ffi::CStr;

use libz_rs_sys as z;

/// What a match can reach back to (RFC 1951, section 2).
pub const WINDOW_BYTES: usize = 32 << 10;

/// One call works on at most this much of a buffer, since lengths are 32 bits wide in the C interface.
const CALL_BYTES_MAX: usize = 1 << 30;

/// An inflater in the middle of its stream.
pub struct Inflate {
    /// Initialised by `inflateInit2_` for as long as this exists. Boxed: the C interface may hold on to its address.
    stream: Box<z::z_stream>,
}

/// What stands around the deflate stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    Raw,
    /// One gzip member: header, and a trailer whose CRC and length are checked.
    Gzip,
}

/// When a step ends, besides the end of its buffers and of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    Full,
    /// At the next boundary of a deflate block, and after a gzip header.
    Block,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub read: usize,
    pub written: usize,
    pub at: At,
}

/// Where a step stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Somewhere: it wants more input, or more room.
    Inside,
    /// Between two blocks. `unused_bits` were read but belong to what follows; after the `last` block
    /// comes no other but the end.
    Boundary { unused_bits: u8, last: bool },
    /// After the stream, and for gzip after its trailer. Only [`Inflate::reset`] goes on from here.
    End,
}

/// Why a stream cannot be inflated, in zlib's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InflateError(String);

// === impl Inflate ===

impl Inflate {
    pub fn new(wrapping: Wrapping) -> Result<Self, InflateError> {
        let mut stream = Box::new(z::z_stream::default());
        // SAFETY: the stream is a default one with its allocator set, and lives as long as its box.
        let code = unsafe {
            z::inflateInit2_(&mut *stream, window_bits(wrapping), z::zlibVersion(), size_of::<z::z_stream>() as i32)
        };
        if code == z::Z_OK { Ok(Self { stream }) } else { Err(InflateError(format!("inflateInit2 gave {code}"))) }
    }

    /// A raw inflater that stands at a block boundary: the upper `bits` (0..=7) of the byte `shared` come first, and
    /// matches reach back into `window`.
    pub fn resume(bits: u8, shared: u8, window: &[u8]) -> Result<Self, InflateError> {
        let mut inflate = Self::new(Wrapping::Raw)?;
        if bits > 7 || window.len() > WINDOW_BYTES {
            return Err(InflateError(format!("no block starts with {bits} bits and a window of {}", window.len())));
        }
        if bits > 0 {
            // SAFETY: the stream was initialised by `new`.
            let code = unsafe { z::inflatePrime(&mut *inflate.stream, bits.into(), i32::from(shared >> (8 - bits))) };
            inflate.expect_ok("inflatePrime", code)?;
        }
        if !window.is_empty() {
            // SAFETY: the stream was initialised by `new`; pointer and length are of one slice.
            let code = unsafe { z::inflateSetDictionary(&mut *inflate.stream, window.as_ptr(), window.len() as u32) };
            inflate.expect_ok("inflateSetDictionary", code)?;
        }
        Ok(inflate)
    }

    /// Forgets everything and stands before a new stream.
    pub fn reset(&mut self, wrapping: Wrapping) -> Result<(), InflateError> {
        // SAFETY: the stream was initialised by `new`.
        let code = unsafe { z::inflateReset2(&mut *self.stream, window_bits(wrapping)) };
        self.expect_ok("inflateReset2", code)
    }

    /// Inflates from `input` into `out` as far as both reach. A step that neither reads nor writes wants more input.
    pub fn next(&mut self, input: &[u8], out: &mut [u8], until: Until) -> Result<Step, InflateError> {
        let (avail_in, avail_out) = (input.len().min(CALL_BYTES_MAX), out.len().min(CALL_BYTES_MAX));
        self.stream.next_in = input.as_ptr();
        self.stream.avail_in = avail_in as u32;
        self.stream.next_out = out.as_mut_ptr();
        self.stream.avail_out = avail_out as u32;
        let flush = if until == Until::Block { z::Z_BLOCK } else { z::Z_NO_FLUSH };
        // SAFETY: the stream was initialised by `new`; its pointers and lengths are those of the two slices, which
        // outlive the call, and no later call sees them again.
        let code = unsafe { z::inflate(&mut *self.stream, flush) };
        let at = match code {
            z::Z_STREAM_END => At::End,
            z::Z_OK | z::Z_BUF_ERROR => self.place(until),
            _ => return Err(self.error("inflate", code)),
        };
        Ok(Step {
            read: avail_in - self.stream.avail_in as usize,
            written: avail_out - self.stream.avail_out as usize,
            at,
        })
    }

    /// What the next match may reach back to: the last 32 KiB written since the stream's start, or less.
    pub fn window(&self) -> Vec<u8> {
        let mut window = vec![0; WINDOW_BYTES];
        let mut len = 0;
        // SAFETY: the stream was initialised by `new`, and 32 KiB are always enough.
        let code = unsafe { z::inflateGetDictionary(&*self.stream, window.as_mut_ptr(), &mut len) };
        window.truncate(if code == z::Z_OK { len as usize } else { 0 });
        window
    }

    /// `data_type` holds the number of unused bits, 64 in the last block and 128 at a boundary (zlib.h, `inflate`).
    fn place(&self, until: Until) -> At {
        let state = self.stream.data_type;
        if until == Until::Block && state & 128 != 0 {
            At::Boundary { unused_bits: (state & 63) as u8, last: state & 64 != 0 }
        } else {
            At::Inside
        }
    }

    fn expect_ok(&self, call: &str, code: i32) -> Result<(), InflateError> {
        if code == z::Z_OK { Ok(()) } else { Err(self.error(call, code)) }
    }

    fn error(&self, call: &str, code: i32) -> InflateError {
        if self.stream.msg.is_null() {
            return InflateError(format!("{call} gave {code}"));
        }
        // SAFETY: zlib's messages are constant strings that end with a zero byte.
        let message = unsafe { CStr::from_ptr(self.stream.msg) };
        InflateError(message.to_string_lossy().into_owned())
    }
}

impl Drop for Inflate {
    fn drop(&mut self) {
        // SAFETY: the stream was initialised by `new` and is not used again.
        unsafe { z::inflateEnd(&mut *self.stream) };
    }
}

/// zlib.h, `inflateInit2`: negative is raw, 16 more is gzip.
fn window_bits(wrapping: Wrapping) -> i32 {
    match wrapping {
        Wrapping::Raw => -15,
        Wrapping::Gzip => 15 + 16,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use flate2::Compression;
    use flate2::read::GzDecoder;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Bytes that compress, with matches near and far.
    fn text(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut bytes = Vec::with_capacity(len + 64);
        while bytes.len() < len {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let back = (state >> 33) as usize % 40_000;
            if state.is_multiple_of(3) && back < bytes.len() {
                let from = bytes.len() - 1 - back;
                let copied = bytes[from..(from + 24).min(bytes.len())].to_vec();
                bytes.extend(copied);
            } else {
                bytes.extend(state.to_le_bytes());
            }
        }
        bytes.truncate(len);
        bytes
    }

    /// A place to start again: unread input, bits, byte before, window, bytes that came out before.
    type Checkpoint = (usize, u8, u8, Vec<u8>, usize);

    fn inflate_noting_boundaries(packed: &[u8], room: usize) -> (Vec<u8>, Vec<Checkpoint>) {
        let mut inflate = Inflate::new(Wrapping::Gzip).unwrap();
        let (mut at, mut out, mut checkpoints) = (0, Vec::new(), Vec::new());
        let mut buffer = vec![0; room];
        loop {
            let step = inflate.next(&packed[at..], &mut buffer, Until::Block).unwrap();
            at += step.read;
            out.extend_from_slice(&buffer[..step.written]);
            match step.at {
                At::End => return (out, checkpoints),
                At::Boundary { unused_bits, last: false } => {
                    assert!(unused_bits < 8);
                    checkpoints.push((at, unused_bits, packed[at - 1], inflate.window(), out.len()));
                }
                _ => assert!(step.read + step.written > 0, "no progress"),
            }
        }
    }

    #[test]
    fn every_block_boundary_is_a_place_to_start_again() {
        let tar = text(1, 700_000);
        // At level 1 zlib-rs, like zlib-ng, makes one block of everything; the others give many.
        for (level, least) in [(0, 5), (1, 1), (2, 5), (6, 5), (9, 5)] {
            let packed = gzip(&tar, level);
            let (out, checkpoints) = inflate_noting_boundaries(&packed, 10_000);
            assert!(out == tar);
            assert!(checkpoints.len() >= least, "level {level} has {} blocks", checkpoints.len());
            for (at, bits, shared, window, before) in checkpoints {
                assert_eq!(window.len(), before.min(WINDOW_BYTES));
                let mut inflate = Inflate::resume(bits, shared, &window).unwrap();
                let mut rest = vec![0; tar.len() - before];
                let step = inflate.next(&packed[at..], &mut rest, Until::Full).unwrap();
                assert_eq!(step.written, rest.len());
                assert!(rest == tar[before..]);
            }
        }
    }

    #[test]
    fn input_may_come_a_byte_at_a_time() {
        let tar = text(2, 50_000);
        let packed = gzip(&tar, 6);
        let mut inflate = Inflate::new(Wrapping::Gzip).unwrap();
        let (mut out, mut buffer, mut at) = (Vec::new(), vec![0; 70_000], At::Inside);
        for byte in &packed {
            let step = inflate.next(&[*byte], &mut buffer, Until::Full).unwrap();
            assert_eq!(step.read, 1);
            out.extend_from_slice(&buffer[..step.written]);
            at = step.at;
        }
        assert_eq!(at, At::End);
        assert!(out == tar);
    }

    #[test]
    fn a_wrong_crc_and_a_wrong_length_are_errors() {
        let packed = gzip(b"some words", 6);
        for back in [1, 5] {
            let mut wrong = packed.clone();
            let at = wrong.len() - back;
            wrong[at] ^= 1;
            let mut inflate = Inflate::new(Wrapping::Gzip).unwrap();
            assert!(inflate.next(&wrong, &mut [0; 100], Until::Full).is_err());
        }
    }

    #[test]
    fn a_checkpoint_that_cannot_be_is_refused() {
        assert!(Inflate::resume(8, 0, &[]).is_err());
        assert!(Inflate::resume(0, 0, &vec![0; WINDOW_BYTES + 1]).is_err());
    }

    proptest! {
        #[test]
        fn it_inflates_what_flate2_inflates(seed: u64, len in 0usize..120_000, level in 0u32..10, room in 1usize..90_000) {
            let packed = gzip(&text(seed, len), level);
            let mut oracle = Vec::new();
            GzDecoder::new(&packed[..]).read_to_end(&mut oracle).unwrap();
            prop_assert!(inflate_noting_boundaries(&packed, room).0 == oracle);
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>, bits in 0u8..8, shared: u8, window in prop::collection::vec(any::<u8>(), 0..99)) {
            let mut inflate = Inflate::resume(bits, shared, &window).unwrap();
            let _ = inflate.next(&bytes, &mut [0; 4096], Until::Block);
        }
    }
}
