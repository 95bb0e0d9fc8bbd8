//! A ztoc (soci-snapshotter, ztoc/fbs/ztoc.fbs): the tar's entries with the places of their data, and the spans of the blob
//! with what unpacking each alone needs.

use std::ops::Range;

use super::super::{Contents, EntryFault, Fault, moment};
use super::flat::{Outside, Table};
use crate::digest::{Digest, FrameDigest};
use crate::index::frames::{Frame, Start};
use crate::index::scan::Limits;
use crate::index::tree::draft::{Attributes, Draft, Entry, What, shown};
use crate::index::tree::{Time, Xattrs};

/// A tar is made of such.
const BLOCK_BYTES: u64 = 512;

/// Checkpoints of a gzip (ztoc/compression/gzip_zinfo.h): how many and how far apart, then each: where in the blob, where in
/// the tar, bits of the byte before, and 32 KiB of what went before.
const ZINFO_HEADER_BYTES: usize = 12;
const CHECKPOINT_BYTES: usize = 8 + 8 + 1 + WINDOW_BYTES;
const WINDOW_BYTES: usize = 32 << 10;

/// A gzip header without any of the fields that it may have.
const GZIP_HEADER_BYTES: u64 = 10;

/// The values of the schema's enumeration.
const GZIP: u8 = 1;
const UNCOMPRESSED: u8 = 2;

/// Where a span begins, and how.
#[derive(Debug)]
struct Checkpoint {
    source: u64,
    data: u64,
    start: Start,
}

/// What a ztoc says, and whether it leaves out where the blob's first span begins.
#[derive(Debug)]
pub struct Ztoc {
    pub contents: Contents,
    /// It is where a gzip header of 10 bytes ends.
    pub assumes_short_header: bool,
    /// How many frames lie before each span, and before the end of all: a span of which the tar has nothing is no frame.
    pub frames_before: Vec<u32>,
}

/// What a ztoc says of the spans.
struct Spans {
    frames: Vec<Frame>,
    assumes_short_header: bool,
    frames_before: Vec<u32>,
}

impl From<Outside> for Fault {
    fn from(_: Outside) -> Self {
        Self::Format("an offset leads out of its ztoc")
    }
}

/// Reads a ztoc whose digest has matched, of a blob of so many bytes.
pub fn read_ztoc(bytes: &[u8], blob_bytes: u64, limits: &Limits) -> Result<Ztoc, Fault> {
    let ztoc = Table::root(bytes)?;
    let (packed, data_bytes) = (unsigned(ztoc.i64(2)?)?, unsigned(ztoc.i64(3)?)?);
    if packed != blob_bytes {
        return Err(Fault::Format("its ztoc is of a blob of another size"));
    }
    if data_bytes > limits.data_bytes_max {
        return Err(Fault::LayerTooLarge(limits.data_bytes_max));
    }
    if data_bytes > limits.ratio_from_bytes && data_bytes / limits.ratio_max.max(1) > blob_bytes {
        return Err(Fault::Ratio(limits.ratio_max));
    }
    let compression = ztoc.table(5)?.ok_or(Fault::Format("its ztoc has no spans"))?;
    let Spans { frames, assumes_short_header, frames_before } = spans(&compression, blob_bytes, data_bytes)?;
    let mut draft = Draft::new(limits.draft());
    let mut end = 0;
    if let Some(toc) = ztoc.table(4)? {
        for entry in toc.list(0)?.tables() {
            let entry = entry?;
            let name = entry.bytes(0)?;
            let applied = apply(&entry, name, &mut end, data_bytes, &mut draft);
            applied.map_err(|wrong| match wrong {
                Wrong::Entry(fault) => Fault::Entry { name: shown(name), fault },
                Wrong::Ztoc(fault) => fault,
            })?;
        }
    }
    let contents = Contents { tree: draft.finish().map_err(Fault::Draft)?, frames, data_bytes, wanted_first: None };
    Ok(Ztoc { contents, assumes_short_header, frames_before })
}

// === entries ===

/// What is wrong: the entry that is being read, or the ztoc.
enum Wrong {
    Entry(EntryFault),
    Ztoc(Fault),
}

impl<E: Into<EntryFault>> From<E> for Wrong {
    fn from(fault: E) -> Self {
        Self::Entry(fault.into())
    }
}

fn outside(outside: Outside) -> Wrong {
    Wrong::Ztoc(outside.into())
}

