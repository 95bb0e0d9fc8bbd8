//! A mount that nobody sees yet: it is made what it shall be before it is shown.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

pub(super) struct Tree(OwnedFd);

impl Tree {
    /// A mount of what is seen at `from` (open_tree(2)).
    pub(super) fn copy(from: &Path) -> io::Result<Self> {
        Ok(Self(open_tree(CWD, from, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?))
    }

    /// Sets attributes, among them perhaps the user namespace of an idmapped mount (mount_setattr(2), for which rustix has no name).
    pub(super) fn set(&self, attributes: u64, user_namespace: u64) -> io::Result<()> {
        let attributes =
            libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: user_namespace };
        // SAFETY: the path is a static C string, `attributes` outlives the call and its size is given; the descriptor is
        // borrowed for the call, which writes to no memory of ours.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Mounts it (move_mount(2)).
    pub(super) fn show_at(&self, to: &Path) -> io::Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
        Ok(move_mount(&self.0, "", CWD, to, flags)?)
    }
}
