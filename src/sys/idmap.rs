//! Mounts that show other owners than the file system has: what container runtimes make of a root for a user namespace.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::Path;

use super::tree::Tree;

/// Shows `from` at `to` as well, with the owners that `user_namespace` (an open `/proc/<pid>/ns/user`) maps to: who is 0 in the file
/// system is at `to` who that namespace's 0 is outside. Needs CAP_SYS_ADMIN, and a file system that allows it.
pub fn bind(from: &Path, to: &Path, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    // A mount can be mapped only before anybody sees it.
    let tree = Tree::copy(from)?;
    let user_namespace = u64::try_from(user_namespace.as_raw_fd()).map_err(io::Error::other)?;
    tree.set(libc::MOUNT_ATTR_IDMAP, user_namespace)?;
    tree.show_at(to)
}
