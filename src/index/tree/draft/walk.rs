//! The way from the layer's root to a directory: through the layer's own directories and symlinks, and on by
//! name alone where the layer has nothing. Only looks; nothing is made on the way.

use crate::index::tree::draft::name::{DEPTH_MAX, check_directory, next_component, shown};
use crate::index::tree::draft::node::{Body, Node};
use crate::index::tree::draft::{Draft, DraftError, NodeId, ROOT};

/// Symlinks one way may lead through, as many as Linux follows.
const HOPS_MAX: u32 = 40;
/// Components all those symlinks may add together. No real image comes near; it bounds what one small hostile
/// entry can cost.
const DETOUR_MAX: u32 = 256;

/// A directory's place in the tree, with all symlinks resolved.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The names, joined by slashes.
    path: Vec<u8>,
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    /// Where in `path` the name begins and ends.
    start: usize,
    end: usize,
    /// None where the layer has no such directory.
    dir: Option<NodeId>,
}

// === impl Walk ===

impl Walk {
    /// Where it ends, if the layer has that directory.
    pub(super) fn dir(&self) -> Option<NodeId> {
        self.steps.last().map_or(Some(ROOT), |step| step.dir)
    }

    /// All directories on the way that the layer has.
    pub(super) fn dirs(&self) -> impl Iterator<Item = NodeId> {
        std::iter::once(ROOT).chain(self.steps.iter().filter_map(|step| step.dir))
    }

    /// Each name on the way below the root, with the directory if the layer has it.
    pub(super) fn steps(&self) -> impl Iterator<Item = (&[u8], Option<NodeId>)> {
        self.steps.iter().map(|step| (self.path.get(step.start..step.end).unwrap_or_default(), step.dir))
    }

    /// The path of `name` in the directory where the walk ends; of an empty name one that ends with a slash.
    pub(super) fn joined(&self, name: &[u8]) -> Vec<u8> {
        let slash: &[u8] = if self.path.is_empty() && !name.is_empty() { b"" } else { b"/" };
        [&*self.path, slash, name].concat()
    }

    fn down(&mut self, name: &[u8], dir: Option<NodeId>) -> Result<(), DraftError> {
        if self.steps.len() >= DEPTH_MAX {
            return Err(DraftError::LongPath);
        }
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        let start = self.path.len();
        self.path.extend_from_slice(name);
        self.steps.push(Step { start, end: self.path.len(), dir });
        Ok(())
    }

    /// To the parent; the root is its own.
    fn up(&mut self) {
        self.steps.pop();
        self.path.truncate(self.steps.last().map_or(0, |step| step.end));
    }

    fn restart(&mut self) {
        self.steps.clear();
        self.path.clear();
    }
}

// === impl Draft ===

impl Draft {
    /// The way to the directory `path`. Symlinks of this layer are followed inside its root; one that a lower
    /// layer may have where this layer has nothing is the view's to follow, and `..` after it goes by name.
    pub(super) fn walk(&self, path: &[u8]) -> Result<Walk, DraftError> {
        let mut walk = Walk::default();
        let mut todo = vec![path];
        let (mut hops, mut detour) = (0, 0);
        while let Some(rest) = todo.last_mut() {
            let Some(component) = next_component(rest) else {
                todo.pop();
                continue;
            };
            detour += u32::from(todo.len() > 1);
            if detour > DETOUR_MAX {
                return Err(DraftError::SymlinkLoop);
            }
            if component == b".." {
                walk.up();
                continue;
            }
            check_directory(component)?;
            let child = walk.dir().and_then(|dir| self.child(dir, component));
            let Some(id) = child else {
                walk.down(component, None)?;
                continue;
            };
            match self.nodes.get(id as usize) {
                Some(Node { body: Body::Directory(_), .. }) => walk.down(component, child)?,
                Some(Node { body: Body::Symlink(target), .. }) => {
                    hops += 1;
                    if hops > HOPS_MAX {
                        return Err(DraftError::SymlinkLoop);
                    }
                    if target.starts_with(b"/") {
                        walk.restart();
                    }
                    todo.push(target);
                }
                _ => return Err(DraftError::BelowFile(shown(&walk.joined(component)))),
            }
        }
        Ok(walk)
    }
}
