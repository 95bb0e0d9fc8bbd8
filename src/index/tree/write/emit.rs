//! The bytes of a tree after its heading, in order: first all inodes, then all blocks. Runs twice over the same
//! plan, first only counting, so that what is where is known when the bytes that say so are written.

use std::io;

use crate::index::tree::format::{
    BLOCK, CHUNK_INDEX_BYTES, INODE_BYTES, Layout as InodeLayout, RawInode, SLOT, mode_of_kind, pack_device,
};
use crate::index::tree::write::dir::{dir_blocks, dir_size, put_dir_block};
use crate::index::tree::write::out::Out;
use crate::index::tree::write::pieces::{Chunks, Run};
use crate::index::tree::write::plan::Plan;
use crate::index::tree::write::xattr::{emit_xattrs, xattr_bytes};
use crate::index::tree::write::{Content, From, Inode, Piece, WriteError};
use crate::index::tree::{Kind, Nid};

/// What the first pass finds out for the second, by inode.
pub(super) struct Layout {
    /// Node ids.
    nids: Vec<u32>,
    /// The first block of those that an inode has.
    blocks: Vec<u32>,
    /// Chunk indexes in all.
    chunks: u64,
}

/// Chunk indexes of a whole tree: 128 MiB of them. A tar of a few bytes can name a file of 2^63 bytes or one with
/// thousands of holes, and must not make a tree that fills the disk.
const CHUNKS_MAX: u64 = 1 << 24;

/// What follows an inode.
enum Tail<'a> {
    Nothing,
    /// A directory's or symlink's content, so many bytes of it in blocks and the rest right here.
    Flat {
        size: u64,
        in_blocks: u64,
    },
    Chunks {
        chunks: Chunks,
        size: u64,
        pieces: &'a [Piece],
    },
}

/// Writes everything after the heading.
pub(super) fn emit(plan: &Plan, data_bytes: u64, layout: &mut Layout, out: &mut impl Out) -> Result<(), WriteError> {
    layout.chunks = 0;
    for id in &plan.order {
        let Some(inode) = plan.inode(*id) else { continue };
        emit_inode(plan, *id, inode, data_bytes, layout, out)?;
    }
    out.align(BLOCK)?;
    for id in &plan.order {
        let Some(inode) = plan.inode(*id) else { continue };
        let tail = tail(plan, *id, inode, data_bytes)?;
        layout.set_blocks(*id, out.at())?;
        emit_blocks(plan, *id, inode, &tail, layout, out)?;
    }
    Ok(())
}

fn emit_inode(
    plan: &Plan,
    id: u32,
    inode: &Inode,
    data_bytes: u64,
    layout: &mut Layout,
    out: &mut impl Out,
) -> Result<(), WriteError> {
    let xattr_bytes = xattr_bytes(inode).map_err(|reason| plan.refused(id, reason))?;
    let tail = tail(plan, id, inode, data_bytes)?;
    out.align(SLOT)?;
    let inline = tail.inline();
    let past = (out.at() + INODE_BYTES + xattr_bytes) % BLOCK;
    if past + inline > BLOCK {
        out.zeros((BLOCK - past).next_multiple_of(SLOT))?; // an inline tail must not cross into the next block
    }
    layout.set_nid(id, out.at())?;
    let raw = RawInode {
        layout: tail.layout(inode, layout.block(id)),
        xattr_bytes: xattr_bytes as u32,
        mode: inode.mode | mode_of_kind(inode.kind),
        size: tail.size(),
        number: layout.nid(id),
        uid: inode.uid,
        gid: inode.gid,
        seconds: inode.mtime.seconds,
        nanos: inode.mtime.nanos,
        nlink: plan.nlink(id),
    };
    out.put(&raw.pack())?;
    emit_xattrs(inode, xattr_bytes, out)?;
    match &tail {
        Tail::Nothing => {}
        Tail::Flat { in_blocks, .. } => match &inode.content {
            Content::Target(target) if *in_blocks == 0 => out.put(target)?,
            Content::Children(_) if inline > 0 => {
                if let Some(last) = dir_blocks(plan.entries(id)).last() {
                    put_dir_block(plan, last, layout, out)?;
                }
            }
            _ => {}
        },
        Tail::Chunks { chunks, .. } => {
            layout.count_chunks(chunks.count)?;
            out.align(CHUNK_INDEX_BYTES)?;
            for index in chunks.indexes(layout.block(id)) {
                out.put(&index.pack())?;
            }
        }
    }
    Ok(())
}

fn emit_blocks(
    plan: &Plan,
    id: u32,
    inode: &Inode,
    tail: &Tail,
    layout: &Layout,
    out: &mut impl Out,
) -> Result<(), WriteError> {
    match (tail, &inode.content) {
        (Tail::Flat { in_blocks, .. }, Content::Target(target)) if *in_blocks > 0 => out.put(target)?,
        (Tail::Flat { in_blocks, .. }, Content::Children(_)) => {
            let end = out.at() + in_blocks;
            for block in dir_blocks(plan.entries(id)) {
                if out.at() >= end {
                    break;
                }
                put_dir_block(plan, block, layout, out)?;
                out.align(BLOCK)?;
            }
        }
        (Tail::Chunks { chunks, pieces, .. }, _) => {
            for run in chunks.own() {
                put_run(run, pieces, out)?;
            }
        }
        _ => {}
    }
    out.align(BLOCK)?;
    Ok(())
}

