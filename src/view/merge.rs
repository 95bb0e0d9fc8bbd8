//! How a chain's layers become one tree: which of the layers' directories a directory is merged from, and who wins a name.
//!
//! Every rule of precedence is here and nowhere else; nothing is remembered here.
//!
//! A merged directory is its *parts*, top down. The topmost part that has a name decides what it is. A whiteout ends the
//! search, and so does an opaque directory once its own children are counted, but both act on *lower layers* only: a layer
//! that was grafted onto itself (`graft`) has several parts in one directory, and none of them hides the others'.

use crate::index::tree::read::{Tree, TreeError};
use crate::index::tree::{Kind, Nid};
use crate::view::graft::Patch;
use crate::view::{LayerSlot, Lower, NodeId, ViewError, ViewSlot};

/// The layers of a view, bottom first.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) slot: ViewSlot,
    pub(super) links: Vec<Link>,
}

/// One layer in its place in the chain.
#[derive(Debug)]
pub(super) struct Link {
    /// Its place, from the bottom.
    pub(super) layer: u8,
    pub(super) lower: Lower,
    /// What it shows elsewhere than its own tree says; almost no layer has any.
    pub(super) patch: Option<Box<Patch>>,
}

/// One layer's directory that takes part in a merged one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) layer: u8,
    pub(super) nid: Nid,
}

/// A node that is no directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) layer: u8,
    pub(super) nid: Nid,
    pub(super) kind: Kind,
}

/// What one part has under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Whiteout,
    Directory(Nid),
    Leaf(Leaf),
}

/// What a merged directory has under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Child {
    Nothing,
    /// With all its parts, or with the topmost alone, as was asked.
    Directory(Vec<Part>),
    Leaf(Leaf),
}

/// Decides one name, fed with what the parts have under it, top down, until somebody wins.
#[derive(Debug, Default)]
pub(super) struct Contest {
    /// Layers below this one are hidden.
    floor: u8,
}

/// Who wins a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Winner {
    Nobody,
    Directory(Part),
    Leaf(Leaf),
}

/// Directories that no tree has, only a [`Patch`], have the numbers from here on: a tree would have to be 128 GiB
/// long to use them itself.
pub(super) const VIRTUAL: u32 = 0xffff_0000;

pub(super) fn is_virtual(nid: Nid) -> bool {
    nid.0 >= VIRTUAL
}

// === impl Contest ===

impl Contest {
    pub(super) fn hear(&mut self, part: Part, found: Found) -> Option<Winner> {
        if part.layer < self.floor {
            return Some(Winner::Nobody);
        }
        match found {
            Found::Nothing => None,
            Found::Whiteout => {
                self.floor = part.layer;
                None
            }
            Found::Directory(nid) => Some(Winner::Directory(Part { layer: part.layer, nid })),
            Found::Leaf(leaf) => Some(Winner::Leaf(leaf)),
        }
    }
}

// === impl Chain ===

impl Chain {
    /// The layer in that place; ids may name any, parts only those that are there.
    pub(super) fn link(&self, layer: u8) -> Option<&Link> {
        self.links.get(usize::from(layer))
    }

    /// The layer with that slot. Chains are short, so looking at all beats a map.
    pub(super) fn link_of(&self, slot: LayerSlot) -> Option<&Link> {
        self.links.iter().find(|link| link.lower.slot == slot)
    }

    pub(super) fn of(&self, part: Part) -> Result<&Link, ViewError> {
        self.link(part.layer).ok_or(ViewError::Stale { id: self.id_of(part) })
    }

    pub(super) fn id_of(&self, part: Part) -> NodeId {
        NodeId::directory(self.slot, part.layer, part.nid)
    }

    /// The parts of the root directory.
    pub(super) fn root(&self) -> Result<Vec<Part>, ViewError> {
        let mut parts = Vec::with_capacity(self.links.len());
        for link in self.links.iter().rev() {
            let (layer, nid) = (link.layer, link.lower.tree.root());
            parts.push(Part { layer, nid });
            if let Some(patch) = &link.patch {
                parts.extend(patch.root().map(|nid| Part { layer, nid }));
            }
            if link.ask(|tree| tree.is_opaque(nid))? {
                break;
            }
        }
        Ok(parts)
    }

