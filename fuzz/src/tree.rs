//! A tree of arbitrary bytes, and a sound one with arbitrary damage: asked everything, walked to the end.

use std::sync::OnceLock;

use oncefs::digest::{DiffId, Digest};
use oncefs::index::tree::format::{BLOCK, HEADING_BYTES, Heading, seal};
use oncefs::index::tree::read::Tree;
use oncefs::index::tree::show;
use oncefs::index::tree::write::{Content, From, Inode, InodeId, Labels, Piece, Source, write};
use oncefs::index::tree::{Kind, Nid, Time};

/// Extents asked for of each file: one with millions of chunks may take long to read, not to fuzz.
const EXTENTS_MAX: usize = 256;

pub(crate) fn fuzz(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 3 {
        0 => ask_everything(rest.to_vec()),
        1 => ask_everything(headed(rest)),
        _ => ask_everything(damaged(rest)),
    }
}

/// Arbitrary bytes behind a sound heading.
fn headed(body: &[u8]) -> Vec<u8> {
    let blocks = HEADING_BYTES / BLOCK + (body.len() as u64).div_ceil(BLOCK);
    let digest = Digest::of(body);
    let heading = Heading {
        root: Nid((HEADING_BYTES / 32) as u32),
        inodes: 1,
        blocks: blocks as u32,
        diff_id: DiffId(digest),
        data_blocks: 1000,
        implied: 1,
        lower_links: 1,
        body: digest,
    };
    let mut image = [&heading.pack()[..], body].concat();
    image.resize((blocks * BLOCK) as usize, 0);
    image
}

/// A sound image with single bytes changed: three bytes of input a change, where and how.
fn damaged(changes: &[u8]) -> Vec<u8> {
    static SOUND: OnceLock<Vec<u8>> = OnceLock::new();
    let mut image = SOUND.get_or_init(sound).clone();
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % image.len();
        image[at] = change[2];
    }
    seal(&mut image);
    image
}

fn inode(kind: Kind, content: Content) -> Inode {
    let (mode, mtime) = (0o644, Time { seconds: 1, nanos: 2 });
    Inode { kind, mode, uid: 0, gid: 0, mtime, device: (1, 3), xattrs: vec![(b"user.x".to_vec(), vec![1; 9])], content }
}

fn directory(children: Vec<(String, u32)>) -> Inode {
    let children = children.into_iter().map(|(name, id)| (name.into_bytes().into(), InodeId(id))).collect();
    inode(Kind::Directory, Content::Children(children))
}

fn sound() -> Vec<u8> {
    let pieces = vec![
        Piece { at: 0, len: 4096, from: From::Data(512) },
        Piece { at: 8192, len: 9, from: From::Bytes(b"own bytes".to_vec()) },
    ];
    let inodes = vec![
        directory(vec![("d".into(), 1), ("f".into(), 2), ("l".into(), 3), ("n".into(), 4)]),
        directory((0..60).map(|n| (format!("name {n}"), 2)).collect()),
        inode(Kind::File, Content::Extents { size: 20000, pieces }),
        inode(Kind::Symlink, Content::Target(b"d/name 1".to_vec())),
        inode(Kind::CharDevice, Content::None),
    ];
    let file = tempfile::tempfile().expect("a temporary file");
    let labels = Labels { diff_id: DiffId(Digest::of(b"")), data_bytes: 1 << 20 };
    write(&Source { inodes }, &labels, &file).expect("a sound source");
    let tree = Tree::open(&file).expect("a sound tree");
    tree.bytes(0, tree.size()).expect("all of it").to_vec()
}

fn ask_everything(image: Vec<u8>) {
    let Ok(tree) = Tree::from_bytes(image.into()) else { return };
    let _ = (tree.check(), tree.counts(), tree.diff_id(), tree.data_bytes());
    show::lines(&tree).for_each(drop);
    for visited in tree.walk().map_while(Result::ok) {
        let nid = visited.nid;
        let _ = (tree.node(nid), tree.xattrs(nid), tree.target(nid), tree.parent(nid), tree.lookup(nid, b"name 30"));
        let _ = (tree.is_opaque(nid), tree.is_implied(nid), tree.lower_link(nid), tree.is_whiteout(nid));
        let mut at = 0;
        for _ in 0..EXTENTS_MAX {
            let Ok(extent) = tree.extent(nid, at) else { break };
            assert!(extent.len > 0, "a reader would not get on");
            at += extent.len;
        }
    }
}
