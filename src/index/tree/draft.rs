//! A layer's tree while its tar goes by: entries are applied in the order of the tar, and what is left at the
//! end becomes a [`Source`] for the writer. Knows what entries mean, not how a tar spells them.
//!
//! What the image specification leaves open is decided the careful way: whiteouts act on the layers below only,
//! wherever they stand; a directory that replaces something else hides what is below it; a name is never looked
//! up outside the layer's root; what would have to be guessed is refused. Never touches a file system.
//!
//! Memory: 64 bytes an inode, about 50 a name beside the name's own bytes, and twice that while `finish` turns
//! the draft into a source: about 300 bytes an entry at the peak, bounded by [`DraftLimits`].

mod finish;
mod name;
mod node;
mod walk;
mod xattr;

use std::collections::BTreeSet;

use crate::index::tree::draft::name::Named;
pub(crate) use crate::index::tree::draft::name::shown;
use crate::index::tree::draft::node::{Body, Directory, Node};
use crate::index::tree::draft::walk::Walk;
pub(crate) use crate::index::tree::draft::xattr::is_allowed;
use crate::index::tree::write::{Piece, Source};
use crate::index::tree::{Time, Xattrs};

/// The mutable tree of one layer.
#[derive(Debug)]
pub struct Draft {
    limits: DraftLimits,
    /// The first is the root. What lost its last name stays as [`Body::Gone`].
    nodes: Vec<Node>,
    /// What this layer hides of the layers below, by path from the root: `a/b` is hidden itself, `a/` (and `/`,
    /// the root) are opaque. Kept apart from the nodes since it holds whatever entries come before or after.
    hidden: BTreeSet<Box<[u8]>>,
    kept_bytes: u64,
}

/// What one layer may cost.
#[derive(Debug, Clone, Copy)]
pub struct DraftLimits {
    /// Inodes and names ever made, whiteouts and implied directories included, replaced ones too.
    pub inodes_max: u32,
    /// Bytes of all names, targets, attributes and pieces ever kept, replaced ones too; 64 more for each name.
    pub kept_bytes_max: u64,
}

/// One entry of a tar, as it is meant.
#[derive(Debug, Clone)]
pub struct Entry<'a> {
    /// As the tar names it: a leading `/`, `./` and doubled slashes are allowed, `..` is not.
    pub path: &'a [u8],
    pub attributes: Attributes,
    pub what: What<'a>,
}

/// The attributes an entry gives its inode. A hard link has its target's instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `0o7777` at most; a symlink has 0777 whatever stands here.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
    /// In any order; of two with the same name the later counts.
    pub xattrs: Xattrs,
}

