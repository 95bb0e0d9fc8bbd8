//! The keeping thread: what comes out of the unpacker goes into the data file, the frames and the tree.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::Receiver;

use super::buffers::Filled;
use super::pipeline::Job;
use super::{Part, ScanError};
use crate::index::codec::Codec;
use crate::index::frames::{Frame, FrameHasher, FramesWriter, Heading, IndexSource, Start};
use crate::index::tar::Parser;
use crate::index::tree::draft::Draft;
use crate::index::tree::write::{self, Labels, Written};
use crate::sync::Arc;
use crate::sys::file::start_writeback;

/// What the unpacker hands to this thread, in order.
pub(super) enum Kept {
    Data(Arc<Filled>),
    /// The data that came since the last frame is this one.
    Frame {
        source: Range<u64>,
        data: Range<u64>,
        start: Start,
    },
    /// The blob was unpacked to its end.
    End {
        codec: Codec,
    },
}

/// Data is sent to the disk in steps of this size while the scan goes on, so that the store's sync at the end finds
/// little to do, and a layer does not fill the machine with dirty pages.
const WRITEBACK_BYTES: u64 = 8 << 20;

/// Everything this thread writes.
pub(super) struct Keeper<'a> {
    job: &'a Job,
    data: Data<'a>,
    frames: FramesWriter,
    hasher: FrameHasher,
    /// The tree in the making, until the tar turns out to be none.
    tree: Result<(Parser, Draft), ScanError>,
}

/// The data file.
struct Data<'a> {
    file: &'a File,
    at: u64,
    /// Up to where write-back was started.
    sent: u64,
}

/// What this thread leaves behind.
pub(super) enum Outcome {
    /// Data, frames and tree are complete.
    Whole { heading: Heading, tree: Written },
    /// The tar is none, which was found out at its end or before.
    Useless(ScanError),
    /// Something ended the scan; what, is for others to say.
    Stopped,
}

// === impl Keeper ===

impl<'a> Keeper<'a> {
    pub(super) fn new(job: &'a Job) -> Result<Self, ScanError> {
        let frames = job.parts.frames.try_clone().and_then(FramesWriter::new);
        Ok(Self {
            job,
            data: Data { file: &job.parts.data, at: 0, sent: 0 },
            frames: frames.map_err(|source| ScanError::disk(&job.layer, Part::Frames, source))?,
            hasher: FrameHasher::default(),
            tree: Ok((Parser::new(job.limits.tar()), Draft::new(job.limits.draft()))),
        })
    }

    /// Keeps all that comes. An error of the disk ends the scan at once, and so does a limit; one of the tar waits for the end,
    /// since the digests say whether the image or the network is to blame.
    pub(super) fn run(mut self, kept: &Receiver<Kept>) -> Result<Outcome, ScanError> {
        for item in kept {
            match item {
                Kept::Data(bytes) => self.take(&bytes)?,
                Kept::Frame { source, data, start } => {
                    let frame = Frame { source, data, start, digest: self.hasher.take() };
                    self.frames.push(&frame).map_err(|source| self.disk(Part::Frames, source))?;
                }
                Kept::End { codec } => return self.finish(codec),
            }
        }
        Ok(Outcome::Stopped)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), ScanError> {
        let layer = self.job.layer.digest;
        self.hasher.update(bytes);
        let Ok((parser, draft)) = &mut self.tree else {
            return Ok(()); // nobody will want the data either
        };
        match parser.push(bytes, draft) {
            // Whoever is to blame, more of it is not worth fetching.
            Err(source) if source.fault.is_limit() => return Err(ScanError::tar(layer, source)),
            Err(source) => self.tree = Err(ScanError::tar(layer, source)),
            Ok(()) => {}
        }
        self.data.write(bytes).map_err(|source| self.disk(Part::Data, source))
    }

    fn finish(self, codec: Codec) -> Result<Outcome, ScanError> {
        let layer = &self.job.layer;
        let heading = Heading {
            layer: layer.digest,
            diff_id: layer.diff_id,
            blob_bytes: layer.size,
            data_bytes: self.data.at,
            index_source: IndexSource::Scan(codec),
            bond: None,
        };
        let (parser, draft) = match self.tree {
            Ok(tree) => tree,
            Err(error) => return Ok(Outcome::Useless(error)),
        };
        if let Err(source) = parser.finish() {
            return Ok(Outcome::Useless(ScanError::tar(layer.digest, source)));
        }
        let source = match draft.finish() {
            Ok(source) => source,
            Err(source) => return Ok(Outcome::Useless(ScanError::Draft { layer: layer.digest, source })),
        };
        let labels = Labels { diff_id: layer.diff_id, data_bytes: heading.data_bytes };
        let tree =
            write::write(&source, &labels, &self.job.parts.tree).map_err(|source| ScanError::tree(layer, source))?;
        self.frames.finish(&heading).map_err(|source| ScanError::disk(layer, Part::Frames, source))?;
        Ok(Outcome::Whole { heading, tree })
    }

    fn disk(&self, part: Part, source: std::io::Error) -> ScanError {
        ScanError::disk(&self.job.layer, part, source)
    }
}

// === impl Data ===

impl Data<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        if self.at - self.sent >= WRITEBACK_BYTES {
            start_writeback(self.file, self.sent..self.at)?;
            self.sent = self.at;
        }
        Ok(())
    }
}
