//! Directories: blocks of at most 512 bytes, each with its entries first and their names after them. All names
//! of a directory are sorted by bytes, `.` and `..` among them.

use std::cmp::Ordering;

use crate::index::tree::format::{BLOCK, DIRENT_BYTES, Dirent, Layout, NAME_MAX, kind_of_number};
use crate::index::tree::read::{Found, Tree, TreeError};
use crate::index::tree::{Kind, Nid};

/// A directory's child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child<'a> {
    pub name: &'a [u8],
    pub nid: Nid,
    pub kind: Kind,
}

/// A directory's children in order.
#[derive(Debug, Clone)]
pub struct List<'a> {
    entries: Entries<'a>,
    /// The block that is being read.
    block: Block<'a>,
    next_block: usize,
    next_entry: usize,
    last: &'a [u8],
}

/// A directory's blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entries<'a> {
    nid: Nid,
    in_blocks: &'a [u8],
    /// The last block, if it follows the node.
    inline: &'a [u8],
}

/// One block, its first entry checked.
#[derive(Debug, Clone, Copy)]
struct Block<'a> {
    nid: Nid,
    bytes: &'a [u8],
    entries: usize,
}

const BLOCK_BYTES: usize = BLOCK as usize;

/// An offset is its block times this plus the entry in it; a block has fewer entries.
const OFFSET_ENTRIES: u64 = 256;
const _: () = assert!(BLOCK / (DIRENT_BYTES as u64) < OFFSET_ENTRIES);

// === impl Entries ===

impl<'a> Entries<'a> {
    pub(super) fn of(tree: &'a Tree, dir: Nid) -> Result<Self, TreeError> {
        let found = tree.find(dir)?;
        if found.kind != Kind::Directory {
            return Err(TreeError::Kind { nid: dir, want: "directory" });
        }
        Self::lying(tree, &found).ok_or(found.damaged("a directory's content is outside"))
    }

    fn lying(tree: &'a Tree, found: &Found) -> Option<Self> {
        let size = found.raw.size;
        let (block, last) = match found.raw.layout {
            Layout::Plain { block } => (block, 0),
            Layout::Inline { block } => (block, size % BLOCK),
            _ => return None,
        };
        let in_blocks = match size - last {
            0 => &[],
            bytes => tree.bytes(u64::from(block) * BLOCK, bytes).ok()?,
        };
        let inline = tree.bytes(found.tail_at, last).ok()?;
        Some(Self { nid: found.nid, in_blocks, inline })
    }

    fn blocks(&self) -> usize {
        self.in_blocks.len().div_ceil(BLOCK_BYTES) + usize::from(!self.inline.is_empty())
    }

    fn block(&self, at: usize) -> Result<Block<'a>, TreeError> {
        let start = at * BLOCK_BYTES;
        let bytes = match self.in_blocks.get(start..).filter(|rest| !rest.is_empty()) {
            Some(rest) => rest.get(..BLOCK_BYTES).unwrap_or(rest),
            None => self.inline,
        };
        Block::of(self.nid, bytes)
    }

    /// The entry called `name`, `.` and `..` too.
    pub(super) fn search(&self, name: &[u8]) -> Result<Option<(Nid, Kind)>, TreeError> {
        // The last block whose first name is not behind `name` is the only one that can hold it.
        let (mut low, mut high) = (0, self.blocks());
        let mut candidate = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let block = self.block(middle)?;
            match block.name(0)?.cmp(name) {
                Ordering::Equal => return block.entry(0).map(|child| Some((child.nid, child.kind))),
                Ordering::Less => {
                    candidate = Some(block);
                    low = middle + 1;
                }
                Ordering::Greater => high = middle,
            }
        }
        candidate.map_or(Ok(None), |block| block.search(name))
    }

    pub(super) fn list(self) -> List<'a> {
        let block = Block { nid: self.nid, bytes: &[], entries: 0 };
        List { entries: self, block, next_block: 0, next_entry: 0, last: &[] }
    }

    /// Goes on where [`List::offset`] said; an offset that is none has nothing behind it.
    pub(super) fn list_from(self, offset: u64) -> Result<List<'a>, TreeError> {
        let mut list = self.list();
        let Some(next_block) = usize::try_from(offset / OFFSET_ENTRIES).ok().filter(|next| *next > 0) else {
            return Ok(list);
        };
        if next_block > self.blocks() {
            list.next_block = self.blocks();
            return Ok(list);
        }
        list.block = self.block(next_block - 1)?;
        list.next_block = next_block;
        list.next_entry = list.block.entries.min((offset % OFFSET_ENTRIES) as usize);
        Ok(list)
    }
}

