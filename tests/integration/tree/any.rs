//! Any tree at all: random sources, and what they say told without EROFS.

use std::collections::BTreeMap;

use oncefs::index::tree::write::{Content, From, Inode, InodeId, Piece, Source};
use oncefs::index::tree::{Kind, Time, Xattrs};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{DATA_BYTES, data_byte};

/// Names that one inode has and what it is.
pub(crate) struct Told {
    pub(crate) inode: Inode,
    pub(crate) names: Vec<Vec<u8>>,
}

/// A node before it has a place.
type Drawn = ((Kind, Content, (u32, u32)), bool, u16, u32, Time, Vec<u8>, usize, bool, Xattrs);

fn any_time() -> impl Strategy<Value = Time> {
    let seconds = prop_oneof![any::<i32>().prop_map(i64::from), any::<i64>()];
    (seconds, 0..1_000_000_000u32).prop_map(|(seconds, nanos)| Time { seconds, nanos })
}

/// The kernel looks into access control lists and capabilities, so these are sound ones.
fn acl(permissions: u16) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, shift) in [(1u16, 6), (4, 3), (32, 0)] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend((permissions >> shift & 7).to_le_bytes());
        bytes.extend(u32::MAX.to_le_bytes());
    }
    bytes
}

fn any_xattrs() -> impl Strategy<Value = Xattrs> {
    let rest = vec(1..=255u8, 1..40);
    let value = || prop_oneof![9 => vec(any::<u8>(), 0..80), 1 => vec(any::<u8>(), 0..3000)];
    let capability = [&0x0200_0001u32.to_le_bytes()[..], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7]].concat();
    let one = prop_oneof![
        4 => (rest.clone(), value()).prop_map(|(rest, value)| ([b"user.", &rest[..]].concat(), value)),
        2 => (rest, value()).prop_map(|(rest, value)| ([b"trusted.", &rest[..]].concat(), value)),
        1 => Just((b"trusted.overlay.opaque".to_vec(), b"y".to_vec())),
        1 => Just((b"security.capability".to_vec(), capability)),
        1 => any::<u16>().prop_map(|bits| (b"system.posix_acl_access".to_vec(), acl(bits))),
        1 => any::<u16>().prop_map(|bits| (b"system.posix_acl_default".to_vec(), acl(bits))),
    ];
    vec(one, 0..4).prop_map(|all| all.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect())
}

fn any_content() -> impl Strategy<Value = Content> {
    let last_block = DATA_BYTES / 512 - 8;
    let piece = (0..5u64, 1..8u64, 0..last_block, any::<bool>(), 0..512u64);
    (vec(piece, 0..5), 0..2000u64).prop_map(|(drawn, more)| {
        let (mut end, mut pieces) = (0u64, Vec::new());
        for (gap, blocks, offset, in_data, odd) in drawn {
            end += gap * 512;
            let (at, len) = if in_data { (end.next_multiple_of(512), blocks * 512) } else { (end + odd, blocks * 100) };
            let bytes = || (0..len).map(|n| (n * 7 + odd) as u8).collect();
            pieces.push(Piece { at, len, from: if in_data { From::Data(offset * 512) } else { From::Bytes(bytes()) } });
            end = at + len;
        }
        match pieces.last_mut() {
            // A last piece out of the data file may end anywhere.
            Some(Piece { len, from: From::Data(_), .. }) if more % 3 == 0 => {
                let cut = more % 512;
                *len -= cut;
                Content::Extents { size: end - cut, pieces }
            }
            _ => Content::Extents { size: end + more, pieces },
        }
    })
}

