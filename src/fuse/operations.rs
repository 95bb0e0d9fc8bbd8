//! Which node a request is about, and whether it can answer now or in a task.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::{
    Errno, FileAttr, INodeNo, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyLseek,
    ReplyStatfs, ReplyXattr, Request,
};
use tokio::runtime::Handle;

use super::answer::{Node, Where};
use super::attributes::{FOREVER, NOT_AT_ALL, attributes, bare_directory};
use super::linger::Linger;
use super::metrics::{Cause, Metrics};
use super::read::{ReadFailed, Wanted};
use super::session::{Options, Root};
use super::shelf::{Ready, Shelf, Table};
use super::waiting::Caller;
use super::{READ_BYTES_MAX, errno};
use crate::index::tree::{Nid, Node as Attributes};
use crate::store::Layer;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::spawn;
use crate::view::{Meaning, NodeId, View, ViewSlot};

/// No node of a tree is there: its image has its superblock behind it.
const ROOT_NID: Nid = Nid(0);

/// The unit in which statfs counts, and a name's most bytes (the kernel's NAME_MAX).
const STATFS_BLOCK: u32 = 4096;
pub(super) const NAME_BYTES_MAX: u32 = 255;

/// The file system that one session serves.
#[derive(Clone)]
pub(super) struct Serving {
    shelf: Shelf,
    root: Root,
    owner: Option<(u32, u32)>,
    allow_other: bool,
    runtime: Handle,
    counts: Arc<Counts>,
    metrics: Metrics,
    linger: Arc<Linger>,
}

/// What the kernel asks, of what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Operation {
    Lookup,
    Getattr,
    Readlink,
    Open,
    Opendir,
    Read,
    Readdir,
    Readdirplus,
    Statfs,
    Getxattr,
    Listxattr,
    Lseek,
    /// What is refused.
    Other,
}

/// Requests of the kernel so far.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; Operation::Other as usize + 1]);

/// Which node a request is about.
enum Target {
    /// The directory of all views.
    Everything,
    /// A directory of a view; `None` is its root, which has this name before its layers are known.
    Directory(ViewSlot, Option<NodeId>),
    File(NodeId),
}

/// The reply to a read, which either of two ways may give.
struct Once(Option<ReplyData>);

/// A reply that can say no.
pub(super) trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse_with_error {
    ($($reply:ty),*) => {$(
        impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        }
    )*};
}

refuse_with_error!(
    ReplyAttr,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEntry,
    ReplyLseek,
    ReplyStatfs,
    ReplyXattr
);

// === impl Once ===

impl Once {
    fn data(&mut self, bytes: &[u8]) {
        if let Some(reply) = self.0.take() {
            reply.data(bytes);
        }
    }

    fn error(&mut self, errno: Errno) {
        if let Some(reply) = self.0.take() {
            reply.error(errno);
        }
    }
}

// === impl Counts ===

