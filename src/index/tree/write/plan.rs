//! The order in which a source's inodes are written, their names sorted and counted, and the source found sound.

use crate::index::tree::Kind;
use crate::index::tree::format::{MODE_BITS, NAME_MAX, pack_device};
use crate::index::tree::write::{Content, INODES_MAX, Inode, InodeId, Refusal, Source, WriteError};

/// A directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    pub(super) of: u32,
}

/// A sound source and how to write it: from the root on, each directory's children side by side in the order of
/// their names, so that walking a tree reads its image from front to back.
pub(super) struct Plan<'a> {
    source: &'a Source,
    /// Reachable inodes, each once.
    pub(super) order: Vec<u32>,
    /// By inode: how many names it has, or of a directory 2 and one for each directory in it.
    nlink: Vec<u32>,
    /// By inode: where its entries lie in `entries`.
    ranges: Vec<(u32, u32)>,
    /// Of all directories, with `.` and `..`, sorted by bytes in each.
    entries: Vec<Entry<'a>>,
}

/// The longest symlink target that Linux reads (`PATH_MAX` with its closing zero).
const TARGET_MAX: usize = 4095;
/// As much of a refused inode's path as an error tells, from the end: looking for parents takes time.
const SHOWN_MAX: usize = 64;

impl<'a> Plan<'a> {
    pub(super) fn of(source: &'a Source) -> Result<Self, WriteError> {
        let count = source.inodes.len();
        if count > INODES_MAX {
            return Err(WriteError::TooLarge("more than 2^31 inodes"));
        }
        let mut plan = Self {
            source,
            order: Vec::with_capacity(count),
            nlink: vec![0; count],
            ranges: vec![(0, 0); count],
            entries: Vec::with_capacity(2 * count),
        };
        match plan.inode(0) {
            Some(Inode { kind: Kind::Directory, .. }) => plan.visit_all()?,
            _ => return Err(plan.refused(0, Refusal::Content)),
        }
        Ok(plan)
    }

