//! Layers indexed for real: tar, draft, tree, view; with what is needed to mount and to read them.

use std::error::Error;
use std::fs::File;
use std::path::PathBuf;

use oncefs::digest::{DiffId, Digest};
use oncefs::index::tar::{Parser, TarLimits};
use oncefs::index::tree::draft::{Draft, DraftLimits};
use oncefs::index::tree::read::Tree;
use oncefs::index::tree::write::{Labels, write};
use oncefs::index::tree::{Kind, Place};
use oncefs::sync::Arc;
use oncefs::view::{Cache, LayerSlot, Lower, NodeId, View, ViewSlot};
use tempfile::TempDir;

use super::tarball::tarball;
use crate::model::unpack::ModelEntry;

/// A chain of layers on disk, bottom first, and their view.
pub(super) struct Chain {
    pub(super) dir: TempDir,
    pub(super) tars: Vec<Vec<u8>>,
    pub(super) cache: Arc<Cache>,
    pub(super) view: View,
}

/// Slots are not places in the chain: whoever mixes them up is found out.
const FIRST_SLOT: u32 = 1000;

impl Chain {
    pub(super) fn lay(layers: &[Vec<ModelEntry>]) -> Result<Self, Box<dyn Error>> {
        Self::lay_tars(layers.iter().map(|entries| tarball(entries)).collect())
    }

    pub(super) fn lay_tars(tars: Vec<Vec<u8>>) -> Result<Self, Box<dyn Error>> {
        let dir = TempDir::new()?;
        let mut lowers = Vec::new();
        for (at, tar) in tars.iter().enumerate() {
            let slot = LayerSlot(FIRST_SLOT + at as u32);
            let file = File::options().read(true).write(true).create_new(true).open(tree_path(&dir, at))?;
            lowers.push(Lower { slot, tree: Arc::new(index(tar, &file)?) });
        }
        let cache = Arc::new(Cache::default());
        let view = View::open_sharing(ViewSlot(77), lowers, Arc::clone(&cache))?;
        Ok(Self { dir, tars, cache, view })
    }

    /// A file's bytes, by the extents its tree tells.
    pub(super) fn content(&self, id: NodeId) -> Vec<u8> {
        let (lower, nid) = self.view.file(id).unwrap();
        let node = lower.tree.node(nid).unwrap();
        assert_eq!(node.kind, Kind::File);
        let tar = &self.tars[(lower.slot.0 - FIRST_SLOT) as usize];
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < node.size {
            let extent = lower.tree.extent(nid, bytes.len() as u64).unwrap();
            match extent.place {
                Place::Data(at) => bytes.extend_from_slice(&tar[at as usize..(at + extent.len) as usize]),
                Place::Tree(at) => bytes.extend_from_slice(lower.tree.bytes(at, extent.len).unwrap()),
                Place::Hole => bytes.resize(bytes.len() + extent.len as usize, 0),
            }
        }
        bytes
    }
}

fn tree_path(dir: &TempDir, layer: usize) -> PathBuf {
    dir.path().join(format!("tree{layer}"))
}

fn index(tar: &[u8], file: &File) -> Result<Tree, Box<dyn Error>> {
    let (mut parser, mut draft) = (Parser::new(TarLimits::default()), Draft::new(DraftLimits::default()));
    parser.push(tar, &mut draft)?;
    parser.finish()?;
    let labels = Labels { diff_id: DiffId(Digest::of(tar)), data_bytes: tar.len() as u64 };
    write(&draft.finish()?, &labels, file)?;
    Ok(Tree::open(file)?)
}