/// Lets an entry act. `end` is where the tar's part that is known so far ends.
fn apply(entry: &Table<'_>, name: &[u8], end: &mut u64, data_bytes: u64, draft: &mut Draft) -> Result<(), Wrong> {
    let number = |field| unsigned(entry.i64(field).map_err(outside)?).map_err(Wrong::Ztoc);
    let (at, size) = (number(2)?, number(3)?);
    let target = entry.bytes(4).map_err(outside)?;
    let (major, minor) = (number(11)?, number(12)?);
    let device = || (u32::try_from(major).unwrap_or(u32::MAX), u32::try_from(minor).unwrap_or(u32::MAX));
    let attributes = attributes(entry, (number(5)? & 0o7777) as u16)?;
    // Its header is before it. A file that takes less of the tar than it is long is sparse, and its map is not here.
    let payload_at = end.next_multiple_of(BLOCK_BYTES).saturating_add(BLOCK_BYTES);
    if at < payload_at || !at.is_multiple_of(BLOCK_BYTES) || at > data_bytes {
        return Err(EntryFault::Outside.into());
    }
    *end = at;
    let what = match entry.bytes(1).map_err(outside)? {
        b"reg" => {
            *end = at.checked_add(size).filter(|end| *end <= data_bytes).ok_or(EntryFault::Outside)?;
            What::File { size, at }
        }
        b"dir" => What::Directory,
        b"symlink" => What::Symlink(target),
        b"hardlink" => What::HardLink(target),
        b"char" => What::CharDevice(device().0, device().1),
        b"block" => What::BlockDevice(device().0, device().1),
        b"fifo" => What::Fifo,
        other => return Err(EntryFault::Type(shown(other)).into()),
    };
    Ok(draft.apply(Entry { path: name, attributes, what })?)
}

fn attributes(entry: &Table<'_>, mode: u16) -> Result<Attributes, Wrong> {
    let mtime = match std::str::from_utf8(entry.bytes(10).map_err(outside)?) {
        Ok("") => Time::default(),
        Ok(text) => moment::parse(text).ok_or(EntryFault::Time)?,
        Err(_) => return Err(EntryFault::Time.into()),
    };
    let mut xattrs = Xattrs::new();
    for record in entry.list(13).map_err(outside)?.tables() {
        let record = record.map_err(outside)?;
        let (key, value) = (record.bytes(0).map_err(outside)?, record.bytes(1).map_err(outside)?);
        if key.starts_with(b"GNU.sparse.") {
            return Err(EntryFault::Sparse.into());
        }
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            xattrs.push((name.to_vec(), value.to_vec()));
        }
    }
    let (uid, gid) = (entry.u32(6).map_err(outside)?, entry.u32(7).map_err(outside)?);
    Ok(Attributes { mode, uid, gid, mtime, xattrs })
}

fn unsigned(number: i64) -> Result<u64, Fault> {
    u64::try_from(number).map_err(|_| Fault::Format("its ztoc has a negative size or place"))
}

// === spans ===

fn spans(compression: &Table<'_>, blob_bytes: u64, data_bytes: u64) -> Result<Spans, Fault> {
    let (digests, zinfo) = (compression.list(2)?, compression.bytes(3)?);
    let last = compression.u32(1)? as usize;
    if digests.len() != last.checked_add(1).unwrap_or_default() {
        return Err(Fault::Format("its ztoc has more or fewer digests than spans"));
    }
    let (checkpoints, assumes_short_header) = match compression.u8(0, GZIP)? {
        GZIP => gzip_checkpoints(zinfo)?,
        UNCOMPRESSED => (plain_checkpoints(zinfo, data_bytes, blob_bytes)?, false),
        _ => return Err(Fault::Format("its ztoc is of a compression that is not known here")),
    };
    if checkpoints.len() != digests.len() {
        return Err(Fault::Format("its ztoc has more or fewer checkpoints than spans"));
    }
    let ends: Vec<(u64, u64)> = checkpoints.iter().skip(1).map(|next| (next.end(), next.data)).collect();
    let ends = ends.into_iter().chain([(blob_bytes, data_bytes)]);
    let (mut frames, mut frames_before) = (Vec::with_capacity(checkpoints.len()), vec![0]);
    for ((checkpoint, (source_end, data_end)), digest) in checkpoints.into_iter().zip(ends).zip(digests.strings()) {
        let Checkpoint { source, data, start } = checkpoint;
        let (source, data): (Range<u64>, Range<u64>) = (source..source_end, data..data_end);
        if source.is_empty() || source.end > blob_bytes || data.start > data.end || data.end > data_bytes {
            return Err(Fault::Format("a span of its ztoc lies outside the blob or the tar"));
        }
        let digest = std::str::from_utf8(digest?).ok().and_then(|text| text.parse::<Digest>().ok());
        let digest = digest.ok_or(Fault::Format("a span of its ztoc has no digest"))?;
        // The tar may be said to end before its padding does.
        if !data.is_empty() {
            frames.push(Frame { source, data, start, digest: FrameDigest::Source(*digest.as_bytes()) });
        }
        frames_before.push(u32::try_from(frames.len()).map_err(|_| Fault::TooLarge(SPANS_MAX))?);
    }
    match frames.first() {
        Some(first) if first.data.start > 0 => Err(Fault::Format("its ztoc's first span is not the tar's begin")),
        _ => Ok(Spans { frames, assumes_short_header, frames_before }),
    }
}

