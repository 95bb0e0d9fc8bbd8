//! How a layer's bytes are packed: recognising it, unpacking a whole blob as it streams by while noting where
//! frames can start, and decoding one frame alone.
//!
//! Pure: bytes in, bytes out. Nothing here knows files, networks, digests or limits; whoever takes the bytes
//! stops the unpacking by refusing them.

mod gzip;
mod plain;
mod window;
mod zstd;

use std::fmt;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::index::frames::{Frame, Start};
use crate::sys::inflate::InflateError;

pub use zstd::{WindowPacker, unpack_window};

/// A frame ends at the first place after this many bytes of tar where another can start: small enough that a
/// random read fetches little, large enough that checkpoints cost less than 1 % of the blob.
pub const FRAME_BYTES: u64 = 1 << 20;

/// [`recognise`] wants to see this much of a blob, or all of it: one tar header block.
pub const RECOGNISE_BYTES: usize = 512;

/// How a blob is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    Plain,
    Gzip,
    Zstd,
}

/// Takes what an unpacker makes, in order. `Err` means that nobody wants more.
pub trait Sink {
    /// Where the next bytes of the tar go. Never empty.
    fn room(&mut self) -> Result<&mut [u8], Stopped>;
    /// The first `count` bytes of the room hold tar now.
    fn filled(&mut self, count: usize) -> Result<(), Stopped>;
    /// A frame can end and another start here.
    fn cut(&mut self, cut: Cut) -> Result<(), Stopped>;
    /// This is all that is ever read of the window of the frame that started last: it may stand in the window's place.
    fn thinned(&mut self, _window: Vec<u8>) {}
}

/// The border between two frames, or the end of the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Where in the blob the frame so far ends.
    pub end: u64,
    /// Where in the blob the next one starts, and how to start there; `None` after the last.
    pub next: Option<(u64, Start)>,
}

/// The sink wants no more; it knows why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// Unpacks one blob, piece by piece.
pub enum Unpacker {
    Plain(plain::Unpacker),
    Gzip(Box<gzip::Unpacker>),
    Zstd(zstd::Unpacker),
}

/// Why unpacking ended before the blob did.
#[derive(Debug)]
pub enum UnpackError {
    Decode(DecodeError),
    Stopped,
}

/// Why bytes cannot be decoded. Offsets are in the blob while unpacking, in the frame's source while decoding one.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("not {expected}: the first bytes are {first}, which is neither gzip (1f 8b), zstd (28 b5 2f fd) nor a tar")]
    Unrecognised { expected: String, first: String },
    #[error("{codec} data damaged near byte {at}: {reason}")]
    Damaged { codec: Codec, at: u64, reason: String },
    #[error("{codec} data ends early, after byte {at}")]
    Truncated { codec: Codec, at: u64 },
    #[error("after the last gzip member, at byte {at}, comes {found:02x} where a member (1f) or zeros may come")]
    Garbage { at: u64, found: u8 },
    #[error("the zstd window is larger than 128 MiB; repack the layer without --ultra/--long above 27")]
    WindowTooLarge,
    #[error("the frame's source cannot be read")]
    Read(#[source] io::Error),
    #[error("the frame's bytes cannot be written")]
    Write(#[source] io::Error),
}

// === impl Codec ===

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// How the blob that begins with `head` is packed. The media type is only a hint, registries hold blobs that
/// contradict theirs; the first bytes decide, and the hint makes the error clearer.
pub fn recognise(head: &[u8], media_type: &str) -> Result<Codec, DecodeError> {
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Codec::Gzip);
    }
    if zstd::starts_frame(head) {
        return Ok(Codec::Zstd);
    }
    if plain::looks_like_tar(head) {
        return Ok(Codec::Plain);
    }
    let hint: String = media_type.chars().take(100).collect();
    let expected = match hint.as_str() {
        "" => "a layer".to_owned(),
        hint if hint.ends_with("gzip") => format!("gzip, which its media type {hint} promises"),
        hint if hint.ends_with("zstd") => format!("zstd, which its media type {hint} promises"),
        hint => format!("a tar, which its media type {hint} promises"),
    };
    let first: Vec<String> = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Err(DecodeError::Unrecognised { expected, first: first.join(" ") })
}

