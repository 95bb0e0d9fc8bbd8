//! Layers and views in a few letters, for tests that tell one case each.

use oncefs::index::tree::Time;
use oncefs::view::ViewError;

use super::chain::Chain;
use super::seen::as_model;
use crate::model::unpack::{ModelAttributes, ModelEntry, ModelKind};

fn node(path: &str, kind: ModelKind) -> ModelEntry {
    let mode = if matches!(kind, ModelKind::Symlink(_)) { 0o777 } else { 0o640 };
    let mtime = Time { seconds: 9, nanos: 0 };
    let attributes = ModelAttributes { mode, mtime, ..ModelAttributes::default() };
    ModelEntry::Node { path: path.into(), kind, attributes }
}

pub(super) fn dir(path: &str) -> ModelEntry {
    node(path, ModelKind::Directory)
}

/// A file that holds a text.
pub(super) fn file(path: &str, text: &str) -> ModelEntry {
    node(path, ModelKind::File(text.into()))
}

pub(super) fn symlink(path: &str, target: &str) -> ModelEntry {
    node(path, ModelKind::Symlink(target.into()))
}

pub(super) fn hard_link(path: &str, target: &str) -> ModelEntry {
    ModelEntry::HardLink { path: path.into(), target: target.into() }
}

pub(super) fn whiteout(path: &str) -> ModelEntry {
    ModelEntry::Whiteout { path: path.into() }
}

pub(super) fn opaque(path: &str) -> ModelEntry {
    ModelEntry::Opaque { path: path.into() }
}

pub(super) fn chain(layers: &[&[ModelEntry]]) -> Chain {
    Chain::lay(&layers.iter().map(|entries| entries.to_vec()).collect::<Vec<_>>()).unwrap()
}

/// Why the layers make no view.
pub(super) fn refusal(layers: &[&[ModelEntry]]) -> ViewError {
    let refused = Chain::lay(&layers.iter().map(|entries| entries.to_vec()).collect::<Vec<_>>());
    *refused.err().expect("a refusal").downcast().expect("the view's refusal")
}

/// All that a view shows but the root: `d/` is a directory that an entry names, `d/?` one that none does, `f=text` a file,
/// `l>target` a symlink.
pub(super) fn shown(layers: &[&[ModelEntry]]) -> Vec<String> {
    let shown = as_model(&chain(layers)).into_iter().filter(|(path, _)| !path.is_empty()).map(|(path, node)| {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let path = text(&path);
        match node.kind {
            ModelKind::Directory if node.attributes.mode == 0o755 => format!("{path}/?"),
            ModelKind::Directory => format!("{path}/"),
            ModelKind::File(bytes) => format!("{path}={}", text(&bytes)),
            ModelKind::Symlink(target) => format!("{path}>{}", text(&target)),
            other => panic!("{other:?}"),
        }
    });
    shown.collect()
}
