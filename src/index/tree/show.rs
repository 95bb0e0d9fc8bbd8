//! A tree as text, for tests and for people: a line a name, in the order of a walk.
//!
//! ```text
//! /etc dir 0755 0:0 1700000000.000000000 links=3
//! /etc/passwd file 0644 0:0 1700000000.000000000 size=1042 data:512+1042
//! /etc/mtab symlink 0777 0:0 1700000000.000000000 -> ../proc/mounts
//! ```
//! Bytes that are not printable, and blanks in names, are written as escapes, so that a line is a line and a
//! column a column.

use std::fmt::Write as _;

use crate::index::tree::read::{Tree, TreeError, Visited};
use crate::index::tree::{Extent, Kind, Nid, Node, Place};

/// Extents that a line shows before it breaks off with `...`.
const EXTENTS_SHOWN: usize = 64;
/// Bytes of an attribute's value that a line shows before it breaks off with `...`.
const VALUE_SHOWN: usize = 256;

/// The lines of `tree`; the first error is the last item.
pub fn lines(tree: &Tree) -> impl Iterator<Item = Result<String, TreeError>> {
    tree.walk().map(|visited| line(tree, &visited?))
}

fn line(tree: &Tree, visited: &Visited) -> Result<String, TreeError> {
    let nid = visited.nid;
    let node = tree.node(nid)?;
    let Node { mode, uid, gid, mtime, .. } = node;
    let mut line = format!("/{} {} {mode:04o} {uid}:{gid} ", escaped(&visited.path), word(node.kind));
    push(&mut line, format_args!("{}.{:09}", mtime.seconds, mtime.nanos));
    match node.kind {
        Kind::Directory => push(&mut line, format_args!(" links={}", node.nlink)),
        _ if node.nlink != 1 => push(&mut line, format_args!(" links={} node={}", node.nlink, nid.0)),
        _ => {}
    }
    match node.kind {
        Kind::File => push(&mut line, format_args!(" size={}", node.size)),
        Kind::CharDevice | Kind::BlockDevice => push(&mut line, format_args!(" {}:{}", node.device.0, node.device.1)),
        Kind::Symlink => push(&mut line, format_args!(" -> {}", escaped(tree.target(nid)?))),
        Kind::Directory | Kind::Fifo | Kind::Socket => {}
    }
    for (name, value) in tree.xattrs(nid)? {
        let shown = value.get(..VALUE_SHOWN).map_or(value.escape_ascii(), <[u8]>::escape_ascii);
        let more = if value.len() > VALUE_SHOWN { "..." } else { "" };
        push(&mut line, format_args!(" {}=\"{shown}\"{more}", escaped(&name)));
    }
    if node.kind == Kind::File {
        push_extents(&mut line, tree, nid, node.size)?;
    }
    Ok(line)
}

fn push_extents(line: &mut String, tree: &Tree, file: Nid, size: u64) -> Result<(), TreeError> {
    let mut at = 0;
    for _ in 0..EXTENTS_SHOWN {
        if at >= size {
            return Ok(());
        }
        let Extent { place, len } = tree.extent(file, at)?;
        match place {
            Place::Data(offset) => push(line, format_args!(" data:{offset}+{len}")),
            Place::Tree(offset) => push(line, format_args!(" tree:{offset}+{len}")),
            Place::Hole => push(line, format_args!(" hole+{len}")),
        }
        at += len;
    }
    if at < size {
        line.push_str(" ...");
    }
    Ok(())
}

fn push(line: &mut String, text: std::fmt::Arguments) {
    let _ = line.write_fmt(text); // writing to a String cannot fail
}

fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace(' ', "\\x20")
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "dir",
        Kind::Symlink => "symlink",
        Kind::CharDevice => "char",
        Kind::BlockDevice => "block",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{DiffId, Digest};
    use crate::index::tree::write::{Content, From, Inode, InodeId, Labels, Piece, Source, write};
    use crate::index::tree::{OPAQUE, Time, Xattrs};

    fn inode(kind: Kind, mode: u16, content: Content) -> Inode {
        let mtime = Time { seconds: -5, nanos: 7 };
        Inode { kind, mode, uid: 1000, gid: 5, mtime, device: (0, 0), xattrs: Xattrs::new(), content }
    }

    #[test]
    fn a_line_tells_all_there_is_to_a_name() {
        let children = [("a b", 1), ("f", 2), ("g", 2), ("l", 3), ("n", 4)];
        let children = children.map(|(name, id)| (name.as_bytes().into(), InodeId(id))).to_vec();
        let mut root = inode(Kind::Directory, 0o755, Content::Children(children));
        root.xattrs = vec![(OPAQUE.to_vec(), b"y".to_vec())];
        let pieces = vec![Piece { at: 1024, len: 600, from: From::Data(512) }];
        let inodes = vec![
            root,
            inode(Kind::Directory, 0o1777, Content::Children(vec![])),
            inode(Kind::File, 0o4755, Content::Extents { size: 1624, pieces }),
            inode(Kind::Symlink, 0o777, Content::Target(b"to \xff".to_vec())),
            Inode { device: (1, 3), ..inode(Kind::CharDevice, 0o666, Content::None) },
        ];
        let file = tempfile::tempfile().unwrap();
        let labels = Labels { diff_id: DiffId(Digest::of(b"")), data_bytes: 4096 };
        write(&Source { inodes }, &labels, &file).unwrap();
        let lines: Result<Vec<_>, _> = lines(&Tree::open(&file).unwrap()).collect();
        let expected = [
            "/ dir 0755 1000:5 -5.000000007 links=3 trusted.overlay.opaque=\"y\"",
            "/a\\x20b dir 1777 1000:5 -5.000000007 links=2",
            "/f file 4755 1000:5 -5.000000007 links=2 node=57 size=1624 hole+1024 data:512+600",
            "/g file 4755 1000:5 -5.000000007 links=2 node=57 size=1624 hole+1024 data:512+600",
            "/l symlink 0777 1000:5 -5.000000007 -> to\\x20\\xff",
            "/n char 0666 1000:5 -5.000000007 1:3",
        ];
        assert_eq!(lines.unwrap(), expected);
    }
}
