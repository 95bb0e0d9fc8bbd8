//! Entries below symlinks of lower layers, and hard links into lower layers, one case each.

use oncefs::index::tree::Kind;
use oncefs::view::{Astray, ViewError};

use super::says::{chain, dir, file, hard_link, opaque, refusal, shown, symlink, whiteout};
use super::seen::ids;
use crate::model::unpack::ModelEntry;

fn merged_usr() -> [ModelEntry; 3] {
    [dir("usr/lib"), file("usr/lib/old", "1"), symlink("lib", "usr/lib")]
}

#[test]
fn what_is_below_a_lower_symlink_is_where_it_leads() {
    let shown = shown(&[&merged_usr(), &[file("lib/new", "2"), file("lib/d/e", "2"), file("usr/lib/own", "2")]]);
    let expected = ["lib>usr/lib", "usr/?", "usr/lib/", "usr/lib/d/?", "usr/lib/d/e=2"];
    assert_eq!(shown[..5], expected);
    assert_eq!(shown[5..], ["usr/lib/new=2", "usr/lib/old=1", "usr/lib/own=2"]);
}

#[test]
fn a_directory_that_the_layer_names_replaces_the_symlink() {
    let expected = ["lib/", "lib/new=2", "usr/?", "usr/lib/", "usr/lib/old=1"];
    assert_eq!(shown(&[&merged_usr(), &[dir("lib"), file("lib/new", "2")]]), expected);
    let expected = ["lib/?", "lib/new=2", "usr/?", "usr/lib/", "usr/lib/old=1"];
    assert_eq!(shown(&[&merged_usr(), &[whiteout("lib"), file("lib/new", "2")]]), expected);
}

#[test]
fn whiteouts_and_opaque_markers_act_where_the_symlink_leads() {
    let expected = ["lib>usr/lib", "usr/?", "usr/lib/"];
    assert_eq!(shown(&[&merged_usr(), &[whiteout("lib/old")]]), expected);
    let expected = ["lib>usr/lib", "usr/?", "usr/lib/", "usr/lib/new=2"];
    assert_eq!(shown(&[&merged_usr(), &[opaque("lib"), file("lib/new", "2")]]), expected);
}

#[test]
fn a_layer_hides_nothing_of_what_it_brings_by_another_way() {
    let expected = ["lib>usr/lib", "usr/?", "usr/lib/", "usr/lib/old=2"];
    assert_eq!(shown(&[&merged_usr(), &[whiteout("usr/lib/old"), file("lib/old", "2")]]), expected);
    assert_eq!(shown(&[&merged_usr(), &[opaque("usr/lib"), file("lib/old", "2")]]), expected);
    assert_eq!(shown(&[&merged_usr(), &[opaque("lib"), file("usr/lib/old", "2")]]), expected);
    let expected = ["lib>usr/lib", "usr/?", "usr/lib/?", "usr/lib/old=2"];
    assert_eq!(shown(&[&merged_usr(), &[whiteout("usr/lib"), file("lib/old", "2")]]), expected);
}

#[test]
fn a_graft_belongs_to_its_layer() {
    let middle = [file("lib/new", "2"), file("lib/old", "2")];
    let expected = ["lib>usr/lib", "usr/?", "usr/lib/", "usr/lib/new=3", "usr/lib/old=2"];
    assert_eq!(shown(&[&merged_usr(), &middle, &[file("usr/lib/new", "3")]]), expected);
    let expected = ["lib>usr/lib", "usr/?", "usr/lib/", "usr/lib/old=2", "usr/lib/x=3"];
    assert_eq!(shown(&[&merged_usr(), &middle, &[whiteout("lib/new"), file("lib/x", "3")]]), expected);
    let expected = ["lib>usr/lib", "usr/?", "usr/lib/", "usr/lib/x=3"];
    assert_eq!(shown(&[&merged_usr(), &middle, &[opaque("usr/lib"), file("lib/x", "3")]]), expected);
    let expected = ["lib/", "usr/?", "usr/lib/", "usr/lib/new=2", "usr/lib/old=2"];
    assert_eq!(shown(&[&merged_usr(), &middle, &[dir("lib")]]), expected);
}

#[test]
fn symlinks_on_the_way_are_followed_and_never_out_of_the_root() {
    let lower = [symlink("a", "b/c"), symlink("b", "../../d"), symlink("d/c", "/e"), dir("e")];
    assert_eq!(shown(&[&lower, &[file("a/x", "2")]])[4..], ["e/", "e/x=2"]);
    assert_eq!(shown(&[&[symlink("up", "../../..")], &[file("up/x", "2")]]), ["up>../../..", "x=2"]);
}

#[test]
fn a_graft_may_lie_in_another() {
    let lower = [symlink("a", "b"), symlink("b/c", "../d"), file("d/old", "1")];
    let expected = ["a>b", "b/?", "b/c>../d", "d/?", "d/new=2", "d/old=1"];
    assert_eq!(shown(&[&lower, &[file("a/c/new", "2")]]), expected);
}

#[test]
fn a_graft_meets_the_layers_own_directories_where_it_comes_to() {
    let shown = shown(&[&[file("a/f", "1"), symlink("c", ".")], &[dir("a/f"), file("c/a/f/x", "2")]]);
    assert_eq!(shown, ["a/?", "a/f/", "a/f/x=2", "c>."]);
}

#[test]
fn what_a_symlink_leads_to_and_is_not_there_is_made() {
    assert_eq!(shown(&[&[symlink("a", "x/y")], &[file("a/f", "2")]]), ["a>x/y", "x/?", "x/y/?", "x/y/f=2"]);
    let made: [&[ModelEntry]; 3] = [&[symlink("a", "x/y")], &[file("a/f", "2")], &[dir("x"), file("x/y/g", "3")]];
    assert_eq!(shown(&made), ["a>x/y", "x/", "x/y/?", "x/y/f=2", "x/y/g=3"]);
}

