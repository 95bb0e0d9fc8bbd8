//! A chain's layers merged into one tree: the view, as users see it.
//!
//! Synchronous and in memory: looks only into trees, which are mapped files, and never at a layer's data. Knows no path of
//! the host. Whatever the kernel asks by a node id is answered from the id alone, so nothing need be kept for it;
//! the cache only saves looking again.

mod cache;
mod graft;
mod links;
mod listing;
mod merge;
mod node;
mod place;
mod resolve;

pub use cache::{CACHE_BYTES, Cache};
pub use listing::{Item, Items, Merged};
pub use node::{LAYER_SLOT_MAX, LAYERS_MAX, LayerSlot, Meaning, NodeId, VIEW_SLOT_MAX, ViewSlot};
pub use resolve::Astray;

use crate::index::tree::read::{Tree, TreeError};
use crate::index::tree::{Kind, Nid, Node, Time, Xattrs};
use crate::sync::Arc;
use crate::view::cache::Dir;
use crate::view::links::Links;
use crate::view::listing::Listing;
use crate::view::merge::{Chain, Child, Link, Part, Winner, is_virtual};
use crate::view::resolve::Steps;

/// A layer as a view sees it.
#[derive(Debug, Clone)]
pub struct Lower {
    pub slot: LayerSlot,
    pub tree: Arc<Tree>,
}

/// A merged tree.
#[derive(Debug)]
pub struct View {
    chain: Arc<Chain>,
    cache: Arc<Cache>,
    root_id: NodeId,
    root: Arc<Dir>,
}

/// A directory's child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub id: NodeId,
    pub kind: Kind,
}

/// Why a view cannot be opened, or does not answer.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    #[error("the image has {0} layers, {LAYERS_MAX} are the most a view can merge")]
    TooManyLayers(usize),
    #[error("{what} {number} does not fit a node id")]
    Slot { what: &'static str, number: u32 },
    #[error("layer {} of the chain (slot {}) has a damaged tree", .layer + 1, .slot.0)]
    Tree {
        layer: u8,
        slot: LayerSlot,
        #[source]
        source: TreeError,
    },
    #[error(
        "layer {} of the chain has entries below {path}, which is a {kind:?} of layer {}",
        .layer + 1, .lower + 1
    )]
    BelowLeaf { layer: u8, path: String, lower: u8, kind: Kind },
    #[error(
        "layer {} of the chain has entries below {path}, a symlink of a layer below that leads to no directory",
        .layer + 1
    )]
    Graft {
        layer: u8,
        path: String,
        #[source]
        source: Astray,
    },
    #[error("layer {} of the chain has a hard link {path} to {target}, which leads nowhere", .layer + 1)]
    Link {
        layer: u8,
        path: String,
        target: String,
        #[source]
        source: Astray,
    },
    #[error("a directory's names are longer than 4 GiB in all")]
    TooManyNames,
    #[error("the view has no node {id}")]
    Stale { id: NodeId },
    #[error("node {id} is no {want}")]
    Kind { id: NodeId, want: &'static str },
}

/// Extended attributes that speak to overlayfs or to oncefs and are nobody else's business.
const HIDDEN: [&[u8]; 2] = [b"trusted.overlay.", b"trusted.oncefs."];

// === impl View ===

impl View {
    /// Merges `layers`, bottom first, with a cache of its own.
    pub fn open(slot: ViewSlot, layers: Vec<Lower>) -> Result<Self, ViewError> {
        Self::open_sharing(slot, layers, Arc::default())
    }

    /// Merges `layers`, bottom first. Views with different slots may share a cache.
    pub fn open_sharing(slot: ViewSlot, layers: Vec<Lower>, cache: Arc<Cache>) -> Result<Self, ViewError> {
        let chain = Arc::new(Chain::open(slot, layers)?);
        let parts = chain.root()?;
        let bottom = Part { layer: 0, nid: Nid(0) };
        let root_id = chain.id_of(parts.shown.first().copied().unwrap_or(bottom));
        Ok(Self { chain, cache, root_id, root: Arc::new(Dir::new(parts, root_id)) })
    }

