//! Mounts that show other owners than the file system has: what container runtimes make of a root for a user namespace.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

/// Shows `from` at `to` as well, with the owners that `user_namespace` (an open `/proc/<pid>/ns/user`) maps to: who is 0 in the file
/// system is at `to` who that namespace's 0 is outside. Needs CAP_SYS_ADMIN, and a file system that allows it.
pub fn bind(from: &Path, to: &Path, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    // A mount can be mapped only before anybody sees it.
    let tree = open_tree(CWD, from, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    map(&tree, user_namespace)?;
    Ok(move_mount(&tree, "", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// mount_setattr(2), for which rustix has no name.
fn map(tree: &OwnedFd, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let number = u64::try_from(user_namespace.as_raw_fd()).map_err(io::Error::other)?;
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd: number };
    // SAFETY: the path is a static C string, `attributes` outlives the call and its size is given; both descriptors are
    // borrowed for the call, which writes to no memory of ours.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
