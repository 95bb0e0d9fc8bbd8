//! The reader's own tests: what it finds, and that damage is an error. Random trees are read back in
//! tests/integration/tree.

use super::*;
use crate::index::tree::Place;
use crate::index::tree::format::seal;
use crate::index::tree::write::{Content, From, Inode, InodeId, Labels, Piece, Source, write};

fn labels() -> Labels {
    Labels { diff_id: DiffId(Digest::of(b"a layer")), data_bytes: 1 << 30 }
}

fn tree(source: &Source) -> Tree {
    let file = tempfile::tempfile().unwrap();
    write(source, &labels(), &file).unwrap();
    Tree::open(&file).unwrap()
}

fn inode(kind: Kind, content: Content) -> Inode {
    let mtime = Time { seconds: -5, nanos: 999_999_999 };
    Inode { kind, mode: 0o644, uid: 1 << 31, gid: 7, mtime, device: (0, 0), xattrs: Xattrs::new(), content }
}

fn dir(children: Vec<(Vec<u8>, u32)>) -> Inode {
    let children = children.into_iter().map(|(name, id)| (name.into(), InodeId(id))).collect();
    inode(Kind::Directory, Content::Children(children))
}

fn small() -> Source {
    let pieces = vec![
        Piece { at: 0, len: 4096, from: From::Data(1024) },
        Piece { at: 8192, len: 9, from: From::Bytes(b"own bytes".to_vec()) },
    ];
    let mut file = inode(Kind::File, Content::Extents { size: 20000, pieces });
    file.xattrs = vec![(b"user.x".to_vec(), b"1".to_vec()), (b"security.capability".to_vec(), vec![1; 20])];
    let many = (0..40).map(|n| (format!("name {n}").into_bytes(), 1)).collect();
    let link = inode(Kind::Symlink, Content::Target(b"d/name 1".to_vec()));
    Source {
        inodes: vec![dir(vec![(b"d".to_vec(), 2), (b"l".to_vec(), 3), (b"f".to_vec(), 1)]), file, dir(many), link],
    }
}

#[test]
fn names_are_found_and_listed_in_a_directory_of_many_blocks() {
    let names: Vec<_> = (0..5000).map(|n| format!("{}{n}", "x".repeat(n % 250)).into_bytes()).collect();
    let tree = tree(&Source {
        inodes: vec![dir(names.iter().map(|name| (name.clone(), 1)).collect()), inode(Kind::Fifo, Content::None)],
    });
    let mut sorted = names.clone();
    sorted.sort();
    let listed: Vec<_> = tree.list(tree.root()).unwrap().map(|child| child.unwrap().name.to_vec()).collect();
    assert_eq!(listed, sorted);
    for name in &names {
        let (nid, kind) = tree.lookup(tree.root(), name).unwrap().expect("a name that was written");
        assert_eq!((kind, tree.node(nid).unwrap().nlink), (Kind::Fifo, 5000));
        assert_eq!(tree.lookup(tree.root(), &[name, &b"!"[..]].concat()).unwrap(), None);
    }
    assert_eq!(tree.lookup(tree.root(), b".").unwrap(), None);
    assert_eq!(tree.lookup(tree.root(), b"").unwrap(), None);
    assert_eq!(tree.lookup(tree.root(), &[255; 300]).unwrap(), None);
}

#[test]
fn a_list_goes_on_from_any_position_it_had() {
    let names = (0..700).map(|n| (format!("{}{n}", "y".repeat(n % 90)).into_bytes(), 1)).collect();
    let tree = tree(&Source { inodes: vec![dir(names), inode(Kind::Fifo, Content::None)] });
    let all: Vec<_> = tree.list(tree.root()).unwrap().map(Result::unwrap).collect();
    let (mut list, mut positions) = (tree.list(tree.root()).unwrap(), vec![0]);
    while list.next().is_some() {
        positions.push(list.offset());
    }
    for (seen, position) in positions.into_iter().enumerate() {
        let rest: Vec<_> = tree.list_from(tree.root(), position).unwrap().map(Result::unwrap).collect();
        assert_eq!(rest, all[seen..]);
        assert_eq!(position == 0, seen == 0);
    }
    for wild in [1, 255, 256 + 255, 1 << 40, u64::MAX] {
        assert!(tree.list_from(tree.root(), wild).unwrap().count() <= all.len());
    }
}