impl Checkpoint {
    /// Where the span before ends: after the byte that both share.
    fn end(&self) -> u64 {
        match self.start {
            Start::Block { bits: 1.., .. } => self.source + 1,
            _ => self.source,
        }
    }
}

/// The checkpoints, and whether the first is left out.
fn gzip_checkpoints(zinfo: &[u8]) -> Result<(Vec<Checkpoint>, bool), Fault> {
    let wrong = Fault::Format("the checkpoints of its ztoc are cut short or too many");
    let Some((header, rest)) = zinfo.split_first_chunk::<ZINFO_HEADER_BYTES>() else { return Err(wrong) };
    let have = header.first_chunk().map_or(-1, |have| i32::from_le_bytes(*have));
    let (chunks, left) = rest.as_chunks::<CHECKPOINT_BYTES>();
    let is_short = usize::try_from(have).is_ok_and(|have| have == chunks.len() + 1);
    if !left.is_empty() || !(is_short || usize::try_from(have).is_ok_and(|have| have == chunks.len())) {
        return Err(wrong);
    }
    let first = is_short.then(|| Checkpoint {
        source: GZIP_HEADER_BYTES,
        data: 0,
        start: Start::Block { bits: 0, window: Vec::new() },
    });
    let written = chunks.iter().map(gzip_checkpoint);
    Ok((first.map(Ok).into_iter().chain(written).collect::<Result<_, _>>()?, is_short))
}

fn gzip_checkpoint(bytes: &[u8; CHECKPOINT_BYTES]) -> Result<Checkpoint, Fault> {
    let wrong = || Fault::Format("a checkpoint of its ztoc makes no sense");
    let (source, rest) = bytes.split_first_chunk().ok_or_else(wrong)?;
    let (data, rest) = rest.split_first_chunk().ok_or_else(wrong)?;
    let (bits, window) = rest.split_first().filter(|(bits, _)| **bits < 8).ok_or_else(wrong)?;
    let (source, data) = (unsigned(i64::from_le_bytes(*source))?, unsigned(i64::from_le_bytes(*data))?);
    let source = if *bits > 0 { source.checked_sub(1).ok_or_else(wrong)? } else { source };
    // What lies before the tar's begin is no window.
    let known = usize::try_from(data).map_or(WINDOW_BYTES, |data| data.min(WINDOW_BYTES));
    let window = window.get(WINDOW_BYTES - known..).unwrap_or_default().to_vec();
    Ok(Checkpoint { source, data, start: Start::Block { bits: *bits, window } })
}

/// A tar that is not packed has spans of one size (ztoc/compression/tar_zinfo.go).
fn plain_checkpoints(zinfo: &[u8], data_bytes: u64, blob_bytes: u64) -> Result<Vec<Checkpoint>, Fault> {
    let table = Table::root(zinfo)?;
    let (span, size) = (unsigned(table.i64(1)?)?, unsigned(table.i64(2)?)?);
    if span < BLOCK_BYTES || size < data_bytes || size > blob_bytes {
        return Err(Fault::Format("the spans of its ztoc are of no size that could be"));
    }
    let spans = size.div_ceil(span);
    if spans > SPANS_MAX {
        return Err(Fault::TooLarge(SPANS_MAX));
    }
    Ok((0..spans)
        .map(|n| Checkpoint { source: n * span, data: (n * span).min(data_bytes), start: Start::Plain })
        .collect())
}

/// The smallest spans that anybody would make of the largest layer.
const SPANS_MAX: u64 = 1 << 20;
