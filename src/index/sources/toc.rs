//! Tables of contents in JSON, as eStargz and zstd:chunked have them: entries in the order of the tar, files in chunks.
//!
//! They say where a file's bytes are in the blob and nothing of where they are in the tar, so the data file is laid out anew:
//! file after file, each beginning with a block, and what is a hole in a file is one in the data file. Entries act as they
//! are read; what is kept of them is what a scan would keep, and 130 bytes for each chunk.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{Contents, EntryFault, Fault, moment};
use crate::digest::{Digest, FrameDigest};
use crate::index::frames::{Frame, Start};
use crate::index::scan::Limits;
use crate::index::tree::draft::{Attributes, Draft, Entry, What, shown};
use crate::index::tree::{Time, Xattrs};

/// What the tables of a format do not say themselves.
#[derive(Debug, Clone)]
pub struct Shape {
    pub packing: Packing,
    /// The end of the blob's part that chunks may lie in.
    pub data_end: u64,
    pub blob_bytes: u64,
    /// Entries that are the format's own and no part of the layer.
    pub hidden: &'static [&'static str],
    /// Of them, the one whose place says what is wanted first: all that lies before it. And the one that says that nothing is.
    pub landmarks: Option<Landmarks>,
}

/// How a format's own entries for this are called.
#[derive(Debug, Clone, Copy)]
pub struct Landmarks {
    pub wanted_before: &'static str,
    pub nothing_wanted: &'static str,
}

/// What a chunk is packed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Each begins a gzip member, or lies somewhere within one.
    Gzip,
    /// Each begins a zstd frame.
    Zstd,
}

/// A file's data begins where a block of the trees does; that of a large one where a block of the disk does, so that a file
/// system that can share blocks may share those of the same file in another layer.
const BLOCK_BYTES: u64 = 512;
const DISK_BLOCK_BYTES: u64 = 4096;
const LARGE_BYTES: u64 = 64 << 10;

/// How much is unpacked in vain before a chunk that lies within a member: writers gather some 100 kB in one.
const SKIP_MAX: u64 = 64 << 20;

/// JSON replaces what is no Unicode by this, and the name is lost.
const REPLACEMENT: char = '\u{fffd}';

/// The keys that matter of an entry. eStargz and zstd:chunked agree on those that both have.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntryText {
    #[serde(default)]
    name: String,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    size: u64,
    modtime: Option<String>,
    #[serde(default)]
    link_name: String,
    #[serde(default)]
    mode: u64,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default)]
    dev_major: u32,
    #[serde(default)]
    dev_minor: u32,
    xattrs: Option<BTreeMap<String, Option<String>>>,
    digest: Option<String>,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    end_offset: u64,
    #[serde(default)]
    inner_offset: u64,
    #[serde(default)]
    chunk_offset: u64,
    #[serde(default)]
    chunk_size: u64,
    chunk_digest: Option<String>,
    chunk_type: Option<String>,
}

/// The layer in the making.
struct Layout<'a> {
    shape: &'a Shape,
    limits: &'a Limits,
    draft: Draft,
    chunks: Vec<Chunk>,
    /// Where chunks begin or end in the blob.
    bounds: Vec<u64>,
    /// The file whose chunks are being read.
    open: Option<Open>,
    data_end: u64,
    /// Where in the blob the part ends that is wanted first.
    wanted_end: Option<u64>,
}

/// A frame, but for the end of its source.
struct Chunk {
    source_start: u64,
    skip: u64,
    data: Range<u64>,
    digest: FrameDigest,
}

struct Open {
    name: String,
    attributes: Attributes,
    size: u64,
    /// Where it begins in the data file.
    at: u64,
    /// How much of it chunks have made up.
    filled: u64,
}

/// The whole table; what is wrong with it beside its JSON is left in `fault`.
struct Table<'a, 'b> {
    layout: &'a mut Layout<'b>,
    fault: &'a mut Option<Fault>,
}

/// Its list of entries.
struct Entries<'a, 'b>(Table<'a, 'b>);

/// Reads a table of contents whose digest has matched.
pub fn read_toc(json: &[u8], shape: &Shape, limits: &Limits) -> Result<Contents, Fault> {
    let mut layout = Layout {
        shape,
        limits,
        draft: Draft::new(limits.draft()),
        chunks: Vec::new(),
        bounds: vec![shape.data_end],
        open: None,
        data_end: 0,
        wanted_end: None,
    };
    let mut fault = None;
    let mut from = serde_json::Deserializer::from_slice(json);
    let read = from.deserialize_map(Table { layout: &mut layout, fault: &mut fault });
    let version = read.and_then(|version| from.end().map(|()| version));
    match (version, fault) {
        (_, Some(fault)) => Err(fault),
        (Err(error), None) => Err(error.into()),
        (Ok(Some(1)), None) => layout.finish(),
        (Ok(version), None) => Err(Fault::Version(version)),
    }
}

