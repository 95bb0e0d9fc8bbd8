//! fuser's operations on views: each one finds out what is meant, asks the view, and replies. No logic of its own.
//!
//! Threads that answer the kernel never wait. What needs a view that is not loaded, or bytes that are not here, takes
//! its reply into a task. Whatever would write never gets here: the mount is read-only. What the kernel asks once and is
//! told ENOSYS it never asks again.

mod answer;
mod attributes;
mod errno;
mod linger;
mod metrics;
mod operations;
mod read;
mod session;
mod shelf;
mod takeover;
mod waiting;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;

use fuser::{
    Errno, FileHandle, Filesystem, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents,
    PollFlags, PollNotifier, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyXattr, Request,
};

pub use metrics::Metrics;
pub use operations::{Counts, Operation};
pub use session::{Config, Options, Root, Session, SessionError};
pub use shelf::{Provide, Ready, Shelf, Unavailable};

use answer::answer_xattr;
use operations::Serving;

/// The most that one read asks for. The kernel splits larger ones.
const READ_BYTES_MAX: usize = 1 << 20;

/// Requests of background reads that the kernel has under way at most. Its default of 12 would let a dozen readers of
/// one stalled layer hold up the readers of all others.
const BACKGROUND_MAX: u16 = 4096;

/// What is asked of the kernel. One that lacks something serves without.
const CAPABILITIES: [InitFlags; 8] = [
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_NO_OPEN_SUPPORT,
    InitFlags::FUSE_NO_OPENDIR_SUPPORT,
    InitFlags::FUSE_ASYNC_DIO,
    // Else who may read a file would follow from its mode alone, which for a file with an access control list says more
    // than the list does.
    InitFlags::FUSE_POSIX_ACL,
];

/// Mounts of us may show other owners (Linux 6.12), as containers in user namespaces want it. The kernel no longer says then who
/// asks, and checks permissions alone, which it does here anyway; but fuser lets only the mounter in where nobody
/// else may, and knows him by that.
const IDMAPPED: InitFlags = InitFlags::FUSE_ALLOW_IDMAP;

impl Filesystem for Serving {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            let _serves_without = config.add_capabilities(capability);
        }
        if self.is_for_everybody() {
            let _serves_without = config.add_capabilities(IDMAPPED);
        }
        // The size of reads follows from that of writes, of which there are none.
        let _keeps_its_own = config.set_max_write(READ_BYTES_MAX as u32);
        let _keeps_its_own = config.set_max_readahead(READ_BYTES_MAX as u32);
        let _keeps_its_own = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.answering(Operation::Lookup, || {
            let name = name.as_bytes().to_vec();
            self.at(request, parent, reply, move |node, reply| node.lookup(&name, reply));
        });
    }

    fn getattr(&self, request: &Request, node: INodeNo, _file: Option<FileHandle>, reply: ReplyAttr) {
        self.answering(Operation::Getattr, || self.getattr(request, node, reply));
    }

    fn readlink(&self, request: &Request, link: INodeNo, reply: ReplyData) {
        self.answering(Operation::Readlink, || {
            self.at(request, link, reply, |node, reply| node.readlink(reply));
        });
    }

    /// ENOSYS: files are opened without us from then on, and their pages kept.
    fn open(&self, _request: &Request, _file: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.answering(Operation::Open, || reply.error(Errno::ENOSYS));
    }

    /// ENOSYS, as for files; listings are kept too.
    fn opendir(&self, _request: &Request, _directory: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.answering(Operation::Opendir, || reply.error(Errno::ENOSYS));
    }

    fn read(
        &self,
        request: &Request,
        file: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.answering(Operation::Read, || self.read(request, file, offset, size as usize, reply));
    }

    fn readdir(&self, request: &Request, directory: INodeNo, _handle: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.answering(Operation::Readdir, || {
            self.at(request, directory, reply, move |node, reply| node.readdir(offset, reply));
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        directory: INodeNo,
        _handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.answering(Operation::Readdirplus, || {
            self.at(request, directory, reply, move |node, reply| node.readdirplus(offset, reply));
        });
    }

    fn statfs(&self, _request: &Request, node: INodeNo, reply: ReplyStatfs) {
        self.answering(Operation::Statfs, || self.statfs(node, reply));
    }

    fn getxattr(&self, request: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.answering(Operation::Getxattr, || {
            if self.is_unopened(node) {
                return reply.error(Errno::ENODATA);
            }
            let name = name.as_bytes().to_vec();
            self.at(request, node, reply, move |node, reply| node.getxattr(&name, size, reply));
        });
    }

    fn listxattr(&self, request: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        self.answering(Operation::Listxattr, || {
            if self.is_unopened(node) {
                return answer_xattr(&[], size, reply);
            }
            self.at(request, node, reply, move |node, reply| node.listxattr(size, reply));
        });
    }

    fn lseek(
        &self,
        request: &Request,
        file: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.answering(Operation::Lseek, || {
            self.at(request, file, reply, move |node, reply| node.lseek(offset, whence, reply));
        });
    }

    /// Nothing is ever dirty.
    fn flush(&self, _request: &Request, _file: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        self.answering(Operation::Other, || reply.error(Errno::ENOSYS));
    }

    fn fsync(&self, _request: &Request, _file: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.answering(Operation::Other, || reply.error(Errno::ENOSYS));
    }

    fn fsyncdir(&self, _request: &Request, _file: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.answering(Operation::Other, || reply.error(Errno::ENOSYS));
    }

    /// ENOSYS: the kernel says that files are always ready, as those on a disk are.
    fn poll(
        &self,
        _request: &Request,
        _file: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        self.answering(Operation::Other, || reply.error(Errno::ENOSYS));
    }

    fn ioctl(
        &self,
        _request: &Request,
        _file: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_bytes: u32,
        reply: ReplyIoctl,
    ) {
        self.answering(Operation::Other, || reply.error(Errno::ENOTTY));
    }
}
