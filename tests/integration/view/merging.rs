//! Whiteouts, opaque directories and attributes, one case each; chains at their limits.

use std::collections::BTreeMap;

use oncefs::index::tree::Time;
use oncefs::sync::Arc;
use oncefs::view::{LAYERS_MAX, LayerSlot, Lower, NodeId, View, ViewError, ViewSlot};

use super::says::{chain, dir, file, opaque, shown, whiteout};
use crate::model::unpack::{ModelAttributes, ModelEntry, ModelKind};

#[test]
fn the_topmost_layer_wins_a_name_and_directories_merge() {
    let lower = [dir("d"), file("d/a", "1"), file("d/b", "1"), file("f", "1"), dir("g"), file("g/x", "1")];
    let upper = [file("d/a", "2"), file("d/c", "2"), dir("f"), file("g", "2")];
    assert_eq!(shown(&[&lower, &upper]), ["d/", "d/a=2", "d/b=1", "d/c=2", "f/", "g=2"]);
}

#[test]
fn a_whiteout_hides_what_is_below_and_is_itself_no_name() {
    assert_eq!(shown(&[&[file("d/a", "1"), file("d/b", "1")], &[whiteout("d/a"), whiteout("d/x")]]), ["d/?", "d/b=1"]);
    assert_eq!(shown(&[&[whiteout("a"), file("b", "1")]]), ["b=1"]);
}

#[test]
fn what_a_layer_hid_comes_back_only_from_above() {
    let layers: [&[ModelEntry]; 3] = [&[file("d/old", "1")], &[whiteout("d")], &[file("d/new", "3")]];
    assert_eq!(shown(&layers), ["d/?", "d/new=3"]);
    let layers: [&[ModelEntry]; 3] = [&[file("d/old", "1")], &[file("d", "2")], &[dir("d")]];
    assert_eq!(shown(&layers), ["d/"]);
}

#[test]
fn an_opaque_marker_hides_the_content_and_leaves_the_directory_its_attributes() {
    let lower = [dir("d"), file("d/a", "1"), dir("d/e"), file("d/e/b", "1")];
    assert_eq!(shown(&[&lower, &[opaque("d"), file("d/e/c", "2")]]), ["d/", "d/e/?", "d/e/c=2"]);
    assert_eq!(shown(&[&lower, &[whiteout("d"), file("d/e/c", "2")]]), ["d/?", "d/e/?", "d/e/c=2"]);
    assert_eq!(shown(&[&lower, &[], &[opaque("d")], &[file("d/z", "4")]]), ["d/", "d/z=4"]);
    assert_eq!(shown(&[&lower, &[whiteout("d")], &[opaque("d")]]), ["d/?"]);
}

#[test]
fn attributes_are_those_of_the_topmost_layer_that_names_the_directory() {
    let named = |mode, gid| {
        let xattrs = BTreeMap::from([(b"user.gid".to_vec(), vec![gid as u8])]);
        let attributes = ModelAttributes { mode, uid: 1, gid, mtime: Time { seconds: 5, nanos: 6 }, xattrs };
        ModelEntry::Node { path: b"d".to_vec(), kind: ModelKind::Directory, attributes }
    };
    let chain = chain(&[&[named(0o700, 1)], &[file("d/a", "2")], &[named(0o711, 3)], &[file("d/b", "4")]]);
    let d = chain.view.lookup(chain.view.root(), b"d").unwrap().unwrap().id;
    let node = chain.view.node(d).unwrap();
    assert_eq!((node.mode, node.uid, node.gid, node.nlink), (0o711, 1, 3, 1));
    assert_eq!(chain.view.xattrs(d).unwrap(), [(b"user.gid".to_vec(), vec![3])]);
    let root = chain.view.node(chain.view.root()).unwrap();
    assert_eq!((root.mode, root.uid, root.mtime), (0o755, 0, Time::default()), "no layer names the root");
    assert_eq!(chain.view.xattrs(chain.view.root()).unwrap(), []);
}

