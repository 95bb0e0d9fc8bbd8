//! The bytes of a frames file, all numbers little-endian.
//!
//! ```text
//!      0 header, 256 bytes; zeros until the file is finished
//!    256 windows, each packed, one after another
//!        what is wanted first: first frame and end of each range, 8 bytes
//!  table records of 112 bytes, one a frame, to the end of the file
//!
//! header:  0 magic  8 version  12 index source  16 layer  48 diff id  80 blob bytes  88 data bytes
//!         96 table offset  104 frames  108 kind of bond  112 its digest, or zeros
//!        144 one more than there are ranges wanted first, or 0 if nothing is known of that  148 zeros
//!        224 BLAKE3 of the header up to here, the ranges and the table
//! record:  0 source start, end  16 data start, end  32 window start in this file, or what is skipped  40 its length
//!         44 kind  45 bits  46 kind of digest  47 zero  48 digest of the frame's data or source  80 BLAKE3 of the packed window
//! ```

use std::ops::Range;

use super::{Bond, FramesError, Heading, IndexSource};
use crate::digest::{DiffId, Digest, FrameDigest, LayerDigest};
use crate::index::codec::Codec;

pub(super) const HEADER_BYTES: usize = 256;
pub(super) const RECORD_BYTES: usize = 112;
pub(super) const WANTED_BYTES: usize = 8;
pub(super) const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"1cFRAMES";
/// The part of the header that the checksum covers.
const COVERED_BYTES: usize = 224;

/// The header as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) heading: Heading,
    pub(super) table_at: u64,
    pub(super) frames: u32,
    /// How many ranges of frames are wanted first, if that is known.
    pub(super) wanted: Option<u32>,
}

/// A frame as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) source: Range<u64>,
    pub(super) data: Range<u64>,
    pub(super) start: RecordStart,
    /// Where in this file the packed window lies; empty if the start has none.
    pub(super) window: Range<u64>,
    pub(super) digest: FrameDigest,
    pub(super) window_digest: [u8; 32],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordStart {
    Plain,
    Member,
    Inside { skip: u64 },
    Block { bits: u8 },
    Zstd,
}

/// Takes fixed pieces off the front of a record or header.
struct Fields<'a>(&'a [u8]);

// === impl Header ===

impl Header {
    /// The header of a whole file, after its checksum has shown that header and table are as they were written.
    pub(super) fn read(file: &[u8]) -> Result<Self, FramesError> {
        let bytes: &[u8; HEADER_BYTES] = file.first_chunk().ok_or(FramesError::NotFrames)?;
        let mut fields = Fields(bytes);
        if fields.take::<8>()? != MAGIC {
            return Err(FramesError::NotFrames);
        }
        let version = fields.u32()?;
        if version != VERSION {
            return Err(FramesError::Version(version));
        }
        let header = Self::read_fields(&mut fields)?;
        let (wanted, table) = header.lists(file).ok_or(FramesError::Damaged("the table lies outside the file"))?;
        let (covered, sum) = bytes.split_at(COVERED_BYTES);
        if sum != checksum(&[covered, wanted, table]) {
            return Err(FramesError::Damaged("the checksum of header and table does not match"));
        }
        Ok(header)
    }

    fn read_fields(fields: &mut Fields<'_>) -> Result<Self, FramesError> {
        let index_source = fields.u32()?;
        let mut heading = Heading {
            index_source: source_of(index_source).ok_or(FramesError::Damaged("an unknown index source"))?,
            bond: None,
            layer: LayerDigest(Digest::from_bytes(fields.take()?)),
            diff_id: DiffId(Digest::from_bytes(fields.take()?)),
            blob_bytes: fields.u64()?,
            data_bytes: fields.u64()?,
        };
        let (table_at, frames, bond) = (fields.u64()?, fields.u32()?, fields.u32()?);
        heading.bond = bond_of(bond, Digest::from_bytes(fields.take()?))?;
        let wanted = fields.u32()?.checked_sub(1);
        Ok(Self { heading, table_at, frames, wanted })
    }

    /// The table in the whole file, if it reaches exactly to the end.
    pub(super) fn table<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        Some(self.lists(file)?.1)
    }

    /// The same, after the ranges that are wanted first.
    pub(super) fn lists<'a>(&self, file: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let table_at = usize::try_from(self.table_at).ok()?;
        let wanted_at = usize::try_from(self.wanted_at()?).ok().filter(|at| *at >= HEADER_BYTES)?;
        let table = file.get(table_at..)?;
        let is_whole = table.len() == (self.frames as usize).checked_mul(RECORD_BYTES)?;
        is_whole.then_some((file.get(wanted_at..table_at)?, table))
    }

    /// Where the windows end.
    pub(super) fn wanted_at(&self) -> Option<u64> {
        self.table_at.checked_sub(u64::from(self.wanted.unwrap_or(0)) * WANTED_BYTES as u64)
    }

    pub(super) fn bytes(&self, wanted: &[u8], table: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(code_of(self.heading.index_source).to_le_bytes());
        bytes.extend(self.heading.layer.0.as_bytes());
        bytes.extend(self.heading.diff_id.0.as_bytes());
        bytes.extend(self.heading.blob_bytes.to_le_bytes());
        bytes.extend(self.heading.data_bytes.to_le_bytes());
        bytes.extend(self.table_at.to_le_bytes());
        bytes.extend(self.frames.to_le_bytes());
        let (bond, digest) = match self.heading.bond {
            None => (0, [0; 32]),
            Some(Bond::Manifest(digest)) => (0, *digest.as_bytes()),
            Some(Bond::Signature(key)) => (1, *key.as_bytes()),
            Some(Bond::Referrer(image)) => (2, *image.as_bytes()),
        };
        bytes.extend(u32::to_le_bytes(bond));
        bytes.extend(digest);
        bytes.extend(self.wanted.map_or(0, |ranges| ranges + 1).to_le_bytes());
        bytes.resize(COVERED_BYTES, 0);
        let sum = checksum(&[&bytes, wanted, table]);
        bytes.extend(sum);
        bytes
    }
}

