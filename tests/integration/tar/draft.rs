//! What a draft makes of random layers, merged over random layers below, is what the naive unpacking makes.

use std::collections::BTreeMap;

use oncefs::index::tree::draft::{Attributes, Draft, DraftError, DraftLimits, Entry, What};
use oncefs::index::tree::write::{Content, From, Inode, Source};
use oncefs::index::tree::{IMPLIED, Kind, LOWER_LINK, OPAQUE, Time};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::model::unpack::{self, ModelAttributes, ModelEntry, ModelFs, ModelKind, ModelNode, Refused};

// === random layers ===

fn any_path() -> impl Strategy<Value = Vec<u8>> {
    vec(select(&["a", "b", "c"][..]), 1..4).prop_map(|components| components.join("/").into_bytes())
}

fn any_attributes() -> impl Strategy<Value = ModelAttributes> {
    (0..0o10000u16, 0..4u32, 0..4u32, -9..9i64).prop_map(|(mode, uid, gid, seconds)| ModelAttributes {
        mode,
        uid,
        gid,
        mtime: Time { seconds, nanos: 5 },
        xattrs: BTreeMap::from([(b"user.x".to_vec(), vec![uid as u8])]),
    })
}

fn any_kind(symlinks: u32) -> impl Strategy<Value = ModelKind> {
    let target = select(&["a", "b", "/a/b", "b/c", "../b", "../../c/a", ".", "/", "c/../a", "a/b/../.."][..]);
    prop_oneof![
        8 => Just(ModelKind::Directory),
        8 => (1..1000u32).prop_map(|n| ModelKind::File(n.to_string().into_bytes())),
        symlinks => target.prop_map(|target| ModelKind::Symlink(target.as_bytes().to_vec())),
        1 => Just(ModelKind::CharDevice(1, 3)),
        1 => Just(ModelKind::BlockDevice(8, 1)),
        1 => Just(ModelKind::Fifo),
    ]
}

fn any_layer(symlinks: u32, whiteouts: u32) -> impl Strategy<Value = Vec<ModelEntry>> {
    let node = (any_path(), any_kind(symlinks), any_attributes()).prop_map(|(path, kind, mut attributes)| {
        if let ModelKind::Symlink(_) = kind {
            attributes.mode = 0o777;
        }
        ModelEntry::Node { path, kind, attributes }
    });
    let root = any_attributes().prop_map(|attributes| {
        let (path, kind) = (Vec::new(), ModelKind::Directory);
        ModelEntry::Node { path, kind, attributes }
    });
    let link = (any_path(), any_path()).prop_map(|(path, target)| ModelEntry::HardLink { path, target });
    let whiteout = any_path().prop_map(|path| ModelEntry::Whiteout { path });
    let opaque = any_path().prop_map(|path| ModelEntry::Opaque { path });
    vec(prop_oneof![20 => node, 1 => root, 5 => link, whiteouts => whiteout, whiteouts => opaque], 0..12)
}

/// The file system that those of the layers make which can be unpacked. Without symlinks: following one of a lower
/// layer is the view's part.
fn any_below() -> impl Strategy<Value = ModelFs> {
    vec(any_layer(0, 0), 0..6).prop_map(|layers| {
        layers.into_iter().flatten().fold(unpack::empty(), |fs, entry| {
            let mut next = fs.clone();
            if unpack::apply_layer(&mut next, &[entry]).is_ok() { next } else { fs }
        })
    })
}

/// The layer without the entries that cannot be unpacked after those before them.
fn unpackable(below: &ModelFs, layer: Vec<ModelEntry>) -> Vec<ModelEntry> {
    layer.into_iter().fold(Vec::new(), |mut kept, entry| {
        kept.push(entry);
        if unpack::apply_layer(&mut below.clone(), &kept).is_err() {
            kept.pop();
        }
        kept
    })
}

// === through the draft ===

fn draft_of(entries: &[ModelEntry], prefix: &str) -> Result<Source, DraftError> {
    let mut draft = Draft::new(DraftLimits::default());
    for entry in entries {
        apply(&mut draft, entry, prefix)?;
    }
    draft.finish()
}

fn apply(draft: &mut Draft, entry: &ModelEntry, prefix: &str) -> Result<(), DraftError> {
    let spelled = |path: &[u8]| [prefix.as_bytes(), path].concat();
    let (path, what, attributes) = match entry {
        ModelEntry::Node { path, kind, attributes } => (spelled(path), what(kind), attributes.clone()),
        ModelEntry::HardLink { path, target } => (spelled(path), What::HardLink(target), ModelAttributes::default()),
        ModelEntry::Whiteout { path } => {
            let name = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
            let path = [&path[..name], b".wh.", &path[name..]].concat();
            (spelled(&path), What::File { size: 0, at: 0 }, ModelAttributes::default())
        }
        ModelEntry::Opaque { path } => {
            let path = [path, &b"/.wh..wh..opq"[..]].concat();
            (spelled(&path), What::File { size: 0, at: 0 }, ModelAttributes::default())
        }
    };
    let ModelAttributes { mode, uid, gid, mtime, xattrs } = attributes;
    let attributes = Attributes { mode, uid, gid, mtime, xattrs: xattrs.into_iter().collect() };
    draft.apply(Entry { path: &path, attributes, what })
}

/// A file's content is where it lies in the data file, in decimal digits.
fn what(kind: &ModelKind) -> What<'_> {
    match kind {
        ModelKind::Directory => What::Directory,
        ModelKind::File(content) => {
            let at = std::str::from_utf8(content).unwrap().parse().unwrap();
            What::File { size: content.len() as u64, at }
        }
        ModelKind::Symlink(target) => What::Symlink(target),
        ModelKind::CharDevice(major, minor) => What::CharDevice(*major, *minor),
        ModelKind::BlockDevice(major, minor) => What::BlockDevice(*major, *minor),
        ModelKind::Fifo => What::Fifo,
    }
}