// === impl Block ===

impl<'a> Block<'a> {
    fn of(nid: Nid, bytes: &'a [u8]) -> Result<Self, TreeError> {
        let mut block = Self { nid, bytes, entries: 1 };
        let names_at = usize::from(block.dirent(0)?.name_at);
        if names_at < DIRENT_BYTES || names_at % DIRENT_BYTES != 0 || names_at > bytes.len() {
            return Err(block.damaged("a directory block's first name is in no place for one"));
        }
        block.entries = names_at / DIRENT_BYTES;
        Ok(block)
    }

    fn dirent(&self, at: usize) -> Result<Dirent, TreeError> {
        let bytes = self.bytes.get(at * DIRENT_BYTES..).and_then(<[u8]>::first_chunk);
        bytes.and_then(Dirent::unpack).ok_or(self.damaged("a directory block is too short"))
    }

    fn name(&self, at: usize) -> Result<&'a [u8], TreeError> {
        self.name_of(at, self.dirent(at)?)
    }

    /// A name ends where the next begins; the last where the block does or at the first zero byte.
    fn name_of(&self, at: usize, dirent: Dirent) -> Result<&'a [u8], TreeError> {
        let rest = self.bytes.get(usize::from(dirent.name_at)..).unwrap_or_default();
        let name = if at + 1 < self.entries {
            let end = usize::from(self.dirent(at + 1)?.name_at);
            self.bytes.get(usize::from(dirent.name_at)..end).unwrap_or_default()
        } else {
            let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
            rest.get(..end).unwrap_or_default()
        };
        let sound = !name.is_empty() && name.len() <= NAME_MAX;
        if sound { Ok(name) } else { Err(self.damaged("a name is empty or too long")) }
    }

    fn entry(&self, at: usize) -> Result<Child<'a>, TreeError> {
        let dirent = self.dirent(at)?;
        let name = self.name_of(at, dirent)?;
        let nid = u32::try_from(dirent.nid).map_err(|_| self.damaged("a child's node id is too large"))?;
        let kind = kind_of_number(dirent.kind).ok_or(self.damaged("a child is of no kind"))?;
        Ok(Child { name, nid: Nid(nid), kind })
    }

    fn search(&self, name: &[u8]) -> Result<Option<(Nid, Kind)>, TreeError> {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.name(middle)?.cmp(name) {
                Ordering::Equal => return self.entry(middle).map(|child| Some((child.nid, child.kind))),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    fn damaged(&self, what: &'static str) -> TreeError {
        TreeError::Damaged { nid: self.nid, what }
    }
}

// === impl List ===

impl<'a> Iterator for List<'a> {
    type Item = Result<Child<'a>, TreeError>;

    /// After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let item = self.step()?;
            match item {
                Ok(child) if child.name == b"." || child.name == b".." => continue,
                Err(_) => self.stop(),
                Ok(_) => {}
            }
            return Some(item);
        }
    }
}

impl<'a> List<'a> {
    /// Where the list stands, for [`Tree::list_from`]: 0 at the start and never again.
    pub fn offset(&self) -> u64 {
        self.next_block as u64 * OFFSET_ENTRIES + self.next_entry as u64
    }

    fn step(&mut self) -> Option<Result<Child<'a>, TreeError>> {
        if self.next_entry == self.block.entries {
            if self.next_block >= self.entries.blocks() {
                return None;
            }
            match self.entries.block(self.next_block) {
                Ok(block) => self.block = block,
                Err(error) => return Some(Err(error)),
            }
            self.next_block += 1;
            self.next_entry = 0;
        }
        let child = self.block.entry(self.next_entry);
        self.next_entry += 1;
        Some(child.and_then(|child| self.in_order(child)))
    }

    /// Whoever merges lists relies on their order, whoever prints paths on there being no slash in a name.
    fn in_order(&mut self, child: Child<'a>) -> Result<Child<'a>, TreeError> {
        if child.name <= self.last || child.name.contains(&b'/') {
            return Err(self.block.damaged("its names are not in order, or hold a slash"));
        }
        self.last = child.name;
        Ok(child)
    }

    fn stop(&mut self) {
        self.next_block = self.entries.blocks();
        self.next_entry = self.block.entries;
    }
}
