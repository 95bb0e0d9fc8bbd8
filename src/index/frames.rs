//! A layer's frames: the pieces that can each be fetched and decoded alone, as a file.
//!
//! The file is written once, in one pass and with little memory ([`FramesWriter`]), and then only mapped ([`Frames`]).
//! It is checksummed, so that a damaged one is an error and never a wrong byte; what a frame decodes to is judged by
//! its digest in any case.

mod format;
mod write;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::digest::{DiffId, Digest, FrameDigest, LayerDigest};
use crate::index::codec::{Codec, unpack_window};
use crate::sys::mmap::Map;

pub use write::{FrameHasher, FramesWriter};

use format::{HEADER_BYTES, Header, RECORD_BYTES, Record, RecordStart};

/// A frame's number within its layer; their data lies in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameId(pub u32);

/// How to start decoding a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The source is the data.
    Plain,
    /// At a gzip member's header.
    Member,
    /// At a gzip member's header, but the data begins only after so many bytes of what comes out.
    Inside { skip: u64 },
    /// At a deflate block that begins with the upper `bits` (0..=7) of the source's first byte, or with `bits` 0 at
    /// the byte itself. Matches reach back into `window`, at most 32 KiB.
    Block { bits: u8, window: Vec<u8> },
    /// At a zstd frame.
    Zstd,
}

/// One frame, and all that decoding it needs besides its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where in the blob. Neighbours may share a byte.
    pub source: Range<u64>,
    /// Where in the data file. Never empty; frames follow one another, and what lies between them is zeros, or no file's.
    pub data: Range<u64>,
    pub start: Start,
    pub digest: FrameDigest,
}

/// What the file says of the layer as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heading {
    pub layer: LayerDigest,
    pub diff_id: DiffId,
    pub blob_bytes: u64,
    pub data_bytes: u64,
    pub index_source: IndexSource,
    /// Why an index is believed that was not made here; it says nothing of the blob as a whole.
    pub bond: Option<Bond>,
}

/// What stands behind an index that was not made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bond {
    /// The image's manifest has this digest of it.
    Manifest(Digest),
    /// The key of this name has signed it, for this very layer.
    Signature(Digest),
    /// Nothing does. It lay beside the image that is called so here, and counts for that one alone until all of the layer was
    /// compared with it.
    Referrer(Digest),
}

/// Where an index came from, and why it is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provenance {
    pub source: IndexSource,
    pub bond: Option<Bond>,
}

/// Where the index came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexSource {
    /// The whole blob went by here once, and both digests matched.
    Scan(Codec),
    /// The table of contents of an eStargz blob.
    EStargz,
    /// The table of contents of a zstd:chunked blob.
    ZstdChunked,
    /// The ztoc of a SOCI index.
    Soci,
    /// oncefs's own, made by the scan of another node.
    Published,
}

/// The frames of one layer, mapped.
#[derive(Debug)]
pub struct Frames {
    map: Map,
    header: Header,
}

/// Why a frames file cannot be used. The remedy is always the same: the layer is scanned again.
#[derive(Debug, thiserror::Error)]
pub enum FramesError {
    #[error("the frames file cannot be read")]
    Io(#[from] io::Error),
    #[error("this is not a finished frames file")]
    NotFrames,
    #[error("the frames file has version {0}, this program reads version {known}", known = format::VERSION)]
    Version(u32),
    #[error("the frames file is damaged: {0}")]
    Damaged(&'static str),
    #[error("frame {frame} of a layer that has {frames}")]
    NoSuchFrame { frame: u32, frames: u32 },
}

// === impl IndexSource ===

impl IndexSource {
    /// Whether blob and tar were compared with their digests. If not, only the single frames are, with what the index says.
    pub fn verifies_layer(self) -> bool {
        matches!(self, Self::Scan(_))
    }
}

impl fmt::Display for IndexSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scan(codec) => write!(f, "scan of {codec}"),
            Self::EStargz => f.write_str("eStargz"),
            Self::Soci => f.write_str("SOCI"),
            Self::Published => f.write_str("oncefs, made elsewhere"),
            Self::ZstdChunked => f.write_str("zstd:chunked"),
        }
    }
}

// === impl Heading ===

impl Heading {
    pub fn provenance(&self) -> Provenance {
        Provenance { source: self.index_source, bond: self.bond }
    }
}

// === impl Provenance ===

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.bond {
            None => "",
            Some(Bond::Manifest(_)) => ", bound by the manifest",
            Some(Bond::Signature(_)) => ", signed",
            Some(Bond::Referrer(_)) => ", beside the image and bound by nothing",
        };
        write!(f, "{}{why}", self.source)
    }
}

// === impl Frames ===

impl Frames {
    /// Maps the file and checks its table; windows are checked when a frame needs one.
    pub fn open(file: &File) -> Result<Self, FramesError> {
        let map = Map::open(file)?;
        let header = Header::read(&map)?;
        let frames = Self { map, header };
        frames.check_table()?;
        Ok(frames)
    }

    pub fn heading(&self) -> &Heading {
        &self.header.heading
    }

    pub fn len(&self) -> u32 {
        self.header.frames
    }

    pub fn is_empty(&self) -> bool {
        self.header.frames == 0
    }

