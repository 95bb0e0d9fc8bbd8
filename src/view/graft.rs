//! Directories that a layer shows elsewhere than its own tree has them.
//!
//! A layer that holds `lib/x` and no entry for `lib`, over a layer whose `lib` is a symlink to `usr/lib`, means
//! `usr/lib/x`: whoever unpacks it onto what is below follows the symlink (containerd resolves each entry's parent with
//! `fs.RootPath`). So the implied directory is taken from its place and *grafted*: it becomes a part of the directory that
//! the symlink leads to. What does not exist on that way is made, as containerd makes it. Grafts are found once, when a
//! view is opened, and looked for only in layers that have implied directories.
//!
//! The way to each graft is kept as *virtual* directories: implied ones of that layer which its tree does not have. Their
//! numbers are given out in the order of the walk, so they are the same in the next process.

use std::collections::{BTreeMap, HashMap};

use crate::index::tree::read::{Tree, TreeError};
use crate::index::tree::{Kind, Nid};
use crate::view::merge::{Chain, Child, Leaf, Part, VIRTUAL};
use crate::view::resolve::{Astray, Ground, Step, Steps, Trail};
use crate::view::{Lower, ViewError};

/// What a layer shows elsewhere than its own tree says.
#[derive(Debug, Default)]
pub(super) struct Patch {
    /// The root first, if there are any; a place's number is its index here plus [`VIRTUAL`].
    places: Vec<Place>,
    /// Grafted directories, and the place each is grafted to.
    moved: HashMap<Nid, Nid>,
    /// Names that stand for another node (`links`).
    links: HashMap<Nid, Leaf>,
}

/// A virtual directory.
#[derive(Debug, Default)]
struct Place {
    /// Index of the place above; the root's own.
    parent: usize,
    name: Box<[u8]>,
    children: BTreeMap<Box<[u8]>, Nid>,
    grafted: Vec<Nid>,
}

/// Virtual directories a layer may have: what the numbers allow, and more than any honest image needs.
const PLACES_MAX: usize = (u32::MAX - VIRTUAL) as usize;

// === impl Patch ===

impl Patch {
    /// Whether there is a virtual root.
    pub(super) fn has_places(&self) -> bool {
        !self.places.is_empty()
    }

    /// The root's virtual part, if there is one, and what is grafted to the root.
    pub(super) fn root(&self) -> impl Iterator<Item = Nid> {
        let root = self.places.first().into_iter();
        root.flat_map(|root| std::iter::once(Nid(VIRTUAL)).chain(root.grafted.iter().copied()))
    }

    pub(super) fn child(&self, place: Nid, name: &[u8]) -> Option<Nid> {
        self.place(place)?.children.get(name).copied()
    }

    /// A place's children in the order of their names' bytes.
    pub(super) fn children(&self, place: Nid) -> impl Iterator<Item = (&[u8], Nid)> {
        let place = self.place(place).into_iter();
        place.flat_map(|place| place.children.iter().map(|(name, nid)| (&**name, *nid)))
    }

    /// What is grafted to a place.
    pub(super) fn grafted(&self, place: Nid) -> &[Nid] {
        self.place(place).map_or(&[], |place| &place.grafted)
    }

    /// The place above, and the name there; the root has none.
    pub(super) fn above(&self, place: Nid) -> Option<(Nid, &[u8])> {
        let here = self.place(place).filter(|_| place.0 > VIRTUAL)?;
        Some((number(here.parent)?, &here.name))
    }

    /// The place where `nid` is shown, if not where the tree has it.
    pub(super) fn moved_to(&self, nid: Nid) -> Option<Nid> {
        self.moved.get(&nid).copied()
    }

    /// What `nid` stands for.
    pub(super) fn linked(&self, nid: Nid) -> Option<Leaf> {
        self.links.get(&nid).copied()
    }

    pub(super) fn link(&mut self, links: Vec<(Nid, Leaf)>) {
        self.links.extend(links);
    }

    fn place(&self, nid: Nid) -> Option<&Place> {
        self.places.get(usize::try_from(nid.0.checked_sub(VIRTUAL)?).ok()?)
    }

    /// Makes `nid` a part of the directory at `path`; says no when there are too many already.
    fn graft(&mut self, nid: Nid, path: &[Box<[u8]>]) -> Option<()> {
        if self.places.is_empty() {
            self.places.push(Place::default());
        }
        let mut at = 0;
        for name in path {
            let next = self.places.len();
            let here = self.places.get_mut(at)?;
            at = match here.children.get(name) {
                Some(child) => usize::try_from(child.0.checked_sub(VIRTUAL)?).ok()?,
                None if next >= PLACES_MAX => return None,
                None => {
                    here.children.insert(name.clone(), number(next)?);
                    self.places.push(Place { parent: at, name: name.clone(), ..Place::default() });
                    next
                }
            };
        }
        self.moved.insert(nid, number(at)?);
        self.places.get_mut(at)?.grafted.push(nid);
        Some(())
    }
}

fn number(place: usize) -> Option<Nid> {
    VIRTUAL.checked_add(u32::try_from(place).ok()?).map(Nid)
}

// === finding them ===

