//! A node's attributes in FUSE's terms.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use crate::index::tree::{Kind, Node, Time};
use crate::view::NodeId;

/// For how long the kernel may believe what it was told. Layers never change, so: always.
pub(super) const FOREVER: Duration = Duration::from_secs(1 << 31);

/// For what may be different the next time.
pub(super) const NOT_AT_ALL: Duration = Duration::ZERO;

/// What stat(2) calls the best size of a read: the data lies in frames of about 1 MiB, but programs take this number for
/// the size of their buffers, and so it is a page.
const BLOCK_BYTES: u32 = 4096;

/// The unit of st_blocks.
const SECTOR_BYTES: u64 = 512;

/// `owner` is who everything is shown to belong to; `None` shows what the image says.
pub(super) fn attributes(id: NodeId, node: &Node, owner: Option<(u32, u32)>) -> FileAttr {
    let time = system_time(node.mtime);
    let (uid, gid) = owner.unwrap_or((node.uid, node.gid));
    FileAttr {
        ino: INodeNo(id.0),
        size: node.size,
        blocks: node.size.div_ceil(SECTOR_BYTES),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(node.kind),
        perm: node.mode,
        nlink: node.nlink,
        uid,
        gid,
        rdev: encode_device(node.device),
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// A directory that is no layer's: the mount's root, and the root of a view that nobody has looked into.
pub(super) fn bare_directory(mode: u16) -> Node {
    let mtime = Time::default();
    Node { kind: Kind::Directory, mode, uid: 0, gid: 0, size: 0, mtime, nlink: 1, device: (0, 0) }
}

/// The answer to a lookup that finds nothing, which the kernel may remember: an entry of inode 0.
pub(super) fn nothing() -> FileAttr {
    attributes(NodeId(0), &bare_directory(0), None)
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
    }
}

/// What SystemTime cannot hold is shown as 1970.
fn system_time(time: Time) -> SystemTime {
    let (seconds, nanos) = (Duration::from_secs(time.seconds.unsigned_abs()), Duration::from_nanos(time.nanos.into()));
    let second = if time.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    second.and_then(|second| second.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// 12 bits of major and 20 of minor number (include/linux/kdev_t.h, `new_encode_dev`).
fn encode_device((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_before_1970_keeps_its_nanoseconds() {
        let time = system_time(Time { seconds: -2, nanos: 500_000_000 });
        assert_eq!(UNIX_EPOCH.duration_since(time).unwrap(), Duration::from_millis(1500));
        let first = system_time(Time { seconds: i64::MIN, nanos: 0 });
        assert_eq!(UNIX_EPOCH.duration_since(first).unwrap(), Duration::from_secs(1 << 63));
    }

    #[test]
    fn large_device_numbers_are_split_as_the_kernel_does() {
        assert_eq!(encode_device((8, 1)), 0x801);
        assert_eq!(encode_device((0xabc, 0x12345)), 0x123a_bc45);
    }
}