fn any_leaf() -> impl Strategy<Value = (Kind, Content, (u32, u32))> {
    let target = prop_oneof![1..600usize, Just(4095)].prop_flat_map(|len| vec(1..=255u8, len));
    prop_oneof![
        4 => any_content().prop_map(|content| (Kind::File, content, (0, 0))),
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
    prop_oneof![8 => vec(byte.clone(), 1..30), 1 => vec(byte, 255)]
        .prop_filter("no name of a child", |name| name != b"." && name != b"..")
}

/// Hangs each drawn node into an earlier directory, some leaves under a second name too.
pub(crate) fn any_source() -> impl Strategy<Value = Source> {
    // The largest number stands for no user at all.
    let user = 0..u32::MAX;
    let node = (
        any_leaf(),
        any::<bool>(),
        0..=0o7777u16,
        user,
        any_time(),
        any_name(),
        any::<usize>(),
        any::<bool>(),
        any_xattrs(),
    );
    vec(node, 1..60).prop_map(|drawn| source_of(&drawn))
}

fn source_of(drawn: &[Drawn]) -> Source {
    let mut children = vec![BTreeMap::new()];
    let mut inodes = vec![directory(Vec::new())];
    let mut dirs = vec![0];
    for ((kind, content, device), is_dir, mode, user, mtime, name, parent, twice, xattrs) in drawn {
        let own = inodes.len() as u32;
        let (kind, content) =
            if *is_dir { (Kind::Directory, Content::Children(Vec::new())) } else { (*kind, content.clone()) };
        let (mode, mtime, xattrs) = (*mode, *mtime, xattrs.clone());
        inodes.push(Inode { kind, mode, uid: *user, gid: user / 2, mtime, device: *device, xattrs, content });
        children.push(BTreeMap::new());
        let here: usize = dirs[parent % dirs.len()];
        let is_new = !children[here].contains_key(name);
        children[here].entry(name.clone()).or_insert(own);
        if *is_dir && is_new {
            dirs.push(own as usize);
        } else if *twice && is_new {
            let there: usize = dirs[parent / 7 % dirs.len()];
            let second = [b"also ", &name[..name.len().min(200)]].concat();
            children[there].entry(second).or_insert(own);
        }
    }
    for (inode, children) in inodes.iter_mut().zip(children) {
        if let Content::Children(to) = &mut inode.content {
            *to = children.into_iter().map(|(name, id)| (name.into(), InodeId(id))).collect();
        }
    }
    Source { inodes }
}

pub(crate) fn inode(kind: Kind, content: Content) -> Inode {
    let mtime = Time { seconds: 1_700_000_000, nanos: 123_456_789 };
    Inode { kind, mode: 0o755, uid: 0, gid: 0, mtime, device: (0, 0), xattrs: Xattrs::new(), content }
}

pub(crate) fn directory(children: Vec<(Vec<u8>, u32)>) -> Inode {
    let children = children.into_iter().map(|(name, id)| (name.into(), InodeId(id))).collect();
    inode(Kind::Directory, Content::Children(children))
}

pub(crate) fn file(size: u64, pieces: Vec<Piece>) -> Inode {
    inode(Kind::File, Content::Extents { size, pieces })
}

/// The source by paths, as following its names from the root tells it.
pub(crate) fn told(source: &Source) -> BTreeMap<Vec<u8>, Told> {
    let mut names: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
    let mut waiting = vec![(Vec::new(), 0u32)];
    while let Some((path, id)) = waiting.pop() {
        if let Content::Children(children) = &source.inodes[id as usize].content {
            for (name, InodeId(child)) in children {
                let path = if path.is_empty() { name.to_vec() } else { [&path[..], b"/", name].concat() };
                waiting.push((path, *child));
            }
        }
        names.entry(id).or_default().push(path);
    }
    let mut told = BTreeMap::new();
    for (id, names) in names {
        for path in &names {
            told.insert(path.clone(), Told { inode: source.inodes[id as usize].clone(), names: names.clone() });
        }
    }
    told
}

/// A file's content as its pieces tell it.
pub(crate) fn content_told(content: &Content) -> Vec<u8> {
    let Content::Extents { size, pieces } = content else { return Vec::new() };
    let mut bytes = vec![0; *size as usize];
    for piece in pieces {
        for n in 0..piece.len {
            bytes[(piece.at + n) as usize] = match &piece.from {
                From::Data(offset) => data_byte(offset + n),
                From::Bytes(bytes) => bytes[n as usize],
            };
        }
    }
    bytes
}
