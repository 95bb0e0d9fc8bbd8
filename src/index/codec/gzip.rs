//! gzip: members one after another (RFC 1952). A frame starts at a member, or between two deflate blocks with
//! the bits and the 32 KiB that the next block needs of what went before.

use std::io::{self, Read, Write};

use super::window::Beginning;
use super::{Codec, Cut, DecodeError, FRAME_BYTES, INPUT_BYTES, Input, Sink, UnpackError};
use crate::index::frames::Start;
use crate::sys::inflate::{At, Inflate, Until, WINDOW_BYTES, Wrapping};

/// CRC and length after a member (RFC 1952, section 2.3.1).
const TRAILER_BYTES: usize = 8;

/// An inflater takes less than this much of what comes after a block before it stops there.
const AHEAD_BYTES: usize = 8;

/// Unpacks a blob of members.
pub struct Unpacker {
    inflate: Inflate,
    phase: Phase,
    /// Bytes of the blob taken so far.
    position: u64,
    /// Bytes of tar since the last cut.
    since: u64,
    /// Where in the blob the last member that held any tar ended: what comes after it is of no use.
    end: u64,
    /// The bytes of the blob taken last.
    recent: [u8; AHEAD_BYTES],
    /// Of the frame since the last cut, if it has a window of which it is not known yet what is read.
    beginning: Option<Beginning>,
}

enum Phase {
    /// In a member; whether it has given any tar yet.
    Member { gave: bool },
    /// After a member.
    Between,
    /// In the zeros after the last member, which gzip(1) lets pass too (tapes were padded with them).
    Padding,
}

impl Unpacker {
    pub(super) fn new() -> Result<Self, DecodeError> {
        let inflate = Inflate::new(Wrapping::Gzip).map_err(DecodeError::inflate(0))?;
        let phase = Phase::Member { gave: false };
        Ok(Self { inflate, phase, position: 0, since: 0, end: 0, recent: [0; AHEAD_BYTES], beginning: None })
    }

    pub(super) fn push(&mut self, mut input: &[u8], sink: &mut dyn Sink) -> Result<(), UnpackError> {
        loop {
            let taken = match self.phase {
                Phase::Member { gave } => match self.inflate(input, gave, sink)? {
                    Some(taken) => taken,
                    None => return Ok(()),
                },
                Phase::Between => match input.first() {
                    None => return Ok(()),
                    Some(0) => {
                        self.phase = Phase::Padding;
                        0
                    }
                    Some(0x1f) => {
                        self.start_member(sink)?;
                        0
                    }
                    Some(found) => return Err(DecodeError::Garbage { at: self.position, found: *found }.into()),
                },
                Phase::Padding => return self.pad(input),
            };
            input = input.get(taken..).unwrap_or_default();
        }
    }

    pub(super) fn end(&self) -> Result<u64, DecodeError> {
        match self.phase {
            Phase::Member { .. } => Err(DecodeError::Truncated { codec: Codec::Gzip, at: self.position }),
            Phase::Between | Phase::Padding => Ok(self.end),
        }
    }

    /// One step of the inflater: how much of the input it took, or `None` if it wants more.
    fn inflate(&mut self, input: &[u8], gave: bool, sink: &mut dyn Sink) -> Result<Option<usize>, UnpackError> {
        // Stopping at every block would cost a copy of the window each; only where a frame may end is it worth it. That is looked
        // for from the same byte on however the input comes and however much room there is: a layer has the same frames always.
        let room = sink.room()?;
        let left = FRAME_BYTES.saturating_sub(self.since);
        let until = if left == 0 { Until::Block } else { Until::Full };
        let length = usize::try_from(left).ok().filter(|left| (1..room.len()).contains(left)).unwrap_or(room.len());
        let room = room.get_mut(..length).unwrap_or_default();
        let step = self.inflate.next(input, room, until).map_err(DecodeError::inflate(self.position))?;
        self.position += step.read as u64;
        if step.written > 0 {
            sink.filled(step.written)?;
            self.since += step.written as u64;
        }
        self.note(input.get(..step.read).unwrap_or_default(), step.at == At::End, sink);
        let gave = gave || step.written > 0;
        self.phase = Phase::Member { gave };
        match step.at {
            At::End => {
                self.phase = Phase::Between;
                if gave {
                    self.end = self.position;
                }
            }
            At::Boundary { unused_bits, last: false } if self.since >= FRAME_BYTES => self.cut(unused_bits, sink)?,
            At::Inside if step.read == 0 && step.written == 0 => return Ok(None),
            At::Inside | At::Boundary { .. } => {}
        }
        Ok(Some(step.read))
    }