#[test]
fn a_file_of_one_piece_is_one_extent_and_a_sparse_one_has_its_holes() {
    let tree = tree(&small());
    let (file, _) = tree.lookup(tree.root(), b"f").unwrap().unwrap();
    let mut at = 0;
    let mut extents = Vec::new();
    while at < 20000 {
        let extent = tree.extent(file, at).unwrap();
        extents.push((at, extent.place, extent.len));
        at += extent.len;
    }
    let Place::Tree(own) = extents[2].1 else { panic!("{extents:?}") };
    let expected = [
        (0, Place::Data(1024), 4096),
        (4096, Place::Hole, 4096),
        (8192, Place::Tree(own), 4096.min(extents[2].2)),
        (8192 + extents[2].2, Place::Hole, 20000 - 8192 - extents[2].2),
    ];
    assert_eq!(extents, expected);
    assert!(tree.bytes(own, 20).unwrap().starts_with(b"own bytes\0\0"));
    assert_eq!(tree.extent(file, 4095).unwrap(), Extent { place: Place::Data(1024 + 4095), len: 1 });
    assert!(matches!(tree.extent(file, 20000), Err(TreeError::PastEnd { .. })));
}

#[test]
fn the_heading_says_whose_tree_it_is_and_what_is_in_it() {
    let mut source = small();
    source.inodes[2].xattrs = vec![(IMPLIED.to_vec(), vec![])];
    let tree = tree(&source);
    assert_eq!(tree.counts(), Counts { inodes: 4, implied: 1, lower_links: 0 });
    assert_eq!((tree.diff_id(), tree.data_bytes()), (labels().diff_id, labels().data_bytes));
    let (marked, _) = tree.lookup(tree.root(), b"d").unwrap().unwrap();
    assert!(tree.is_implied(marked).unwrap() && !tree.is_implied(tree.root()).unwrap());
    assert_eq!(tree.parent(marked).unwrap(), tree.root());
    assert_eq!(tree.parent(tree.root()).unwrap(), tree.root());
    tree.check().unwrap();
}

#[test]
fn questions_that_do_not_fit_the_kind_are_errors() {
    let tree = tree(&small());
    let (file, _) = tree.lookup(tree.root(), b"f").unwrap().unwrap();
    assert!(matches!(tree.list(file), Err(TreeError::Kind { .. })));
    assert!(matches!(tree.target(file), Err(TreeError::Kind { .. })));
    assert!(matches!(tree.extent(tree.root(), 0), Err(TreeError::Kind { .. })));
    for nowhere in [0, 40, 47, 1 << 20, u32::MAX] {
        assert!(matches!(tree.node(Nid(nowhere)), Err(TreeError::Damaged { .. })), "{nowhere}");
    }
}

/// Asks everything of every node that can be reached: no answer matters, only that one comes.
fn ask_everything(image: Vec<u8>) {
    let Ok(tree) = Tree::from_bytes(image.into()) else { return };
    for visited in tree.walk().map_while(Result::ok) {
        let nid = visited.nid;
        let _ = (tree.node(nid), tree.xattrs(nid), tree.target(nid), tree.parent(nid), tree.lookup(nid, b"name 30"));
        let _ = (tree.is_opaque(nid), tree.is_implied(nid), tree.lower_link(nid), tree.is_whiteout(nid));
        let mut at = 0;
        for _ in 0..64 {
            let Ok(extent) = tree.extent(nid, at) else { break };
            assert!(extent.len > 0);
            at += extent.len;
        }
    }
}

fn image(source: &Source) -> Vec<u8> {
    let tree = tree(source);
    tree.bytes(0, tree.size()).unwrap().to_vec()
}

#[test]
fn no_single_damaged_byte_makes_the_reader_panic_or_go_on_forever() {
    let sound = image(&small());
    for at in 1024..sound.len() {
        for flip in [1, 0x80, 0xff] {
            let mut image = sound.clone();
            image[at] ^= flip;
            seal(&mut image); // else damage to the heading would get no further than its checksum
            ask_everything(image);
        }
    }
}

#[test]
fn any_damage_at_all_is_found_by_the_check() {
    let sound = image(&small());
    for at in 0..sound.len() {
        let mut image = sound.clone();
        image[at] ^= 0x10;
        let found = Tree::from_bytes(image.into()).and_then(|tree| tree.check()).is_err();
        assert!(found || at < 1024, "byte {at}"); // of the first 1024 bytes EROFS uses none
    }
    assert!(Tree::from_bytes(sound[..sound.len() - 512].to_vec().into()).is_err());
    assert!(Tree::from_bytes(Bytes::new()).is_err());
}
