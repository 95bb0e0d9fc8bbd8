//! From a finished draft to what the writer writes: whiteouts become device nodes 0:0 and marks become extended
//! attributes, as overlayfs and the view want them in a layer. Decides nothing about entries any more, but for
//! one thing that only the end can tell: whether a hard link's target of a lower layer has been hidden.

use std::collections::BTreeSet;
use std::mem;

use crate::index::tree::draft::name::{next_component, shown};
use crate::index::tree::draft::node::{Body, Node};
use crate::index::tree::draft::{Draft, DraftError, NodeId, ROOT};
use crate::index::tree::write::{Content, From, Inode, InodeId, Piece, Source};
use crate::index::tree::{IMPLIED, Kind, LOWER_LINK, OPAQUE, Time, Xattrs};

/// Stands for the one inode that all of a layer's whiteouts share.
const WHITEOUT: NodeId = NodeId::MAX;

pub(super) fn source(mut draft: Draft) -> Result<Source, DraftError> {
    for node in draft.nodes.iter().filter(|node| node.names > 0) {
        if let Body::LowerLink(target) = &node.body
            && hides(&draft.hidden, target)
        {
            return Err(DraftError::LinkToHidden(shown(target)));
        }
    }
    let hidden = mem::take(&mut draft.hidden);
    for path in &hidden {
        match path.strip_suffix(b"/") {
            Some(directory) => draft.mark_opaque(directory),
            None => draft.put_whiteout(path),
        }
    }
    drop(hidden);
    Ok(convert(draft.nodes))
}

/// Whether `target` or a directory above it is whited out, or lies in an opaque directory.
fn hides(hidden: &BTreeSet<Box<[u8]>>, target: &[u8]) -> bool {
    if hidden.is_empty() {
        return false;
    }
    let is_hidden = |path: &[u8]| hidden.contains(path);
    let slashes = target.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let mut above = slashes.filter_map(|at| target.split_at_checked(at));
    is_hidden(b"/") || is_hidden(target) || above.any(|(path, _)| is_hidden(path) || is_hidden(&[path, b"/"].concat()))
}

impl Draft {
    fn mark_opaque(&mut self, path: &[u8]) {
        if let Some(directory) = self.own_directory(path).and_then(|id| self.directory_mut(id)) {
            directory.opaque = true;
        }
    }

    /// A whiteout beside a directory of the layer's own makes that one hide; beside anything else of its own there
    /// is nothing left to hide; where its directory has been replaced since, what replaced it hides already.
    fn put_whiteout(&mut self, path: &[u8]) {
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = match slash.and_then(|at| path.split_at_checked(at)) {
            Some((parent, name)) => (parent, name.get(1..).unwrap_or_default()),
            None => (&b""[..], path),
        };
        let Some(parent) = self.own_directory(parent) else { return };
        match self.child(parent, name) {
            Some(id) => {
                if let Some(directory) = self.directory_mut(id) {
                    directory.fresh = true;
                }
            }
            None => {
                if let Some(directory) = self.directory_mut(parent) {
                    directory.children.insert(name.into(), WHITEOUT);
                }
            }
        }
    }

    fn own_directory(&self, mut path: &[u8]) -> Option<NodeId> {
        let mut dir = ROOT;
        while let Some(name) = next_component(&mut path) {
            dir = self.child(dir, name)?;
        }
        self.directory(dir).map(|_| dir)
    }
}

/// Numbers the nodes that still have a name and turns each into an inode.
fn convert(nodes: Vec<Node>) -> Source {
    let mut alive = 0;
    let places: Vec<u32> = nodes
        .iter()
        .map(|node| {
            let place = alive;
            alive += u32::from(node.names > 0);
            place
        })
        .collect();
    let place_of = |id: NodeId| if id == WHITEOUT { alive } else { places.get(id as usize).copied().unwrap_or(alive) };
    let mut inodes = Vec::with_capacity(alive as usize + 1);
    inodes.extend(nodes.into_iter().filter(|node| node.names > 0).map(|node| inode(node, place_of)));
    inodes.push(whiteout()); // no directory names it where there is no whiteout, and the writer leaves it out
    Source { inodes }
}

fn inode(node: Node, place_of: impl Fn(NodeId) -> u32) -> Inode {
    let kind = node.body.kind();
    let mut xattrs = node.xattrs.map_or_else(Xattrs::new, |xattrs| *xattrs);
    let mut device = (0, 0);
    let content = match node.body {
        Body::Directory(directory) => {
            if directory.opaque || directory.fresh {
                xattrs.push((OPAQUE.to_vec(), b"y".to_vec()));
            }
            // What hides its lower namesake has no attributes to take from it.
            if directory.implied && !directory.fresh {
                xattrs.push((IMPLIED.to_vec(), Vec::new()));
            }
            Content::Children(directory.children.into_iter().map(|(name, id)| (name, InodeId(place_of(id)))).collect())
        }
        Body::File { size: 0, .. } | Body::Fifo | Body::Gone => Content::None,
        Body::File { size, at } => {
            Content::Extents { size, pieces: vec![Piece { at: 0, len: size, from: From::Data(at) }] }
        }
        Body::Sparse(sparse) => {
            let (size, pieces) = *sparse;
            Content::Extents { size, pieces }
        }
        Body::Symlink(target) => Content::Target(target.into()),
        Body::LowerLink(target) => {
            xattrs.push((LOWER_LINK.to_vec(), target.into()));
            Content::None
        }
        Body::CharDevice(major, minor) | Body::BlockDevice(major, minor) => {
            device = (major, minor);
            Content::None
        }
    };
    Inode { kind, mode: node.mode, uid: node.uid, gid: node.gid, mtime: node.mtime, device, xattrs, content }
}

/// As overlayfs wants it (kernel, Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
fn whiteout() -> Inode {
    Inode {
        kind: Kind::CharDevice,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        device: (0, 0),
        xattrs: Xattrs::new(),
        content: Content::None,
    }
}
