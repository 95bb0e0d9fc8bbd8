//! Where a file's content lies: chunks of a power of two of blocks, each with an 8-byte index after the node.

use crate::index::tree::format::{BLOCK, BLOCK_BITS, CHUNK_INDEX_BYTES, ChunkIndex, Layout, NULL_BLOCK, get};
use crate::index::tree::read::{Found, Tree, TreeError};
use crate::index::tree::{Extent, Kind, Place};

/// Chunks that one answer puts together at most. 4096 of the smallest are 2 MiB, more than a reader asks for at
/// once, and a file with millions of chunks does not keep anybody waiting.
const MERGED_MAX: u64 = 4096;

pub(super) fn extent(tree: &Tree, found: &Found, at: u64) -> Result<Extent, TreeError> {
    if found.kind != Kind::File {
        return Err(TreeError::Kind { nid: found.nid, want: "regular file" });
    }
    let size = found.raw.size;
    if at >= size {
        return Err(TreeError::PastEnd { at });
    }
    let Layout::Chunks { bits } = found.raw.layout else {
        return Err(found.damaged("a file with content has no chunks"));
    };
    let chunk_bits = bits + BLOCK_BITS;
    let first = at >> chunk_bits;
    let last = (size - 1) >> chunk_bits;
    let index = chunk(tree, found, first)?;
    let step = 1u64 << bits;
    let mut chunks = 1;
    while first + chunks <= last && chunks < MERGED_MAX {
        let follows = match index.block {
            NULL_BLOCK => ChunkIndex::HOLE,
            block => match u32::try_from(u64::from(block) + step * chunks) {
                Ok(block) => ChunkIndex { block, ..index },
                Err(_) => break,
            },
        };
        if chunk(tree, found, first + chunks)? != follows {
            break;
        }
        chunks += 1;
    }
    let start = first << chunk_bits;
    // Chunks end where the file does, so the sum stays below 2^63 + 2^40.
    let end = start.saturating_add(chunks << chunk_bits).min(size);
    let len = end - at;
    let place = place(tree, found, index, at - start, len)?;
    Ok(Extent { place, len })
}

fn chunk(tree: &Tree, found: &Found, number: u64) -> Result<ChunkIndex, TreeError> {
    let outside = || found.damaged("its chunk indexes are outside");
    let base = found.tail_at.next_multiple_of(CHUNK_INDEX_BYTES);
    let at = number.checked_mul(CHUNK_INDEX_BYTES).and_then(|bytes| base.checked_add(bytes)).ok_or_else(outside)?;
    let bytes = tree.bytes(at, CHUNK_INDEX_BYTES).map_err(|_| outside())?;
    let index = get(bytes, 0).and_then(|bytes| ChunkIndex::unpack(&bytes)).ok_or_else(outside)?;
    // Of a hole the block alone says so.
    Ok(if index.block == NULL_BLOCK { ChunkIndex::HOLE } else { index })
}

/// The place of `len` bytes that begin `skip` bytes after the start of `index`, if they are really there.
fn place(tree: &Tree, found: &Found, index: ChunkIndex, skip: u64, len: u64) -> Result<Place, TreeError> {
    let at = u64::from(index.block) * BLOCK + skip;
    let (place, limit) = match (index.block, index.device) {
        (NULL_BLOCK, _) => return Ok(Place::Hole),
        (_, ChunkIndex::DATA) => (Place::Data(at), tree.data_bytes()),
        (_, ChunkIndex::IMAGE) => (Place::Tree(at), tree.size()),
        _ => return Err(found.damaged("its content is on a device that is not there")),
    };
    match at.checked_add(len) {
        Some(end) if end <= limit => Ok(place),
        _ => Err(found.damaged("its content is outside")),
    }
}
