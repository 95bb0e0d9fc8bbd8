//! What is kept of frames whose own digest is that of their source (SOCI): a digest of it, so that it can be compared when an earlier process
//! has left it.
//!
//! ```text
//! sums    32 bytes a frame: BLAKE3 of its bytes in the data file; zeros where it was never kept
//! ```
//!
//! It is on disk before the frame's bit is. One that is wrong costs fetching its frame again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::digest::FrameDigest;
use crate::index::frames::{FrameId, Frames, FramesError};
use crate::store::StoreError;
use crate::store::layer::Layer;
use crate::store::layout::SUMS;

const SUM_BYTES: usize = 32;

/// The sums of one layer's frames.
#[derive(Debug)]
pub(super) struct Sums(File);

// === impl Sums ===

impl Sums {
    /// Whether a layer of these frames needs them.
    pub(super) fn are_needed(frames: &Frames) -> Result<bool, FramesError> {
        for frame in 0..frames.len() {
            if frames.digest(FrameId(frame))?.is_of_source() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes them of an empty file, for so many frames.
    pub(super) fn make(file: &File, frames: u32) -> io::Result<()> {
        file.set_len(at(frames))
    }

    /// Those of a layer, if it has any.
    pub(super) fn open(directory: &Path) -> Result<Option<Self>, StoreError> {
        let path = directory.join(SUMS);
        match File::options().read(true).write(true).open(&path) {
            Ok(file) => Ok(Some(Self(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("open", &path)(error)),
        }
    }

    pub(super) fn note(&self, frame: u32, sum: &FrameDigest) -> io::Result<()> {
        let FrameDigest::Blake3(sum) = sum else { return Err(io::Error::other("bug: a sum is a BLAKE3 digest")) };
        self.0.write_all_at(sum, at(frame))
    }

    /// None if the frame was never kept.
    pub(super) fn get(&self, frame: u32) -> io::Result<Option<FrameDigest>> {
        let mut sum = [0; SUM_BYTES];
        self.0.read_exact_at(&mut sum, at(frame))?;
        Ok((sum != [0; SUM_BYTES]).then_some(FrameDigest::Blake3(sum)))
    }

    /// Returns when all that was noted is on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

// === impl Layer ===

impl Layer {
    /// Notes what the frame is to be compared with later, if it has nothing of its own.
    pub(super) fn note_sum(&self, frame: u32, sum: impl FnOnce() -> io::Result<FrameDigest>) -> io::Result<()> {
        match &self.sums {
            Some(sums) if self.frames().digest(FrameId(frame)).map_err(io::Error::other)?.is_of_source() => {
                sums.note(frame, &sum()?)
            }
            _ => Ok(()),
        }
    }

    /// What the frame's bytes in the data file can be compared with; of layers that an older oncefs received that may be nothing.
    pub(super) fn digest_of_kept(&self, frame: u32) -> io::Result<Option<FrameDigest>> {
        let own = self.frames().digest(FrameId(frame)).map_err(io::Error::other)?;
        match &self.sums {
            _ if !own.is_of_source() => Ok(Some(own)),
            None => Ok(None),
            Some(sums) => {
                let sum = sums.get(frame)?;
                sum.map(Some).ok_or_else(|| io::Error::other("nothing was noted of what is kept of it"))
            }
        }
    }
}

fn at(frame: u32) -> u64 {
    u64::from(frame) * SUM_BYTES as u64
}
