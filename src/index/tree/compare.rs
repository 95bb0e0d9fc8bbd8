//! Whether two trees of one layer show the same: what an index says, and what was found in the tar.
//!
//! Compared is what users see. An index may not know everything that a tar does: fractions of seconds are not compared where
//! one of the two has none. What lies where in the data files is each tree's own; bytes are the caller's to compare, who is
//! told which files are to be the same.

use std::collections::HashMap;

use crate::index::tree::read::{Tree, TreeError, Visited};
use crate::index::tree::{Kind, Nid, Node};

/// Files of the two trees whose content must be the same: the first's, the second's, and how long it is.
pub type SameFile = (Nid, Nid, u64);

/// In what two trees differ.
#[derive(Debug, thiserror::Error)]
pub enum Difference {
    #[error("a tree cannot be read")]
    Tree(#[from] TreeError),
    #[error("{path} is in the index and not in the layer")]
    Invented { path: String },
    #[error("{path} is in the layer and not in the index")]
    Concealed { path: String },
    #[error("{path} has another {what} in the index than in the layer")]
    Attribute { path: String, what: &'static str },
}

/// Compares the tree of an index with that of the layer, but for files at these paths, which are the format's own and may be left
/// out. Gives the files whose bytes are to be compared, each once.
pub fn compare(index: &Tree, layer: &Tree, own: &[&str]) -> Result<Vec<SameFile>, Difference> {
    let (mut files, mut names) = (Vec::new(), HashMap::<Nid, Nid>::new());
    let is_own = |path: &[u8]| own.iter().any(|own| own.as_bytes() == path);
    let is_shown = |visited: &Result<Visited, TreeError>| !visited.as_ref().is_ok_and(|one| is_own(&one.path));
    let (mut ours, mut theirs) = (layer.walk().filter(is_shown), index.walk().filter(is_shown));
    loop {
        let (said, found) = (theirs.next().transpose()?, ours.next().transpose()?);
        let (said, found) = match (said, found) {
            (None, None) => return Ok(files),
            (Some(said), None) => return Err(Difference::Invented { path: shown(&said.path) }),
            (None, Some(found)) => return Err(Difference::Concealed { path: shown(&found.path) }),
            (Some(said), Some(found)) => (said, found),
        };
        // Both walk in the order of names: at the first difference the one that is behind has what the other lacks.
        match said.path.split(|byte| *byte == b'/').cmp(found.path.split(|byte| *byte == b'/')) {
            std::cmp::Ordering::Less => return Err(Difference::Invented { path: shown(&said.path) }),
            std::cmp::Ordering::Greater => return Err(Difference::Concealed { path: shown(&found.path) }),
            std::cmp::Ordering::Equal => {}
        }
        let differs = |what| Difference::Attribute { path: shown(&found.path), what };
        // A file with several names is one file in both.
        match names.get(&said.nid) {
            Some(nid) if *nid == found.nid => continue,
            Some(_) => return Err(differs("identity (hard links)")),
            None => drop(names.insert(said.nid, found.nid)),
        }
        let (said_node, found_node) = (index.node(said.nid)?, layer.node(found.nid)?);
        if let Some(what) = other_attribute(&said_node, &found_node) {
            return Err(differs(what));
        }
        if index.xattrs(said.nid)? != layer.xattrs(found.nid)? {
            return Err(differs("set of extended attributes"));
        }
        match found.kind {
            Kind::Symlink if index.target(said.nid)? != layer.target(found.nid)? => return Err(differs("target")),
            Kind::File if found_node.size > 0 => files.push((said.nid, found.nid, found_node.size)),
            _ => {}
        }
    }
}

fn other_attribute(said: &Node, found: &Node) -> Option<&'static str> {
    let nanos_differ = said.mtime.nanos != found.mtime.nanos && said.mtime.nanos != 0 && found.mtime.nanos != 0;
    let is_directory = found.kind == Kind::Directory;
    [
        ("kind", said.kind != found.kind),
        ("mode", said.mode != found.mode),
        ("owner", said.uid != found.uid || said.gid != found.gid),
        ("size", said.size != found.size && !is_directory),
        ("time", said.mtime.seconds != found.mtime.seconds || nanos_differ),
        ("number of links", said.nlink != found.nlink),
        ("device number", said.device != found.device),
    ]
    .into_iter()
    .find_map(|(what, differs)| differs.then_some(what))
}

fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path)).escape_debug().to_string()
}

#[cfg(test)]
mod tests;
