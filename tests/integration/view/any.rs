//! Random chains of layers: few names, deep nesting, everything an image can say.

use std::collections::BTreeMap;

use oncefs::index::tree::Time;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::tangle::is_tangled;
use crate::model::unpack::{ModelAttributes, ModelEntry, ModelFs, ModelKind, apply_layer, empty};

/// A chain, bottom first, and what unpacking it makes.
#[derive(Debug, Clone)]
pub(super) struct AnyChain {
    pub(super) layers: Vec<Vec<ModelEntry>>,
    pub(super) model: ModelFs,
}

/// What chains may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spice {
    /// Layers and entries in each.
    pub(super) layers: usize,
    pub(super) entries: usize,
    /// Weight of symlinks among ten or so.
    pub(super) symlinks: u32,
    pub(super) hard_links: u32,
    /// Fifos and devices.
    pub(super) specials: u32,
}

pub(super) const EVERYTHING: Spice = Spice { layers: 5, entries: 14, symlinks: 4, hard_links: 3, specials: 1 };

/// Chains whose meaning is beyond doubt: entries that are refused, or make a layer a tangle, are left out.
pub(super) fn any_chain(spice: Spice) -> impl Strategy<Value = AnyChain> {
    any_layers(spice).prop_map(|raw| {
        let (mut layers, mut model) = (Vec::new(), empty());
        for entries in raw {
            let mut kept: Vec<ModelEntry> = Vec::new();
            for entry in entries {
                kept.push(entry);
                if is_tangled(&model, &kept) {
                    kept.pop();
                }
            }
            apply_layer(&mut model, &kept).expect("what is refused was left out");
            layers.push(kept);
        }
        AnyChain { layers, model }
    })
}

/// Any chains at all, impossible ones too. No two entries have the same time, no two files the same bytes.
pub(super) fn any_layers(spice: Spice) -> impl Strategy<Value = Vec<Vec<ModelEntry>>> {
    vec(vec(any_entry(spice), 0..=spice.entries), 1..=spice.layers).prop_map(|mut layers| {
        let mut seconds = 0;
        for entry in layers.iter_mut().flatten() {
            seconds += 1;
            if let ModelEntry::Node { kind, attributes, .. } = entry {
                attributes.mtime = Time { seconds, nanos: 5 };
                if let ModelKind::File(bytes) = kind {
                    *bytes = format!("{seconds}").repeat(bytes.len()).into_bytes();
                }
            }
        }
        layers
    })
}

fn any_entry(spice: Spice) -> impl Strategy<Value = ModelEntry> {
    let node = (any_path(), any_kind(spice), any_attributes());
    prop_oneof![
        12 => node.prop_map(|(path, kind, attributes)| with_fitting_mode(path, kind, attributes)),
        spice.hard_links => (any_path(), any_path()).prop_map(|(path, target)| ModelEntry::HardLink { path, target }),
        3 => any_path().prop_map(|path| ModelEntry::Whiteout { path }),
        1 => any_path().prop_map(|path| ModelEntry::Opaque { path }),
        1 => any_attributes().prop_map(|attributes| {
            ModelEntry::Node { path: Vec::new(), kind: ModelKind::Directory, attributes }
        }),
    ]
}

fn with_fitting_mode(path: Vec<u8>, kind: ModelKind, attributes: ModelAttributes) -> ModelEntry {
    let mode = if matches!(kind, ModelKind::Symlink(_)) { 0o777 } else { attributes.mode };
    // Linux has user attributes on files and directories alone.
    let xattrs = match kind {
        ModelKind::Directory | ModelKind::File(_) => attributes.xattrs,
        _ => BTreeMap::new(),
    };
    ModelEntry::Node { path, kind, attributes: ModelAttributes { mode, xattrs, ..attributes } }
}

fn any_path() -> impl Strategy<Value = Vec<u8>> {
    vec(select(&["a", "b", "c", "d"][..]), 1..5).prop_map(|components| components.join("/").into_bytes())
}

fn any_kind(spice: Spice) -> impl Strategy<Value = ModelKind> {
    let target = select(&["a", "b", "c", "/a", "/a/b", "b/c", "../b", "../../c/a", ".", "/", "c/../a", "/d/d"][..]);
    prop_oneof![
        8 => Just(ModelKind::Directory),
        8 => (0..300usize).prop_map(|times| ModelKind::File(vec![b'x'; times])),
        spice.symlinks => target.prop_map(|target| ModelKind::Symlink(target.as_bytes().to_vec())),
        spice.specials => select(&[ModelKind::CharDevice(1, 3), ModelKind::BlockDevice(8, 1), ModelKind::Fifo][..]),
    ]
}

fn any_attributes() -> impl Strategy<Value = ModelAttributes> {
    (0..0o10000u16, 0..4u32, 0..4u32, any::<bool>()).prop_map(|(mode, uid, gid, marked)| ModelAttributes {
        mode,
        uid,
        gid,
        mtime: Time::default(),
        xattrs: marked.then(|| (b"user.x".to_vec(), vec![uid as u8])).into_iter().collect(),
    })
}