/// What an entry makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What<'a> {
    Directory,
    /// A file whose `size` bytes are in the data file from `at` on, a multiple of 512.
    File {
        size: u64,
        at: u64,
    },
    /// A file with holes, or with pieces that are not aligned in the data file.
    Sparse {
        size: u64,
        pieces: Vec<Piece>,
    },
    /// With its target.
    Symlink(&'a [u8]),
    /// With its target's path from the layer's root.
    HardLink(&'a [u8]),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// Why an entry cannot be part of a layer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    #[error("the name has a component `..`, which could lead out of the layer")]
    Upwards,
    #[error("the name has a zero byte")]
    ZeroByte,
    #[error("a component of the name is longer than 255 bytes")]
    LongComponent,
    #[error("the name is longer than 4096 bytes or deeper than 1024 directories")]
    LongPath,
    #[error("the root of the layer must be a directory")]
    RootNotDirectory,
    #[error("the whiteout names nothing that could be hidden")]
    EmptyWhiteout,
    #[error("a whiteout cannot have anything below it")]
    BelowWhiteout,
    #[error("it is below /{0}, which the layer itself makes something other than a directory")]
    BelowFile(String),
    #[error("too many symbolic links of the layer itself lead to where it is")]
    SymlinkLoop,
    #[error("the symbolic link's target is empty, longer than 4095 bytes, or has a zero byte")]
    SymlinkTarget,
    #[error("the hard link's target /{0} is a directory")]
    LinkToDirectory(String),
    #[error("the hard link's target /{0} is the link itself or lies below it")]
    LinkToItself(String),
    #[error("the hard link's target is a whiteout's name")]
    LinkToWhiteout,
    #[error("the hard link's target /{0} is of a layer below, and this layer hides it")]
    LinkToHidden(String),
    #[error("device number {major}:{minor} does not fit 12 bits of major and 20 of minor")]
    Device { major: u32, minor: u32 },
    #[error("the extended attribute {0} is larger than a file system could hold")]
    LargeXattr(String),
    #[error("the layer has more than {0} inodes, the limit inodes_max")]
    TooManyInodes(u32),
    #[error("the layer's names, targets and attributes take more than {0} bytes, the limit names_bytes_max")]
    TooManyBytes(u64),
}

/// An index into `Draft::nodes`.
type NodeId = u32;

const ROOT: NodeId = 0;
/// What a name costs beside its bytes: its place in the directory and the allocator's share, rounded up.
const NAME_COST: usize = 64;

// === impl DraftLimits ===

impl Default for DraftLimits {
    /// Four million inodes, several times the largest image known, and 128 bytes for each.
    fn default() -> Self {
        Self { inodes_max: 4 << 20, kept_bytes_max: 512 << 20 }
    }
}

// === impl Draft ===

impl Draft {
    /// An empty layer: a root that no entry has named yet.
    pub fn new(limits: DraftLimits) -> Self {
        let root = Node { names: 1, ..Node::implied_directory() };
        Self { limits, nodes: vec![root], hidden: BTreeSet::new(), kept_bytes: 0 }
    }

    /// Lets the next entry of the tar act. After an error the draft is of no more use.
    pub fn apply(&mut self, entry: Entry<'_>) -> Result<(), DraftError> {
        match name::read(entry.path)? {
            Named::Ignored => Ok(()),
            Named::Root => self.set_root(entry),
            // What a whiteout stands in is implied like any parent: containerd's unpacking makes it too.
            Named::Opaque { parent } => {
                let walk = self.walk(parent)?;
                self.make(&walk)?;
                self.hide(walk.joined(b""))
            }
            Named::Whiteout { parent, hides } => {
                let walk = self.walk(parent)?;
                self.make(&walk)?;
                self.hide(walk.joined(hides))
            }
            Named::Node { parent, name } => {
                let walk = self.walk(parent)?;
                match entry.what {
                    What::Directory => self.place_directory(&walk, name, entry.attributes),
                    What::HardLink(target) => self.link(&walk, name, target),
                    what => {
                        let node = Node::new(Body::of(what)?, entry.attributes)?;
                        self.place_node(&walk, name, node)
                    }
                }
            }
        }
    }

    /// What the layer consists of now that all entries have acted.
    pub fn finish(self) -> Result<Source, DraftError> {
        finish::source(self)
    }

    fn set_root(&mut self, entry: Entry<'_>) -> Result<(), DraftError> {
        if entry.what != What::Directory {
            return Err(DraftError::RootNotDirectory);
        }
        self.set_attributes(ROOT, entry.attributes)
    }

    fn hide(&mut self, path: Vec<u8>) -> Result<(), DraftError> {
        self.count(1, path.len() + NAME_COST)?;
        self.hidden.insert(path.into());
        Ok(())
    }

    fn place_directory(&mut self, walk: &Walk, name: &[u8], attributes: Attributes) -> Result<(), DraftError> {
        let parent = self.make(walk)?;
        let before = self.child(parent, name);
        if let Some(id) = before
            && self.directory(id).is_some()
        {
            return self.set_attributes(id, attributes);
        }
        let body = Body::Directory(Box::new(Directory { fresh: before.is_some(), ..Directory::default() }));
        let id = self.add(Node::new(body, attributes)?)?;
        self.place(parent, name, id)
    }

    fn place_node(&mut self, walk: &Walk, name: &[u8], node: Node) -> Result<(), DraftError> {
        let parent = self.make(walk)?;
        let id = self.add(node)?;
        self.place(parent, name, id)
    }

    fn link(&mut self, walk: &Walk, name: &[u8], target: &[u8]) -> Result<(), DraftError> {
        let (target_parent, target_name) = match name::read(target)? {
            Named::Node { parent, name } => (parent, name),
            Named::Root => return Err(DraftError::LinkToDirectory(String::new())),
            _ => return Err(DraftError::LinkToWhiteout),
        };
        let target_walk = self.walk(target_parent)?;
        let (here, there) = (walk.joined(name), target_walk.joined(target_name));
        if there.strip_prefix(&*here).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")) {
            return Err(DraftError::LinkToItself(name::shown(&there)));
        }
        let Some(id) = target_walk.dir().and_then(|dir| self.child(dir, target_name)) else {
            if target_walk.dirs().any(|dir| self.directory(dir).is_some_and(|dir| dir.fresh)) {
                return Err(DraftError::LinkToHidden(name::shown(&there)));
            }
            let node = Node::new(Body::LowerLink(there.into()), Attributes::default())?;
            return self.place_node(walk, name, node);
        };
        if self.directory(id).is_some() {
            return Err(DraftError::LinkToDirectory(name::shown(&there)));
        }
        let parent = self.make(walk)?;
        self.place(parent, name, id)
    }

    /// The directory a walk led to, made with its parents where the layer does not have it.
    fn make(&mut self, walk: &Walk) -> Result<NodeId, DraftError> {
        let mut parent = ROOT;
        for (name, dir) in walk.steps() {
            parent = match dir {
                Some(dir) => dir,
                None => {
                    let id = self.add(Node::implied_directory())?;
                    self.place(parent, name, id)?;
                    id
                }
            };
        }
        Ok(parent)
    }

    fn set_attributes(&mut self, id: NodeId, attributes: Attributes) -> Result<(), DraftError> {
        let Some(node) = self.nodes.get_mut(id as usize) else { return Ok(()) };
        if let Body::Directory(directory) = &mut node.body {
            directory.implied = false;
        }
        let body = std::mem::replace(&mut node.body, Body::Gone);
        let names = node.names;
        *node = Node { names, ..Node::new(body, attributes)? };
        let bytes = node.kept_bytes();
        self.count(0, bytes)
    }

    fn add(&mut self, node: Node) -> Result<NodeId, DraftError> {
        self.count(1, node.kept_bytes())?;
        let id = self.nodes.len() as NodeId; // inodes_max is a u32
        self.nodes.push(node);
        Ok(id)
    }

    /// Gives `id` the name; what had it before loses it, with everything below.
    fn place(&mut self, parent: NodeId, name: &[u8], id: NodeId) -> Result<(), DraftError> {
        self.count(0, name.len() + NAME_COST)?;
        if let Some(node) = self.nodes.get_mut(id as usize) {
            node.names = node.names.saturating_add(1); // never more than the names made, a u32
        }
        let Some(directory) = self.directory_mut(parent) else { return Ok(()) };
        if let Some(before) = directory.children.insert(name.into(), id) {
            self.release(before);
        }
        Ok(())
    }

    fn release(&mut self, id: NodeId) {
        let mut losing = vec![id];
        while let Some(id) = losing.pop() {
            let Some(node) = self.nodes.get_mut(id as usize) else { continue };
            node.names = node.names.saturating_sub(1);
            if node.names == 0 {
                node.xattrs = None;
                if let Body::Directory(directory) = std::mem::replace(&mut node.body, Body::Gone) {
                    losing.extend(directory.children.into_values());
                }
            }
        }
    }

    fn count(&mut self, inodes: u32, bytes: usize) -> Result<(), DraftError> {
        let total = self.nodes.len().saturating_add(self.hidden.len()).saturating_add(inodes as usize);
        if total > self.limits.inodes_max as usize {
            return Err(DraftError::TooManyInodes(self.limits.inodes_max));
        }
        self.kept_bytes = self.kept_bytes.saturating_add(bytes as u64);
        if self.kept_bytes > self.limits.kept_bytes_max {
            return Err(DraftError::TooManyBytes(self.limits.kept_bytes_max));
        }
        Ok(())
    }

    fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.directory(parent)?.children.get(name).copied()
    }

    fn directory(&self, id: NodeId) -> Option<&Directory> {
        match self.nodes.get(id as usize) {
            Some(Node { body: Body::Directory(directory), .. }) => Some(directory),
            _ => None,
        }
    }

    fn directory_mut(&mut self, id: NodeId) -> Option<&mut Directory> {
        match self.nodes.get_mut(id as usize) {
            Some(Node { body: Body::Directory(directory), .. }) => Some(directory),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