/// The bytes that a run of blocks holds, and zeros where no piece has any.
fn put_run(run: &Run, pieces: &[Piece], out: &mut impl Out) -> io::Result<()> {
    let (start, end) = (run.block * BLOCK, (run.block + run.blocks) * BLOCK);
    let base = out.at();
    let first = pieces.partition_point(|piece| piece.at < start);
    for piece in pieces.iter().skip(first).take_while(|piece| piece.at < end) {
        if let From::Bytes(bytes) = &piece.from {
            out.zeros(base + (piece.at - start) - out.at())?;
            out.put(bytes)?;
        }
    }
    out.zeros(base + (end - start) - out.at())
}

// === impl Tail ===

fn tail<'a>(plan: &Plan<'a>, id: u32, inode: &'a Inode, data_bytes: u64) -> Result<Tail<'a>, WriteError> {
    match &inode.content {
        Content::None | Content::Extents { size: 0, .. } => Ok(Tail::Nothing),
        // Neither the kernel nor the reader has to put a target together from two places.
        Content::Target(target) => Ok(Tail::flat(inode, target.len() as u64, target.len() as u64)),
        Content::Children(_) => {
            let (full, last) = dir_size(plan.entries(id));
            Ok(Tail::flat(inode, full + last, last))
        }
        Content::Extents { size, pieces } => {
            let chunks = Chunks::of(*size, pieces, data_bytes).map_err(|reason| plan.refused(id, reason))?;
            Ok(Tail::Chunks { chunks, size: *size, pieces })
        }
    }
}

impl Tail<'_> {
    /// `size` bytes whose `last` may follow the inode, if there is a place where they do not cross a block.
    fn flat(inode: &Inode, size: u64, last: u64) -> Self {
        let before = (INODE_BYTES + xattr_bytes(inode).unwrap_or(0)) % SLOT;
        let inline = last < BLOCK && before + last <= BLOCK;
        Self::Flat { size, in_blocks: if inline { size - last } else { size } }
    }

    fn size(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Flat { size, .. } | Self::Chunks { size, .. } => *size,
        }
    }

    /// Bytes of content right after the inode.
    fn inline(&self) -> u64 {
        match self {
            Self::Flat { size, in_blocks } => size - in_blocks,
            _ => 0,
        }
    }

    fn layout(&self, inode: &Inode, block: u32) -> InodeLayout {
        match self {
            Self::Nothing => match pack_device(inode.device) {
                Some(number) if inode.is_device() => InodeLayout::Device { number },
                _ => InodeLayout::Plain { block: 0 },
            },
            Self::Flat { .. } if self.inline() > 0 => InodeLayout::Inline { block },
            Self::Flat { .. } => InodeLayout::Plain { block },
            Self::Chunks { chunks, .. } => InodeLayout::Chunks { bits: chunks.bits },
        }
    }
}

// === impl Layout, Inode ===

impl Layout {
    pub(super) fn new(inodes: usize) -> Self {
        Self { nids: vec![0; inodes], blocks: vec![0; inodes], chunks: 0 }
    }

    /// The root is written first, so its node id is among the smallest.
    pub(super) fn root(&self) -> Nid {
        Nid(self.nid(0))
    }

    pub(super) fn nid(&self, id: u32) -> u32 {
        self.nids.get(id as usize).copied().unwrap_or(0)
    }

    fn block(&self, id: u32) -> u32 {
        self.blocks.get(id as usize).copied().unwrap_or(0)
    }

    fn set_nid(&mut self, id: u32, at: u64) -> Result<(), WriteError> {
        let nid = u32::try_from(at / SLOT).map_err(|_| WriteError::TooLarge("more than 128 GiB of inodes"))?;
        known_or_same(&mut self.nids, id, nid);
        Ok(())
    }

    fn set_blocks(&mut self, id: u32, at: u64) -> Result<(), WriteError> {
        let block = u32::try_from(at / BLOCK).map_err(|_| WriteError::TooLarge("2 TiB or more"))?;
        known_or_same(&mut self.blocks, id, block);
        Ok(())
    }

    fn count_chunks(&mut self, count: u64) -> Result<(), WriteError> {
        self.chunks = self.chunks.saturating_add(count);
        if self.chunks > CHUNKS_MAX {
            return Err(WriteError::TooLarge("its sparse or huge files need more than 2^24 chunk indexes"));
        }
        Ok(())
    }
}

/// Notes a place in the first pass; in the second it must come out the same.
fn known_or_same(places: &mut [u32], id: u32, place: u32) {
    if let Some(known) = places.get_mut(id as usize) {
        assert!(*known == 0 || *known == place, "bug: the passes disagree where inode {id} lies");
        *known = place;
    }
}

impl Inode {
    fn is_device(&self) -> bool {
        matches!(self.kind, Kind::CharDevice | Kind::BlockDevice)
    }
}
