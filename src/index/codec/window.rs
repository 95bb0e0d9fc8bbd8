//! What of a checkpoint's window is ever read. Matches mostly reach back a little way, so it is a tenth on the average, and the rest may as
//! well be zeros, which pack to nothing.
//!
//! Found out by inflating what follows the checkpoint over two windows of made-up bytes: where the outputs differ stands a byte of the window, and the two
//! of them say which. The inflater need not be one of our own for that.

use crate::sys::inflate::{At, Inflate, InflateError, Until, WINDOW_BYTES};

/// So much source is enough for 32 KiB of output, unless somebody has packed it to be longer than it was.
const SOURCE_BYTES_MAX: usize = 64 << 10;

/// The source with which a frame begins, until no match can reach back to before the frame any more.
pub(super) struct Beginning {
    bits: u8,
    window: Vec<u8>,
    source: Vec<u8>,
}

// === impl Beginning ===

impl Beginning {
    /// As [`Start::Block`](crate::index::frames::Start) has it, with those bytes of the source that the inflater had taken already.
    pub(super) fn new(bits: u8, window: Vec<u8>, taken: &[u8]) -> Self {
        Self { bits, window, source: taken.to_vec() }
    }

    /// More of the source.
    pub(super) fn take(&mut self, source: &[u8]) {
        let left = SOURCE_BYTES_MAX.saturating_sub(self.source.len());
        self.source.extend_from_slice(source.get(..left).unwrap_or(source));
    }

    /// The window with zeros for what is not read while so many bytes come out, and without those at its front. `None` if that
    /// cannot be said: then all of it stays.
    pub(super) fn thin(mut self, written: u64) -> Option<Vec<u8>> {
        let written = usize::try_from(written).map_or(WINDOW_BYTES, |written| written.min(WINDOW_BYTES));
        let (low, high) = (made_up(self.window.len(), low), made_up(self.window.len(), |at| low(at) ^ high(at)));
        let (one, other) = (self.inflate(&low, written).ok()?, self.inflate(&high, written).ok()?);
        let mut is_read = vec![false; self.window.len()];
        for (one, other) in one.iter().zip(&other).filter(|(one, other)| one != other) {
            let at = usize::from(*one) | usize::from((one ^ other).wrapping_sub(1)) << 8;
            *is_read.get_mut(at)? = true;
        }
        self.window.iter_mut().zip(&is_read).filter(|(_, is_read)| !**is_read).for_each(|(byte, _)| *byte = 0);
        let front = is_read.iter().position(|is_read| *is_read).unwrap_or(is_read.len());
        (one.len() == written && other.len() == written).then(|| self.window.split_off(front))
    }

    /// As many bytes as are asked for, unless stream or source end before.
    fn inflate(&self, window: &[u8], length: usize) -> Result<Vec<u8>, InflateError> {
        let (shared, mut source) = match self.source.split_first() {
            Some((shared, rest)) if self.bits > 0 => (*shared, rest),
            _ => (0, self.source.as_slice()),
        };
        let mut inflate = Inflate::resume(self.bits, shared, window)?;
        let (mut out, mut length_now) = (vec![0; length], 0);
        while let Some(room) = out.get_mut(length_now..).filter(|room| !room.is_empty()) {
            let step = inflate.next(source, room, Until::Full)?;
            (length_now, source) = (length_now + step.written, source.get(step.read..).unwrap_or_default());
            if step.at == At::End || step.read + step.written == 0 {
                break;
            }
        }
        out.truncate(length_now);
        Ok(out)
    }
}

/// A window whose bytes tell where they stand.
fn made_up(length: usize, byte: impl Fn(usize) -> u8) -> Vec<u8> {
    (0..length).map(byte).collect()
}

fn low(at: usize) -> u8 {
    (at & 0xff) as u8
}

/// 1..=128, never 0: a byte of the window is never the same in both.
fn high(at: usize) -> u8 {
    (at >> 8) as u8 + 1
}