fn checksum(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

fn code_of(source: IndexSource) -> u32 {
    match source {
        IndexSource::Scan(Codec::Plain) => 1,
        IndexSource::Scan(Codec::Gzip) => 2,
        IndexSource::Scan(Codec::Zstd) => 3,
        IndexSource::EStargz => 4,
        IndexSource::ZstdChunked => 5,
        IndexSource::Soci => 6,
        IndexSource::Published => 7,
    }
}

fn source_of(code: u32) -> Option<IndexSource> {
    Some(match code {
        1 => IndexSource::Scan(Codec::Plain),
        2 => IndexSource::Scan(Codec::Gzip),
        3 => IndexSource::Scan(Codec::Zstd),
        4 => IndexSource::EStargz,
        5 => IndexSource::ZstdChunked,
        6 => IndexSource::Soci,
        7 => IndexSource::Published,
        _ => return None,
    })
}

fn bond_of(code: u32, digest: Digest) -> Result<Option<Bond>, FramesError> {
    Ok(match code {
        0 => Some(Bond::Manifest(digest)).filter(|_| *digest.as_bytes() != [0; 32]),
        1 => Some(Bond::Signature(digest)),
        2 => Some(Bond::Referrer(digest)),
        _ => return Err(FramesError::Damaged("an unknown kind of bond")),
    })
}

// === impl Record ===

impl Record {
    pub(super) fn read(bytes: &[u8; RECORD_BYTES]) -> Result<Self, FramesError> {
        let mut fields = Fields(bytes);
        let source = fields.u64()?..fields.u64()?;
        let data = fields.u64()?..fields.u64()?;
        let window_at = fields.u64()?;
        let window_len = fields.u32()?;
        let [kind, bits, digest_kind, _] = fields.take()?;
        let start = match (kind, bits) {
            (1, 0) => RecordStart::Plain,
            (2, 0) => RecordStart::Member,
            (3, 0..=7) => RecordStart::Block { bits },
            (4, 0) => RecordStart::Zstd,
            (5, 0) => RecordStart::Inside { skip: window_at },
            _ => return Err(FramesError::Damaged("a frame starts in an unknown way")),
        };
        let window_end =
            window_at.checked_add(window_len.into()).ok_or(FramesError::Damaged("a window is too long"))?;
        let digest = match digest_kind {
            0 => FrameDigest::Blake3(fields.take()?),
            1 => FrameDigest::Sha256(fields.take()?),
            2 => FrameDigest::Source(fields.take()?),
            _ => return Err(FramesError::Damaged("a frame has an unknown kind of digest")),
        };
        Ok(Self { source, data, start, window: window_at..window_end, digest, window_digest: fields.take()? })
    }

    pub(super) fn write(&self, into: &mut Vec<u8>) {
        let (kind, bits, window_at) = match self.start {
            RecordStart::Plain => (1, 0, self.window.start),
            RecordStart::Member => (2, 0, self.window.start),
            RecordStart::Block { bits } => (3, bits, self.window.start),
            RecordStart::Zstd => (4, 0, self.window.start),
            RecordStart::Inside { skip } => (5, 0, skip),
        };
        let (digest_kind, digest) = match self.digest {
            FrameDigest::Blake3(bytes) => (0, bytes),
            FrameDigest::Sha256(bytes) => (1, bytes),
            FrameDigest::Source(bytes) => (2, bytes),
        };
        for number in [self.source.start, self.source.end, self.data.start, self.data.end, window_at] {
            into.extend(number.to_le_bytes());
        }
        // A packed window is hardly longer than the window's 32 KiB.
        into.extend(((self.window.end - self.window.start) as u32).to_le_bytes());
        into.extend([kind, bits, digest_kind, 0]);
        into.extend(digest);
        into.extend(self.window_digest);
    }
}

/// Ranges of frames as the file lists them.
pub(super) fn write_ranges(ranges: &[Range<u32>]) -> Vec<u8> {
    ranges.iter().flat_map(|range| [range.start.to_le_bytes(), range.end.to_le_bytes()]).flatten().collect()
}

/// The inverse of [`write_ranges`].
pub(super) fn read_ranges(bytes: &[u8]) -> Vec<Range<u32>> {
    let range = |range: &[u8; WANTED_BYTES]| {
        let [start, end] = [range.first_chunk(), range.last_chunk()];
        let number = |bytes: Option<&[u8; 4]>| bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes));
        number(start)..number(end)
    };
    bytes.as_chunks().0.iter().map(range).collect()
}

/// The data offset of a record, which searches look at alone.
pub(super) fn data_start(record: &[u8; RECORD_BYTES]) -> u64 {
    record.get(16..24).and_then(|bytes| bytes.first_chunk()).map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
}

// === impl Fields ===

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], FramesError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(FramesError::Damaged("too short"))?;
        self.0 = rest;
        Ok(*first)
    }

    fn u32(&mut self) -> Result<u32, FramesError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, FramesError> {
        Ok(u64::from_le_bytes(self.take()?))
    }
}
