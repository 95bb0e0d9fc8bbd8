//! The reader against the writer: what was written is what is read, and damage is an error.

use std::collections::BTreeMap;

use proptest::prelude::*;

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
    let many = (0..60).map(|n| (format!("name {n}").into_bytes(), 1)).collect();
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
    for at in 0..sound.len() {
        for flip in [1, 0x80, 0xff] {
            let mut image = sound.clone();
            image[at] ^= flip;
            ask_everything(image.clone());
            seal(&mut image);
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

// === any tree at all ===

/// What one name of a tree is, as a map from paths tells it.
type Told = BTreeMap<Vec<u8>, (Inode, Vec<Vec<u8>>)>;

fn any_time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(seconds, nanos)| Time { seconds, nanos })
}

fn any_xattrs() -> impl Strategy<Value = Xattrs> {
    let name = prop_oneof![
        proptest::collection::vec(1..=255u8, 1..40).prop_map(|rest| [b"user.", &rest[..]].concat()),
        Just(b"trusted.overlay.opaque".to_vec()),
        Just(b"security.capability".to_vec()),
        Just(b"system.posix_acl_access".to_vec()),
        Just(b"system.posix_acl_default".to_vec()),
    ];
    let value = prop_oneof![
        9 => proptest::collection::vec(any::<u8>(), 0..80),
        1 => proptest::collection::vec(any::<u8>(), 0..3000),
    ];
    proptest::collection::btree_map(name, value, 0..4).prop_map(|map| map.into_iter().collect())
}

fn any_pieces() -> impl Strategy<Value = Content> {
    let piece = (0..5u64, 1..5u64, 0..100u64, any::<bool>(), 0..512u64);
    (proptest::collection::vec(piece, 0..5), 0..2000u64).prop_map(|(pieces, more)| {
        let (mut at, mut all) = (0u64, Vec::new());
        for (gap, blocks, offset, in_data, odd) in pieces {
            at += gap * 512;
            let piece = if in_data {
                at = at.next_multiple_of(512);
                Piece { at, len: blocks * 512, from: From::Data(offset * 512) }
            } else {
                let len = blocks * 100 + odd;
                Piece { at: at + odd, len, from: From::Bytes((0..len).map(|n| n as u8).collect()) }
            };
            at = piece.at + piece.len;
            all.push(piece);
        }
        Content::Extents { size: at + more, pieces: all }
    })
}

fn any_leaf() -> impl Strategy<Value = (Kind, Content, (u32, u32))> {
    let target = prop_oneof![1..600usize, Just(4095)].prop_flat_map(|len| proptest::collection::vec(1..=255u8, len));
    prop_oneof![
        4 => any_pieces().prop_map(|content| (Kind::File, content, (0, 0))),
        2 => target.prop_map(|target| (Kind::Symlink, Content::Target(target), (0, 0))),
        1 => (0..1u32 << 12, 0..1u32 << 20).prop_map(|device| (Kind::CharDevice, Content::None, device)),
        1 => (0..1u32 << 12, 0..1u32 << 20).prop_map(|device| (Kind::BlockDevice, Content::None, device)),
        1 => Just((Kind::Fifo, Content::None, (0, 0))),
        1 => Just((Kind::Socket, Content::None, (0, 0))),
        1 => Just((Kind::File, Content::None, (0, 0))),
    ]
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let byte = (1..=255u8).prop_map(|byte| if byte == b'/' { b'.' } else { byte });
    prop_oneof![8 => proptest::collection::vec(byte.clone(), 1..30), 1 => proptest::collection::vec(byte, 255)]
        .prop_filter("no name of a child", |name| name != b"." && name != b"..")
}

type Drawn = ((Kind, Content, (u32, u32)), bool, u16, u32, Time, Xattrs, Vec<u8>, usize, bool);

/// Hangs each drawn node into an earlier directory, some leaves under a second name too.
fn any_source() -> impl Strategy<Value = Source> {
    let node = (
        any_leaf(),
        any::<bool>(),
        0..=0o7777u16,
        any::<u32>(),
        any_time(),
        any_xattrs(),
        any_name(),
        any::<usize>(),
        any::<bool>(),
    );
    proptest::collection::vec(node, 1..40).prop_map(|drawn| source_of(&drawn))
}

