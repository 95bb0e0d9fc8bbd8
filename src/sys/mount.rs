//! mount(2), umount2(2) and the kernel's table of mounts.
//!
//! All of it needs CAP_SYS_ADMIN but the table and [`detach_as_anybody`]. Nothing here knows what is mounted or why.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountFlags, UnmountFlags, mount as mount2, unmount as umount2};
use serde::{Deserialize, Serialize};

use super::tree::Tree;

/// One line of /proc/self/mountinfo (proc(5)), as far as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// What of the file system is mounted.
    pub root: PathBuf,
    pub at: PathBuf,
    pub kind: String,
}

/// What shall not work below a mount though the image has it (mount(8): nodev, nosuid, noexec).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restrictions {
    pub nodev: bool,
    pub nosuid: bool,
    pub noexec: bool,
}

/// libmount's table of what the kernel does not keep of mounts (libmount, `mnt_get_utab_path`): words as in `TARGET=/mnt`.
const NOTES: &str = "/run/mount/utab";

/// Lines about one place, at most.
const NOTES_MAX: usize = 8;

/// A dead mount says so at once; on a busy machine, when it is our turn.
const DEAD_ANSWERS: Duration = Duration::from_secs(5);

// === impl Restrictions ===

impl Restrictions {
    fn attributes(self) -> u64 {
        let Self { nodev, nosuid, noexec } = self;
        let all =
            [(nodev, libc::MOUNT_ATTR_NODEV), (nosuid, libc::MOUNT_ATTR_NOSUID), (noexec, libc::MOUNT_ATTR_NOEXEC)];
        all.into_iter().filter(|(is_set, _)| *is_set).fold(0, |sum, (_, attribute)| sum | attribute)
    }
}

// === changing and reading the table ===

/// Shows `from` at `to` as well, read-only. What is not restricted works as it does at `from`.
pub fn bind_read_only(from: &Path, to: &Path, restrictions: Restrictions) -> io::Result<()> {
    let tree = Tree::copy(from)?;
    tree.set(libc::MOUNT_ATTR_RDONLY | restrictions.attributes(), 0)?;
    tree.show_at(to)
}

/// Mounts an EROFS image that lies in a file (Linux 6.12), with its one extra device.
pub fn erofs(image: &Path, device: &Path, at: &Path) -> io::Result<()> {
    let mut options = b"device=".to_vec();
    options.extend(device.as_os_str().as_bytes());
    let options = CString::new(options)?;
    Ok(mount2(image, at, "erofs", MountFlags::RDONLY, options.as_c_str())?)
}

/// Takes the topmost mount at `at` away; fails with EBUSY while it is in use.
pub fn unmount(at: &Path) -> io::Result<()> {
    Ok(umount2(at, UnmountFlags::NOFOLLOW)?)
}

/// Takes the topmost mount at `at` out of sight at once; it ends when its last user leaves.
pub fn detach(at: &Path) -> io::Result<()> {
    Ok(umount2(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}

/// The same for ordinary users too, who may by way of fusermount3 (package fuse3) unmount what they mounted.
pub fn detach_as_anybody(at: &Path) -> io::Result<()> {
    match detach(at) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => fusermount(at),
        detached => detached,
    }
}

fn fusermount(at: &Path) -> io::Result<()> {
    let said = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(at).stdin(Stdio::null()).output();
    let said = said.map_err(|error| io::Error::new(error.kind(), format!("fusermount3 (package fuse3): {error}")))?;
    if said.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&said.stderr).trim().to_owned()))
}