// === over what is below ===

struct Merging<'a> {
    source: &'a Source,
    below: &'a ModelFs,
    merged: ModelFs,
}

/// What overlayfs and the view make of a layer: marks and whiteouts hide, names on top cover.
fn merge(below: &ModelFs, source: &Source) -> Result<ModelFs, Refused> {
    let mut merging = Merging { source, below, merged: below.clone() };
    merging.directory(Vec::new(), 0)?;
    Ok(merging.merged)
}

impl Merging<'_> {
    fn directory(&mut self, path: Vec<u8>, id: usize) -> Result<(), Refused> {
        let inode = &self.source.inodes[id];
        let Content::Children(children) = &inode.content else { panic!("not a directory") };
        let has = |name: &[u8]| inode.xattrs.iter().any(|(have, _)| have == name);
        let is_directory_below = self.merged.get(&path).is_some_and(|node| node.kind == ModelKind::Directory);
        match self.merged.get_mut(&path) {
            Some(node) if is_directory_below => {
                if !has(IMPLIED) {
                    node.attributes = attributes(inode);
                }
            }
            Some(_) if has(IMPLIED) => return Err(Refused),
            _ => {
                self.merged.insert(path.clone(), self.node(id, ModelKind::Directory));
            }
        }
        if has(OPAQUE) {
            self.hide_below(&path);
        }
        for (name, id) in children {
            let path = if path.is_empty() { name.to_vec() } else { [&*path, b"/", name].concat() };
            self.child(path, id.0 as usize)?;
        }
        Ok(())
    }

    fn child(&mut self, path: Vec<u8>, id: usize) -> Result<(), Refused> {
        let inode = &self.source.inodes[id];
        if inode.kind == Kind::Directory {
            return self.directory(path, id);
        }
        self.hide_below(&path);
        self.merged.remove(&path);
        let kind = match (&inode.kind, &inode.content) {
            (Kind::CharDevice, _) if inode.device == (0, 0) => return Ok(()),
            (Kind::CharDevice, _) => ModelKind::CharDevice(inode.device.0, inode.device.1),
            (Kind::BlockDevice, _) => ModelKind::BlockDevice(inode.device.0, inode.device.1),
            (Kind::Fifo, _) => ModelKind::Fifo,
            (Kind::Symlink, Content::Target(target)) => ModelKind::Symlink(target.clone()),
            (Kind::File, Content::Extents { pieces, .. }) => match pieces[0].from {
                From::Data(at) => ModelKind::File(at.to_string().into_bytes()),
                From::Bytes(_) => panic!("a file without pieces of its own"),
            },
            (Kind::File, Content::None) => {
                let (_, target) = inode.xattrs.iter().find(|(name, _)| name == LOWER_LINK).expect("a lower link");
                let node = self.below.get(target).filter(|node| node.kind != ModelKind::Directory);
                self.merged.insert(path, node.ok_or(Refused)?.clone());
                return Ok(());
            }
            other => panic!("{other:?}"),
        };
        self.merged.insert(path, self.node(id, kind));
        Ok(())
    }

    fn node(&self, id: usize, kind: ModelKind) -> ModelNode {
        ModelNode { kind, attributes: attributes(&self.source.inodes[id]), inode: 1_000_000 + id as u64 }
    }

    fn hide_below(&mut self, dir: &[u8]) {
        let prefix = if dir.is_empty() { Vec::new() } else { [dir, b"/"].concat() };
        self.merged.retain(|path, _| path == dir || !path.starts_with(&prefix));
    }
}

fn attributes(inode: &Inode) -> ModelAttributes {
    let marks = [OPAQUE, IMPLIED, LOWER_LINK];
    let xattrs = inode.xattrs.iter().filter(|(name, _)| !marks.contains(&&**name)).cloned().collect();
    ModelAttributes { mode: inode.mode, uid: inode.uid, gid: inode.gid, mtime: inode.mtime, xattrs }
}

/// A line a path, inodes numbered in the order of their first name.
fn told(fs: &ModelFs) -> String {
    let mut numbers = BTreeMap::new();
    let lines = fs.iter().map(|(path, node)| {
        let next = numbers.len();
        let inode = numbers.entry(node.inode).or_insert(next);
        let ModelAttributes { mode, uid, gid, mtime, xattrs } = &node.attributes;
        let (path, seconds) = (path.escape_ascii(), mtime.seconds);
        format!("/{path} #{inode} {mode:o} {uid}:{gid} {seconds} {:?} {xattrs:?}\n", node.kind)
    });
    lines.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn a_layer_merged_over_others_is_the_layer_unpacked_over_them(
        below in any_below(),
        layer in any_layer(4, 2),
        prefix in select(&["", "/", "./", ".//./"][..]),
    ) {
        let _ = draft_of(&layer, prefix); // may be refused, must not panic
        let layer = unpackable(&below, layer);
        let mut unpacked = below.clone();
        unpack::apply_layer(&mut unpacked, &layer).unwrap();
        let drafted = draft_of(&layer, prefix).expect("the layer can be unpacked");
        let merged = merge(&below, &drafted).expect("the layer can be merged");
        let (merged, unpacked) = (told(&merged), told(&unpacked));
        prop_assert!(merged == unpacked, "merged\n{merged}\nunpacked\n{unpacked}");
    }
}
