//! What entries mean, one sentence a test. That all of it together is right over any layers below is shown against
//! the naive unpacking in `tests/integration/tar/draft.rs`; here is what is refused, and what only marks tell.

use super::*;
use crate::index::tree::write::{Content, From, Inode};
use crate::index::tree::{IMPLIED, Kind, LOWER_LINK, OPAQUE};

fn drafted(entries: &[(&str, What<'_>)]) -> Result<Source, DraftError> {
    let mut draft = Draft::new(DraftLimits::default());
    for (path, what) in entries {
        let attributes = Attributes { mode: 0o640, uid: 1, gid: 2, ..Attributes::default() };
        draft.apply(Entry { path: path.as_bytes(), attributes, what: what.clone() })?;
    }
    draft.finish()
}

fn source(entries: &[(&str, What<'_>)]) -> Source {
    drafted(entries).unwrap()
}

fn find<'a>(source: &'a Source, path: &str) -> Option<&'a Inode> {
    path.split('/').filter(|name| !name.is_empty()).try_fold(source.inodes.first()?, |inode, name| {
        let Content::Children(children) = &inode.content else { return None };
        let (_, id) = children.iter().find(|(child, _)| **child == *name.as_bytes())?;
        source.inodes.get(id.0 as usize)
    })
}

fn at<'a>(source: &'a Source, path: &str) -> &'a Inode {
    find(source, path).unwrap_or_else(|| panic!("no {path}"))
}

fn xattr<'a>(source: &'a Source, path: &str, name: &[u8]) -> Option<&'a [u8]> {
    at(source, path).xattrs.iter().find(|(have, _)| have == name).map(|(_, value)| &**value)
}

fn is_whiteout(source: &Source, path: &str) -> bool {
    find(source, path).is_some_and(|inode| inode.kind == Kind::CharDevice && inode.device == (0, 0))
}

fn alive(source: &Source) -> usize {
    source.inodes.len() - 1 // the whiteout is always there
}

const DIR: What<'static> = What::Directory;
const FILE: What<'static> = What::File { size: 5, at: 512 };
const OTHER_FILE: What<'static> = What::File { size: 6, at: 1024 };

fn symlink(target: &str) -> What<'_> {
    What::Symlink(target.as_bytes())
}

fn hard_link(target: &str) -> What<'_> {
    What::HardLink(target.as_bytes())
}

#[test]
fn a_layer_of_nothing_is_an_implied_root() {
    let source = source(&[]);
    assert_eq!(alive(&source), 1);
    assert_eq!(xattr(&source, "", IMPLIED), Some(&b""[..]));
    assert_eq!((at(&source, "").mode, at(&source, "").uid), (0o755, 0));
}

#[test]
fn the_root_has_the_attributes_its_entry_gives() {
    let source = source(&[("a", FILE), ("./", DIR)]);
    assert_eq!((at(&source, "").mode, at(&source, "").uid, at(&source, "").gid), (0o640, 1, 2));
    assert_eq!(xattr(&source, "", IMPLIED), None);
    assert!(find(&source, "a").is_some());
}

#[test]
fn parents_are_implied_until_they_are_named() {
    let implied = source(&[("a/b/c", FILE)]);
    assert_eq!((xattr(&implied, "a", IMPLIED), xattr(&implied, "a/b", IMPLIED)), (Some(&b""[..]), Some(&b""[..])));
    assert_eq!((at(&implied, "a").mode, at(&implied, "a").uid, at(&implied, "a").mtime), (0o755, 0, Time::default()));
    let named = source(&[("a/b/c", FILE), ("a", DIR)]);
    assert_eq!((xattr(&named, "a", IMPLIED), at(&named, "a").mode), (None, 0o640));
    assert_eq!(xattr(&named, "a/b", IMPLIED), Some(&b""[..]));
}

#[test]
fn the_last_of_a_name_wins_with_everything_below_it() {
    let source = source(&[("a/b/c", FILE), ("a/d", FILE), ("a", symlink("x")), ("./a", OTHER_FILE)]);
    assert!(matches!(at(&source, "a").content, Content::Extents { size: 6, .. }));
    assert_eq!(alive(&source), 2, "what was replaced is gone");
}