/// Has umount(8) take away what mount(8) has noted of a mount that was at `at`, as `_netdev`: libmount's own table, which the kernel knows nothing of.
/// Nothing is done where nothing is noted, or something is mounted.
pub fn forget_notes(at: &Path) -> io::Result<()> {
    // It takes one line at a time, and there are two where a helper has noted something, too.
    for _ in 0..NOTES_MAX {
        if !is_noted(at)? || mounted_at(at)?.is_some() {
            break;
        }
        let mut umount = Command::new("/bin/umount");
        umount.args(["--fake", "--internal-only", "--no-canonicalize", "--"]).arg(at);
        let status = umount.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        if !status.success() {
            return Err(io::Error::other(format!("umount --fake ends with {status}")));
        }
    }
    Ok(())
}

fn is_noted(at: &Path) -> io::Result<bool> {
    let noted = match fs::read(NOTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        noted => noted?,
    };
    let mut words = noted.split(|byte| matches!(byte, b' ' | b'\n'));
    Ok(words.any(|word| word.strip_prefix(b"TARGET=").is_some_and(|target| unescape(target) == at)))
}

/// Whether what is mounted there is a file system whose server has died. One that lives may be slow to answer: it is not waited for. The
/// kernel keeps attributes, but asks for the space each time.
pub fn is_dead(at: &Path) -> bool {
    let (answer, answered) = mpsc::channel();
    let at = at.to_owned();
    thread::spawn(move || {
        let dead = rustix::fs::statvfs(&at).is_err_and(|error| error == rustix::io::Errno::NOTCONN);
        let _nobody_waits_any_more = answer.send(dead);
    });
    answered.recv_timeout(DEAD_ANSWERS).unwrap_or(false)
}

/// The mounts this process sees, in the order they were made.
pub fn table() -> io::Result<Vec<Mounted>> {
    Ok(fs::read("/proc/self/mountinfo")?.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// The topmost mount exactly at `at`, which must be absolute and free of symlinks.
pub fn mounted_at(at: &Path) -> io::Result<Option<Mounted>> {
    Ok(table()?.into_iter().rev().find(|mount| mount.at == at))
}

/// Sees changes of the table of mounts.
pub struct TableWatch(fs::File);

impl TableWatch {
    pub fn new() -> io::Result<Self> {
        Ok(Self(fs::File::open("/proc/self/mountinfo")?))
    }

    /// Returns when the table has changed since the last call (proc(5), /proc/pid/mounts: poll reports POLLPRI).
    pub fn wait(&self) -> io::Result<()> {
        poll(&mut [PollFd::new(&self.0, PollFlags::PRI)], None)?;
        Ok(())
    }
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`
fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ').skip(2);
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let (root, at) = (fields.next()?, fields.next()?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mounted {
        device: (major.parse().ok()?, minor.parse().ok()?),
        root: unescape(root),
        at: unescape(at),
        kind: String::from_utf8_lossy(kind).into_owned(),
    })
}

/// Space, tab, newline and backslash are written as three octal digits after a backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let digits = after.first_chunk::<3>().filter(|digits| *byte == b'\\' && digits.iter().all(u8::is_ascii_digit));
        match digits {
            Some([a, b, c]) => {
                path.push((a - b'0').wrapping_mul(64) | (b - b'0').wrapping_mul(8) | (c - b'0'));
                rest = after.get(3..).unwrap_or_default();
            }
            None => path.push(*byte),
        }
    }
    std::ffi::OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read() {
        let line = b"36 35 98:7 /views/a\\040b /mnt/two\\134 rw,noatime master:1 - fuse.oncefs oncefs rw";
        let mounted = parse(line).unwrap();
        assert_eq!(mounted.device, (98, 7));
        assert_eq!(mounted.root, Path::new("/views/a b"));
        assert_eq!(mounted.at, Path::new("/mnt/two\\"));
        assert_eq!(mounted.kind, "fuse.oncefs");
        assert_eq!(parse(b"36 35 98:7 /"), None);
    }

    #[test]
    fn the_root_is_in_the_table() {
        assert!(mounted_at(Path::new("/proc")).unwrap().is_some_and(|mount| mount.kind == "proc"));
        assert!(mounted_at(Path::new("/proc/self")).unwrap().is_none());
    }
}
