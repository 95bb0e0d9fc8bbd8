//! A layer's index as it is published: tree and frames in one blob, for nodes that never had the layer.
//!
//! ```text
//!   0 magic  8 version  12 frames  16 layer  48 diff id  80 blob bytes  88 data bytes  96 tree bytes  104 window bytes
//! 112 one zstd frame: the tree; a record of 64 bytes for each frame; the windows, one after another
//!
//! record:  0 source start, end  16 data end  24 window bytes  28 kind  29 bits  30 zeros  32 BLAKE3 of the frame's data
//! ```
//! Numbers are little-endian. The same layer gives the same bytes, whoever scanned it. What is read is believed by nobody: the tree
//! is taken apart and written anew, and every number has a bound.

pub mod artifact;
pub mod signature;

use bytes::Bytes;

use crate::blob::Layered;
use crate::digest::{DiffId, Digest, FrameDigest, LayerDigest};
use crate::index::frames::{Frame, FrameId, Frames, FramesError, Start};
use crate::index::scan::Limits;
use crate::index::sources::{Contents, Fault};
use crate::index::tree::draft::is_allowed;
use crate::index::tree::read::{Tree, TreeError};
use crate::index::tree::write::{Content, Inode, Source};
use crate::index::tree::{IMPLIED, Kind, LOWER_LINK, OPAQUE};

const MAGIC: [u8; 8] = *b"1cINDEX\0";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 112;
const RECORD_BYTES: usize = 64;
const WINDOW_BYTES_MAX: usize = 32 << 10;
/// Once for all nodes that will read it; beyond this level it takes far longer and saves little.
const LEVEL: i32 = 15;

/// The index of a layer of 30 GB.
pub const PACKED_BYTES_MAX: u64 = 128 << 20;
/// Trees pack to a tenth, windows that are mostly zeros to less.
const RATIO_MAX: u64 = 256;
const UNPACKED_BYTES_MAX: u64 = 512 << 20;

/// The header's numbers.
struct Header {
    frames: u32,
    layer: LayerDigest,
    diff_id: DiffId,
    blob_bytes: u64,
    data_bytes: u64,
    tree_bytes: u64,
    window_bytes: u64,
}