    /// The frames that the image's maker wants here first, in the order in which they are wanted. `None`: nothing is known of
    /// that; an empty list: none is.
    pub fn wanted_first(&self) -> Option<Vec<Range<u32>>> {
        self.header.wanted?;
        Some(format::read_ranges(self.header.lists(&self.map)?.0))
    }

    /// Everything that decoding frame `id` needs.
    pub fn get(&self, id: FrameId) -> Result<Frame, FramesError> {
        let record = self.record(id)?;
        let start = match record.start {
            RecordStart::Plain => Start::Plain,
            RecordStart::Member => Start::Member,
            RecordStart::Inside { skip } => Start::Inside { skip },
            RecordStart::Zstd => Start::Zstd,
            RecordStart::Block { bits } => Start::Block { bits, window: self.window(&record)? },
        };
        Ok(Frame { source: record.source, data: record.data, start, digest: record.digest })
    }

    /// Where frame `id` lies in the data file.
    pub fn data_range(&self, id: FrameId) -> Result<Range<u64>, FramesError> {
        Ok(self.record(id)?.data)
    }

    /// Where frame `id` lies in the blob.
    pub fn source_range(&self, id: FrameId) -> Result<Range<u64>, FramesError> {
        Ok(self.record(id)?.source)
    }

    pub fn digest(&self, id: FrameId) -> Result<FrameDigest, FramesError> {
        Ok(self.record(id)?.digest)
    }

    /// The frames that hold any byte of this range of the data file; none for an empty range, or one beyond the end.
    pub fn covering(&self, data: Range<u64>) -> Range<u32> {
        let end = data.end.min(self.header.heading.data_bytes);
        if data.start >= end {
            return 0..0;
        }
        // Frame `first` is the last that starts at or before the range, frame `last` the first that starts at its end.
        let first = self.partition(|start| start <= data.start).saturating_sub(1);
        let is_before = self.data_range(FrameId(first)).is_ok_and(|frame| frame.end <= data.start);
        let last = self.partition(|start| start < end);
        (first + u32::from(is_before)).min(last)..last
    }

    /// How many frames have a data offset that `before` holds for; it must hold for a first part of them.
    fn partition(&self, before: impl Fn(u64) -> bool) -> u32 {
        let (mut low, mut high) = (0, self.header.frames);
        while low < high {
            let middle = low + (high - low) / 2;
            let start = self.record_bytes(middle).map_or(u64::MAX, format::data_start);
            if before(start) { low = middle + 1 } else { high = middle }
        }
        low
    }

    fn record(&self, id: FrameId) -> Result<Record, FramesError> {
        let missing = FramesError::NoSuchFrame { frame: id.0, frames: self.header.frames };
        Record::read(self.record_bytes(id.0).ok_or(missing)?)
    }

    fn record_bytes(&self, index: u32) -> Option<&[u8; RECORD_BYTES]> {
        let start = index as usize * RECORD_BYTES;
        self.header.table(&self.map)?.get(start..)?.first_chunk()
    }

    fn window(&self, record: &Record) -> Result<Vec<u8>, FramesError> {
        let place = usize::try_from(record.window.start).ok().zip(usize::try_from(record.window.end).ok());
        let packed = place.and_then(|(start, end)| self.map.get(start..end));
        let packed = packed.ok_or(FramesError::Damaged("a window lies outside the file"))?;
        if *blake3::hash(packed).as_bytes() != record.window_digest {
            return Err(FramesError::Damaged("a window does not have its digest"));
        }
        unpack_window(packed).map_err(|_| FramesError::Damaged("a window does not unpack"))
    }

    /// Everything that later calls rely on: frames are in the data file in order, and sources lie in the blob.
    fn check_table(&self) -> Result<(), FramesError> {
        let (heading, mut data_end, mut source_start) = (self.heading(), 0, 0);
        let is_of_scan = heading.index_source.verifies_layer();
        let windows = HEADER_BYTES as u64..self.header.wanted_at().unwrap_or(self.header.table_at);
        let mut wanted = self.wanted_first().into_iter().flatten();
        if wanted.any(|range| range.is_empty() || range.end > self.header.frames) {
            return Err(FramesError::Damaged("frames are wanted that are none"));
        }
        for index in 0..self.header.frames {
            let record = self.record(FrameId(index))?;
            let follows = record.data.start == data_end || (!is_of_scan && record.data.start > data_end);
            if !follows || record.data.is_empty() {
                return Err(FramesError::Damaged("the frames do not follow one another"));
            }
            let is_before = is_of_scan && record.source.start < source_start;
            if is_before || record.source.is_empty() || record.source.end > heading.blob_bytes {
                return Err(FramesError::Damaged("a frame's source lies outside the blob"));
            }
            let has_window = matches!(record.start, RecordStart::Block { .. });
            if has_window && (record.window.start < windows.start || record.window.end > windows.end) {
                return Err(FramesError::Damaged("a window lies outside the file"));
            }
            (data_end, source_start) = (record.data.end, record.source.start);
        }
        let ends_well = data_end == heading.data_bytes || (!is_of_scan && data_end < heading.data_bytes);
        if ends_well { Ok(()) } else { Err(FramesError::Damaged("the last frame ends elsewhere")) }
    }
}

#[cfg(test)]
mod tests;
