//! From a tree back to what it was made of, so that one that came from elsewhere is never used itself: what is written from
//! this is ours.
//!
//! Nodes of a hostile tree may lie over one another, and each may claim what the others claim. An honest one claims each byte
//! once, so all claims together must fit into the image: that bounds time and memory by bytes that are really there.

use std::collections::HashMap;

use crate::index::tree::format::{BLOCK_BITS, CHUNK_INDEX_BYTES, INODE_BYTES, Layout};
use crate::index::tree::read::{Found, Tree, TreeError};
use crate::index::tree::write::{Content, From, Inode, InodeId, Piece, Source};
use crate::index::tree::{Kind, Nid, Place, Time};

/// A tree being taken apart.
struct Taking<'a> {
    tree: &'a Tree,
    inodes: Vec<Inode>,
    ids: HashMap<Nid, InodeId>,
    /// Directories whose children are still to be taken.
    open: Vec<(Nid, InodeId)>,
    claimed: u64,
}

impl Tree {
    /// What the tree was made of.
    pub fn source(&self) -> Result<Source, TreeError> {
        let mut taking = Taking { tree: self, inodes: Vec::new(), ids: HashMap::new(), open: Vec::new(), claimed: 0 };
        taking.node(self.root())?;
        while let Some((dir, id)) = taking.open.pop() {
            let content = taking.children(dir)?;
            if let Some(inode) = taking.inodes.get_mut(id.0 as usize) {
                inode.content = content;
            }
        }
        Ok(Source { inodes: taking.inodes })
    }
}

impl Taking<'_> {
    /// The inode of a node, which may have several names.
    fn node(&mut self, nid: Nid) -> Result<InodeId, TreeError> {
        if let Some(id) = self.ids.get(&nid) {
            return Ok(*id);
        }
        let found = self.tree.find(nid)?;
        self.claim(&found, INODE_BYTES + u64::from(found.raw.xattr_bytes))?;
        let id = InodeId(self.inodes.len() as u32); // an image of 2 TiB has fewer
        let content = match found.kind {
            Kind::Directory => {
                self.claim(&found, found.raw.size)?;
                self.open.push((nid, id));
                Content::Children(Vec::new())
            }
            Kind::Symlink => {
                self.claim(&found, found.raw.size)?;
                Content::Target(self.tree.target(nid)?.to_vec())
            }
            Kind::File if found.raw.size > 0 => self.extents(&found)?,
            _ => Content::None,
        };
        let node = self.tree.node(nid)?;
        self.inodes.push(Inode {
            kind: node.kind,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            mtime: Time { seconds: node.mtime.seconds, nanos: node.mtime.nanos },
            device: node.device,
            xattrs: self.tree.xattrs(nid)?,
            content,
        });
        self.ids.insert(nid, id);
        Ok(id)
    }

    fn children(&mut self, dir: Nid) -> Result<Content, TreeError> {
        let mut children = Vec::new();
        for child in self.tree.list(dir)? {
            let child = child?;
            // A directory with two names is refused when the source is written.
            children.push((child.name.into(), self.node(child.nid)?));
        }
        Ok(Content::Children(children))
    }

    fn extents(&mut self, file: &Found) -> Result<Content, TreeError> {
        let size = file.raw.size;
        let Layout::Chunks { bits } = file.raw.layout else {
            return Err(file.damaged("a file with content has no chunks"));
        };
        self.claim(file, (((size - 1) >> (bits + BLOCK_BITS)) + 1).saturating_mul(CHUNK_INDEX_BYTES))?;
        let (mut pieces, mut at) = (Vec::new(), 0);
        while at < size {
            let extent = self.tree.extent(file.nid, at)?;
            if extent.len == 0 {
                return Err(file.damaged("a stretch of its content is empty"));
            }
            let from = match extent.place {
                Place::Hole => None,
                Place::Data(offset) => Some(From::Data(offset)),
                Place::Tree(offset) => {
                    self.claim(file, extent.len)?;
                    Some(From::Bytes(self.tree.bytes(offset, extent.len)?.to_vec()))
                }
            };
            pieces.extend(from.map(|from| Piece { at, len: extent.len, from }));
            at += extent.len;
        }
        Ok(Content::Extents { size, pieces })
    }

    fn claim(&mut self, found: &Found, bytes: u64) -> Result<(), TreeError> {
        self.claimed = self.claimed.saturating_add(bytes);
        if self.claimed > self.tree.size() {
            return Err(found.damaged("nodes lie over one another"));
        }
        Ok(())
    }
}
