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

/// What a directory is merged from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parts {
    /// Whose children it has, top down.
    pub(super) shown: Vec<Part>,
    /// Whose attributes it has: the topmost that an entry of its layer names. It may lie below those shown, since an
    /// opaque marker hides what a directory holds and not the directory.
    pub(super) named: Option<Part>,
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
    Directory(Parts),
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
    pub(super) fn root(&self) -> Result<Parts, ViewError> {
        let mut parts = Parts::default();
        let mut hidden = false;
        for link in self.links.iter().rev() {
            let root = link.lower.tree.root();
            let grafted = link.patch.iter().flat_map(|patch| patch.root());
            let mut opaque = false;
            for nid in std::iter::once(root).chain(grafted).filter(|_| !hidden) {
                opaque |= link.gather(nid, &mut parts.shown)?;
            }
            hidden |= opaque;
            if parts.named.is_none() && !link.is_implied(root)? {
                parts.named = Some(Part { layer: link.layer, nid: root });
            }
            if hidden && parts.named.is_some() {
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

    /// What `name` is in the directory made of `above`, with all that it is merged from.
    pub(super) fn child(&self, above: &[Part], name: &[u8]) -> Result<Child, ViewError> {
        let mut parts = Parts::default();
        // Layers below these have no children to add, no attributes either.
        let (mut hidden, mut gone) = (0, 0);
        for part in above {
            let layer = part.layer;
            if layer < gone || layer < hidden && parts.named.is_some() {
                break;
            }
            match self.found(*part, name)? {
                Found::Nothing => {}
                Found::Whiteout => gone = layer,
                Found::Directory(nid) => {
                    let link = self.of(*part)?;
                    if layer >= hidden && link.gather_place(nid, &mut parts.shown)? {
                        hidden = layer;
                    }
                    if parts.named.is_none() && !link.is_implied(nid)? {
                        parts.named = Some(Part { layer, nid });
                    }
                }
                Found::Leaf(leaf) if parts.shown.is_empty() => return Ok(Child::Leaf(leaf)),
                Found::Leaf(_) => break,
            }
        }
        Ok(if parts.shown.is_empty() { Child::Nothing } else { Child::Directory(parts) })
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

    /// Adds the directory `nid`; says whether it is opaque.
    fn gather(&self, nid: Nid, into: &mut Vec<Part>) -> Result<bool, ViewError> {
        into.push(Part { layer: self.layer, nid });
        if is_virtual(nid) { Ok(false) } else { self.ask(|tree| tree.is_opaque(nid)) }
    }

    /// Adds the directory `nid` and what is grafted to it; says whether any of them is opaque.
    fn gather_place(&self, nid: Nid, into: &mut Vec<Part>) -> Result<bool, ViewError> {
        let mut opaque = self.gather(nid, into)?;
        if let Some(patch) = self.patch.as_ref().filter(|_| is_virtual(nid)) {
            for grafted in patch.grafted(nid) {
                opaque |= self.gather(*grafted, into)?;
            }
        }
        Ok(opaque)
    }
}