#[test]
fn a_directory_that_replaces_something_else_hides_what_is_below() {
    let source = source(&[("a", FILE), ("a/", DIR), ("b", DIR), ("b/x", FILE), ("b", DIR)]);
    assert_eq!(xattr(&source, "a", OPAQUE), Some(&b"y"[..]));
    assert_eq!(xattr(&source, "b", OPAQUE), None);
    assert!(find(&source, "b/x").is_some());
}

#[test]
fn hard_links_share_an_inode_that_outlives_any_of_its_names() {
    let source = source(&[("a", FILE), ("b", hard_link("./a")), ("c", hard_link("/b")), ("a", OTHER_FILE)]);
    assert!(std::ptr::eq(at(&source, "b"), at(&source, "c")));
    assert!(matches!(at(&source, "b").content, Content::Extents { size: 5, .. }));
    assert!(matches!(at(&source, "a").content, Content::Extents { size: 6, .. }));
    let again = drafted(&[("a", FILE), ("b", hard_link("a")), ("b", hard_link("a"))]).unwrap();
    assert!(std::ptr::eq(at(&again, "a"), at(&again, "b")));
}

#[test]
fn a_hard_link_may_lead_to_a_symlink_itself() {
    let source = source(&[("l", symlink("nowhere")), ("m", hard_link("l"))]);
    assert_eq!(at(&source, "m").content, Content::Target(b"nowhere".to_vec()));
}

#[test]
fn a_hard_link_that_this_layer_does_not_resolve_is_left_to_those_below() {
    let source = source(&[("d", symlink("/e")), ("b", hard_link("./d//f")), ("c", hard_link("b"))]);
    assert_eq!(xattr(&source, "b", LOWER_LINK), Some(&b"e/f"[..]));
    assert_eq!((at(&source, "b").kind, at(&source, "b").content.clone()), (Kind::File, Content::None));
    assert!(std::ptr::eq(at(&source, "b"), at(&source, "c")));
    assert!(find(&source, "e").is_none(), "looking makes nothing");
}

#[test]
fn a_hard_link_never_shows_what_the_layer_hides() {
    let hidden = |path: &str| Err(DraftError::LinkToHidden(path.to_owned()));
    assert_eq!(drafted(&[("b", hard_link("d/f")), ("d/.wh.f", FILE)]), hidden("d/f"));
    assert_eq!(drafted(&[(".wh.d", FILE), ("b", hard_link("d/f"))]), hidden("d/f"));
    assert_eq!(drafted(&[("d/.wh..wh..opq", FILE), ("b", hard_link("d/e/f"))]), hidden("d/e/f"));
    assert_eq!(drafted(&[("b", hard_link("f")), (".wh..wh..opq", FILE)]), hidden("f"));
    assert_eq!(drafted(&[("d", FILE), ("d", DIR), ("b", hard_link("d/f"))]), hidden("d/f"));
    assert_eq!(drafted(&[("d", FILE), ("b", hard_link("d/f"))]), Err(DraftError::BelowFile("d".into())));
    let link_first = [("b", hard_link("d/f")), ("d/.wh.f", FILE), ("d", FILE)];
    assert_eq!(drafted(&link_first), hidden("d/f"), "even where the whiteout's directory is replaced");
    assert!(drafted(&[("b", hard_link("d/f")), (".wh.b", FILE), ("d/.wh.g", FILE)]).is_ok());
    let replaced = drafted(&[("b", hard_link("d/f")), ("d/.wh.f", FILE), ("b", FILE)]);
    assert!(replaced.is_ok(), "the link itself is gone");
}

