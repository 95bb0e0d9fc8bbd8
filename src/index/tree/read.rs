//! Serves from a tree as it lies in memory: nothing is parsed up front but the heading, nothing is copied.
//!
//! Believes nothing: each offset and count is checked against the image before it is used, each loop is bounded
//! by bytes that are really there. A damaged image gives errors, never a panic and never an endless walk.

mod dir;
mod extent;
mod source;
mod walk;
mod xattr;

pub use dir::{Child, List};
pub use walk::{Visited, Walk};

use std::fs::File;
use std::io;

use bytes::Bytes;

use crate::digest::{DiffId, Digest};
use crate::index::tree::format::{
    BLOCK, HEADING_BYTES, Heading, INODE_BYTES, Layout, MODE_BITS, RawInode, SLOT, kind_of_mode, unpack_device,
};
use crate::index::tree::{Extent, IMPLIED, Kind, LOWER_LINK, Nid, Node, OPAQUE, Time, Xattrs};
use crate::sys::mmap::Map;

/// One layer's tree.
#[derive(Debug)]
pub struct Tree {
    image: Bytes,
    heading: Heading,
}

/// What a tree has in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub inodes: u32,
    /// Directories with [`IMPLIED`].
    pub implied: u32,
    /// Files with [`LOWER_LINK`].
    pub lower_links: u32,
}

