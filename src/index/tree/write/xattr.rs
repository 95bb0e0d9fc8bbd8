//! Extended attributes as they follow their inode: a header of 12 bytes, then each padded to 4 bytes, by name.

use std::io;

use crate::index::tree::format::{XATTR_HEADER_BYTES, split_xattr_name, xattr_entry_bytes};
use crate::index::tree::write::out::Out;
use crate::index::tree::write::{Inode, Refusal};

/// The inode's field counts 4-byte words in 16 bits.
const XATTR_BYTES_MAX: u64 = XATTR_HEADER_BYTES + 4 * (u16::MAX as u64 - 1);

/// Bytes of an inode's extended attributes, all of which can be written.
pub(super) fn xattr_bytes(inode: &Inode) -> Result<u64, Refusal> {
    if inode.xattrs.is_empty() {
        return Ok(0);
    }
    let mut bytes = XATTR_HEADER_BYTES;
    for (name, value) in &inode.xattrs {
        let (_, rest) = split_xattr_name(name).ok_or(Refusal::XattrName)?;
        if name.len() > usize::from(u8::MAX) || name.contains(&0) {
            return Err(Refusal::XattrName);
        }
        bytes += xattr_entry_bytes(rest.len(), value.len()) as u64;
        if value.len() > usize::from(u16::MAX) || bytes > XATTR_BYTES_MAX {
            return Err(Refusal::XattrSize);
        }
    }
    let sorted = sorted_xattrs(inode);
    let twice = sorted.iter().zip(sorted.iter().skip(1)).any(|((one, _), (next, _))| one == next);
    if twice { Err(Refusal::XattrName) } else { Ok(bytes) }
}

fn sorted_xattrs(inode: &Inode) -> Vec<&(Vec<u8>, Vec<u8>)> {
    let mut sorted: Vec<_> = inode.xattrs.iter().collect();
    sorted.sort_unstable();
    sorted
}

pub(super) fn emit_xattrs(inode: &Inode, xattr_bytes: u64, out: &mut impl Out) -> io::Result<()> {
    if xattr_bytes == 0 {
        return Ok(());
    }
    out.zeros(XATTR_HEADER_BYTES)?; // no name filter, no shared attributes
    for (name, value) in sorted_xattrs(inode) {
        let Some((number, rest)) = split_xattr_name(name) else { continue };
        let [low, high] = (value.len() as u16).to_le_bytes();
        out.put(&[rest.len() as u8, number, low, high])?;
        out.put(rest)?;
        out.put(value)?;
        out.align(4)?;
    }
    Ok(())
}
