//! What a directory of the host shows, as the model would say it.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use oncefs::index::tree::Time;

use crate::model::unpack::{ModelAttributes, ModelFs, ModelKind, ModelNode};

/// Device and inode number, and what is there.
type Found = BTreeMap<Vec<u8>, ((u64, u64), ModelNode)>;

/// The tree below `root`; inodes are numbered as they come.
pub(super) fn as_model(root: &Path) -> ModelFs {
    let mut found = BTreeMap::new();
    visit(root, Vec::new(), &mut found);
    let mut numbers = BTreeMap::new();
    let numbered = found.into_iter().map(|(path, (identity, node))| {
        let next = numbers.len() as u64;
        (path, ModelNode { inode: *numbers.entry(identity).or_insert(next), ..node })
    });
    numbered.collect()
}

fn visit(at: &Path, path: Vec<u8>, found: &mut Found) {
    // overlayfs lists a whiteout in a directory that only one layer has, but lets nobody look at it.
    let Some(stat) = fs::symlink_metadata(at).map(Some).or_else(missing).unwrap() else { return };
    let (kind, rdev) = (stat.file_type(), stat.rdev());
    let device = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    let kind = match kind {
        _ if kind.is_dir() => ModelKind::Directory,
        _ if kind.is_file() => ModelKind::File(fs::read(at).unwrap()),
        _ if kind.is_symlink() => ModelKind::Symlink(fs::read_link(at).unwrap().as_os_str().as_bytes().to_vec()),
        _ if kind.is_char_device() => ModelKind::CharDevice(device.0, device.1),
        _ if kind.is_block_device() => ModelKind::BlockDevice(device.0, device.1),
        _ if kind.is_fifo() => ModelKind::Fifo,
        _ => panic!("{at:?}: {kind:?}"),
    };
    if kind == ModelKind::Directory {
        for entry in fs::read_dir(at).unwrap() {
            let name = entry.unwrap().file_name();
            let child =
                if path.is_empty() { name.as_bytes().to_vec() } else { [&*path, b"/", name.as_bytes()].concat() };
            visit(&at.join(&name), child, found);
        }
    }
    let attributes = ModelAttributes {
        mode: (stat.mode() & 0o7777) as u16,
        uid: stat.uid(),
        gid: stat.gid(),
        mtime: Time { seconds: stat.mtime(), nanos: stat.mtime_nsec() as u32 },
        xattrs: user_xattr(at),
    };
    found.insert(path, ((stat.dev(), stat.ino()), ModelNode { kind, attributes, inode: 0 }));
}

fn missing<T>(error: std::io::Error) -> std::io::Result<Option<T>> {
    if error.kind() == ErrorKind::NotFound { Ok(None) } else { Err(error) }
}

/// The one attribute that these tests give.
fn user_xattr(at: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut value = [0; 256];
    match rustix::fs::lgetxattr(at, "user.x", &mut value[..]) {
        Ok(len) => BTreeMap::from([(b"user.x".to_vec(), value[..len].to_vec())]),
        Err(error) if std::io::Error::from(error).kind() == ErrorKind::PermissionDenied => BTreeMap::new(),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => BTreeMap::new(),
        Err(error) => panic!("{at:?}: {error}"),
    }
}