/// Finds what of `lower`, which is going to be put onto `below`, must be grafted.
pub(super) fn find(below: &Chain, layer: u8, lower: &Lower, steps: &mut Steps) -> Result<Option<Patch>, ViewError> {
    let onto = Onto { below, lower, layer };
    // The root is implied in most layers and lies over no symlink.
    let roots = u32::from(onto.ask(|tree| tree.is_implied(tree.root()))?);
    if lower.tree.counts().implied <= roots || below.links.is_empty() {
        return Ok(None);
    }
    let mut patch = Patch::default();
    // A sound tree has each directory once; this makes an end of one that has not.
    let mut budget = lower.tree.counts().inodes;
    let mut open = vec![Open { nid: lower.tree.root(), path: Vec::new(), spot: onto.root()? }];
    while let Some(dir) = open.pop() {
        let first = open.len();
        for child in onto.ask(|tree| tree.list(dir.nid))? {
            let child = onto.ask(|_| child)?;
            if child.kind != Kind::Directory {
                continue;
            }
            let twice = TreeError::Damaged { nid: child.nid, what: "a directory has two names" };
            budget = onto.ask(|_| budget.checked_sub(1).ok_or(twice))?;
            open.extend(onto.place(&dir, child.nid, child.name, &mut patch, steps)?);
        }
        if let Some(found) = open.get_mut(first..) {
            found.reverse();
        }
    }
    Ok(patch.has_places().then_some(patch))
}

/// What a layer's entries are unpacked onto: the layers below, less what this layer hides of them, and the layer itself.
pub(super) struct Onto<'a> {
    pub(super) below: &'a Chain,
    pub(super) lower: &'a Lower,
    pub(super) layer: u8,
}

/// A directory of the layer that lies over something.
struct Open {
    nid: Nid,
    /// Where it is shown, from the root.
    path: Vec<u8>,
    /// What else is there: the directories it lies over and, if it was grafted, the one the layer itself has there.
    spot: Spot,
}

/// A directory as a layer's entries find it.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    /// The layer's own.
    pub(super) own: Option<Nid>,
    /// The parts of the layers below.
    pub(super) below: Vec<Part>,
}

/// What the layer itself has under a name.
pub(super) enum Own {
    Nothing,
    Whiteout,
    Directory(Nid),
    Leaf(Nid, Kind),
}

impl<'a> Onto<'a> {
    pub(super) fn ask<T>(&self, ask: impl FnOnce(&'a Tree) -> Result<T, TreeError>) -> Result<T, ViewError> {
        ask(&self.lower.tree).map_err(|source| ViewError::tree(self.layer, self.lower, source))
    }

    /// What the layer itself has under a name.
    pub(super) fn own(&self, dir: &Spot, name: &[u8]) -> Result<Own, ViewError> {
        let own = match dir.own {
            Some(own) => self.ask(|tree| tree.lookup(own, name))?,
            None => None,
        };
        Ok(match own {
            None => Own::Nothing,
            Some((nid, Kind::Directory)) => Own::Directory(nid),
            Some((nid, Kind::CharDevice)) if self.ask(|tree| tree.is_whiteout(nid))? => Own::Whiteout,
            Some((nid, kind)) => Own::Leaf(nid, kind),
        })
    }

    /// Where the directory `nid` comes to lie, grafting it if need be. Below one that lies over nothing there is nothing
    /// more to find.
    fn place(
        &self,
        dir: &Open,
        nid: Nid,
        name: &[u8],
        patch: &mut Patch,
        steps: &mut Steps,
    ) -> Result<Option<Open>, ViewError> {
        let path = [&dir.path[..], b"/", name].concat();
        let implied = self.ask(|tree| tree.is_implied(nid))?;
        let (path, spot) = match self.step(&dir.spot, name)? {
            Step::Directory(spot) => (path, spot),
            Step::Symlink(_) if implied => {
                let mut trail = Trail::begin(self)?;
                trail.follow(&path, steps)?.map_err(|source| ViewError::graft(self.layer, &path, source))?;
                let names = trail.names();
                patch.graft(nid, &names).ok_or_else(|| ViewError::graft(self.layer, &path, Astray::TooMany))?;
                (names.iter().flat_map(|name| [&b"/"[..], name]).collect::<Vec<_>>().concat(), trail.dir().clone())
            }
            Step::Other(leaf) if implied => {
                let path = path.escape_ascii().to_string();
                return Err(ViewError::BelowLeaf { layer: self.layer, path, lower: leaf.layer, kind: leaf.kind });
            }
            _ => return Ok(None),
        };
        let ends = spot.below.is_empty() || self.ask(|tree| tree.is_opaque(nid))?;
        Ok((!ends).then_some(Open { nid, path, spot }))
    }
}

impl Ground for Onto<'_> {
    type Dir = Spot;

    fn root(&self) -> Result<Spot, ViewError> {
        let root = self.lower.tree.root();
        let below = if self.ask(|tree| tree.is_opaque(root))? { Vec::new() } else { self.below.root()?.shown };
        Ok(Spot { own: Some(root), below })
    }

    /// What is missing is made: a directory with nothing in it.
    fn step(&self, dir: &Spot, name: &[u8]) -> Result<Step<Spot>, ViewError> {
        let (own, implied, opaque) = match self.own(dir, name)? {
            Own::Nothing => (None, true, false),
            Own::Whiteout => (None, false, true),
            Own::Directory(nid) => {
                (Some(nid), self.ask(|tree| tree.is_implied(nid))?, self.ask(|tree| tree.is_opaque(nid))?)
            }
            Own::Leaf(nid, Kind::Symlink) => return Ok(Step::Symlink(self.ask(|tree| tree.target(nid))?.to_vec())),
            Own::Leaf(nid, kind) => return Ok(Step::Other(Leaf { layer: self.layer, nid, kind })),
        };
        match self.below.child(&dir.below, name)? {
            Child::Leaf(leaf) if implied => self.below.step_onto(leaf),
            Child::Directory(below) if !opaque => Ok(Step::Directory(Spot { own, below: below.shown })),
            _ => Ok(Step::Directory(Spot { own, below: Vec::new() })),
        }
    }
}