// === impl Unpacker ===

impl Unpacker {
    pub fn new(codec: Codec) -> Result<Self, DecodeError> {
        Ok(match codec {
            Codec::Plain => Self::Plain(plain::Unpacker::default()),
            Codec::Gzip => Self::Gzip(Box::new(gzip::Unpacker::new()?)),
            Codec::Zstd => Self::Zstd(zstd::Unpacker::new()?),
        })
    }

    /// How the first frame starts.
    pub fn first(&self) -> Start {
        match self {
            Self::Plain(_) => Start::Plain,
            Self::Gzip(_) => Start::Member,
            Self::Zstd(_) => Start::Zstd,
        }
    }

    /// Unpacks the blob's next bytes.
    pub fn push(&mut self, input: &[u8], sink: &mut dyn Sink) -> Result<(), UnpackError> {
        match self {
            Self::Plain(plain) => plain.push(input, sink),
            Self::Gzip(gzip) => gzip.push(input, sink),
            Self::Zstd(zstd) => zstd.push(input, sink),
        }
    }

    /// Says that the blob is over, and ends the last frame.
    pub fn finish(self, sink: &mut dyn Sink) -> Result<(), UnpackError> {
        let end = match self {
            Self::Plain(plain) => plain.end(),
            Self::Gzip(gzip) => gzip.end()?,
            Self::Zstd(zstd) => zstd.end()?,
        };
        Ok(sink.cut(Cut { end, next: None })?)
    }
}

/// Decodes one frame. `source` gives the bytes of `frame.source`; exactly `frame.data`'s length goes to `out`, or it
/// is an error. Nothing is verified here: the caller compares `out` with the frame's digest.
pub fn decode(frame: &Frame, source: &mut dyn Read, out: &mut dyn Write) -> Result<(), DecodeError> {
    let len = frame.data.end.saturating_sub(frame.data.start);
    match &frame.start {
        Start::Plain => plain::decode(len, source, out),
        Start::Member => gzip::decode_member(0, len, source, out),
        Start::Inside { skip } => gzip::decode_member(*skip, len, source, out),
        Start::Block { bits, window } => gzip::decode_block(*bits, window, len, source, out),
        Start::Zstd => zstd::decode(len, source, out),
    }
}

// === impl UnpackError ===

impl From<Stopped> for UnpackError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<DecodeError> for UnpackError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

// === impl DecodeError ===

impl DecodeError {
    fn inflate(at: u64) -> impl FnOnce(InflateError) -> Self {
        move |error| Self::Damaged { codec: Codec::Gzip, at, reason: error.to_string() }
    }
}

/// A frame's source while it is being decoded, through a buffer.
struct Input<'a> {
    source: &'a mut dyn Read,
    buffer: Vec<u8>,
    unread: std::ops::Range<usize>,
    /// Bytes of the source taken so far.
    taken: u64,
}

const INPUT_BYTES: usize = 64 << 10;

impl<'a> Input<'a> {
    fn new(source: &'a mut dyn Read) -> Self {
        Self { source, buffer: vec![0; INPUT_BYTES], unread: 0..0, taken: 0 }
    }

    /// The next bytes; none when the source is over.
    fn peek(&mut self) -> Result<&[u8], DecodeError> {
        if self.unread.is_empty() {
            let read = loop {
                match self.source.read(&mut self.buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    outcome => break outcome.map_err(DecodeError::Read)?,
                }
            };
            self.unread = 0..read;
        }
        Ok(self.buffer.get(self.unread.clone()).unwrap_or_default())
    }

    fn take(&mut self, count: usize) {
        let count = count.min(self.unread.len());
        self.unread.start += count;
        self.taken += count as u64;
    }

    fn truncated(&self, codec: Codec) -> DecodeError {
        DecodeError::Truncated { codec, at: self.taken }
    }
}

#[cfg(test)]
mod tests;
