//! Hard links whose target is in a layer below: names that are that layer's node.
//!
//! The target's directory is found through symlinks, its last name is taken as it is (containerd, `hardlinkRootPath`), and
//! all in the tree as it is with the link's own layer on top. Looked for once, when a view is opened, and only in layers
//! that have such links.

use std::collections::BTreeMap;

use crate::index::tree::{Kind, Nid};
use crate::view::ViewError;
use crate::view::merge::{Chain, Leaf, Winner};
use crate::view::resolve::{Astray, Steps, Trail};

/// A link that leads to a link and so on: as many as symlinks may.
const DEPTH_MAX: u32 = 40;

/// A link as its layer has it.
struct Open {
    path: Vec<u8>,
    target: Vec<u8>,
}

/// What the links of the topmost layer of `chain` stand for.
pub(super) fn find(chain: &Chain, steps: &mut Steps) -> Result<Vec<(Nid, Leaf)>, ViewError> {
    let Some(top) = chain.links.last().filter(|top| top.lower.tree.counts().lower_links > 0) else {
        return Ok(Vec::new());
    };
    let mut open = BTreeMap::new();
    for met in top.lower.tree.walk() {
        let met = top.ask(|_| met)?;
        if met.kind != Kind::File {
            continue;
        }
        if let Some(target) = top.ask(|tree| tree.lower_link(met.nid))? {
            open.entry(met.nid).or_insert_with(|| Open { path: met.path, target: target.to_vec() });
        }
    }
    let mut found = Vec::with_capacity(open.len());
    for (nid, link) in &open {
        let leaf = end_of(chain, top.layer, &open, *nid, steps)?;
        let text = |path: &[u8]| format!("/{}", path.escape_ascii());
        let lost =
            |source| ViewError::Link { layer: top.layer, path: text(&link.path), target: text(&link.target), source };
        found.push((*nid, leaf.map_err(lost)?));
    }
    Ok(found)
}

/// Follows a link, and links it may lead to, to the node it stands for.
fn end_of(
    chain: &Chain,
    layer: u8,
    open: &BTreeMap<Nid, Open>,
    mut nid: Nid,
    steps: &mut Steps,
) -> Result<Result<Leaf, Astray>, ViewError> {
    for _ in 0..DEPTH_MAX {
        let Some(link) = open.get(&nid) else { break };
        let leaf = match target_of(chain, &link.target, steps)? {
            Ok(leaf) => leaf,
            Err(astray) => return Ok(Err(astray)),
        };
        if leaf.layer != layer || !open.contains_key(&leaf.nid) {
            return Ok(Ok(leaf));
        }
        nid = leaf.nid;
    }
    Ok(Err(Astray::Circle))
}

fn target_of(chain: &Chain, target: &[u8], steps: &mut Steps) -> Result<Result<Leaf, Astray>, ViewError> {
    let cut = target.iter().rposition(|byte| *byte == b'/');
    let (parent, name) = target.split_at(cut.map_or(0, |slash| slash + 1));
    let mut trail = Trail::begin(chain)?;
    if let Err(astray) = trail.follow(parent, steps)? {
        return Ok(Err(astray));
    }
    Ok(match chain.winner(&trail.dir().shown, name)? {
        Winner::Nobody => Err(Astray::Nothing),
        Winner::Directory(_) => Err(Astray::Directory),
        Winner::Leaf(leaf) => Ok(leaf),
    })
}
