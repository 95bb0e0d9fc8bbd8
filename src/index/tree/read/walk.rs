//! A walk over a whole tree: for tests, dumps and checks, not for serving.

use std::collections::HashSet;

use crate::index::tree::read::{List, Tree, TreeError};
use crate::index::tree::{Kind, Nid};

/// Every node of a tree, a directory before what is in it, names in the order of their bytes. A node with several
/// names comes once for each.
#[derive(Debug)]
pub struct Walk<'a> {
    tree: &'a Tree,
    /// Directories being listed, the root first, and how long the path to each is.
    open: Vec<(List<'a>, usize)>,
    path: Vec<u8>,
    /// Directories met so far: a sound tree has each once, and a walk that sees to it comes to an end.
    met: HashSet<Nid>,
    begun: bool,
}

/// A node met on a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visited {
    /// From the root, without a leading slash; of the root empty.
    pub path: Vec<u8>,
    pub nid: Nid,
    pub kind: Kind,
}

impl<'a> Walk<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        Self { tree, open: Vec::new(), path: Vec::new(), met: HashSet::new(), begun: false }
    }

    fn enter(&mut self, dir: Nid) -> Result<(), TreeError> {
        if !self.met.insert(dir) {
            return Err(TreeError::Damaged { nid: dir, what: "a directory has two names" });
        }
        self.open.push((self.tree.list(dir)?, self.path.len()));
        Ok(())
    }

    fn step(&mut self) -> Option<Result<Visited, TreeError>> {
        if !self.begun {
            self.begun = true;
            let root = self.tree.root();
            return Some(self.enter(root).map(|()| Visited { path: Vec::new(), nid: root, kind: Kind::Directory }));
        }
        loop {
            let (list, path_len) = self.open.last_mut()?;
            self.path.truncate(*path_len);
            let Some(child) = list.next() else {
                self.open.pop();
                continue;
            };
            return Some(child.and_then(|child| {
                if !self.path.is_empty() {
                    self.path.push(b'/');
                }
                self.path.extend_from_slice(child.name);
                if child.kind == Kind::Directory {
                    self.enter(child.nid)?;
                }
                Ok(Visited { path: self.path.clone(), nid: child.nid, kind: child.kind })
            }));
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Visited, TreeError>;

    /// After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        let item = self.step();
        if let Some(Err(_)) = item {
            self.open.clear();
        }
        item
    }
}
