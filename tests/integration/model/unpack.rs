//! Layers unpacked one over the other, naively: the whole file system is a map from paths to nodes. First a
//! layer's whiteouts act, on what is below it; then its entries act in the order of the tar.

use std::collections::{BTreeMap, BTreeSet};

use oncefs::index::tree::Time;

/// A file system: paths from the root, without a leading slash; the root is the empty path and always there.
pub(crate) type ModelFs = BTreeMap<Vec<u8>, ModelNode>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelNode {
    pub(crate) kind: ModelKind,
    pub(crate) attributes: ModelAttributes,
    /// Names of the same file have the same number, and nothing else has it.
    pub(crate) inode: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ModelKind {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ModelAttributes {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// An entry of a layer's tar. Paths have no leading slash and no `.` or empty components.
#[derive(Debug, Clone)]
pub(crate) enum ModelEntry {
    Node {
        path: Vec<u8>,
        kind: ModelKind,
        attributes: ModelAttributes,
    },
    HardLink {
        path: Vec<u8>,
        target: Vec<u8>,
    },
    /// `.wh.NAME`; the path is NAME's.
    Whiteout {
        path: Vec<u8>,
    },
    /// `.wh..wh..opq`; the path is the directory's.
    Opaque {
        path: Vec<u8>,
    },
}

/// The layer cannot be unpacked here: an entry lies below something that is no directory, or links to nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// A root of its own: what there is before the first layer.
pub(crate) fn empty() -> ModelFs {
    let attributes = ModelAttributes { mode: 0o755, ..ModelAttributes::default() };
    BTreeMap::from([(Vec::new(), ModelNode { kind: ModelKind::Directory, attributes, inode: 0 })])
}

/// Unpacks a layer over what is there.
pub(crate) fn apply_layer(fs: &mut ModelFs, entries: &[ModelEntry]) -> Result<(), Refused> {
    hide(fs, entries)?;
    entries.iter().try_for_each(|entry| apply(fs, entry))
}

/// Takes away what a layer hides of those below.
pub(crate) fn hide(fs: &mut ModelFs, entries: &[ModelEntry]) -> Result<(), Refused> {
    for hidden in hidden_paths(entries)? {
        match hidden.strip_suffix(b"/") {
            Some(directory) => {
                if let Ok(directory) = resolve(fs, directory) {
                    remove_below(fs, &directory);
                }
            }
            None => {
                if let Ok(path) = resolve_parent(fs, &hidden) {
                    remove(fs, &path);
                }
            }
        }
    }
    Ok(())
}

/// What the layer hides of those below, parents first: `a/b`, or `a/` for all that is in it. The layer's own
/// symlinks are followed as they stand at that point of the tar, which only the layer itself can tell.
fn hidden_paths(entries: &[ModelEntry]) -> Result<BTreeSet<Vec<u8>>, Refused> {
    let (mut own, mut hidden) = (empty(), BTreeSet::new());
    for entry in entries {
        match entry {
            ModelEntry::Whiteout { path } => {
                hidden.insert(resolve_parent(&own, path)?);
            }
            ModelEntry::Opaque { path } => {
                hidden.insert([&*resolve(&own, path)?, b"/"].concat());
            }
            _ => {}
        }
        apply_own(&mut own, entry)?;
    }
    Ok(hidden)
}

/// Lets an entry act on the layer alone.
pub(crate) fn apply_own(own: &mut ModelFs, entry: &ModelEntry) -> Result<(), Refused> {
    match entry {
        ModelEntry::HardLink { path, target } if !own.contains_key(&resolve_parent(own, target)?) => {
            // Of a layer below. Whatever it is, it is no directory.
            let kind = ModelKind::File(Vec::new());
            apply(own, &ModelEntry::Node { path: path.clone(), kind, attributes: ModelAttributes::default() })
        }
        entry => apply(own, entry),
    }
}

pub(crate) fn apply(fs: &mut ModelFs, entry: &ModelEntry) -> Result<(), Refused> {
    match entry {
        ModelEntry::Node { path, kind, attributes } => {
            let path = resolve_parent(fs, path)?;
            make_parents(fs, &path)?;
            let is_directory = |node: &ModelNode| node.kind == ModelKind::Directory;
            match fs.get_mut(&path) {
                Some(there) if is_directory(there) && *kind == ModelKind::Directory => {
                    there.attributes = attributes.clone();
                }
                _ if path.is_empty() => return Err(Refused),
                _ => {
                    remove(fs, &path);
                    let inode = next_inode(fs);
                    fs.insert(path, ModelNode { kind: kind.clone(), attributes: attributes.clone(), inode });
                }
            }
        }
        ModelEntry::HardLink { path, target } => {
            let (path, target) = (resolve_parent(fs, path)?, resolve_parent(fs, target)?);
            let node = fs.get(&target).filter(|node| node.kind != ModelKind::Directory).ok_or(Refused)?.clone();
            if target == path || is_below(&target, &path) {
                return Err(Refused);
            }
            make_parents(fs, &path)?;
            remove(fs, &path);
            fs.insert(path, node);
        }
        ModelEntry::Whiteout { path } => {
            let path = resolve_parent(fs, path)?;
            make_parents(fs, &path)?;
        }
        ModelEntry::Opaque { path } => {
            let path = resolve(fs, path)?;
            make_parents(fs, &[&*path, b"/x"].concat())?;
        }
    }
    Ok(())
}

fn next_inode(fs: &ModelFs) -> u64 {
    1 + fs.values().map(|node| node.inode).max().unwrap_or_default()
}

/// Makes the directories above `path`, in which no symlinks are left.
fn make_parents(fs: &mut ModelFs, path: &[u8]) -> Result<(), Refused> {
    for (at, _) in path.iter().enumerate().filter(|(at, byte)| **byte == b'/' && *at > 0) {
        let inode = next_inode(fs);
        let attributes = ModelAttributes { mode: 0o755, ..ModelAttributes::default() };
        let implied = ModelNode { kind: ModelKind::Directory, attributes, inode };
        if fs.entry(path[..at].to_vec()).or_insert(implied).kind != ModelKind::Directory {
            return Err(Refused);
        }
    }
    Ok(())
}

/// `path` with the symlinks above its last component followed, never out of the root.
fn resolve_parent(fs: &ModelFs, path: &[u8]) -> Result<Vec<u8>, Refused> {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => Ok(joined(&resolve(fs, &path[..slash])?, &path[slash + 1..])),
        None => Ok(path.to_vec()),
    }
}

/// `path` with all symlinks followed. What does not exist is where its name says; what is below something that is
/// no directory is nowhere.
pub(crate) fn resolve(fs: &ModelFs, path: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut todo: Vec<Vec<u8>> = path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect();
    let (mut at, mut hops) = (Vec::new(), 0);
    while let Some(component) = todo.pop() {
        match &*component {
            b"" | b"." => continue,
            b".." => {
                at.truncate(at.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
                continue;
            }
            _ => {}
        }
        let next = joined(&at, &component);
        match fs.get(&next).map(|node| &node.kind) {
            None | Some(ModelKind::Directory) => at = next,
            Some(ModelKind::Symlink(target)) => {
                hops += 1;
                if hops > 40 {
                    return Err(Refused);
                }
                if target.starts_with(b"/") {
                    at.clear();
                }
                todo.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
            }
            Some(_) => return Err(Refused),
        }
    }
    Ok(at)
}

fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() && !path.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"))
}

fn remove(fs: &mut ModelFs, path: &[u8]) {
    remove_below(fs, path);
    if !path.is_empty() {
        fs.remove(path);
    }
}

fn remove_below(fs: &mut ModelFs, dir: &[u8]) {
    fs.retain(|path, _| !is_below(path, dir));
}