    /// Who has `name` in the directory made of `parts`.
    pub(super) fn winner(&self, parts: &[Part], name: &[u8]) -> Result<Winner, ViewError> {
        let mut contest = Contest::default();
        for part in parts {
            if let Some(winner) = contest.hear(*part, self.found(*part, name)?) {
                return Ok(winner);
            }
        }
        Ok(Winner::Nobody)
    }

    /// What `name` is in the directory made of `parts`, with all that it is merged from.
    pub(super) fn child(&self, parts: &[Part], name: &[u8]) -> Result<Child, ViewError> {
        let mut floor = 0;
        let mut merged = Vec::new();
        for part in parts {
            if part.layer < floor {
                break;
            }
            match self.found(*part, name)? {
                Found::Nothing => {}
                Found::Whiteout => floor = part.layer,
                Found::Directory(nid) => {
                    if self.of(*part)?.gather(nid, &mut merged)? {
                        floor = part.layer;
                    }
                }
                Found::Leaf(leaf) if merged.is_empty() => return Ok(Child::Leaf(leaf)),
                Found::Leaf(_) => break,
            }
        }
        Ok(if merged.is_empty() { Child::Nothing } else { Child::Directory(merged) })
    }

    /// What one part has under `name`.
    fn found(&self, part: Part, name: &[u8]) -> Result<Found, ViewError> {
        let link = self.of(part)?;
        if is_virtual(part.nid) {
            let nid = link.patch.as_ref().and_then(|patch| patch.child(part.nid, name));
            return Ok(nid.map_or(Found::Nothing, Found::Directory));
        }
        match link.ask(|tree| tree.lookup(part.nid, name))? {
            None => Ok(Found::Nothing),
            Some((nid, kind)) => link.judge(nid, kind),
        }
    }
}

// === impl Link ===

impl Link {
    /// Asks the tree, naming the layer if that fails.
    pub(super) fn ask<'a, T>(&'a self, ask: impl FnOnce(&'a Tree) -> Result<T, TreeError>) -> Result<T, ViewError> {
        ask(&self.lower.tree).map_err(|source| ViewError::tree(self.layer, &self.lower, source))
    }

    /// What the tree's entry for `nid` means in this chain.
    pub(super) fn judge(&self, nid: Nid, kind: Kind) -> Result<Found, ViewError> {
        let leaf = Leaf { layer: self.layer, nid, kind };
        match (kind, &self.patch) {
            (Kind::Directory, Some(patch)) if patch.moved_to(nid).is_some() => Ok(Found::Nothing),
            (Kind::Directory, _) => Ok(Found::Directory(nid)),
            (Kind::CharDevice, _) if self.ask(|tree| tree.is_whiteout(nid))? => Ok(Found::Whiteout),
            (Kind::File, Some(patch)) => Ok(Found::Leaf(patch.linked(nid).unwrap_or(leaf))),
            _ => Ok(Found::Leaf(leaf)),
        }
    }

    /// Whether a directory has no attributes of its own.
    pub(super) fn is_implied(&self, nid: Nid) -> Result<bool, ViewError> {
        if is_virtual(nid) { Ok(true) } else { self.ask(|tree| tree.is_implied(nid)) }
    }

    /// Adds the directory `nid` and what is grafted to it; says whether it is opaque.
    fn gather(&self, nid: Nid, into: &mut Vec<Part>) -> Result<bool, ViewError> {
        into.push(Part { layer: self.layer, nid });
        if !is_virtual(nid) {
            return self.ask(|tree| tree.is_opaque(nid));
        }
        let grafted = self.patch.as_ref().map_or(&[][..], |patch| patch.grafted(nid));
        into.extend(grafted.iter().map(|nid| Part { layer: self.layer, nid: *nid }));
        Ok(false)
    }
}