// === impl Table, Entries ===

impl<'de> Visitor<'de> for Table<'_, '_> {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of contents")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self { layout, fault } = self;
        let (mut version, mut entries) = (None, false);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "version" => version = Some(map.next_value()?),
                "entries" if entries => return Err(A::Error::custom("entries twice")),
                "entries" => {
                    entries = true;
                    map.next_value_seed(Entries(Table { layout, fault }))?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(version)
    }
}

impl<'de> DeserializeSeed<'de> for Entries<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Table { layout, fault } = self.0;
        while let Some(entry) = entries.next_element::<EntryText>()? {
            if let Err(wrong) = layout.entry(entry) {
                *fault = Some(wrong);
                return Err(A::Error::custom("an entry is wrong"));
            }
        }
        Ok(())
    }
}

// === impl Layout ===

impl Layout<'_> {
    fn entry(&mut self, text: EntryText) -> Result<(), Fault> {
        let name = text.name.clone();
        self.act(text).map_err(|fault| match fault {
            Wrong::Entry(fault) => Fault::Entry { name: shown(name.as_bytes()), fault },
            Wrong::Layer(fault) => fault,
        })
    }

    fn act(&mut self, text: EntryText) -> Result<(), Wrong> {
        if text.kind == "chunk" {
            return self.continue_file(&text);
        }
        self.close()?;
        if text.name.contains(REPLACEMENT) || text.link_name.contains(REPLACEMENT) {
            return Err(EntryFault::LostName.into());
        }
        if self.shape.hidden.contains(&text.name.as_str()) {
            self.bounds.extend([text.offset, text.end_offset].into_iter().filter(|bound| *bound > 0));
            self.heed(&text);
            return Ok(());
        }
        let attributes = attributes(&text)?;
        let what = match text.kind.as_str() {
            "reg" if text.size > 0 => return self.begin_file(text, attributes),
            "reg" => What::File { size: 0, at: 0 },
            "dir" => What::Directory,
            "symlink" => What::Symlink(text.link_name.as_bytes()),
            "hardlink" => What::HardLink(text.link_name.as_bytes()),
            "char" => What::CharDevice(text.dev_major, text.dev_minor),
            "block" => What::BlockDevice(text.dev_major, text.dev_minor),
            "fifo" => What::Fifo,
            other => return Err(EntryFault::Type(other.chars().take(32).collect()).into()),
        };
        let entry = Entry { path: text.name.as_bytes(), attributes, what };
        Ok(self.draft.apply(entry).map_err(EntryFault::from)?)
    }

    /// A landmark says what is wanted first; of several the first counts.
    fn heed(&mut self, text: &EntryText) {
        let Some(landmarks) = self.shape.landmarks.filter(|_| self.wanted_end.is_none()) else { return };
        if text.name == landmarks.wanted_before {
            self.wanted_end = Some(text.offset);
        } else if text.name == landmarks.nothing_wanted {
            self.wanted_end = Some(0);
        }
    }

    fn begin_file(&mut self, text: EntryText, attributes: Attributes) -> Result<(), Wrong> {
        let alignment = if text.size < LARGE_BYTES { BLOCK_BYTES } else { DISK_BLOCK_BYTES };
        let (at, max) = (self.data_end.next_multiple_of(alignment), self.limits.data_bytes_max);
        if at.checked_add(text.size).is_none_or(|end| end > max) {
            return Err(Wrong::Layer(Fault::LayerTooLarge(max)));
        }
        self.data_end = at + text.size;
        self.open = Some(Open { name: text.name.clone(), attributes, size: text.size, at, filled: 0 });
        self.continue_file(&text)
    }

    /// The open file's next chunk.
    fn continue_file(&mut self, text: &EntryText) -> Result<(), Wrong> {
        let Some(open) = self.open.as_mut().filter(|open| open.name == text.name) else {
            return Err(EntryFault::Chunks.into());
        };
        let left = open.size - open.filled;
        let len = if text.chunk_size == 0 { left } else { text.chunk_size };
        if text.chunk_offset != open.filled || len == 0 || len > left {
            return Err(EntryFault::Chunks.into());
        }
        let data = open.at + open.filled..open.at + open.filled + len;
        open.filled += len;
        match text.chunk_type.as_deref() {
            None | Some("" | "data") => {}
            Some("zeros") => return Ok(()),
            Some(other) => return Err(EntryFault::Type(other.chars().take(32).collect()).into()),
        }
        if text.offset >= self.shape.data_end || text.end_offset > self.shape.data_end {
            return Err(EntryFault::Outside.into());
        }
        let whole = text.digest.as_ref().filter(|_| len == open.size);
        let digest = text.chunk_digest.as_ref().filter(|digest| !digest.is_empty()).or(whole);
        let digest: Digest = digest.and_then(|text| text.parse().ok()).ok_or(EntryFault::NoDigest)?;
        if text.inner_offset > SKIP_MAX || (text.inner_offset > 0 && self.shape.packing == Packing::Zstd) {
            return Err(EntryFault::TooDeep.into());
        }
        self.bounds.push(text.offset);
        self.bounds.extend(Some(text.end_offset).filter(|end| *end > 0));
        self.chunks.push(Chunk { source_start: text.offset, skip: text.inner_offset, data, digest: digest.into() });
        Ok(())
    }

    /// The open file has all its chunks.
    fn close(&mut self) -> Result<(), Wrong> {
        let Some(Open { name, attributes, size, at, filled }) = self.open.take() else { return Ok(()) };
        let wrong = |fault| Wrong::Layer(Fault::Entry { name: shown(name.as_bytes()), fault });
        if filled != size {
            return Err(wrong(EntryFault::Chunks));
        }
        let entry = Entry { path: name.as_bytes(), attributes, what: What::File { size, at } };
        self.draft.apply(entry).map_err(|error| wrong(error.into()))
    }

    fn finish(mut self) -> Result<Contents, Fault> {
        self.close().map_err(|wrong| match wrong {
            Wrong::Entry(fault) => Fault::Entry { name: String::new(), fault },
            Wrong::Layer(fault) => fault,
        })?;
        let (limits, blob_bytes) = (self.limits, self.shape.blob_bytes);
        if self.data_end > limits.ratio_from_bytes && self.data_end / limits.ratio_max.max(1) > blob_bytes {
            return Err(Fault::Ratio(limits.ratio_max));
        }
        self.bounds.sort_unstable();
        self.bounds.dedup();
        let (bounds, packing) = (&self.bounds, self.shape.packing);
        let frame = |chunk: Chunk| {
            // A chunk's own start is among the bounds, and so is the end of all data, which lies behind it.
            let next = bounds.partition_point(|bound| *bound <= chunk.source_start);
            let source = chunk.source_start..bounds.get(next).copied().unwrap_or(self.shape.data_end);
            let start = match (packing, chunk.skip) {
                (Packing::Zstd, _) => Start::Zstd,
                (Packing::Gzip, 0) => Start::Member,
                (Packing::Gzip, skip) => Start::Inside { skip },
            };
            Frame { source, data: chunk.data, start, digest: chunk.digest }
        };
        let frames: Vec<Frame> = self.chunks.into_iter().map(frame).collect();
        let wanted_first = self.wanted_end.map(|end| begun_before(&frames, end));
        let tree = self.draft.finish().map_err(Fault::Draft)?;
        Ok(Contents { tree, frames, data_bytes: self.data_end, wanted_first })
    }
}

