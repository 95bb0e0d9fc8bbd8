//! A layer that is not packed: its frames are ranges of one size.

use std::io::{self, Read, Write};

use super::{Codec, Cut, DecodeError, FRAME_BYTES, RECOGNISE_BYTES, Sink, UnpackError};
use crate::index::frames::Start;

#[derive(Debug, Default)]
pub struct Unpacker {
    position: u64,
}

/// A tar begins with a header block (POSIX.1-2017 `pax`, "ustar Interchange Format") or, with nothing in it, with
/// zeros; nothing at all is the shortest tar.
pub(super) fn looks_like_tar(head: &[u8]) -> bool {
    if head.is_empty() {
        return true;
    }
    let Some(block) = head.get(..RECOGNISE_BYTES) else {
        return false;
    };
    block.get(257..262) == Some(b"ustar".as_slice()) || block.iter().all(|byte| *byte == 0) || checksum_holds(block)
}

/// The checksum is the sum of the header's bytes with its own eight counted as spaces, written in octal.
fn checksum_holds(block: &[u8]) -> bool {
    let digits = |byte: &u8| (b'0'..=b'7').contains(byte);
    let written = block.iter().skip(148).take(8).skip_while(|byte| **byte == b' ').take_while(|byte| digits(byte));
    let written = written.fold(0u32, |sum, digit| sum * 8 + u32::from(digit - b'0'));
    let own = 148..156;
    let sum: u32 =
        block.iter().enumerate().map(|(i, byte)| u32::from(if own.contains(&i) { b' ' } else { *byte })).sum();
    written == sum
}

impl Unpacker {
    pub(super) fn push(&mut self, mut input: &[u8], sink: &mut dyn Sink) -> Result<(), UnpackError> {
        while !input.is_empty() {
            let to_cut = usize::try_from(FRAME_BYTES - self.position % FRAME_BYTES).unwrap_or(usize::MAX);
            let room = sink.room()?;
            let count = input.len().min(room.len()).min(to_cut);
            let (piece, rest) = input.split_at(count);
            if let Some(room) = room.get_mut(..count) {
                room.copy_from_slice(piece);
            }
            sink.filled(count)?;
            self.position += count as u64;
            input = rest;
            if self.position.is_multiple_of(FRAME_BYTES) {
                sink.cut(Cut { end: self.position, next: Some((self.position, Start::Plain)) })?;
            }
        }
        Ok(())
    }

    pub(super) fn end(&self) -> u64 {
        self.position
    }
}

pub(super) fn decode(len: u64, source: &mut dyn Read, out: &mut dyn Write) -> Result<(), DecodeError> {
    let mut buffer = vec![0; usize::try_from(len).map_or(super::INPUT_BYTES, |len| len.min(super::INPUT_BYTES))];
    let mut left = len;
    while left > 0 {
        let room = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let room = buffer.get_mut(..room).unwrap_or_default();
        let read = match source.read(room) {
            Ok(0) => return Err(DecodeError::Truncated { codec: Codec::Plain, at: len - left }),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(DecodeError::Read(error)),
        };
        out.write_all(room.get(..read).unwrap_or_default()).map_err(DecodeError::Write)?;
        left -= read as u64;
    }
    Ok(())
}