/// Why an index cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error(transparent)]
    Frames(#[from] FramesError),
    #[error("it cannot be packed")]
    Io(#[from] std::io::Error),
}

/// The index of a layer that was scanned here.
pub fn pack(tree: &Tree, frames: &Frames) -> Result<Vec<u8>, PackError> {
    let (heading, tree) = (frames.heading(), tree.bytes(0, tree.size()).map_err(std::io::Error::other)?);
    let (mut table, mut windows) = (Vec::new(), Vec::new());
    for id in 0..frames.len() {
        let frame = frames.get(FrameId(id))?;
        let FrameDigest::Blake3(digest) = frame.digest else {
            return Err(std::io::Error::other("a frame of a scan has another digest than a scan gives").into());
        };
        let (kind, bits, window): (u8, u8, &[u8]) = match &frame.start {
            Start::Plain => (1, 0, &[]),
            Start::Member => (2, 0, &[]),
            Start::Block { bits, window } => (3, *bits, window),
            Start::Zstd => (4, 0, &[]),
            Start::Inside { .. } => return Err(std::io::Error::other("a frame of a scan lies within a member").into()),
        };
        for number in [frame.source.start, frame.source.end, frame.data.end] {
            table.extend(number.to_le_bytes());
        }
        table.extend((window.len() as u32).to_le_bytes());
        table.extend([kind, bits, 0, 0]);
        table.extend(digest);
        windows.extend_from_slice(window);
    }
    let mut packed = Vec::from(MAGIC);
    packed.extend(VERSION.to_le_bytes());
    packed.extend(frames.len().to_le_bytes());
    packed.extend(heading.layer.0.as_bytes());
    packed.extend(heading.diff_id.0.as_bytes());
    for number in [heading.blob_bytes, heading.data_bytes, tree.len() as u64, windows.len() as u64] {
        packed.extend(number.to_le_bytes());
    }
    debug_assert_eq!(packed.len(), HEADER_BYTES);
    packed.extend(zstd::bulk::compress(&[tree, &table, &windows].concat(), LEVEL)?);
    Ok(packed)
}

/// What an index says of `layer`, in the words that all sources have.
///
/// # Errors
/// Says why it is of no use.
pub fn unpack(packed: &[u8], layer: &Layered, limits: &Limits) -> Result<Contents, Fault> {
    let header = Header::read(packed)?;
    header.check(layer, limits)?;
    let body = header.body(packed)?;
    let (tree, rest) = split(&body, header.tree_bytes)?;
    let (table, windows) = split(rest, u64::from(header.frames) * RECORD_BYTES as u64)?;
    let frames = frames(table, windows, &header)?;
    let tree = Tree::from_bytes(Bytes::copy_from_slice(tree)).map_err(of_tree)?;
    tree.check().map_err(of_tree)?;
    if tree.diff_id() != header.diff_id || tree.data_bytes() != header.data_bytes.next_multiple_of(512) {
        return Err(Fault::Format("its tree is that of another layer"));
    }
    if tree.counts().inodes > limits.inodes_max || tree.size() > limits.names_bytes_max {
        return Err(Fault::TooLarge(limits.names_bytes_max));
    }
    let tree = tree.source().map_err(of_tree)?;
    check_tree(&tree)?;
    Ok(Contents { tree, frames, data_bytes: header.data_bytes, wanted_first: None })
}

fn split(bytes: &[u8], at: u64) -> Result<(&[u8], &[u8]), Fault> {
    let at = usize::try_from(at).ok();
    at.and_then(|at| bytes.split_at_checked(at)).ok_or(Fault::Format("it is shorter than it says"))
}

fn of_tree(error: TreeError) -> Fault {
    match error {
        TreeError::Heading(cause) => Fault::Format(cause),
        TreeError::Damaged { what, .. } => Fault::Format(what),
        _ => Fault::Format("its tree is damaged"),
    }
}

// === impl Header ===

impl Header {
    fn read(packed: &[u8]) -> Result<Self, Fault> {
        const SHORT: Fault = Fault::Format("it is too short to be an index");
        let mut rest = packed.get(..HEADER_BYTES).ok_or(SHORT)?;
        if take::<8>(&mut rest)? != MAGIC {
            return Err(Fault::Format("it does not begin as an index does"));
        }
        let version = u32::from_le_bytes(take(&mut rest)?);
        if version != VERSION {
            return Err(Fault::Version(Some(version.into())));
        }
        let frames = u32::from_le_bytes(take(&mut rest)?);
        let layer = LayerDigest(Digest::from_bytes(take(&mut rest)?));
        let diff_id = DiffId(Digest::from_bytes(take(&mut rest)?));
        let mut number = || take(&mut rest).map(u64::from_le_bytes);
        let [blob_bytes, data_bytes, tree_bytes, window_bytes] = [number()?, number()?, number()?, number()?];
        Ok(Self { frames, layer, diff_id, blob_bytes, data_bytes, tree_bytes, window_bytes })
    }

    fn check(&self, layer: &Layered, limits: &Limits) -> Result<(), Fault> {
        if (self.layer, self.diff_id, self.blob_bytes) != (layer.digest, layer.diff_id, layer.size) {
            return Err(Fault::Format("it is that of another layer"));
        }
        if self.data_bytes > limits.data_bytes_max {
            return Err(Fault::LayerTooLarge(limits.data_bytes_max));
        }
        let ratio = self.data_bytes / limits.ratio_max.max(1);
        if self.data_bytes > limits.ratio_from_bytes && ratio > self.blob_bytes {
            return Err(Fault::Ratio(limits.ratio_max));
        }
        Ok(())
    }

    /// What is packed, which must be as long as the header says.
    fn body(&self, packed: &[u8]) -> Result<Vec<u8>, Fault> {
        let table = u64::from(self.frames) * RECORD_BYTES as u64;
        let total = self.tree_bytes.checked_add(self.window_bytes).and_then(|sum| sum.checked_add(table));
        let max = (packed.len() as u64 * RATIO_MAX).clamp(1 << 20, UNPACKED_BYTES_MAX);
        let total = total.filter(|total| *total <= max).ok_or(Fault::TooLarge(max))?;
        let total = usize::try_from(total).map_err(|_| Fault::TooLarge(max))?;
        let body = packed.get(HEADER_BYTES..).unwrap_or_default();
        let body = zstd::bulk::decompress(body, total).map_err(|_| Fault::Format("it cannot be unpacked"))?;
        if body.len() == total { Ok(body) } else { Err(Fault::Format("it is shorter than it says")) }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Fault> {
    let (first, after) = rest.split_first_chunk().ok_or(Fault::Format("it is cut off"))?;
    *rest = after;
    Ok(*first)
}

/// Frames that follow one another from the first byte of the tar to its last.
fn frames(mut table: &[u8], mut windows: &[u8], header: &Header) -> Result<Vec<Frame>, Fault> {
    let (mut frames, mut data, mut before) = (Vec::with_capacity(header.frames as usize), 0, 0);
    while !table.is_empty() {
        let mut number = || take(&mut table).map(u64::from_le_bytes);
        let (source, data_end) = (number()?..number()?, number()?);
        let window_bytes = u32::from_le_bytes(take(&mut table)?) as usize;
        let [kind, bits, _, _] = take(&mut table)?;
        let digest = FrameDigest::Blake3(take(&mut table)?);
        if source.start < before || source.is_empty() || source.end > header.blob_bytes || data_end <= data {
            return Err(Fault::Format("its frames do not follow one another"));
        }
        let start = match (kind, bits, window_bytes) {
            (1, 0, 0) => Start::Plain,
            (2, 0, 0) => Start::Member,
            (3, 0..=7, 0..=WINDOW_BYTES_MAX) => {
                let (window, rest) = split(windows, window_bytes as u64)?;
                windows = rest;
                Start::Block { bits, window: window.to_vec() }
            }
            (4, 0, 0) => Start::Zstd,
            _ => return Err(Fault::Format("a frame starts in an unknown way")),
        };
        before = source.start;
        frames.push(Frame { source, data: data..data_end, start, digest });
        data = data_end;
    }
    if data == header.data_bytes && windows.is_empty() {
        Ok(frames)
    } else {
        Err(Fault::Format("its frames are not those of the whole layer"))
    }
}

/// That the tree says nothing a scan could not have said: to overlayfs and to us speaks only what a scan makes.
fn check_tree(tree: &Source) -> Result<(), Fault> {
    for inode in &tree.inodes {
        for (name, value) in &inode.xattrs {
            let is_ours = match name.as_slice() {
                OPAQUE => inode.kind == Kind::Directory && value == b"y",
                IMPLIED => inode.kind == Kind::Directory && value.is_empty(),
                LOWER_LINK => is_link(inode, value),
                _ => false,
            };
            if !is_ours && !is_allowed(name, value) {
                return Err(Fault::Format("its tree has an extended attribute that no layer can have"));
            }
        }
        if inode.kind == Kind::Socket {
            return Err(Fault::Format("its tree has a socket, which no layer can have"));
        }
    }
    Ok(())
}

/// Whether it stands for a hard link out of the layer, to a path that cannot lead out of the image.
fn is_link(inode: &Inode, target: &[u8]) -> bool {
    let is_part = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && part.len() <= 255 && !part.contains(&0);
    let is_path = target.len() <= 4096 && target.split(|byte| *byte == b'/').all(is_part);
    inode.kind == Kind::File && inode.content == Content::None && is_path
}

#[cfg(test)]
mod tests;