    pub fn slot(&self) -> ViewSlot {
        self.chain.slot
    }

    pub fn root(&self) -> NodeId {
        self.root_id
    }

    /// The layers, bottom first.
    pub fn layers(&self) -> impl Iterator<Item = &Lower> {
        self.chain.links.iter().map(|link| &link.lower)
    }

    /// The child of `dir` that is called `name`.
    pub fn lookup(&self, dir: NodeId, name: &[u8]) -> Result<Option<Entry>, ViewError> {
        let merged = self.dir(dir)?;
        let winner = self.chain.winner(&merged.parts, name)?;
        let entry = self.chain.entry(winner);
        if let (Winner::Directory(_), Some(entry)) = (winner, entry) {
            self.remember(entry.id, dir, &merged, name)?;
        }
        Ok(entry)
    }

    /// The children of `dir`.
    pub fn list(&self, dir: NodeId) -> Result<Merged, ViewError> {
        let merged = self.dir(dir)?;
        if let [part] = &*merged.parts
            && !is_virtual(part.nid)
        {
            return Ok(Merged::straight(Arc::clone(&self.chain), *part));
        }
        let listing = match self.cache.listing(dir) {
            Some(listing) => listing,
            None => {
                let listing = Arc::new(Listing::merge(&self.chain, &merged.parts)?);
                self.cache.put_listing(dir, Arc::clone(&listing));
                listing
            }
        };
        Ok(Merged::listed(Arc::clone(&self.chain), listing))
    }

    /// A node's attributes; a directory's link count is 1, which tells programs not to count on it.
    pub fn node(&self, id: NodeId) -> Result<Node, ViewError> {
        match id.meaning() {
            Some(Meaning::Directory { .. }) => self.dir_node(&*self.dir(id)?),
            _ => {
                let (link, nid) = self.leaf(id)?;
                link.ask(|tree| tree.node(nid))
            }
        }
    }

    /// As [`View::node`] for what a listing of `dir` has shown: finds a directory by its name, which is much faster than
    /// by its id the first time.
    pub fn node_of(&self, dir: NodeId, item: &Item<'_>) -> Result<Node, ViewError> {
        if item.kind == Kind::Directory {
            self.remember(item.id, dir, &*self.dir(dir)?, item.name)?;
        }
        self.node(item.id)
    }

    /// The layer and the node in its tree that a file is.
    pub fn file(&self, id: NodeId) -> Result<(&Lower, Nid), ViewError> {
        let (link, nid) = self.leaf(id)?;
        Ok((&link.lower, nid))
    }

    /// Where a symlink leads.
    pub fn target(&self, id: NodeId) -> Result<&[u8], ViewError> {
        let (link, nid) = self.leaf(id)?;
        match link.lower.tree.target(nid) {
            Err(TreeError::Kind { .. }) => Err(ViewError::Kind { id, want: "symlink" }),
            target => link.ask(|_| target),
        }
    }

    /// The directory above `dir`; of the root the root.
    pub fn parent(&self, dir: NodeId) -> Result<NodeId, ViewError> {
        Ok(self.dir(dir)?.parent)
    }

    /// A node's extended attributes, ordered by name.
    pub fn xattrs(&self, id: NodeId) -> Result<Xattrs, ViewError> {
        let Some((link, nid)) = self.source(id)? else { return Ok(Xattrs::new()) };
        let mut all = link.ask(|tree| tree.xattrs(nid))?;
        all.retain(|(name, _)| !is_hidden(name));
        Ok(all)
    }

    /// One extended attribute's value.
    pub fn xattr(&self, id: NodeId, name: &[u8]) -> Result<Option<&[u8]>, ViewError> {
        match self.source(id)? {
            Some((link, nid)) if !is_hidden(name) => link.ask(|tree| tree.xattr(nid, name)),
            _ => Ok(None),
        }
    }

    /// The layer and node of an id that is no directory's.
    fn leaf(&self, id: NodeId) -> Result<(&Link, Nid), ViewError> {
        let (slot, nid) = match id.meaning() {
            Some(Meaning::File(slot, nid)) => (slot, nid),
            Some(Meaning::Directory { .. }) => return Err(ViewError::Kind { id, want: "file" }),
            _ => return Err(ViewError::Stale { id }),
        };
        Ok((self.chain.link_of(slot).ok_or(ViewError::Stale { id })?, nid))
    }

