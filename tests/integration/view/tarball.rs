//! Layers as tars, and as the images say it: whiteouts by name.

use std::path::Path;

use oncefs::index::tree::Time;
use std::os::unix::ffi::OsStrExt as _;
use tar::{Builder, EntryType, Header};

use crate::model::unpack::{ModelAttributes, ModelEntry, ModelKind};

/// The tar of a layer's entries.
pub(super) fn tarball(entries: &[ModelEntry]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for entry in entries {
        add(&mut tar, entry);
    }
    tar.into_inner().unwrap()
}

fn add(tar: &mut Builder<Vec<u8>>, entry: &ModelEntry) {
    let nothing = ModelAttributes::default();
    match entry {
        ModelEntry::Whiteout { path } => append(tar, &whiteout(path), EntryType::Regular, &nothing, None, (0, 0), b""),
        ModelEntry::Opaque { path } => {
            let marker = [&**path, b"/.wh..wh..opq"].concat();
            append(tar, &marker, EntryType::Regular, &nothing, None, (0, 0), b"");
        }
        ModelEntry::HardLink { path, target } => {
            append(tar, path, EntryType::Link, &nothing, Some(target), (0, 0), b"");
        }
        ModelEntry::Node { path, kind, attributes } => match kind {
            ModelKind::Directory => append(tar, path, EntryType::Directory, attributes, None, (0, 0), b""),
            ModelKind::File(bytes) => append(tar, path, EntryType::Regular, attributes, None, (0, 0), bytes),
            ModelKind::Symlink(to) => append(tar, path, EntryType::Symlink, attributes, Some(to), (0, 0), b""),
            ModelKind::CharDevice(a, b) => append(tar, path, EntryType::Char, attributes, None, (*a, *b), b""),
            ModelKind::BlockDevice(a, b) => append(tar, path, EntryType::Block, attributes, None, (*a, *b), b""),
            ModelKind::Fifo => append(tar, path, EntryType::Fifo, attributes, None, (0, 0), b""),
        },
    }
}

fn whiteout(path: &[u8]) -> Vec<u8> {
    let name = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    [&path[..name], b".wh.", &path[name..]].concat()
}

fn append(
    tar: &mut Builder<Vec<u8>>,
    path: &[u8],
    kind: EntryType,
    attributes: &ModelAttributes,
    target: Option<&[u8]>,
    device: (u32, u32),
    bytes: &[u8],
) {
    let Time { seconds, nanos } = attributes.mtime;
    let mtime = format!("{seconds}.{nanos:09}");
    assert!(seconds >= 0, "these tests' clocks begin in 1970");
    let xattrs = attributes.xattrs.iter();
    let xattrs =
        xattrs.map(|(name, value)| (format!("SCHILY.xattr.{}", std::str::from_utf8(name).unwrap()), &value[..]));
    let records: Vec<_> = [("mtime".to_owned(), mtime.as_bytes())].into_iter().chain(xattrs).collect();
    tar.append_pax_extensions(records.iter().map(|(key, value)| (key.as_str(), *value))).unwrap();
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(attributes.mode.into());
    header.set_uid(attributes.uid.into());
    header.set_gid(attributes.gid.into());
    header.set_mtime(seconds.unsigned_abs());
    header.set_size(bytes.len() as u64);
    header.set_device_major(device.0).unwrap();
    header.set_device_minor(device.1).unwrap();
    let as_path = |bytes: &[u8]| Path::new(std::ffi::OsStr::from_bytes(bytes)).to_owned();
    header.set_path(as_path(if path.is_empty() { b"./" } else { path })).unwrap();
    if let Some(target) = target {
        header.set_link_name_literal(target).unwrap();
    }
    header.set_cksum();
    tar.append(&header, bytes).unwrap();
}