/// The frames that begin before this place of the blob.
fn begun_before(frames: &[Frame], end: u64) -> Vec<Range<u32>> {
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for (_, at) in frames.iter().zip(0u32..).filter(|(frame, _)| frame.source.start < end) {
        match ranges.last_mut() {
            Some(range) if range.end == at => range.end += 1,
            _ => ranges.push(at..at + 1),
        }
    }
    ranges
}

/// What is wrong: the entry that is being read, or something else.
enum Wrong {
    Entry(EntryFault),
    Layer(Fault),
}

impl From<EntryFault> for Wrong {
    fn from(fault: EntryFault) -> Self {
        Self::Entry(fault)
    }
}

fn attributes(text: &EntryText) -> Result<Attributes, EntryFault> {
    let mtime = match text.modtime.as_deref() {
        None | Some("") => Time::default(),
        Some(text) => moment::parse(text).ok_or(EntryFault::Time)?,
    };
    let xattr = |(name, value): (&String, &Option<String>)| {
        let value = STANDARD.decode(value.as_deref().unwrap_or_default()).map_err(|_| EntryFault::Xattr)?;
        if name.contains(REPLACEMENT) { Err(EntryFault::LostName) } else { Ok((name.clone().into_bytes(), value)) }
    };
    let xattrs = text.xattrs.iter().flatten().map(xattr).collect::<Result<Xattrs, _>>()?;
    Ok(Attributes { mode: (text.mode & 0o7777) as u16, uid: text.uid, gid: text.gid, mtime, xattrs })
}

#[cfg(test)]
mod tests;
