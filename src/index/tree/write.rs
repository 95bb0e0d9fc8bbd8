//! Makes a tree: takes what a layer consists of and writes it as an EROFS image, in one streaming pass after
//! one that only counts, both through the same code (`emit`). The same source gives the same bytes always: no
//! clock, no chance, and not even the order of the source's inodes matters.
//!
//! Says no to what EROFS cannot hold; never leaves something out, changes it or decides what a layer means.

mod dir;
mod emit;
mod out;
mod pieces;
mod plan;
mod xattr;

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use crate::digest::DiffId;
use crate::index::tree::format::{BLOCK, HEADING_BYTES, Heading, INODE_BYTES};
use crate::index::tree::write::out::Out as _;
use crate::index::tree::{IMPLIED, Kind, LOWER_LINK, Time, Xattrs};

/// What a tree is made of, in any order; index 0 is the root directory. What no directory names is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub inodes: Vec<Inode>,
}

/// An index into [`Source::inodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InodeId(pub u32);

/// A node to be written. How many names it has is counted by the writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    pub kind: Kind,
    /// `0o7777` at most.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// Major and minor; ignored unless the node is a device.
    pub device: (u32, u32),
    /// In any order.
    pub xattrs: Xattrs,
    pub content: Content,
}

/// What an inode holds, fitting its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Devices, fifos, sockets, empty files.
    None,
    /// Of a symlink.
    Target(Vec<u8>),
    /// Of a directory: names and whose they are, in any order; without `.` and `..`.
    Children(Vec<(Box<[u8]>, InodeId)>),
    /// Of a file: pieces ascending and not overlapping; what lies between them is a hole.
    Extents { size: u64, pieces: Vec<Piece> },
}

/// A stretch of a file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// From the start of the file.
    pub at: u64,
    pub len: u64,
    pub from: From,
}

/// Where a piece's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// At this offset of the data file. Both this and the piece's own offset are multiples of 512, and so is its
    /// length unless the file ends with it: the kernel maps whole blocks, so anything else would show bytes that
    /// are not the file's.
    Data(u64),
    /// Here, as many as the piece is long; they are stored in the tree.
    Bytes(Vec<u8>),
}

/// Whose tree it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Labels {
    pub diff_id: DiffId,
    /// Bytes of the data file.
    pub data_bytes: u64,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    pub inodes: u32,
    /// Inodes with [`IMPLIED`].
    pub implied: u32,
    /// Inodes with [`LOWER_LINK`].
    pub lower_links: u32,
}

/// Why a tree could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("writing the layer's tree failed")]
    Io(#[from] io::Error),
    #[error("/{path}: {reason}")]
    Refused { path: String, reason: Refusal },
    #[error("the layer's tree would be too large: {0}")]
    TooLarge(&'static str),
}

/// Why one inode cannot be in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("a name is empty, `.` or `..`, longer than 255 bytes, or holds a slash or a zero byte")]
    Name,
    #[error("a directory names the same child twice")]
    TwiceNamed,
    #[error("a directory is the root's or has a second parent")]
    SecondParent,
    #[error("a child is not among the inodes")]
    NoSuchInode,
    #[error("its content does not fit its kind")]
    Content,
    #[error("its mode has bits beyond 07777")]
    Mode,
    #[error("its time has more than 999,999,999 nanoseconds")]
    Time,
    #[error("its device number does not fit 12 bits of major and 20 of minor")]
    Device,
    #[error("a symlink's target is empty, longer than 4095 bytes, or holds a zero byte")]
    Target,
    #[error("its size is beyond 2^63 - 1")]
    Size,
    #[error("its pieces overlap, descend or leave the file")]
    Pieces,
    #[error("a piece from the data file is not aligned to 512 bytes")]
    Unaligned,
    #[error("a piece lies outside the data file")]
    OutsideData,
    #[error("an extended attribute's name is longer than 255 bytes, twice there, or in no namespace that EROFS has")]
    XattrName,
    #[error("its extended attributes are larger than EROFS can hold: 65535 bytes each, 256 KiB together")]
    XattrSize,
}

/// Writes the tree of `source` into `into`, replacing what was there. On an error the file holds no tree.
pub fn write(source: &Source, labels: &Labels, into: &File) -> Result<Written, WriteError> {
    let data_blocks = labels.data_bytes.div_ceil(BLOCK);
    let data_blocks = u32::try_from(data_blocks)
        .ok()
        .filter(|blocks| *blocks < u32::MAX)
        .ok_or(WriteError::TooLarge("its data file has 2 TiB or more"))?;
    let plan = plan::Plan::of(source)?;
    let mut layout = emit::Layout::new(source.inodes.len());
    let mut counted = out::Counted::new(HEADING_BYTES);
    emit::emit(&plan, labels.data_bytes, &mut layout, &mut counted)?;
    let blocks = u32::try_from(counted.at() / BLOCK)
        .ok()
        .filter(|blocks| *blocks < u32::MAX)
        .ok_or(WriteError::TooLarge("2 TiB or more"))?;

    let mut file = into;
    file.set_len(0)?;
    file.seek(SeekFrom::Start(HEADING_BYTES))?;
    let mut streamed = out::Streamed::new(HEADING_BYTES, file);
    emit::emit(&plan, labels.data_bytes, &mut layout, &mut streamed)?;
    let body = streamed.finish()?;
    let written = Written {
        bytes: u64::from(blocks) * BLOCK,
        inodes: plan.order.len() as u32,
        implied: plan.having(IMPLIED),
        lower_links: plan.having(LOWER_LINK),
    };
    let heading = Heading {
        root: layout.root(),
        inodes: written.inodes,
        blocks,
        diff_id: labels.diff_id,
        data_blocks,
        implied: written.implied,
        lower_links: written.lower_links,
        body,
    };
    into.write_all_at(&heading.pack(), 0)?;
    Ok(written)
}

/// Inodes whose node ids fit 32 bits even if each had nothing but itself: a first bound, before any is counted.
const INODES_MAX: usize = (1 << 37) / INODE_BYTES as usize;

#[cfg(test)]
mod tests;
