//! Who is at the other end of a unix socket, and by which number a group goes.

use std::ffi::CString;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::net::sockopt::socket_peercred;

/// The program that connected, as it was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    /// All of its groups.
    pub groups: Vec<u32>,
}

/// As many as the kernel lets a process have (NGROUPS_MAX).
const GROUPS_MAX: usize = 65536;
/// A group of so many bytes of members is more than any directory service gives.
const RECORD_BYTES_MAX: usize = 1 << 20;

// === impl Peer ===

impl Peer {
    /// Of a connected socket, as the kernel has it: nothing that the peer could say of itself.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        let peer = socket_peercred(&socket)?;
        let mut groups = supplementary(&socket)?;
        groups.push(peer.gid.as_raw());
        Ok(Self { uid: peer.uid.as_raw(), groups })
    }
}

fn supplementary(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut bytes = (groups.len() * size_of::<libc::gid_t>()) as libc::socklen_t;
        // SAFETY: the descriptor is open as long as it is borrowed; the kernel writes no more than `bytes` bytes to `groups`, which has as many, and
        // whole numbers only.
        let outcome = unsafe {
            let fd = socket.as_fd().as_raw_fd();
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), &raw mut bytes)
        };
        let count = bytes as usize / size_of::<libc::gid_t>();
        if outcome == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        // ERANGE: it has more groups, and `bytes` says how many.
        match io::Error::last_os_error() {
            error if error.raw_os_error() != Some(libc::ERANGE) => return Err(error),
            error if count <= groups.len() || count > GROUPS_MAX => return Err(error),
            _ => groups.resize(count, 0),
        }
    }
}

/// The number of the group with this name, which may be a number itself; `None` if there is no such group.
pub fn group_id(name: &str) -> io::Result<Option<u32>> {
    if let Ok(number) = name.parse() {
        return Ok(Some(number));
    }
    let name = CString::new(name)?;
    let mut strings = vec![0; 4096];
    loop {
        let (mut group, mut found) = (MaybeUninit::<libc::group>::uninit(), std::ptr::null_mut());
        // SAFETY: the name ends with a zero byte; `strings` has as many bytes as is said; all four live until after the call.
        let outcome = unsafe {
            let (into, bytes) = (strings.as_mut_ptr(), strings.len());
            libc::getgrnam_r(name.as_ptr(), group.as_mut_ptr(), into, bytes, &raw mut found)
        };
        match outcome {
            0 if found.is_null() => return Ok(None),
            // SAFETY: it was found, so all of `group` was written.
            0 => return Ok(Some(unsafe { group.assume_init() }.gr_gid)),
            libc::ERANGE if strings.len() < RECORD_BYTES_MAX => strings.resize(strings.len() * 2, 0),
            // Some directories say so of a group that they do not have.
            libc::ENOENT | libc::ESRCH => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_peer_of_a_socket_of_ones_own_is_oneself() {
        let (here, _there) = UnixStream::pair().unwrap();
        let peer = Peer::of(&here).unwrap();
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        let own = rustix::process::getgroups().unwrap().into_iter().map(|group| group.as_raw());
        assert!(own.chain([rustix::process::getegid().as_raw()]).all(|group| peer.groups.contains(&group)));
    }

    #[test]
    fn a_group_is_known_by_name_and_by_number() {
        assert_eq!(group_id("root").unwrap(), Some(0));
        assert_eq!(group_id("4711").unwrap(), Some(4711));
        assert_eq!(group_id("no-such-group").unwrap(), None);
        assert!(group_id("a\0b").is_err());
    }
}