#[test]
fn hard_links_that_could_not_be_made_are_refused() {
    let refused = |entries: &[(&str, What<'_>)]| drafted(entries).unwrap_err();
    assert_eq!(refused(&[("d", DIR), ("l", hard_link("d"))]), DraftError::LinkToDirectory("d".into()));
    assert_eq!(refused(&[("d/x", FILE), ("l", hard_link("d"))]), DraftError::LinkToDirectory("d".into()));
    assert_eq!(refused(&[("l", hard_link("/"))]), DraftError::LinkToDirectory("".into()));
    assert_eq!(refused(&[("l", hard_link("./l"))]), DraftError::LinkToItself("l".into()));
    assert_eq!(refused(&[("l", FILE), ("l", hard_link("l"))]), DraftError::LinkToItself("l".into()));
    assert_eq!(refused(&[("d/f", FILE), ("d", hard_link("d/f"))]), DraftError::LinkToItself("d/f".into()));
    assert_eq!(refused(&[("l", hard_link("../x"))]), DraftError::Upwards);
    assert_eq!(refused(&[("l", hard_link(".wh.x"))]), DraftError::LinkToWhiteout);
    assert_eq!(refused(&[("l", hard_link(".wh..wh.plnk/x"))]), DraftError::LinkToWhiteout);
    assert_eq!(refused(&[("f", FILE), ("l", hard_link("f/x"))]), DraftError::BelowFile("f".into()));
}

#[test]
fn whiteouts_hide_wherever_they_stand() {
    for first in [true, false] {
        let mut entries = vec![("d/x", FILE), ("d/f", FILE)];
        let whiteouts = [("d/.wh.f", FILE), ("d/.wh.g", FILE), (".wh.d", FILE), ("e/.wh..wh..opq", FILE)];
        let at = if first { 0 } else { entries.len() };
        entries.splice(at..at, whiteouts);
        let source = source(&entries);
        assert_eq!(xattr(&source, "d", OPAQUE), Some(&b"y"[..]), "a whiteout beside a directory makes it hide");
        assert_eq!(xattr(&source, "d", IMPLIED), None, "there is nothing to take attributes from");
        assert_eq!(at_kind(&source, "d/f"), Kind::File, "it does not touch what the layer itself has");
        assert!(is_whiteout(&source, "d/g"));
        assert_eq!(xattr(&source, "e", OPAQUE), Some(&b"y"[..]));
        assert_eq!(xattr(&source, "e", IMPLIED), Some(&b""[..]), "the directory below keeps its attributes");
    }
}

fn at_kind(source: &Source, path: &str) -> Kind {
    at(source, path).kind
}

#[test]
fn a_whiteout_goes_with_the_directory_it_stood_in() {
    let source = source(&[("d/.wh.f", FILE), ("d", FILE)]);
    assert_eq!(at_kind(&source, "d"), Kind::File);
}

#[test]
fn notes_of_aufs_are_ignored() {
    let source = source(&[(".wh..wh.aufs", FILE), (".wh..wh.plnk", DIR), ("d/.wh..wh.plnk/1.2", FILE)]);
    assert_eq!(alive(&source), 1);
}

#[test]
fn entries_go_where_the_layers_own_symlinks_lead_and_never_out_of_it() {
    let source = source(&[
        ("l", symlink("/d/e")),
        ("d/m", symlink("../../../n/./o")),
        ("l/x", FILE),
        ("d/m/y", FILE),
        ("l/.wh.z", FILE),
    ]);
    assert_eq!(at_kind(&source, "d/e/x"), Kind::File);
    assert_eq!(at_kind(&source, "n/o/y"), Kind::File);
    assert!(is_whiteout(&source, "d/e/z"));
    assert_eq!(at_kind(&source, "l"), Kind::Symlink);
}

#[test]
fn symlinks_that_lead_nowhere_come_to_an_end() {
    let looped = drafted(&[("a", symlink("b")), ("b", symlink("a")), ("a/x", FILE)]);
    assert_eq!(looped, Err(DraftError::SymlinkLoop));
    let target = "d/../".repeat(200);
    assert_eq!(drafted(&[("a", symlink(&target)), ("a/x", FILE)]), Err(DraftError::SymlinkLoop));
    let long = [&"n".repeat(256), "/x"].concat();
    assert_eq!(drafted(&[("a", symlink(&long)), ("a/x", FILE)]), Err(DraftError::LongComponent));
    assert!(drafted(&[("a", symlink(&long))]).is_ok(), "as long as nothing goes through it");
    assert_eq!(drafted(&[("a", symlink(".wh.d")), ("a/x", FILE)]), Err(DraftError::BelowWhiteout));
    assert_eq!(drafted(&[("a", symlink("f")), ("f", FILE), ("a/x", FILE)]), Err(DraftError::BelowFile("f".into())));
}

#[test]
fn nothing_can_be_below_what_is_no_directory() {
    for what in [FILE, What::Fifo, What::CharDevice(1, 3), hard_link("elsewhere")] {
        let refused = drafted(&[("a/b", what), ("a/b/c", FILE)]);
        assert_eq!(refused, Err(DraftError::BelowFile("a/b".into())));
    }
}

#[test]
fn the_root_is_nothing_but_a_directory() {
    for path in ["/", "./", ""] {
        assert_eq!(drafted(&[(path, FILE)]), Err(DraftError::RootNotDirectory), "{path:?}");
        assert_eq!(drafted(&[(path, symlink("x"))]), Err(DraftError::RootNotDirectory), "{path:?}");
    }
}

#[test]
fn a_device_of_an_image_is_never_a_whiteout() {
    let source =
        source(&[("a", What::CharDevice(0, 0)), ("b", What::BlockDevice(0, 0)), ("c", What::CharDevice(4095, 1))]);
    assert_eq!((at(&source, "a").device, at(&source, "b").device), ((0, 1), (0, 0)));
    let refused = drafted(&[("a", What::CharDevice(4096, 0))]);
    assert_eq!(refused, Err(DraftError::Device { major: 4096, minor: 0 }));
    assert!(drafted(&[("a", What::BlockDevice(0, 1 << 20))]).is_err());
}

#[test]
fn symlinks_are_as_linux_has_them() {
    assert_eq!(at(&source(&[("a", symlink("x"))]), "a").mode, 0o777);
    for target in ["", "a\0b", &"t".repeat(4096)] {
        assert_eq!(drafted(&[("a", symlink(target))]), Err(DraftError::SymlinkTarget));
    }
    assert!(drafted(&[("a", symlink(&"t".repeat(4095)))]).is_ok());
}

#[test]
fn a_directory_cannot_become_deeper_than_any_path_by_way_of_symlinks() {
    let deep = "d/".repeat(1000);
    let down = "d/".repeat(200);
    let entries = [(deep.as_str(), DIR), ("d/l", symlink(&down))];
    let below = ["d/l/", &"e/".repeat(900)].concat();
    let refused = drafted(&[entries.as_slice(), &[(below.as_str(), DIR)]].concat());
    assert_eq!(refused, Err(DraftError::LongPath));
}

#[test]
fn a_layer_costs_no_more_than_its_limits() {
    let apply = |limits: DraftLimits, entries: u32| {
        let mut draft = Draft::new(limits);
        (0..entries).try_for_each(|n| {
            let path = format!("d{n}/f");
            draft.apply(Entry { path: path.as_bytes(), attributes: Attributes::default(), what: FILE })
        })
    };
    let limits = |inodes_max, kept_bytes_max| DraftLimits { inodes_max, kept_bytes_max };
    assert_eq!(apply(limits(21, 1 << 20), 10), Ok(()));
    assert_eq!(apply(limits(20, 1 << 20), 10), Err(DraftError::TooManyInodes(20)));
    assert_eq!(apply(limits(100, 600), 10), Err(DraftError::TooManyBytes(600)));
    let mut draft = Draft::new(limits(100, 1 << 10));
    let replaced =
        (0..1000).try_for_each(|_| draft.apply(Entry { path: b"a", attributes: Attributes::default(), what: FILE }));
    assert!(replaced.is_err(), "replaced ones count too");
}

#[test]
fn pieces_reach_the_source_as_they_are() {
    let pieces = vec![Piece { at: 512, len: 3, from: From::Bytes(b"abc".to_vec()) }];
    let source =
        source(&[("a", What::Sparse { size: 4096, pieces: pieces.clone() }), ("b", What::File { size: 0, at: 0 })]);
    assert_eq!(at(&source, "a").content, Content::Extents { size: 4096, pieces });
    assert_eq!(at(&source, "b").content, Content::None);
}

#[test]
fn an_inode_costs_what_the_documentation_says() {
    assert_eq!(size_of::<Node>(), 64);
}