fn source_of(drawn: &[Drawn]) -> Source {
    let mut children = vec![BTreeMap::new()];
    let mut inodes = vec![dir(vec![])];
    for (at, ((kind, content, device), is_dir, mode, id, mtime, xattrs, name, parent, twice)) in
        drawn.iter().enumerate()
    {
        let own = at as u32 + 1;
        let (kind, content) =
            if *is_dir { (Kind::Directory, Content::Children(vec![])) } else { (*kind, content.clone()) };
        let (mode, mtime, xattrs) = (*mode, *mtime, xattrs.clone());
        inodes.push(Inode { kind, mode, uid: *id, gid: !*id, mtime, device: *device, xattrs, content });
        children.push(BTreeMap::new());
        let dirs: Vec<_> = (0..=at).filter(|at| inodes[*at].kind == Kind::Directory).collect();
        let place = dirs[parent % dirs.len()];
        let taken = children[place].contains_key(name);
        children[place].entry(name.clone()).or_insert(own);
        if *twice && !is_dir && !taken {
            children[dirs[(parent / 7) % dirs.len()]]
                .entry([b"also", &name[..name.len().min(200)]].concat())
                .or_insert(own);
        }
    }
    for (inode, children) in inodes.iter_mut().zip(children) {
        if let Content::Children(to) = &mut inode.content {
            *to = children.into_iter().map(|(name, id)| (name.into(), InodeId(id))).collect();
        }
    }
    Source { inodes }
}

/// The source as paths, and for each path all the paths of the same inode.
fn told(source: &Source) -> Told {
    let mut paths: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
    let mut waiting = vec![(Vec::new(), 0u32)];
    while let Some((path, id)) = waiting.pop() {
        if let Content::Children(children) = &source.inodes[id as usize].content {
            for (name, InodeId(child)) in children {
                let path = if path.is_empty() { name.to_vec() } else { [&path[..], b"/", name].concat() };
                waiting.push((path, *child));
            }
        }
        paths.entry(id).or_default().push(path);
    }
    let mut told = Told::new();
    for (id, mut all) in paths {
        all.sort();
        for path in &all {
            told.insert(path.clone(), (source.inodes[id as usize].clone(), all.clone()));
        }
    }
    told
}

/// A file's content where the data file's byte at offset n is n % 251.
fn content_told(content: &Content) -> Vec<u8> {
    let Content::Extents { size, pieces } = content else { return Vec::new() };
    let mut bytes = vec![0; *size as usize];
    for piece in pieces {
        for n in 0..piece.len {
            bytes[(piece.at + n) as usize] = match &piece.from {
                From::Data(offset) => ((offset + n) % 251) as u8,
                From::Bytes(bytes) => bytes[n as usize],
            };
        }
    }
    bytes
}

fn content_read(tree: &Tree, file: Nid, size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < size {
        let Extent { place, len } = tree.extent(file, bytes.len() as u64).unwrap();
        match place {
            Place::Data(at) => bytes.extend((at..at + len).map(|n| (n % 251) as u8)),
            Place::Tree(at) => bytes.extend_from_slice(tree.bytes(at, len).unwrap()),
            Place::Hole => bytes.resize(bytes.len() + len as usize, 0),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_was_written_is_what_is_read(source in any_source()) {
        let tree = tree(&source);
        let told = told(&source);
        let mut seen: BTreeMap<Vec<u8>, Nid> = BTreeMap::new();
        for visited in tree.walk() {
            let visited = visited.unwrap();
            seen.insert(visited.path, visited.nid);
        }
        prop_assert_eq!(seen.keys().collect::<Vec<_>>(), told.keys().collect::<Vec<_>>());
        for (path, nid) in &seen {
            let (inode, names) = &told[path];
            let node = tree.node(*nid).unwrap();
            prop_assert_eq!((node.kind, node.mode, node.uid, node.gid), (inode.kind, inode.mode, inode.uid, inode.gid));
            prop_assert_eq!(node.mtime, inode.mtime);
            let is_device = matches!(inode.kind, Kind::CharDevice | Kind::BlockDevice);
            prop_assert_eq!(node.device, if is_device { inode.device } else { (0, 0) });
            for name in names {
                prop_assert_eq!(seen[name], *nid);
            }
            let mut xattrs = inode.xattrs.clone();
            xattrs.sort();
            prop_assert_eq!(tree.xattrs(*nid).unwrap(), xattrs.clone());
            for (name, value) in &xattrs {
                prop_assert_eq!(tree.xattr(*nid, name).unwrap(), Some(&value[..]));
            }
            match &inode.content {
                Content::Target(target) => prop_assert_eq!(tree.target(*nid).unwrap(), &target[..]),
                Content::Children(_) => {
                    let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |at| &path[..at]);
                    prop_assert_eq!(tree.parent(*nid).unwrap(), seen[parent]);
                }
                content => {
                    prop_assert_eq!(node.nlink as usize, names.len());
                    prop_assert_eq!(content_read(&tree, *nid, node.size), content_told(content));
                }
            }
        }
        prop_assert_eq!(tree.counts().inodes as usize, seen.values().collect::<std::collections::HashSet<_>>().len());
    }
}
