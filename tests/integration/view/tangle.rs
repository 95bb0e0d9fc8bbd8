//! Tells chains whose meaning hangs on more than one can see in the end: a layer that puts something where it has itself
//! gone through a lower layer's symlink before, or to one place by two ways. Unpacking such a layer entry by entry gives one
//! thing, looking at all of it at once another, and the specification says nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::unpack::{ModelEntry, ModelFs, ModelKind, apply, apply_own, empty, hide};

/// Whether the layer over `lower` is such a one, or cannot be unpacked there at all.
pub(super) fn is_tangled(lower: &ModelFs, entries: &[ModelEntry]) -> bool {
    let (mut fs, mut tangle) = (lower.clone(), Tangle { own: empty(), ..Tangle::default() });
    if hide(&mut fs, entries).is_err() {
        return true;
    }
    let mut refused = false;
    for entry in entries {
        tangle.meet(&fs, lower, entry);
        refused |= apply(&mut fs, entry).is_err() || apply_own(&mut tangle.own, entry).is_err();
    }
    refused || tangle.found || tangle.hides_a_meeting_place() || hides_its_own_way(lower, entries)
}

/// Whether something that the layer hides by way of a lower symlink stood in the way of another of its entries.
fn hides_its_own_way(lower: &ModelFs, entries: &[ModelEntry]) -> bool {
    let ways: Vec<_> = entries.iter().flat_map(paths).map(|path| way(lower, &path)).collect();
    let hides = entries.iter().filter(|entry| matches!(entry, ModelEntry::Whiteout { .. } | ModelEntry::Opaque { .. }));
    let hides = hides.flat_map(paths).map(|path| way(lower, &path)).filter(|way| !way.links.is_empty());
    let is_leaf = |path: &[u8]| lower.get(path).is_some_and(|node| node.kind != ModelKind::Directory);
    hides.map(|way| way.end).any(|hidden| {
        let hidden = hidden.strip_suffix(b"/*").or(hidden.strip_suffix(b"*")).unwrap_or(&hidden);
        let is_hidden = |path: &[u8]| path == hidden || path.starts_with(&[hidden, b"/"].concat()) || hidden.is_empty();
        ways.iter().any(|way| {
            let ends = way.end.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &way.end[..at]);
            way.links.iter().map(Vec::as_slice).chain(ends.filter(|path| is_leaf(path))).any(is_hidden)
        })
    })
}

/// The paths an entry goes; of what is opaque that of anything in it.
fn paths(entry: &ModelEntry) -> Vec<Vec<u8>> {
    match entry {
        ModelEntry::Node { path, .. } | ModelEntry::Whiteout { path } => vec![path.clone()],
        ModelEntry::Opaque { path } => vec![[&**path, b"/*"].concat()],
        ModelEntry::HardLink { path, target } => vec![path.clone(), target.clone()],
    }
}

#[derive(Default)]
struct Tangle {
    /// The layer alone.
    own: ModelFs,
    /// What the layer has put where, and by which way.
    made: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Lower symlinks gone through, as they stand in the view, and the directories come to.
    crossed: BTreeSet<Vec<u8>>,
    reached: BTreeSet<Vec<u8>>,
    /// By which way each place was come to first.
    ways: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Places come to by more than one.
    twice: BTreeSet<Vec<u8>>,
    /// What is hidden.
    hidden: Vec<Vec<u8>>,
    /// Where the layer names a directory itself.
    named: BTreeSet<Vec<u8>>,
    /// Lower symlinks that whiteouts went through.
    hid_through: BTreeSet<Vec<u8>>,
    found: bool,
}

/// A way taken: where it ends, the symlinks it went through, whether any of them goes up.
struct Way {
    end: Vec<u8>,
    links: BTreeSet<Vec<u8>>,
    up: bool,
}