    /// Ends a frame here; the next one begins with the byte that holds the unused bits.
    fn cut(&mut self, unused_bits: u8, sink: &mut dyn Sink) -> Result<(), UnpackError> {
        let end = self.position - u64::from(unused_bits / 8);
        let bits = unused_bits % 8;
        let start = if bits > 0 { end - 1 } else { end };
        self.since = 0;
        let window = self.inflate.window();
        let taken = usize::try_from(self.position - start).map_or(AHEAD_BYTES, |taken| taken.min(AHEAD_BYTES));
        let taken = self.recent.get(AHEAD_BYTES - taken..).unwrap_or_default();
        self.beginning = Some(Beginning::new(bits, window.clone(), taken));
        Ok(sink.cut(Cut { end, next: Some((start, Start::Block { bits, window })) })?)
    }

    /// Takes note of source that gave what came out, and says what of the frame's window is read as soon as that is clear.
    fn note(&mut self, taken: &[u8], is_end: bool, sink: &mut dyn Sink) {
        let last = taken.get(taken.len().saturating_sub(AHEAD_BYTES)..).unwrap_or_default();
        self.recent.rotate_left(last.len());
        self.recent.iter_mut().rev().zip(last.iter().rev()).for_each(|(place, byte)| *place = *byte);
        if let Some(beginning) = &mut self.beginning {
            beginning.take(taken);
        }
        if is_end || self.since >= WINDOW_BYTES as u64 {
            let thin = self.beginning.take().and_then(|beginning| beginning.thin(self.since));
            thin.into_iter().for_each(|window| sink.thinned(window));
        }
    }

    fn start_member(&mut self, sink: &mut dyn Sink) -> Result<(), UnpackError> {
        if self.since >= FRAME_BYTES {
            self.since = 0;
            sink.cut(Cut { end: self.end, next: Some((self.position, Start::Member)) })?;
        }
        self.inflate.reset(Wrapping::Gzip).map_err(DecodeError::inflate(self.position))?;
        self.phase = Phase::Member { gave: false };
        Ok(())
    }

    fn pad(&mut self, input: &[u8]) -> Result<(), UnpackError> {
        match input.iter().zip(0u64..).find(|(byte, _)| **byte != 0) {
            Some((found, i)) => Err(DecodeError::Garbage { at: self.position + i, found: *found }.into()),
            None => {
                self.position += input.len() as u64;
                Ok(())
            }
        }
    }
}

/// Decodes `len` bytes, after the first `skip` that come out.
pub(super) fn decode_member(
    skip: u64,
    len: u64,
    source: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<(), DecodeError> {
    let inflate = Inflate::new(Wrapping::Gzip).map_err(DecodeError::inflate(0))?;
    decode(inflate, 0, skip.saturating_add(len), &mut Input::new(source), &mut After { skip, out })
}

/// Lets the first bytes fall.
struct After<'a> {
    skip: u64,
    out: &'a mut dyn Write,
}

impl Write for After<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped = usize::try_from(self.skip).map_or(bytes.len(), |skip| skip.min(bytes.len()));
        self.skip -= skipped as u64;
        self.out.write_all(bytes.get(skipped..).unwrap_or_default())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

pub(super) fn decode_block(
    bits: u8,
    window: &[u8],
    len: u64,
    source: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<(), DecodeError> {
    let mut input = Input::new(source);
    let mut shared = 0;
    if bits > 0 {
        shared = *input.peek()?.first().ok_or(DecodeError::Truncated { codec: Codec::Gzip, at: 0 })?;
        input.take(1);
    }
    let inflate = Inflate::resume(bits, shared, window).map_err(DecodeError::inflate(0))?;
    decode(inflate, TRAILER_BYTES, len, &mut input, out)
}

/// Inflates until `len` bytes came out, into the next members where one ends before. After the first stream come
/// `trailer` bytes that the inflater does not take for itself.
fn decode(
    mut inflate: Inflate,
    mut trailer: usize,
    len: u64,
    input: &mut Input<'_>,
    out: &mut dyn Write,
) -> Result<(), DecodeError> {
    let mut buffer = vec![0; usize::try_from(len).map_or(INPUT_BYTES, |len| len.min(INPUT_BYTES))];
    let mut left = len;
    while left > 0 {
        let room = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let room = buffer.get_mut(..room).unwrap_or_default();
        let at = input.taken;
        let step = inflate.next(input.peek()?, room, Until::Full).map_err(DecodeError::inflate(at))?;
        input.take(step.read);
        out.write_all(room.get(..step.written).unwrap_or_default()).map_err(DecodeError::Write)?;
        left -= step.written as u64;
        if step.at == At::End && left > 0 {
            skip(trailer, input)?;
            trailer = 0;
            inflate.reset(Wrapping::Gzip).map_err(DecodeError::inflate(input.taken))?;
        } else if left > 0 && step.read == 0 && step.written == 0 {
            return Err(input.truncated(Codec::Gzip));
        }
    }
    Ok(())
}

fn skip(mut count: usize, input: &mut Input<'_>) -> Result<(), DecodeError> {
    while count > 0 {
        let there = input.peek()?.len().min(count);
        if there == 0 {
            return Err(input.truncated(Codec::Gzip));
        }
        input.take(there);
        count -= there;
    }
    Ok(())
}
