//! zstd (RFC 8878): frames one after another, some of them skippable. A frame of ours is one or more of
//! zstd's, as many as make about 1 MiB; a blob that is one zstd frame is one frame.

use std::io::{self, Read, Write};

use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer};

use super::{Codec, Cut, DecodeError, FRAME_BYTES, INPUT_BYTES, Input, Sink, UnpackError};
use crate::index::frames::Start;
use crate::sys::inflate::WINDOW_BYTES;

/// The largest window allowed, as a power of two: 128 MiB, what zstd(1) itself decodes without being told to.
/// Memory of this size is held while a blob or a frame is decoded.
const WINDOW_LOG_MAX: u32 = 27;

/// Windows of checkpoints are packed with level 1: they are 3 % of the tar, and a better level saves little.
const WINDOW_LEVEL: i32 = 1;

/// Whether a zstd frame or a skippable one starts here (RFC 8878, sections 3.1.1 and 3.1.2).
pub(super) fn starts_frame(head: &[u8]) -> bool {
    match head.first_chunk::<4>().map(|magic| u32::from_le_bytes(*magic)) {
        Some(magic) => magic == zstd_safe::MAGICNUMBER || magic & 0xffff_fff0 == zstd_safe::MAGIC_SKIPPABLE_START,
        None => false,
    }
}

/// Unpacks a blob of zstd frames.
pub struct Unpacker {
    decoder: DCtx<'static>,
    position: u64,
    since: u64,
    inside: bool,
    /// Where in the blob the last frame that held any tar ended.
    end: u64,
    /// Whether the zstd frame that is being decoded has given any tar.
    gave: bool,
}

/// What one call of the decoder did.
struct Step {
    read: usize,
    written: usize,
    /// A zstd frame is over.
    over: bool,
}

impl Unpacker {
    pub(super) fn new() -> Result<Self, DecodeError> {
        Ok(Self { decoder: decoder()?, position: 0, since: 0, inside: false, end: 0, gave: false })
    }

    pub(super) fn push(&mut self, mut input: &[u8], sink: &mut dyn Sink) -> Result<(), UnpackError> {
        loop {
            if !self.inside {
                if input.is_empty() {
                    return Ok(());
                }
                self.start_frame(sink)?;
            }
            let step = step(&mut self.decoder, input, sink.room()?, self.position)?;
            self.position += step.read as u64;
            if step.written > 0 {
                sink.filled(step.written)?;
                self.since += step.written as u64;
                self.gave = true;
            }
            input = input.get(step.read..).unwrap_or_default();
            if step.over {
                self.inside = false;
                if self.gave {
                    self.end = self.position;
                }
            } else if step.read == 0 && step.written == 0 {
                return Ok(());
            }
        }
    }

    pub(super) fn end(&self) -> Result<u64, DecodeError> {
        if self.inside { Err(DecodeError::Truncated { codec: Codec::Zstd, at: self.position }) } else { Ok(self.end) }
    }

    fn start_frame(&mut self, sink: &mut dyn Sink) -> Result<(), UnpackError> {
        if self.since >= FRAME_BYTES {
            self.since = 0;
            sink.cut(Cut { end: self.end, next: Some((self.position, Start::Zstd)) })?;
        }
        self.inside = true;
        self.gave = false;
        Ok(())
    }
}

pub(super) fn decode(len: u64, source: &mut dyn Read, out: &mut dyn Write) -> Result<(), DecodeError> {
    let mut decoder = decoder()?;
    let mut input = Input::new(source);
    let mut buffer = vec![0; usize::try_from(len).map_or(INPUT_BYTES, |len| len.min(INPUT_BYTES))];
    let mut left = len;
    while left > 0 {
        let room = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let room = buffer.get_mut(..room).unwrap_or_default();
        let at = input.taken;
        let step = step(&mut decoder, input.peek()?, room, at)?;
        input.take(step.read);
        out.write_all(room.get(..step.written).unwrap_or_default()).map_err(DecodeError::Write)?;
        left -= step.written as u64;
        if step.read == 0 && step.written == 0 {
            return Err(input.truncated(Codec::Zstd));
        }
    }
    Ok(())
}

fn decoder() -> Result<DCtx<'static>, DecodeError> {
    let mut decoder = DCtx::try_create().ok_or_else(|| damaged(0, "no memory for a decoder"))?;
    let set = decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX));
    set.map_err(|code| damaged(0, zstd_safe::get_error_name(code)))?;
    Ok(decoder)
}

fn step(decoder: &mut DCtx<'_>, input: &[u8], room: &mut [u8], at: u64) -> Result<Step, DecodeError> {
    let mut from = InBuffer::around(input);
    let mut into = OutBuffer::around(room);
    let hint = decoder.decompress_stream(&mut into, &mut from).map_err(|code| {
        // The name of ZSTD_error_frameParameter_windowTooLarge; zstd-safe hands out no codes to compare with.
        match zstd_safe::get_error_name(code) {
            "Frame requires too much memory for decoding" => DecodeError::WindowTooLarge,
            reason => damaged(at, reason),
        }
    })?;
    Ok(Step { read: from.pos(), written: into.pos(), over: hint == 0 })
}

fn damaged(at: u64, reason: &str) -> DecodeError {
    DecodeError::Damaged { codec: Codec::Zstd, at, reason: reason.to_owned() }
}

/// Packs the windows of checkpoints, with one compressor for all of a layer's: making one costs as much as using it.
pub struct WindowPacker(zstd::bulk::Compressor<'static>);

impl WindowPacker {
    pub fn new() -> io::Result<Self> {
        Ok(Self(zstd::bulk::Compressor::new(WINDOW_LEVEL)?))
    }

    /// The window as the frames file keeps it.
    pub fn pack(&mut self, window: &[u8]) -> io::Result<Vec<u8>> {
        self.0.compress(window)
    }
}

impl std::fmt::Debug for WindowPacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WindowPacker")
    }
}

/// The inverse of [`WindowPacker::pack`]; never more than a window can be.
pub fn unpack_window(packed: &[u8]) -> io::Result<Vec<u8>> {
    zstd::bulk::decompress(packed, WINDOW_BYTES)
}
