//! Hard links whose target is in a layer below: names that are that layer's node.
//!
//! The target's directory is found through symlinks, its last name is taken as it is (containerd, `hardlinkRootPath`).
//! What counts is the tree as the link's own layer found it: the layer cannot have had the target itself, or the draft would
//! have linked to that. Only a target that the layer brought through a graft is found no sooner than with the layer on
//! top. Looked for once, when a view is opened, and only in layers that have such links.

use std::collections::BTreeMap;

use crate::index::tree::{Kind, Nid};
use crate::view::graft::{Onto, Own, Spot};
use crate::view::merge::{Chain, Child, Leaf, Winner};
use crate::view::resolve::{Astray, Ground, Step, Steps, Trail};
use crate::view::{Lower, ViewError};

/// The links of one layer, by node.
#[derive(Debug, Default)]
pub(super) struct Links(BTreeMap<Nid, Link>);

/// A link as its layer has it.
#[derive(Debug)]
struct Link {
    path: Vec<u8>,
    target: Vec<u8>,
    to: Result<Leaf, Astray>,
}

/// A link that leads to a link and so on: as many as symlinks may.
const DEPTH_MAX: u32 = 40;

impl Links {
    /// The links of `lower`, which is going to be put onto `below`, and what they lead to there.
    pub(super) fn find(below: &Chain, layer: u8, lower: &Lower, steps: &mut Steps) -> Result<Self, ViewError> {
        let mut links = Self::default();
        if lower.tree.counts().lower_links == 0 {
            return Ok(links);
        }
        let before = Before(Onto { below, lower, layer });
        for met in lower.tree.walk() {
            let met = before.0.ask(|_| met)?;
            if met.kind != Kind::File || links.0.contains_key(&met.nid) {
                continue;
            }
            if let Some(target) = before.0.ask(|tree| tree.lower_link(met.nid))? {
                let (parent, name) = split(target);
                let to = match by_name(below, target, steps)? {
                    Some(leaf) => Ok(leaf),
                    None => match dir_of(&before, parent, steps)? {
                        Ok(dir) => before.leaf(&dir, name)?,
                        Err(astray) => Err(astray),
                    },
                };
                links.0.insert(met.nid, Link { path: met.path, target: target.to_vec(), to });
            }
        }
        Ok(links)
    }

    /// What each link stands for, now that its layer is the topmost of `chain`.
    pub(super) fn settle(mut self, chain: &Chain, steps: &mut Steps) -> Result<Vec<(Nid, Leaf)>, ViewError> {
        let Some(layer) = chain.links.last().map(|top| top.layer) else { return Ok(Vec::new()) };
        for link in self.0.values_mut().filter(|link| link.to.is_err()) {
            let (parent, name) = split(&link.target);
            if let Ok(dir) = dir_of(chain, parent, steps)?
                && let Winner::Leaf(leaf) = chain.winner(&dir.shown, name)?
            {
                link.to = Ok(leaf);
            }
        }
        let settled = self.0.iter().map(|(nid, link)| {
            let text = |path: &[u8]| format!("/{}", path.escape_ascii());
            let lost = |source| ViewError::Link { layer, path: text(&link.path), target: text(&link.target), source };
            Ok((*nid, self.end_of(layer, link).map_err(lost)?))
        });
        settled.collect()
    }

    /// Follows a link, and links of the same layer it may lead to, to its node.
    fn end_of<'a>(&'a self, layer: u8, mut link: &'a Link) -> Result<Leaf, Astray> {
        for _ in 0..DEPTH_MAX {
            let leaf = link.to?;
            match self.0.get(&leaf.nid).filter(|_| leaf.layer == layer) {
                Some(next) => link = next,
                None => return Ok(leaf),
            }
        }
        Err(Astray::Circle)
    }
}

/// What a link's layer found. Where the layer has something that is no directory, it put it there after the link: the
/// draft would have followed it or refused the link.
struct Before<'a>(Onto<'a>);

impl Before<'_> {
    /// What the layers below have under `name`, if it can have a second name and the layer does not hide it.
    fn leaf(&self, dir: &Spot, name: &[u8]) -> Result<Result<Leaf, Astray>, ViewError> {
        let hidden = matches!(self.0.own(dir, name)?, Own::Whiteout);
        Ok(match self.0.below.child(&dir.below, name)? {
            Child::Leaf(leaf) if !hidden => Ok(leaf),
            Child::Directory(_) if !hidden => Err(Astray::Directory),
            _ => Err(Astray::Nothing),
        })
    }
}

impl Ground for Before<'_> {
    type Dir = Spot;

    fn root(&self) -> Result<Spot, ViewError> {
        self.0.root()
    }

    fn step(&self, dir: &Spot, name: &[u8]) -> Result<Step<Spot>, ViewError> {
        match self.0.own(dir, name)? {
            Own::Leaf(..) => self.0.step(&Spot { own: None, below: dir.below.clone() }, name),
            _ => self.0.step(dir, name),
        }
    }
}

/// The target where no symlink is on the way. What the layer itself has there does not matter: the draft has made sure
/// that it hid nothing of the way when it made the link.
fn by_name(below: &Chain, target: &[u8], steps: &mut Steps) -> Result<Option<Leaf>, ViewError> {
    let mut parts = below.root()?;
    let mut names = target.split(|byte| *byte == b'/').peekable();
    while let Some(name) = names.next().filter(|_| steps.take().is_some()) {
        match below.child(&parts.shown, name)? {
            Child::Directory(inside) => parts = inside,
            Child::Leaf(leaf) if names.peek().is_none() => return Ok(Some(leaf)),
            Child::Leaf(_) | Child::Nothing => break,
        }
    }
    Ok(None)
}

/// The path of the directory, and the name in it.
fn split(target: &[u8]) -> (&[u8], &[u8]) {
    let slash = target.iter().rposition(|byte| *byte == b'/');
    target.split_at(slash.map_or(0, |slash| slash + 1))
}

fn dir_of<G: Ground>(ground: &G, path: &[u8], steps: &mut Steps) -> Result<Result<G::Dir, Astray>, ViewError> {
    let mut trail = Trail::begin(ground)?;
    Ok(trail.follow(path, steps)?.map(|()| trail.dir().clone()))
}
