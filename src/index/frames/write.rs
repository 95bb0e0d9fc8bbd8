//! Writing a frames file while the frames are found: windows go to the file as they come, only the table (112 bytes
//! a frame) waits in memory. The header is written last, so an unfinished file is never taken for one.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use super::format::{self, HEADER_BYTES, Header, RECORD_BYTES, Record, RecordStart};
use super::{Frame, Heading, Start};
use crate::digest::FrameDigest;
use crate::index::codec::WindowPacker;

/// Writes the frames of one layer, in order.
#[derive(Debug)]
pub struct FramesWriter {
    file: BufWriter<File>,
    packer: WindowPacker,
    /// Where the next window goes.
    at: u64,
    table: Vec<u8>,
    frames: u32,
    wanted: Option<Vec<Range<u32>>>,
}

/// The digest of one frame after another, while their bytes go by.
#[derive(Debug, Default)]
pub struct FrameHasher(blake3::Hasher);

// === impl FramesWriter ===

impl FramesWriter {
    /// Begins at the start of an empty file. Moves the file's own offset.
    pub fn new(mut file: File) -> io::Result<Self> {
        let at = HEADER_BYTES as u64;
        file.seek(SeekFrom::Start(at))?;
        Ok(Self {
            file: BufWriter::new(file),
            packer: WindowPacker::new()?,
            at,
            table: Vec::new(),
            frames: 0,
            wanted: None,
        })
    }

    /// Adds the frame that comes next in the data file.
    pub fn push(&mut self, frame: &Frame) -> io::Result<()> {
        let (start, window) = match &frame.start {
            Start::Plain => (RecordStart::Plain, Vec::new()),
            Start::Member => (RecordStart::Member, Vec::new()),
            Start::Inside { skip } => (RecordStart::Inside { skip: *skip }, Vec::new()),
            Start::Zstd => (RecordStart::Zstd, Vec::new()),
            Start::Block { bits, window } => (RecordStart::Block { bits: *bits }, self.packer.pack(window)?),
        };
        self.file.write_all(&window)?;
        let end = self.at + window.len() as u64;
        let record = Record {
            source: frame.source.clone(),
            data: frame.data.clone(),
            start,
            window: self.at..end,
            digest: frame.digest,
            window_digest: *blake3::hash(&window).as_bytes(),
        };
        record.write(&mut self.table);
        self.at = end;
        self.frames = self.frames.checked_add(1).ok_or_else(|| io::Error::other("a layer of more than 2^32 frames"))?;
        debug_assert_eq!(self.table.len(), self.frames as usize * RECORD_BYTES);
        Ok(())
    }

    /// Notes which frames the image's maker wants here first, as far as anything is said of it.
    pub fn want_first(&mut self, ranges: Option<Vec<Range<u32>>>) {
        self.wanted = ranges;
    }

    /// Writes table and header. Whether they are on disk is for the caller to see to.
    pub fn finish(mut self, heading: &Heading) -> io::Result<()> {
        let ranges = self.wanted.as_ref().map(|ranges| u32::try_from(ranges.len()).map_err(io::Error::other));
        let wanted = format::write_ranges(self.wanted.as_deref().unwrap_or_default());
        self.file.write_all(&wanted)?;
        self.file.write_all(&self.table)?;
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let table_at = self.at + wanted.len() as u64;
        let header = Header { heading: *heading, table_at, frames: self.frames, wanted: ranges.transpose()? };
        file.write_all_at(&header.bytes(&wanted, &self.table), 0)
    }
}

// === impl FrameHasher ===

impl FrameHasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of what went by since the last call.
    pub fn take(&mut self) -> FrameDigest {
        let digest = FrameDigest::Blake3(*self.0.finalize().as_bytes());
        self.0.reset();
        digest
    }
}