/// Why a tree does not answer.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("the tree cannot be mapped into memory")]
    Map(#[source] io::Error),
    #[error("this is no tree of a layer: {0}")]
    Heading(&'static str),
    #[error("the tree is damaged at node {}: {what}", .nid.0)]
    Damaged { nid: Nid, what: &'static str },
    #[error("the tree is damaged: its bytes are not those that were written")]
    Body,
    #[error("node {} of the tree is no {want}", .nid.0)]
    Kind { nid: Nid, want: &'static str },
    #[error("offset {at} lies behind the content")]
    PastEnd { at: u64 },
}

/// A node with its place in the image.
#[derive(Debug, Clone, Copy)]
struct Found {
    nid: Nid,
    kind: Kind,
    raw: RawInode,
    /// Where its extended attributes begin.
    xattrs_at: u64,
    /// Where its inline tail or chunk indexes begin.
    tail_at: u64,
}

// === impl Tree ===

impl Tree {
    /// Maps the tree in `file`, which must not change any more.
    pub fn open(file: &File) -> Result<Self, TreeError> {
        Self::from_bytes(Bytes::from_owner(Map::open(file).map_err(TreeError::Map)?))
    }

    /// A tree in memory.
    pub fn from_bytes(image: Bytes) -> Result<Self, TreeError> {
        let heading = Heading::unpack(&image).map_err(TreeError::Heading)?;
        if image.len() as u64 != u64::from(heading.blocks) * BLOCK {
            return Err(TreeError::Heading("it is shorter or longer than its heading says"));
        }
        Ok(Self { image, heading })
    }

    pub fn root(&self) -> Nid {
        self.heading.root
    }

    pub fn counts(&self) -> Counts {
        let Heading { inodes, implied, lower_links, .. } = self.heading;
        Counts { inodes, implied, lower_links }
    }

    /// Whose tree this is.
    pub fn diff_id(&self) -> DiffId {
        self.heading.diff_id
    }

    /// Bytes of the data file, rounded up to whole blocks.
    pub fn data_bytes(&self) -> u64 {
        u64::from(self.heading.data_blocks) * BLOCK
    }

    /// Bytes of the tree itself.
    pub fn size(&self) -> u64 {
        self.image.len() as u64
    }

    /// Whether all bytes are still those that were written: reads the whole tree.
    pub fn check(&self) -> Result<(), TreeError> {
        let body = self.bytes(HEADING_BYTES, self.size() - HEADING_BYTES)?;
        if Digest::of(body) == self.heading.body { Ok(()) } else { Err(TreeError::Body) }
    }

    pub fn node(&self, nid: Nid) -> Result<Node, TreeError> {
        let Found { kind, raw, .. } = self.find(nid)?;
        Ok(Node {
            kind,
            mode: raw.mode & MODE_BITS,
            uid: raw.uid,
            gid: raw.gid,
            size: raw.size,
            mtime: Time { seconds: raw.seconds, nanos: raw.nanos },
            nlink: raw.nlink,
            device: match raw.layout {
                Layout::Device { number } => unpack_device(number),
                _ => (0, 0),
            },
        })
    }

    /// The child of `dir` that is called `name`: a binary search that allocates nothing. `.` and `..` are no children.
    pub fn lookup(&self, dir: Nid, name: &[u8]) -> Result<Option<(Nid, Kind)>, TreeError> {
        if name == b"." || name == b".." {
            return Ok(None);
        }
        dir::Entries::of(self, dir)?.search(name)
    }

    /// The children of `dir` in the order of their names' bytes, without `.` and `..`.
    pub fn list(&self, dir: Nid) -> Result<List<'_>, TreeError> {
        Ok(dir::Entries::of(self, dir)?.list())
    }

    /// As [`Tree::list`], going on where an earlier list's [`List::offset`] stood.
    pub fn list_from(&self, dir: Nid, offset: u64) -> Result<List<'_>, TreeError> {
        dir::Entries::of(self, dir)?.list_from(offset)
    }

    /// The directory that holds `dir`; of the root the root.
    pub fn parent(&self, dir: Nid) -> Result<Nid, TreeError> {
        match dir::Entries::of(self, dir)?.search(b"..")? {
            Some((parent, Kind::Directory)) => Ok(parent),
            _ => Err(TreeError::Damaged { nid: dir, what: "a directory without .." }),
        }
    }

    /// Where a symlink leads.
    pub fn target(&self, link: Nid) -> Result<&[u8], TreeError> {
        let found = self.find(link)?;
        if found.kind != Kind::Symlink {
            return Err(TreeError::Kind { nid: link, want: "symlink" });
        }
        match found.raw.layout {
            Layout::Inline { .. } if found.raw.size < BLOCK => self.bytes(found.tail_at, found.raw.size),
            Layout::Plain { block } => self.bytes(u64::from(block) * BLOCK, found.raw.size),
            _ => Err(found.damaged("a symlink's target is in no place for one")),
        }
    }

    /// All extended attributes as they are stored, ordered by name.
    pub fn xattrs(&self, nid: Nid) -> Result<Xattrs, TreeError> {
        let mut all = Xattrs::new();
        for entry in xattr::Entries::of(self, &self.find(nid)?)? {
            let entry = entry?;
            all.push(([entry.prefix, entry.rest].concat(), entry.value.to_vec()));
        }
        Ok(all)
    }

    /// One extended attribute's value.
    pub fn xattr(&self, nid: Nid, name: &[u8]) -> Result<Option<&[u8]>, TreeError> {
        for entry in xattr::Entries::of(self, &self.find(nid)?)? {
            let entry = entry?;
            if name.strip_prefix(entry.prefix) == Some(entry.rest) {
                return Ok(Some(entry.value));
            }
        }
        Ok(None)
    }

    /// Whether `dir` hides what the layers below have of it.
    pub fn is_opaque(&self, dir: Nid) -> Result<bool, TreeError> {
        Ok(self.xattr(dir, OPAQUE)? == Some(b"y"))
    }

    /// Whether no entry of the layer names `dir` itself.
    pub fn is_implied(&self, dir: Nid) -> Result<bool, TreeError> {
        Ok(self.heading.implied > 0 && self.xattr(dir, IMPLIED)?.is_some())
    }

    /// The path that a hard link out of the layer names, if `nid` is one.
    pub fn lower_link(&self, nid: Nid) -> Result<Option<&[u8]>, TreeError> {
        if self.heading.lower_links == 0 { Ok(None) } else { self.xattr(nid, LOWER_LINK) }
    }

    /// Whether `nid` hides what the layers below have in its place (overlayfs: a character device 0:0).
    pub fn is_whiteout(&self, nid: Nid) -> Result<bool, TreeError> {
        let found = self.find(nid)?;
        Ok(found.kind == Kind::CharDevice && found.raw.layout == Layout::Device { number: 0 })
    }

    /// Where the content of `file` from `at` on lies, which must be before its end. A stretch may end before it
    /// has to: the next one goes on.
    pub fn extent(&self, file: Nid, at: u64) -> Result<Extent, TreeError> {
        extent::extent(self, &self.find(file)?, at)
    }

    /// Bytes of the image, as [`crate::index::tree::Place::Tree`] speaks of them.
    pub fn bytes(&self, at: u64, len: u64) -> Result<&[u8], TreeError> {
        let from = usize::try_from(at).ok().and_then(|at| self.image.get(at..));
        let bytes = from.and_then(|from| from.get(..usize::try_from(len).ok()?));
        bytes.ok_or(TreeError::PastEnd { at: at.saturating_add(len) })
    }

    /// Every node, parents first, with its path from the root.
    pub fn walk(&self) -> Walk<'_> {
        Walk::new(self)
    }

    fn find(&self, nid: Nid) -> Result<Found, TreeError> {
        let at = u64::from(nid.0) * SLOT;
        let bytes = usize::try_from(at).ok().filter(|_| at >= HEADING_BYTES).and_then(|at| self.image.get(at..));
        let bytes = bytes.and_then(<[u8]>::first_chunk).ok_or(TreeError::Damaged { nid, what: "it is outside" })?;
        let raw = RawInode::unpack(bytes).ok_or(TreeError::Damaged { nid, what: "it is no node" })?;
        let kind = kind_of_mode(raw.mode).ok_or(TreeError::Damaged { nid, what: "it is of no kind" })?;
        let xattrs_at = at + INODE_BYTES;
        Ok(Found { nid, kind, raw, xattrs_at, tail_at: xattrs_at + u64::from(raw.xattr_bytes) })
    }
}

// === impl Found ===

impl Found {
    fn damaged(&self, what: &'static str) -> TreeError {
        TreeError::Damaged { nid: self.nid, what }
    }
}

#[cfg(test)]
mod tests;
