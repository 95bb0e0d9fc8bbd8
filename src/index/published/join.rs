//! Neighbouring frames joined for publishing. Each checkpoint costs a window of 32 KiB, nearly all there is to an index, so what
//! is published has one every 4 MiB: 1 % of the blob instead of 3 %.

use std::io;
use std::ops::Range;

use crate::digest::FrameDigest;
use crate::index::frames::{Frame, FrameHasher, FrameId, Frames, FramesError, Start};

/// A joined frame takes in no more once it has this much.
const JOINED_BYTES: u64 = 4 << 20;
const READ_BYTES: usize = 1 << 20;

/// Reads from the layer's data file at an offset.
pub type ReadData<'a> = dyn FnMut(u64, &mut [u8]) -> io::Result<()> + 'a;

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Frames(#[from] FramesError),
    #[error("the layer's data cannot be read")]
    Io(#[from] io::Error),
    #[error("the data file is damaged in frame {0}; 'oncefs check --repair' mends it")]
    Damaged(u32),
}

/// The layer's frames as they are published. Reads what is joined, and compares it with the digests that it has.
pub fn join(frames: &Frames, read: &mut ReadData<'_>) -> Result<Vec<Frame>, JoinError> {
    let mut joined: Vec<Frame> = Vec::new();
    let mut group = 0..0;
    for id in 0..frames.len() {
        let frame = frames.get(FrameId(id))?;
        match joined.last_mut() {
            Some(last) if last.data.end - last.data.start < JOINED_BYTES && has_window(&frame) => {
                (last.source.end, last.data.end) = (frame.source.end, frame.data.end);
                group.end = id + 1;
            }
            last => {
                if let Some(last) = last {
                    last.digest = digest(frames, &group, read)?;
                }
                joined.push(frame);
                group = id..id + 1;
            }
        }
    }
    if let Some(last) = joined.last_mut() {
        last.digest = digest(frames, &group, read)?;
    }
    Ok(joined)
}

/// Only such a frame costs something, and goes on where the one before ended.
fn has_window(frame: &Frame) -> bool {
    matches!(frame.start, Start::Block { .. })
}

/// The digest of all that these frames hold.
fn digest(frames: &Frames, group: &Range<u32>, read: &mut ReadData<'_>) -> Result<FrameDigest, JoinError> {
    if group.len() == 1 {
        return Ok(frames.digest(FrameId(group.start))?);
    }
    let (mut whole, mut single) = (FrameHasher::default(), FrameHasher::default());
    let mut buffer = vec![0; READ_BYTES];
    for id in group.clone() {
        let data = frames.data_range(FrameId(id))?;
        let mut at = data.start;
        while at < data.end {
            let len = usize::try_from(data.end - at).map_or(READ_BYTES, |left| left.min(READ_BYTES));
            let piece = buffer.get_mut(..len).unwrap_or_default();
            read(at, piece)?;
            whole.update(piece);
            single.update(piece);
            at += len as u64;
        }
        if single.take() != frames.digest(FrameId(id))? {
            return Err(JoinError::Damaged(id));
        }
    }
    Ok(whole.take())
}