#[test]
fn every_directory_of_a_graft_is_found_by_its_id() {
    let chain = chain(&[&[symlink("a", "x/y"), dir("z")], &[file("a/d/f", "2"), file("z/g", "2")]]);
    for (path, id) in ids(&chain) {
        chain.cache.clear();
        let kind = chain.view.node(id).unwrap().kind;
        if kind == Kind::Directory && !path.is_empty() {
            chain.cache.clear();
            let parent = chain.view.parent(id).unwrap();
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap();
            assert_eq!(chain.view.lookup(parent, name).unwrap().unwrap().id, id);
        }
    }
}

#[test]
fn entries_below_what_leads_to_no_directory_are_refused() {
    let refused = refusal(&[&[file("a", "1")], &[file("a/b", "2")]]);
    let ViewError::BelowLeaf { layer: 1, path, lower: 0, kind: Kind::File } = refused else { panic!("{refused}") };
    assert_eq!(path, "/a");
    let circle = refusal(&[&[symlink("a", "b"), symlink("b", "a")], &[file("a/x", "2")]]);
    assert!(matches!(circle, ViewError::Graft { source: Astray::Symlinks, .. }), "{circle}");
    let file_there = refusal(&[&[symlink("a", "b"), file("b", "1")], &[file("a/x", "2")]]);
    assert!(matches!(file_there, ViewError::Graft { source: Astray::NoDirectory(Kind::File), .. }), "{file_there}");
}

// === hard links ===

#[test]
fn a_hard_link_into_a_lower_layer_is_that_layers_node() {
    let chain = chain(&[&[file("d/a", "1"), symlink("s", "nowhere")], &[hard_link("b", "d/a"), hard_link("t", "s")]]);
    let ids = ids(&chain);
    assert_eq!(ids[&b"b"[..]], ids[&b"d/a"[..]]);
    assert_eq!(ids[&b"t"[..]], ids[&b"s"[..]]);
    assert_eq!(chain.view.target(ids[&b"t"[..]]).unwrap(), b"nowhere");
}

#[test]
fn a_link_stays_when_its_target_goes() {
    let link = [hard_link("b", "d/a")];
    assert_eq!(shown(&[&[file("d/a", "1")], &link, &[whiteout("d")]]), ["b=1"]);
    assert_eq!(shown(&[&[file("d/a", "1")], &link, &[file("d/a", "3")]]), ["b=1", "d/?", "d/a=3"]);
}

#[test]
fn a_link_is_to_what_its_layer_found_whatever_it_put_there_later() {
    let lower = [file("d/a", "1")];
    assert_eq!(shown(&[&lower, &[hard_link("b", "d/a"), file("d/a", "2")]]), ["b=1", "d/?", "d/a=2"]);
    assert_eq!(shown(&[&lower, &[hard_link("b", "d/a"), file("d", "2")]]), ["b=1", "d=2"]);
    assert_eq!(shown(&[&lower, &[hard_link("b", "d/a"), file("d", "2"), dir("d")]]), ["b=1", "d/"]);
    let linked = [file("d/a", "1"), symlink("l", "d")];
    assert_eq!(shown(&[&linked, &[hard_link("b", "l/a"), file("d", "2")]]), ["b=1", "d=2", "l>d"]);
}

#[test]
fn a_links_target_is_found_through_symlinks_and_not_followed_at_its_end() {
    let lower = [file("usr/lib/a", "1"), symlink("lib", "/usr/lib"), symlink("usr/lib/s", "a")];
    let chain = chain(&[&lower, &[hard_link("b", "lib/a"), hard_link("t", "lib/s")]]);
    let ids = ids(&chain);
    assert_eq!(ids[&b"b"[..]], ids[&b"usr/lib/a"[..]]);
    assert_eq!(ids[&b"t"[..]], ids[&b"usr/lib/s"[..]]);
}

#[test]
fn a_link_finds_what_its_own_layer_brought_by_a_graft() {
    let upper = [file("lib/new", "2"), hard_link("b", "usr/lib/new"), hard_link("usr/c", "lib/old")];
    let chain = chain(&[&merged_usr(), &upper]);
    let ids = ids(&chain);
    assert_eq!(ids[&b"b"[..]], ids[&b"usr/lib/new"[..]]);
    assert_eq!(ids[&b"usr/c"[..]], ids[&b"usr/lib/old"[..]]);
}

#[test]
fn links_that_lead_nowhere_are_refused() {
    let astray = |layers: &[&[ModelEntry]]| match refusal(layers) {
        ViewError::Link { source, .. } => source,
        other => panic!("{other}"),
    };
    assert_eq!(astray(&[&[hard_link("b", "a")]]), Astray::Nothing);
    assert_eq!(astray(&[&[dir("a")], &[hard_link("b", "a")]]), Astray::Directory);
    assert_eq!(astray(&[&[file("a", "1")], &[hard_link("b", "a/c")]]), Astray::NoDirectory(Kind::File));
    assert_eq!(astray(&[&merged_usr(), &[whiteout("usr/lib/old"), hard_link("b", "lib/old")]]), Astray::Nothing);
    assert_eq!(astray(&[&merged_usr(), &[whiteout("usr/lib"), hard_link("b", "lib/old")]]), Astray::Nothing);
    assert_eq!(astray(&[&[symlink("s", "s")], &[hard_link("b", "s/a")]]), Astray::Symlinks);
}