    /// The layer and node whose attributes `id` has; of a directory that no layer names none.
    fn source(&self, id: NodeId) -> Result<Option<(&Link, Nid)>, ViewError> {
        match id.meaning() {
            Some(Meaning::Directory { .. }) => self.chain.named(&*self.dir(id)?),
            _ => self.leaf(id).map(Some),
        }
    }

    fn dir_node(&self, dir: &Dir) -> Result<Node, ViewError> {
        match self.chain.named(dir)? {
            Some((link, nid)) => Ok(Node { nlink: 1, ..link.ask(|tree| tree.node(nid))? }),
            None => Ok(UNNAMED),
        }
    }

    /// Keeps what the child directory `id` of `dir` is merged from, if it is not known yet.
    fn remember(&self, id: NodeId, above: NodeId, dir: &Dir, name: &[u8]) -> Result<(), ViewError> {
        if !self.cache.has_dir(id)
            && let Child::Directory(parts) = self.chain.child(&dir.parts, name)?
        {
            self.cache.put_dir(id, Arc::new(Dir::new(parts, above)));
        }
        Ok(())
    }

    fn dir(&self, id: NodeId) -> Result<Arc<Dir>, ViewError> {
        if id == self.root_id {
            return Ok(Arc::clone(&self.root));
        }
        if let Some(dir) = self.cache.dir(id) {
            return Ok(dir);
        }
        let dir = Arc::new(self.chain.find(id)?);
        self.cache.put_dir(id, Arc::clone(&dir));
        Ok(dir)
    }
}

/// The attributes of a directory that no tar names.
const UNNAMED: Node = Node {
    kind: Kind::Directory,
    mode: 0o755,
    uid: 0,
    gid: 0,
    size: 0,
    mtime: Time { seconds: 0, nanos: 0 },
    nlink: 1,
    device: (0, 0),
};

fn is_hidden(xattr: &[u8]) -> bool {
    HIDDEN.iter().any(|prefix| xattr.starts_with(prefix))
}

// === impl Chain ===

impl Chain {
    fn open(slot: ViewSlot, layers: Vec<Lower>) -> Result<Self, ViewError> {
        if layers.len() > LAYERS_MAX {
            return Err(ViewError::TooManyLayers(layers.len()));
        }
        if slot.0 > VIEW_SLOT_MAX {
            return Err(ViewError::Slot { what: "view slot", number: slot.0 });
        }
        let mut chain = Self { slot, links: Vec::with_capacity(layers.len()) };
        let mut steps = Steps::default();
        for (lower, layer) in layers.into_iter().zip(0..=u8::MAX) {
            if !(1..=LAYER_SLOT_MAX).contains(&lower.slot.0) {
                return Err(ViewError::Slot { what: "layer slot", number: lower.slot.0 });
            }
            let patch = graft::find(&chain, layer, &lower, &mut steps)?;
            let links = Links::find(&chain, layer, &lower, &mut steps)?;
            chain.links.push(Link { layer, lower, patch: patch.map(Box::new) });
            let links = links.settle(&chain, &mut steps)?;
            if let Some(top) = chain.links.last_mut().filter(|_| !links.is_empty()) {
                top.patch.get_or_insert_default().link(links);
            }
        }
        Ok(chain)
    }

    /// The layer and node whose attributes a directory has.
    fn named(&self, dir: &Dir) -> Result<Option<(&Link, Nid)>, ViewError> {
        dir.named.map(|part| Ok((self.of(part)?, part.nid))).transpose()
    }
}

// === impl ViewError ===

impl ViewError {
    fn tree(layer: u8, lower: &Lower, source: TreeError) -> Self {
        Self::Tree { layer, slot: lower.slot, source }
    }

    fn graft(layer: u8, path: &[u8], source: Astray) -> Self {
        Self::Graft { layer, path: path.escape_ascii().to_string(), source }
    }
}
