//! What was written is what is read, whatever it is.

use std::collections::{BTreeMap, HashSet};

use oncefs::index::tree::write::Content;
use oncefs::index::tree::{Kind, Nid};
use proptest::prelude::*;

use super::any::{Told, any_source, content_told, told};
use super::{Laid, lay};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    #[test]
    fn what_was_written_is_what_is_read(source in any_source()) {
        let (laid, told) = (lay(&source), told(&source));
        let visited: Result<Vec<_>, _> = laid.tree.walk().collect();
        let seen: BTreeMap<Vec<u8>, Nid> = visited.unwrap().into_iter().map(|one| (one.path, one.nid)).collect();
        prop_assert_eq!(seen.keys().collect::<Vec<_>>(), told.keys().collect::<Vec<_>>());
        prop_assert_eq!(laid.tree.counts().inodes as usize, seen.values().collect::<HashSet<_>>().len());
        for (path, told) in &told {
            compare(&laid, path, &seen, told);
        }
        laid.tree.check().unwrap();
    }
}

fn compare(laid: &Laid, path: &[u8], seen: &BTreeMap<Vec<u8>, Nid>, Told { inode, names }: &Told) {
    let (tree, nid) = (&laid.tree, seen[path]);
    let node = tree.node(nid).unwrap();
    assert_eq!((node.kind, node.mode, node.uid, node.gid), (inode.kind, inode.mode, inode.uid, inode.gid));
    let is_device = matches!(inode.kind, Kind::CharDevice | Kind::BlockDevice);
    assert_eq!((node.mtime, node.device), (inode.mtime, if is_device { inode.device } else { (0, 0) }));
    for name in names {
        assert_eq!(seen[name], nid);
    }
    assert_eq!(tree.xattrs(nid).unwrap(), inode.xattrs);
    for (name, value) in &inode.xattrs {
        assert_eq!(tree.xattr(nid, name).unwrap(), Some(&value[..]));
        assert_eq!(tree.xattr(nid, &name[..name.len() - 1]).unwrap(), None);
    }
    let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b""[..], path),
    };
    if !path.is_empty() {
        assert_eq!(tree.lookup(seen[above], name).unwrap(), Some((nid, inode.kind)));
    }
    match &inode.content {
        Content::Target(target) => assert_eq!(tree.target(nid).unwrap(), &target[..]),
        Content::Children(children) => {
            assert_eq!(tree.parent(nid).unwrap(), seen[above]);
            assert_eq!(tree.list(nid).unwrap().count(), children.len());
        }
        content => {
            assert_eq!(node.nlink as usize, names.len());
            assert_eq!(laid.content(nid, node.size), content_told(content));
        }
    }
}
