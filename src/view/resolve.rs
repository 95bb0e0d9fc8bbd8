//! Follows a path with its symlinks, as `chroot` would: never above the root, at most 40 symlinks.

use crate::index::tree::Kind;
use crate::view::ViewError;
use crate::view::merge::{Chain, Child, Leaf, Parts};

/// Something that paths can be followed on.
pub(super) trait Ground {
    type Dir: Clone;

    fn root(&self) -> Result<Self::Dir, ViewError>;
    fn step(&self, dir: &Self::Dir, name: &[u8]) -> Result<Step<Self::Dir>, ViewError>;
}

/// What a name leads to.
#[derive(Debug)]
pub(super) enum Step<D> {
    Directory(D),
    /// With its target.
    Symlink(Vec<u8>),
    Other(Leaf),
    Nothing,
}

/// Why a path leads to no directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Astray {
    #[error("nothing is there")]
    Nothing,
    #[error("a {0:?} is on the way")]
    NoDirectory(Kind),
    #[error("a directory is there, which can have no second name")]
    Directory,
    #[error("more than {HOPS_MAX} symlinks are on the way, or a too long one")]
    Symlinks,
    #[error("a hard link to a hard link that leads nowhere")]
    Circle,
    #[error("the image has too many of its kind")]
    TooMany,
}

/// A path being followed: the directories from the root to where it is, without symlinks.
#[derive(Debug)]
pub(super) struct Trail<'a, G: Ground> {
    ground: &'a G,
    root: G::Dir,
    here: Vec<(Box<[u8]>, G::Dir)>,
}

/// Steps that opening one view may take: more than any honest image needs, and over in seconds.
#[derive(Debug)]
pub(super) struct Steps(u32);

/// As the kernel has it (`MAXSYMLINKS`).
const HOPS_MAX: u32 = 40;

/// As the kernel has it (`PATH_MAX`).
const TARGET_BYTES_MAX: usize = 4096;

// === impl Steps ===

impl Default for Steps {
    fn default() -> Self {
        Self(1 << 22)
    }
}

impl Steps {
    pub(super) fn take(&mut self) -> Option<()> {
        self.0 = self.0.checked_sub(1)?;
        Some(())
    }
}

// === impl Trail ===

impl<'a, G: Ground> Trail<'a, G> {
    pub(super) fn begin(ground: &'a G) -> Result<Self, ViewError> {
        Ok(Self { ground, root: ground.root()?, here: Vec::new() })
    }

    /// Goes where `path` leads from here, its last name included.
    pub(super) fn follow(&mut self, path: &[u8], steps: &mut Steps) -> Result<Result<(), Astray>, ViewError> {
        let mut ahead = Vec::new();
        let mut hops = 0;
        self.turn(path, &mut ahead);
        while let Some(name) = ahead.pop() {
            if &*name == b".." {
                self.here.pop();
                continue;
            }
            if steps.take().is_none() {
                return Ok(Err(Astray::TooMany));
            }
            match self.ground.step(self.dir(), &name)? {
                Step::Directory(dir) => self.here.push((name, dir)),
                Step::Symlink(target) => {
                    hops += 1;
                    if hops > HOPS_MAX || target.len() > TARGET_BYTES_MAX {
                        return Ok(Err(Astray::Symlinks));
                    }
                    self.turn(&target, &mut ahead);
                }
                Step::Other(leaf) => return Ok(Err(Astray::NoDirectory(leaf.kind))),
                Step::Nothing => return Ok(Err(Astray::Nothing)),
            }
        }
        Ok(Ok(()))
    }

    /// Puts the names of `path` before those ahead.
    fn turn(&mut self, path: &[u8], ahead: &mut Vec<Box<[u8]>>) {
        if path.starts_with(b"/") {
            self.here.clear();
        }
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
        ahead.extend(names.rev().map(Box::from));
    }

    /// The directory it is in.
    pub(super) fn dir(&self) -> &G::Dir {
        self.here.last().map_or(&self.root, |(_, dir)| dir)
    }

    /// The names from the root to there.
    pub(super) fn names(&self) -> Vec<Box<[u8]>> {
        self.here.iter().map(|(name, _)| name.clone()).collect()
    }
}

// === the merged tree as a ground ===

impl Ground for Chain {
    type Dir = Parts;

    fn root(&self) -> Result<Parts, ViewError> {
        Chain::root(self)
    }

    fn step(&self, dir: &Parts, name: &[u8]) -> Result<Step<Parts>, ViewError> {
        match self.child(&dir.shown, name)? {
            Child::Nothing => Ok(Step::Nothing),
            Child::Directory(parts) => Ok(Step::Directory(parts)),
            Child::Leaf(leaf) => self.step_onto(leaf),
        }
    }
}

impl Chain {
    /// What a path that comes to `leaf` does next.
    pub(super) fn step_onto<D>(&self, leaf: Leaf) -> Result<Step<D>, ViewError> {
        match (leaf.kind, self.link(leaf.layer)) {
            (Kind::Symlink, Some(link)) => Ok(Step::Symlink(link.ask(|tree| tree.target(leaf.nid))?.to_vec())),
            _ => Ok(Step::Other(leaf)),
        }
    }
}
