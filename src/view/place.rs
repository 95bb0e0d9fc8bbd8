//! Finds a merged directory from its node id alone.
//!
//! The id names the topmost part. Its path is found by going up in that layer's tree, from a grafted directory to where it
//! was grafted; then the layers are merged anew along that path. An id that does not come out again at its
//! end is none of this view's.

use crate::index::tree::read::TreeError;
use crate::index::tree::{Kind, Nid};
use crate::view::ViewError;
use crate::view::cache::Dir;
use crate::view::merge::{Chain, Child, Link, Part, Parts, VIRTUAL, is_virtual};
use crate::view::node::{Meaning, NodeId};

impl Chain {
    pub(super) fn find(&self, id: NodeId) -> Result<Dir, ViewError> {
        let stale = || ViewError::Stale { id };
        let wanted = match id.meaning() {
            Some(Meaning::Directory { view, layer, nid }) if view == self.slot => Part { layer, nid },
            Some(Meaning::File(..)) => return Err(ViewError::Kind { id, want: "directory" }),
            _ => return Err(stale()),
        };
        let link = self.link(wanted.layer).ok_or_else(stale)?;
        let names = link.path_to(wanted.nid)?.ok_or_else(stale)?;
        let mut parts = self.root()?;
        let mut parent = self.top(&parts).ok_or_else(stale)?;
        let mut here = parent;
        for name in names.iter().rev() {
            let Child::Directory(below) = self.child(&parts.shown, name)? else { return Err(stale()) };
            parent = here;
            here = self.top(&below).ok_or_else(stale)?;
            parts = below;
        }
        if here == id { Ok(Dir::new(parts, parent)) } else { Err(stale()) }
    }

    fn top(&self, parts: &Parts) -> Option<NodeId> {
        parts.shown.first().map(|part| self.id_of(*part))
    }
}

impl Link {
    /// The names on the way from the directory `nid` up to the root, its own first. Nothing if it is no directory.
    fn path_to(&self, mut nid: Nid) -> Result<Option<Vec<Box<[u8]>>>, ViewError> {
        let root = self.lower.tree.root();
        let mut names = Vec::new();
        // Each step goes to another directory of the tree or its patch: a sound tree ends before this does.
        for _ in 0..u64::from(self.lower.tree.counts().inodes) + u64::from(u32::MAX - VIRTUAL) {
            let patch = self.patch.as_deref();
            if nid == root || (nid == Nid(VIRTUAL) && patch.is_some_and(|patch| patch.has_places())) {
                return Ok(Some(names));
            }
            if is_virtual(nid) {
                let Some((above, name)) = patch.and_then(|patch| patch.above(nid)) else { return Ok(None) };
                names.push(Box::from(name));
                nid = above;
            } else if let Some(place) = patch.and_then(|patch| patch.moved_to(nid)) {
                nid = place;
            } else {
                let above = match self.lower.tree.parent(nid) {
                    Err(TreeError::Kind { .. }) => return Ok(None),
                    above => self.ask(|_| above)?,
                };
                let Some(name) = self.name_in(above, nid)? else { return Ok(None) };
                names.push(name);
                nid = above;
            }
        }
        Ok(None)
    }

    /// What the tree calls the directory `nid` in the one above.
    fn name_in(&self, above: Nid, nid: Nid) -> Result<Option<Box<[u8]>>, ViewError> {
        for child in self.ask(|tree| tree.list(above))? {
            let child = self.ask(|_| child)?;
            if child.nid == nid && child.kind == Kind::Directory {
                return Ok(Some(Box::from(child.name)));
            }
        }
        Ok(None)
    }
}
