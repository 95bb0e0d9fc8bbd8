//! Directories as blocks: in each the entries first, then their names.

use std::io;

use crate::index::tree::format::{BLOCK, DIRENT_BYTES, Dirent, number_of_kind};
use crate::index::tree::write::emit::Layout;
use crate::index::tree::write::out::Out;
use crate::index::tree::write::plan::{Entry, Plan};

/// Cuts entries into those of each block.
pub(super) fn dir_blocks<'e, 'a>(entries: &'e [Entry<'a>]) -> impl Iterator<Item = &'e [Entry<'a>]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let mut used = 0;
        let fits = |entry: &&Entry| {
            used += DIRENT_BYTES + entry.name.len();
            used <= BLOCK as usize
        };
        let count = rest.iter().take_while(fits).count();
        let (block, after) = rest.split_at_checked(count)?;
        rest = after;
        (!block.is_empty()).then_some(block)
    })
}

/// Bytes of a directory's blocks without the last, and of the last.
pub(super) fn dir_size(entries: &[Entry]) -> (u64, u64) {
    let bytes = |block: &[Entry]| block.iter().map(|entry| (DIRENT_BYTES + entry.name.len()) as u64).sum();
    dir_blocks(entries).fold((0, 0), |(full, last), block| (full + if last > 0 { BLOCK } else { 0 }, bytes(block)))
}

/// Entries first, then their names.
pub(super) fn put_dir_block(plan: &Plan, block: &[Entry], layout: &Layout, out: &mut impl Out) -> io::Result<()> {
    let mut name_at = block.len() * DIRENT_BYTES;
    for entry in block {
        let kind = plan.inode(entry.of).map_or(0, |inode| number_of_kind(inode.kind));
        let dirent = Dirent { nid: u64::from(layout.nid(entry.of)), name_at: name_at as u16, kind };
        out.put(&dirent.pack())?;
        name_at += entry.name.len();
    }
    block.iter().try_for_each(|entry| out.put(entry.name))
}