impl Counts {
    pub fn of(&self, operation: Operation) -> u64 {
        self.0.get(operation as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    pub fn all(&self) -> u64 {
        self.0.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

// === impl Serving ===

impl Serving {
    pub(super) fn new(shelf: Shelf, options: &Options, runtime: Handle) -> Self {
        let Options { root, allow_other, owner, restrictions: _by_the_kernel } = *options;
        let metrics = shelf.metrics().clone();
        Self {
            shelf,
            root,
            owner,
            allow_other,
            runtime,
            counts: Arc::default(),
            metrics,
            linger: Arc::new(Linger::new()),
        }
    }

    pub(super) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// Whether it answers other users than the one who mounted.
    pub(super) fn is_for_everybody(&self) -> bool {
        self.allow_other
    }

    pub(super) fn linger(&self) -> &Linger {
        &self.linger
    }

    pub(super) fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }

    /// Counts a request and sees to it. A panic is a bug of ours for which one caller gets EIO (fuser's answer for a
    /// reply that was dropped); a thread that died of it would be missing for good, and the last one hang the mount.
    pub(super) fn answering(&self, operation: Operation, answer: impl FnOnce()) {
        if let Some(count) = self.counts.0.get(operation as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.linger.after(|| {
            let _told_by_the_panic_hook = catch_unwind(AssertUnwindSafe(answer));
        });
    }

    /// Lets the node act, at once if its view is loaded, else in a task when it is.
    pub(super) fn at<R: Refuse>(
        &self,
        request: &Request,
        node: INodeNo,
        reply: R,
        act: impl FnOnce(&Node<'_>, R) + Send + 'static,
    ) {
        let table = self.shelf.table();
        let (slot, id) = match self.target(node) {
            None => return reply.refuse(Errno::ESTALE),
            Some(Target::Everything) => return act(&Node { serving: self, place: Where::Everything }, reply),
            Some(Target::File(id)) => {
                return match (table.view_of(id), table.view_to_load(id)) {
                    (Some(view), _) => act(&Node { serving: self, place: Where::InView(view, id) }, reply),
                    (None, Some(slot)) => {
                        self.when_loaded(request.into(), slot, reply, move |serving, ready, reply| {
                            act(&Node { serving, place: Where::InView(&ready.view, id) }, reply);
                        })
                    }
                    (None, None) => reply.refuse(Errno::ESTALE),
                };
            }
            Some(Target::Directory(slot, id)) => (slot, id),
        };
        let act = move |serving: &Self, ready: &Ready, reply| {
            let id = id.unwrap_or(ready.view.root());
            act(&Node { serving, place: Where::InView(&ready.view, id) }, reply);
        };
        match table.ready(slot) {
            Some(ready) => act(self, ready, reply),
            None => self.when_loaded(request.into(), slot, reply, act),
        }
    }

    /// Whether this is the root of a view that nobody has looked into. It has no extended attributes yet, as its other
    /// attributes are a stand-in: `ls -l` of the directory above asks for both, and must download nothing.
    pub(super) fn is_unopened(&self, node: INodeNo) -> bool {
        match self.target(node) {
            Some(Target::Directory(slot, None)) => self.shelf.table().is_unopened(slot),
            _ => false,
        }
    }

    fn when_loaded<R: Refuse>(
        &self,
        caller: Caller,
        slot: ViewSlot,
        reply: R,
        act: impl FnOnce(&Self, &Ready, R) + Send + 'static,
    ) {
        let serving = self.clone();
        self.metrics.waits_for_view();
        self.later(async move {
            match caller.waits_for(serving.shelf.load(slot)).await {
                Some(Some(Ok(ready))) => act(&serving, &ready, reply),
                Some(Some(Err(_logged_by_who_provides))) => {
                    serving.metrics.failed(Cause::View);
                    reply.refuse(Errno::EIO);
                }
                Some(None) => reply.refuse(Errno::ESTALE),
                None => reply.refuse(Errno::EINTR),
            }
        });
    }

    /// The root of a view that is not loaded looks like an empty directory: stat, df and tables of mounts fetch nothing.
    pub(super) fn getattr(&self, request: &Request, node: INodeNo, reply: ReplyAttr) {
        match self.target(node) {
            Some(Target::Everything) => reply.attr(&NOT_AT_ALL, &self.everything()),
            Some(Target::Directory(slot, None)) if self.shelf.table().is_unopened(slot) => {
                let (attributes, ttl) = self.root_attributes(&self.shelf.table(), slot);
                reply.attr(&ttl, &attributes);
            }
            _ => self.at(request, node, reply, |node, reply| node.getattr(reply)),
        }
    }

    /// What a view's root looks like now, and for how long.
    pub(super) fn root_attributes(&self, table: &Table, slot: ViewSlot) -> (FileAttr, Duration) {
        let known = table.ready(slot).and_then(|ready| Some((ready, ready.view.node(ready.view.root()).ok()?)));
        match known {
            Some((ready, found)) => (self.attributes(&ready.view, ready.view.root(), &found), FOREVER),
            None => (self.bare(self.root_id(slot), 0o755), NOT_AT_ALL),
        }
    }

    pub(super) fn read(&self, request: &Request, file: INodeNo, at: u64, len: usize, reply: ReplyData) {
        let Some(Meaning::File(slot, nid)) = NodeId(file.0).meaning() else { return reply.error(Errno::EISDIR) };
        let caller = Caller::from(request);
        let table = self.shelf.table();
        let Some(layer) = table.layers.get(&slot).map(|(layer, _)| layer.clone()) else {
            let Some(view) = table.view_to_load(NodeId(file.0)) else { return reply.error(Errno::ESTALE) };
            return self.when_loaded(request.into(), view, reply, move |serving, ready, reply| {
                match ready.layers.get(&slot) {
                    Some(layer) => serving.read_layer(layer.clone(), nid, (at, len), caller, reply),
                    None => reply.error(Errno::ESTALE),
                }
            });
        };
        self.read_layer(layer, nid, (at, len), caller, reply);
    }

    fn read_layer(&self, layer: Arc<Layer>, file: Nid, (at, len): (u64, usize), caller: Caller, reply: ReplyData) {
        let wanted = Wanted { layer, file, at, len: len.min(READ_BYTES_MAX) };
        let since = Instant::now();
        let mut reply = Once(Some(reply));
        let at_once = |bytes: &[u8]| {
            reply.data(bytes);
            self.metrics.read_at_once(since, bytes.len());
        };
        match wanted.now(at_once) {
            Ok(()) if wanted.layer.is_all_at_hand() => {}
            Ok(()) => self.ahead(&wanted),
            Err(ReadFailed::NotResident(missing)) => {
                let metrics = self.metrics.clone();
                // After the reader itself.
                let next = wanted.clone();
                self.later(async move { next.ahead() });
                self.later(async move {
                    let give = |bytes: &[u8]| {
                        reply.data(bytes);
                        metrics.read_later(since, bytes.len());
                    };
                    match caller.waits_for(wanted.later(missing, give)).await {
                        Some(Ok(())) => {}
                        Some(Err(failed)) => {
                            metrics.failed(failed.cause());
                            reply.error(errno::of_read(&wanted, &failed));
                        }
                        None => reply.error(Errno::EINTR),
                    }
                });
            }
            Err(failed) => {
                self.metrics.failed(failed.cause());
                reply.error(errno::of_read(&wanted, &failed));
            }
        }
    }

    /// A read-only file system that is exactly as large as what is in it: of a view, its layers' data and inodes, as far
    /// as they are known; of what belongs to many views, all layers'.
    pub(super) fn statfs(&self, node: INodeNo, reply: ReplyStatfs) {
        let table = self.shelf.table();
        let (mut bytes, mut inodes) = (0u64, 0u64);
        let mut add = |layer: &Layer| {
            bytes = bytes.saturating_add(layer.data_bytes());
            inodes = inodes.saturating_add(layer.tree().counts().inodes.into());
        };
        match self.target(node) {
            Some(Target::Directory(slot, _)) => {
                table.ready(slot).into_iter().flat_map(|ready| ready.layers.values()).for_each(|layer| add(layer));
            }
            _ => table.layers.values().for_each(|(layer, _)| add(layer)),
        }
        reply.statfs(bytes.div_ceil(STATFS_BLOCK.into()), 0, 0, inodes, 0, STATFS_BLOCK, NAME_BYTES_MAX, STATFS_BLOCK);
    }

    fn target(&self, node: INodeNo) -> Option<Target> {
        match NodeId(node.0).meaning()? {
            Meaning::Everything => Some(match self.root {
                Root::All => Target::Everything,
                Root::One(slot) => Target::Directory(slot, None),
            }),
            Meaning::File(..) => Some(Target::File(NodeId(node.0))),
            Meaning::Directory { view, nid: ROOT_NID, .. } => Some(Target::Directory(view, None)),
            Meaning::Directory { view, .. } => Some(Target::Directory(view, Some(NodeId(node.0)))),
        }
    }

    /// What the kernel calls a node: a view's root has the same name before and after its layers are known.
    pub(super) fn shown_id(&self, view: &View, id: NodeId) -> NodeId {
        if id == view.root() { self.root_id(view.slot()) } else { id }
    }

    pub(super) fn root_id(&self, slot: ViewSlot) -> NodeId {
        match self.root {
            Root::All => NodeId::directory(slot, 0, ROOT_NID),
            Root::One(_) => NodeId::EVERYTHING,
        }
    }

    pub(super) fn attributes(&self, view: &View, id: NodeId, found: &Attributes) -> FileAttr {
        attributes(self.shown_id(view, id), found, self.owner)
    }

    /// The directory of all views is for its owner alone: images hold set-user-id programs, which are for those to run whom
    /// somebody shows the view elsewhere.
    pub(super) fn everything(&self) -> FileAttr {
        self.bare(NodeId::EVERYTHING, 0o700)
    }

    pub(super) fn bare(&self, id: NodeId, mode: u16) -> FileAttr {
        attributes(id, &bare_directory(mode), self.owner)
    }

    pub(super) fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.shelf.table()
    }

    /// Has what comes next fetched.
    fn ahead(&self, wanted: &Wanted) {
        let _inside = self.runtime.enter();
        wanted.ahead();
    }

    fn later(&self, work: impl Future<Output = ()> + Send + 'static) {
        let _inside = self.runtime.enter();
        spawn(work);
    }
}

#[cfg(test)]
mod tests;