impl Tangle {
    fn meet(&mut self, fs: &ModelFs, lower: &ModelFs, entry: &ModelEntry) {
        match entry {
            ModelEntry::Node { path, kind, .. } => {
                let (here, own) = self.go(fs, lower, path);
                let over_directory = fs.get(&here).is_some_and(|node| node.kind == ModelKind::Directory);
                if *kind == ModelKind::Directory {
                    self.named.insert(own.clone());
                }
                self.put(here, own, *kind == ModelKind::Directory && over_directory);
            }
            ModelEntry::HardLink { path, target } => {
                let (there, own) = self.go(fs, lower, target);
                self.found |= self.made.get(&there).is_some_and(|made| *made != own);
                let (here, own) = self.go(fs, lower, path);
                self.put(here, own, false);
            }
            ModelEntry::Whiteout { .. } | ModelEntry::Opaque { .. } => {
                for path in paths(entry) {
                    let (there, _) = self.go(fs, lower, &path);
                    self.hidden.push(there);
                }
            }
        }
        if matches!(entry, ModelEntry::Whiteout { .. } | ModelEntry::Opaque { .. }) {
            self.hid_through.extend(paths(entry).iter().flat_map(|path| way(lower, path).links));
        }
        self.found |= self.hid_through.iter().any(|link| self.named.contains(link));
    }

    /// Follows the path in the whole and in the layer alone.
    fn go(&mut self, fs: &ModelFs, lower: &ModelFs, path: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (all, own) = (way(fs, path), way(&self.own, path));
        if all.end != own.end || all.links != own.links {
            let lower: BTreeSet<_> = all.links.difference(&own.links).cloned().collect();
            // The layer's own symlink, met only behind a lower one; or one that goes up from where names lead elsewhere.
            self.found |= lower.iter().any(|link| self.made.contains_key(link)) || all.up || own.up;
            self.crossed.extend(lower);
            self.reached.insert(all.end.clone());
        }
        self.compare_ways(lower, &all.end, &own.end);
        (all.end, own.end)
    }

    /// One place come to by two ways is no matter while it is a directory anyway.
    fn compare_ways(&mut self, lower: &ModelFs, mut all: &[u8], mut own: &[u8]) {
        loop {
            let first = self.ways.entry(all.to_vec()).or_insert_with(|| own.to_vec());
            let is_leaf = lower.get(all).is_some_and(|node| node.kind != ModelKind::Directory);
            if *first != own {
                self.found |= is_leaf;
                self.twice.insert(all.to_vec());
            }
            let ((all_dir, name), (own_dir, own_name)) = (split(all), split(own));
            if name.is_empty() || name != own_name {
                return;
            }
            (all, own) = (all_dir, own_dir);
        }
    }

    /// Of two directories of the layer in one place one may be new there, the other over what was.
    fn hides_a_meeting_place(&self) -> bool {
        let is_at_or_in =
            |place: &[u8], dir: &[u8]| dir.is_empty() || place == dir || place.starts_with(&[dir, b"/"].concat());
        self.hidden.iter().any(|hidden| {
            let hidden = hidden.strip_suffix(b"/*").or(hidden.strip_suffix(b"*")).unwrap_or(hidden);
            self.twice.iter().any(|place| is_at_or_in(place, hidden))
        })
    }

    fn put(&mut self, here: Vec<u8>, own: Vec<u8>, merges: bool) {
        let under = |reached: &Vec<u8>| *reached == here || reached.starts_with(&[&*here, b"/"].concat());
        let elsewhere = self.reached.iter().any(|reached| *reached != here && under(reached));
        self.found |= self.crossed.contains(&here) || !merges && (elsewhere || self.crossed.iter().any(under));
        self.found |= self.made.get(&here).is_some_and(|made| *made != own);
        self.found |= !merges && self.ways.get(&here).is_some_and(|first| *first != own);
        self.made.insert(here, own);
    }
}

/// A path's directory and its name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The way to `path`, its last component not followed.
fn way(fs: &ModelFs, path: &[u8]) -> Way {
    let names = |path: &[u8]| path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect::<Vec<_>>();
    let mut todo = names(path);
    let mut way = Way { end: Vec::new(), links: BTreeSet::new(), up: false };
    for _ in 0..200 {
        let Some(component) = todo.pop() else { break };
        if component.is_empty() || component == b"." {
            continue;
        }
        if component == b".." {
            way.up = true;
            way.end.truncate(way.end.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
            continue;
        }
        let next = if way.end.is_empty() { component } else { [&*way.end, b"/", &component].concat() };
        match fs.get(&next).map(|node| &node.kind) {
            Some(ModelKind::Symlink(target)) if !todo.is_empty() => {
                way.links.insert(next);
                if target.starts_with(b"/") {
                    way.end.clear();
                }
                todo.extend(names(target));
            }
            _ => way.end = next,
        }
    }
    way
}