    pub(super) fn inode(&self, id: u32) -> Option<&'a Inode> {
        self.source.inodes.get(id as usize)
    }

    pub(super) fn nlink(&self, id: u32) -> u32 {
        self.nlink.get(id as usize).copied().unwrap_or(0)
    }

    /// A directory's entries, sorted; of anything else nothing.
    pub(super) fn entries(&self, id: u32) -> &[Entry<'a>] {
        let range = self.ranges.get(id as usize).copied().unwrap_or_default();
        self.entries.get(range.0 as usize..range.1 as usize).unwrap_or_default()
    }

    /// How many inodes have this extended attribute.
    pub(super) fn having(&self, name: &[u8]) -> u32 {
        let inodes = self.order.iter().filter_map(|id| self.inode(*id));
        inodes.filter(|inode| inode.xattrs.iter().any(|(known, _)| known == name)).count() as u32
    }

    /// The error that names `id` by a path.
    pub(super) fn refused(&self, id: u32, reason: Refusal) -> WriteError {
        let mut names = Vec::new();
        let mut at = id;
        while let Some((parent, name)) = self.parent(at) {
            names.push(String::from_utf8_lossy(name));
            at = parent;
            if at == 0 || names.len() == SHOWN_MAX {
                break;
            }
        }
        names.reverse();
        WriteError::Refused { path: names.join("/"), reason }
    }

    fn parent(&self, id: u32) -> Option<(u32, &'a [u8])> {
        let own = |entry: &Entry| entry.of == id && entry.name != b"." && entry.name != b"..";
        let at = self.entries.iter().position(own)? as u32;
        let parent = self.ranges.iter().position(|range| (range.0..range.1).contains(&at))?;
        Some((parent as u32, self.entries.get(at as usize)?.name))
    }

    fn visit_all(&mut self) -> Result<(), WriteError> {
        self.check(0)?;
        self.order.push(0);
        self.set_nlink(0, 2);
        let mut waiting = vec![(0, 0)];
        while let Some((dir, parent)) = waiting.pop() {
            let first = waiting.len();
            self.visit(dir, parent, &mut waiting)?;
            waiting.get_mut(first..).unwrap_or_default().reverse(); // first name, first visited
        }
        Ok(())
    }

    /// Sorts a directory's entries, counts its children's names and appends those seen for the first time.
    fn visit(&mut self, dir: u32, parent: u32, waiting: &mut Vec<(u32, u32)>) -> Result<(), WriteError> {
        let Some(Inode { content: Content::Children(children), .. }) = self.inode(dir) else { return Ok(()) };
        let start = self.entries.len();
        self.entries.push(Entry { name: b".", of: dir });
        self.entries.push(Entry { name: b"..", of: parent });
        self.entries.extend(children.iter().map(|(name, InodeId(of))| Entry { name, of: *of }));
        let end = u32::try_from(self.entries.len()).map_err(|_| WriteError::TooLarge("more than 2^32 names"))?;
        if let Some(range) = self.ranges.get_mut(dir as usize) {
            *range = (start as u32, end);
        }
        let sorted = self.entries.get_mut(start..).unwrap_or_default();
        sorted.sort_unstable_by_key(|entry| entry.name);
        if sorted.iter().zip(sorted.iter().skip(1)).any(|(one, next)| one.name == next.name) {
            return Err(self.refused(dir, Refusal::TwiceNamed)); // also a child called `.` or `..`
        }
        for at in start..end as usize {
            let Some(entry) = self.entries.get(at).copied() else { break };
            if entry.name == b"." || entry.name == b".." {
                continue;
            }
            self.count_name(dir, entry, waiting)?;
        }
        Ok(())
    }

    fn count_name(&mut self, dir: u32, entry: Entry, waiting: &mut Vec<(u32, u32)>) -> Result<(), WriteError> {
        if entry.name.is_empty() || entry.name.len() > NAME_MAX || entry.name.iter().any(|b| matches!(b, b'/' | 0)) {
            return Err(self.refused(dir, Refusal::Name));
        }
        let Some(inode) = self.inode(entry.of) else { return Err(self.refused(dir, Refusal::NoSuchInode)) };
        let names = self.nlink(entry.of);
        if names == 0 {
            self.check(entry.of)?;
            self.order.push(entry.of);
        }
        if inode.kind != Kind::Directory {
            self.set_nlink(entry.of, names + 1);
            return Ok(());
        }
        if names != 0 {
            return Err(self.refused(entry.of, Refusal::SecondParent));
        }
        self.set_nlink(entry.of, 2);
        self.set_nlink(dir, self.nlink(dir) + 1);
        waiting.push((entry.of, dir));
        Ok(())
    }

    fn set_nlink(&mut self, id: u32, nlink: u32) {
        if let Some(known) = self.nlink.get_mut(id as usize) {
            *known = nlink;
        }
    }

    /// All that can be wrong with an inode but its pieces and attributes, which are looked at when written.
    fn check(&self, id: u32) -> Result<(), WriteError> {
        let Some(inode) = self.inode(id) else { return Ok(()) };
        let fits = matches!(
            (inode.kind, &inode.content),
            (Kind::Directory, Content::Children(_))
                | (Kind::Symlink, Content::Target(_))
                | (Kind::File, Content::None | Content::Extents { .. })
                | (Kind::CharDevice | Kind::BlockDevice | Kind::Fifo | Kind::Socket, Content::None)
        );
        let is_device = matches!(inode.kind, Kind::CharDevice | Kind::BlockDevice);
        let reason = match &inode.content {
            _ if !fits => Refusal::Content,
            _ if inode.mode & !MODE_BITS != 0 => Refusal::Mode,
            _ if inode.mtime.nanos >= 1_000_000_000 => Refusal::Time,
            _ if is_device && pack_device(inode.device).is_none() => Refusal::Device,
            Content::Target(target) if target.is_empty() || target.len() > TARGET_MAX || target.contains(&0) => {
                Refusal::Target
            }
            Content::Extents { size, .. } if i64::try_from(*size).is_err() => Refusal::Size,
            _ => return Ok(()),
        };
        Err(self.refused(id, reason))
    }
}
