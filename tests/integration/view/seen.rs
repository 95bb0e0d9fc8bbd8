//! What a view shows, as the model would say it.

use std::collections::BTreeMap;

use oncefs::index::tree::Kind;
use oncefs::view::{Entry, NodeId};

use super::chain::Chain;
use crate::model::unpack::{ModelAttributes, ModelFs, ModelKind, ModelNode};

/// Everything a chain's view shows, by path, with each node's id.
pub(super) fn ids(chain: &Chain) -> BTreeMap<Vec<u8>, NodeId> {
    let view = &chain.view;
    let mut found = BTreeMap::from([(Vec::new(), view.root())]);
    let mut open = vec![(Vec::new(), view.root())];
    while let Some((path, dir)) = open.pop() {
        let merged = view.list(dir).unwrap();
        let mut last: Option<Vec<u8>> = None;
        for item in merged.after(0).unwrap() {
            let item = item.unwrap();
            assert!(last.is_none_or(|last| *last < *item.name), "names come in order, each once");
            last = Some(item.name.to_vec());
            let entry = view.lookup(dir, item.name).unwrap();
            assert_eq!(entry, Some(Entry { id: item.id, kind: item.kind }), "a listing says what a lookup says");
            assert_eq!(view.node_of(dir, &item).unwrap(), view.node(item.id).unwrap());
            assert_eq!(view.node(item.id).unwrap().kind, item.kind);
            let child = if path.is_empty() { item.name.to_vec() } else { [&*path, b"/", item.name].concat() };
            if item.kind == Kind::Directory {
                assert_eq!(view.parent(item.id).unwrap(), dir);
                open.push((child.clone(), item.id));
            }
            assert!(found.insert(child, item.id).is_none());
        }
    }
    found
}

/// The same as the model would have it; inodes are numbered as they come.
pub(super) fn as_model(chain: &Chain) -> ModelFs {
    let mut numbers = BTreeMap::new();
    let numbered = ids(chain).into_iter().map(|(path, id)| {
        let next = numbers.len() as u64;
        (path, ModelNode { inode: *numbers.entry(id).or_insert(next), ..node(chain, id) })
    });
    numbered.collect()
}

/// The model with its inodes numbered as they come, too.
pub(super) fn renumbered(model: ModelFs) -> ModelFs {
    let mut numbers = BTreeMap::new();
    let numbered = model.into_iter().map(|(path, node)| {
        let next = numbers.len() as u64;
        (path, ModelNode { inode: *numbers.entry(node.inode).or_insert(next), ..node })
    });
    numbered.collect()
}

fn node(chain: &Chain, id: NodeId) -> ModelNode {
    let node = chain.view.node(id).unwrap();
    let kind = match node.kind {
        Kind::Directory => ModelKind::Directory,
        Kind::File => ModelKind::File(chain.content(id)),
        Kind::Symlink => ModelKind::Symlink(chain.view.target(id).unwrap().to_vec()),
        Kind::CharDevice => ModelKind::CharDevice(node.device.0, node.device.1),
        Kind::BlockDevice => ModelKind::BlockDevice(node.device.0, node.device.1),
        Kind::Fifo => ModelKind::Fifo,
        Kind::Socket => panic!("no tar has sockets"),
    };
    if node.kind == Kind::Directory {
        assert_eq!(node.nlink, 1);
    }
    let xattrs: BTreeMap<_, _> = chain.view.xattrs(id).unwrap().into_iter().collect();
    for (name, value) in &xattrs {
        assert_eq!(chain.view.xattr(id, name).unwrap(), Some(&value[..]));
    }
    for hidden in ["trusted.overlay.opaque", "trusted.oncefs.implied", "trusted.oncefs.link"] {
        assert_eq!(chain.view.xattr(id, hidden.as_bytes()).unwrap(), None);
    }
    let attributes = ModelAttributes { mode: node.mode, uid: node.uid, gid: node.gid, mtime: node.mtime, xattrs };
    ModelNode { kind, attributes, inode: 0 }
}
