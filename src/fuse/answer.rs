//! What a node whose view is loaded answers.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use fuser::{
    Errno, Generation, INodeNo, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyLseek,
    ReplyXattr,
};

use super::attributes::{FOREVER, NOT_AT_ALL, file_type, nothing};
use super::errno;
use super::operations::{NAME_BYTES_MAX, Serving};
use crate::index::tree::{Kind, Place};
use crate::view::{Item, Meaning, NodeId, View, ViewError};

/// Node ids are never used again, so all are of one generation.
const GENERATION: Generation = Generation(0);

/// The offsets behind the entries `.` and `..`; a listing's own come after them.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// A node that can answer: its view is loaded, or it needs none.
pub(super) struct Node<'a> {
    pub(super) serving: &'a Serving,
    pub(super) place: Where<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum Where<'a> {
    /// The directory of all views.
    Everything,
    InView(&'a View, NodeId),
}

impl Node<'_> {
    pub(super) fn lookup(&self, name: &[u8], reply: ReplyEntry) {
        if name.len() > NAME_BYTES_MAX as usize {
            return reply.error(Errno::ENAMETOOLONG); // the kernel lets longer ones pass since Linux 6.13
        }
        let Where::InView(view, id) = self.place else { return self.lookup_view(name, reply) };
        let found = view.lookup(id, name).and_then(|found| {
            found
                .map(|entry| view.node(entry.id).map(|node| self.serving.attributes(view, entry.id, &node)))
                .transpose()
        });
        match found {
            Ok(Some(attributes)) => reply.entry(&FOREVER, &attributes, GENERATION),
            Ok(None) => reply.entry(&FOREVER, &nothing(), GENERATION),
            Err(error) => reply.error(errno::of_view(&error)),
        }
    }

    /// Views come and go, so the kernel asks each time.
    fn lookup_view(&self, name: &[u8], reply: ReplyEntry) {
        let table = self.serving.table();
        let slot = std::str::from_utf8(name).ok().and_then(|name| table.names.get(name));
        let Some(slot) = slot else { return reply.error(Errno::ENOENT) };
        let (attributes, ttl) = self.serving.root_attributes(&table, *slot);
        reply.entry_with_ttls(&ttl, &NOT_AT_ALL, &attributes, GENERATION);
    }

    pub(super) fn getattr(&self, reply: ReplyAttr) {
        match self.in_view().map(|(view, id)| (view.node(id), view, id)) {
            Some((Ok(found), view, id)) => reply.attr(&FOREVER, &self.serving.attributes(view, id, &found)),
            Some((Err(error), ..)) => reply.error(errno::of_view(&error)),
            None => reply.attr(&NOT_AT_ALL, &self.serving.everything()),
        }
    }

    pub(super) fn readlink(&self, reply: ReplyData) {
        match self.in_view().map(|(view, id)| view.target(id)) {
            Some(Ok(target)) => reply.data(target),
            Some(Err(error)) => reply.error(errno::of_view(&error)),
            None => reply.error(Errno::EINVAL),
        }
    }

    pub(super) fn readdir(&self, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.each(offset, |item| {
            Ok(reply.add(INodeNo(item.id.0), item.offset, file_type(item.kind), OsStr::from_bytes(item.name)))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno::of_view(&error)),
        }
    }

    pub(super) fn readdirplus(&self, offset: u64, mut reply: ReplyDirectoryPlus) {
        let serving = self.serving;
        let listed = self.each(offset, |item| {
            let name = OsStr::from_bytes(item.name);
            let (attributes, ttl) = match (self.place, item.id.meaning()) {
                // The kernel takes no attributes of `.` and `..`.
                _ if item.offset <= DOT_DOT => (serving.bare(item.id, 0o755), NOT_AT_ALL),
                (Where::InView(view, id), _) => (serving.attributes(view, item.id, &view.node_of(id, item)?), FOREVER),
                // Views come and go, their entries are not to be kept.
                (Where::Everything, Some(Meaning::Directory { view, .. })) => {
                    (serving.root_attributes(&serving.table(), view).0, NOT_AT_ALL)
                }
                (Where::Everything, _) => (serving.bare(item.id, 0o755), NOT_AT_ALL),
            };
            Ok(reply.add(INodeNo(item.id.0), item.offset, name, &ttl, &attributes, GENERATION))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno::of_view(&error)),
        }
    }

    /// Gives `add` the entries behind `offset`, until it says that there is no more room.
    fn each(&self, offset: u64, mut add: impl FnMut(&Item<'_>) -> Result<bool, ViewError>) -> Result<(), ViewError> {
        let (here, above) = match self.place {
            Where::Everything => (NodeId::EVERYTHING, NodeId::EVERYTHING),
            Where::InView(view, id) => (self.serving.shown_id(view, id), self.serving.shown_id(view, view.parent(id)?)),
        };
        let dots: [(&[u8], NodeId, u64); 2] = [(b".", here, DOT), (b"..", above, DOT_DOT)];
        for (name, id, after) in dots {
            if offset < after && add(&Item { name, id, kind: Kind::Directory, offset: after })? {
                return Ok(());
            }
        }
        let offset = offset.saturating_sub(DOT_DOT);
        match self.place {
            Where::Everything => self.each_view(offset, &mut add),
            Where::InView(view, id) => {
                for item in view.list(id)?.after(offset)? {
                    let item = item?;
                    if add(&Item { offset: item.offset + DOT_DOT, ..item })? {
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    fn each_view(
        &self,
        offset: u64,
        add: &mut impl FnMut(&Item<'_>) -> Result<bool, ViewError>,
    ) -> Result<(), ViewError> {
        let table = self.serving.table();
        for ((name, slot), after) in table.names.iter().zip(1u64..).skip_while(|(_, after)| *after <= offset) {
            let (id, kind) = (self.serving.root_id(*slot), Kind::Directory);
            if add(&Item { name: name.as_bytes(), id, kind, offset: after + DOT_DOT })? {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn getxattr(&self, name: &[u8], size: u32, reply: ReplyXattr) {
        match self.in_view().map_or(Ok(None), |(view, id)| view.xattr(id, name)) {
            Ok(Some(value)) => answer_xattr(value, size, reply),
            Ok(None) => reply.error(Errno::ENODATA),
            Err(error) => reply.error(errno::of_view(&error)),
        }
    }

    pub(super) fn listxattr(&self, size: u32, reply: ReplyXattr) {
        match self.in_view().map_or(Ok(Vec::new()), |(view, id)| view.xattrs(id)) {
            Ok(xattrs) => {
                let names: Vec<u8> = xattrs.iter().flat_map(|(name, _)| name.iter().copied().chain([0])).collect();
                answer_xattr(&names, size, reply);
            }
            Err(error) => reply.error(errno::of_view(&error)),
        }
    }

    /// SEEK_DATA and SEEK_HOLE; the kernel does the others itself (lseek(2)).
    pub(super) fn lseek(&self, offset: i64, whence: i32, reply: ReplyLseek) {
        let Some((view, id)) = self.in_view() else { return reply.error(Errno::EINVAL) };
        let wants_data = match whence {
            SEEK_DATA => true,
            SEEK_HOLE => false,
            _ => return reply.error(Errno::EINVAL),
        };
        match u64::try_from(offset).map_err(|_| Errno::ENXIO).and_then(|at| seek(view, id, at, wants_data)) {
            Ok(at) => reply.offset(i64::try_from(at).unwrap_or(i64::MAX)),
            Err(errno) => reply.error(errno),
        }
    }

    fn in_view(&self) -> Option<(&View, NodeId)> {
        match self.place {
            Where::InView(view, id) => Some((view, id)),
            Where::Everything => None,
        }
    }
}

/// include/uapi/linux/fs.h
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// The next offset from `at` on that is data, or a hole; the end of a file is a hole.
fn seek(view: &View, id: NodeId, mut at: u64, wants_data: bool) -> Result<u64, Errno> {
    let size = view.node(id).map_err(|error| errno::of_view(&error))?.size;
    let (lower, file) = view.file(id).map_err(|error| errno::of_view(&error))?;
    if at >= size {
        return Err(Errno::ENXIO);
    }
    while at < size {
        let extent = lower.tree.extent(file, at).map_err(|_| Errno::EIO)?;
        if (extent.place != Place::Hole) == wants_data {
            return Ok(at);
        }
        at = at.saturating_add(extent.len.max(1));
    }
    if wants_data { Err(Errno::ENXIO) } else { Ok(size) }
}

pub(super) fn answer_xattr(value: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}