#[test]
fn a_file_has_the_same_id_in_every_view_and_a_directory_has_not() {
    let chain = chain(&[&[file("d/f", "1")]]);
    let lowers: Vec<_> = chain.view.layers().cloned().collect();
    let other = View::open(ViewSlot(78), lowers).unwrap();
    let ids = |view: &View| {
        let d = view.lookup(view.root(), b"d").unwrap().unwrap().id;
        (view.root(), d, view.lookup(d, b"f").unwrap().unwrap().id)
    };
    let (ours, theirs) = (ids(&chain.view), ids(&other));
    assert_eq!(ours.2, theirs.2);
    assert!(ours.0 != theirs.0 && ours.1 != theirs.1);
    assert!(matches!(other.node(ours.1), Err(ViewError::Stale { .. })));
    let elsewhere = NodeId::file(LayerSlot(5), chain.view.file(ours.2).unwrap().1);
    assert!(matches!(other.node(elsewhere), Err(ViewError::Stale { .. })));
}

#[test]
fn a_question_that_does_not_fit_the_node_says_what_would() {
    let chain = chain(&[&[file("f", "1")]]);
    let (view, root) = (&chain.view, chain.view.root());
    let f = view.lookup(root, b"f").unwrap().unwrap().id;
    assert!(matches!(view.lookup(f, b"x"), Err(ViewError::Kind { want: "directory", .. })));
    assert!(matches!(view.list(f), Err(ViewError::Kind { want: "directory", .. })));
    assert!(matches!(view.target(f), Err(ViewError::Kind { want: "symlink", .. })));
    assert!(matches!(view.file(root), Err(ViewError::Kind { want: "file", .. })));
    assert_eq!(view.lookup(root, b"nothing").unwrap(), None);
    assert_eq!(view.lookup(root, b"..").unwrap(), None);
    assert_eq!(view.parent(root).unwrap(), root);
}

#[test]
fn a_view_of_no_layers_is_an_empty_directory() {
    let view = View::open(ViewSlot(1), Vec::new()).unwrap();
    assert_eq!(view.node(view.root()).unwrap().mode, 0o755);
    assert_eq!(view.lookup(view.root(), b"a").unwrap(), None);
    assert_eq!(view.list(view.root()).unwrap().after(0).unwrap().count(), 0);
}

#[test]
fn a_layer_may_be_in_a_chain_again_and_chains_have_an_end() {
    let chain = chain(&[&[file("a", "1")], &[whiteout("a"), file("d/b", "2")]]);
    let lowers: Vec<Lower> = chain.view.layers().cloned().collect();
    let again = View::open(ViewSlot(1), vec![lowers[0].clone(), lowers[1].clone(), lowers[0].clone()]).unwrap();
    assert!(again.lookup(again.root(), b"a").unwrap().is_some());
    let full = View::open(ViewSlot(1), vec![lowers[1].clone(); LAYERS_MAX]).unwrap();
    let d = full.lookup(full.root(), b"d").unwrap().unwrap().id;
    assert!(full.lookup(d, b"b").unwrap().is_some());
    let too_many = View::open(ViewSlot(1), vec![lowers[1].clone(); LAYERS_MAX + 1]);
    assert!(matches!(too_many, Err(ViewError::TooManyLayers(257))));
    let zero = Lower { slot: LayerSlot(0), tree: Arc::clone(&lowers[0].tree) };
    assert!(matches!(View::open(ViewSlot(1), vec![zero]), Err(ViewError::Slot { .. })));
    assert!(matches!(View::open(ViewSlot(1 << 23), lowers), Err(ViewError::Slot { .. })));
}

#[test]
fn a_directory_of_one_layer_is_listed_without_being_kept() {
    let many: Vec<_> = (0..20_000).map(|n| file(&format!("one/{n:06}"), "")).collect();
    let both: Vec<_> = (0..20_000).map(|n| file(&format!("two/{n:06}"), "")).collect();
    let chain = chain(&[&many, &both, &[file("two/x", "")]]);
    let count = |name: &[u8]| {
        let id = chain.view.lookup(chain.view.root(), name).unwrap().unwrap().id;
        chain.view.list(id).unwrap().after(0).unwrap().map(Result::unwrap).count()
    };
    assert_eq!(count(b"one"), 20_000);
    assert!(chain.cache.bytes() < 10_000, "{}", chain.cache.bytes());
    assert_eq!(count(b"two"), 20_001);
    assert!(chain.cache.bytes() > 20_000 * 6 && chain.cache.bytes() < 20_000 * 40, "{}", chain.cache.bytes());
}
