//! Extended attributes: a header of 12 bytes after the node, then each attribute padded to 4 bytes.

use crate::index::tree::format::{XATTR_ENTRY_BYTES, XATTR_HEADER_BYTES, get, xattr_entry_bytes, xattr_prefix};
use crate::index::tree::read::{Found, Tree, TreeError};

/// A node's attributes one after the other.
pub(super) struct Entries<'a> {
    found: Found,
    rest: &'a [u8],
}

/// One attribute; its name is `prefix` and `rest` put together.
pub(super) struct Entry<'a> {
    pub(super) prefix: &'static [u8],
    pub(super) rest: &'a [u8],
    pub(super) value: &'a [u8],
}

impl<'a> Entries<'a> {
    pub(super) fn of(tree: &'a Tree, found: &Found) -> Result<Self, TreeError> {
        let outside = || found.damaged("its extended attributes are outside");
        let all = tree.bytes(found.xattrs_at, u64::from(found.raw.xattr_bytes)).map_err(|_| outside())?;
        if all.is_empty() {
            return Ok(Self { found: *found, rest: all });
        }
        let (header, rest) = all.split_at_checked(XATTR_HEADER_BYTES as usize).ok_or_else(outside)?;
        if header.iter().any(|byte| *byte != 0) {
            return Err(found.damaged("it has shared extended attributes, which oncefs does not write"));
        }
        Ok(Self { found: *found, rest })
    }

    fn entry(&self) -> Option<(Entry<'a>, &'a [u8])> {
        let [name_len, number, low, high]: [u8; XATTR_ENTRY_BYTES] = get(self.rest, 0)?;
        let (name_len, value_len) = (usize::from(name_len), usize::from(u16::from_le_bytes([low, high])));
        let (name, after) = self.rest.get(XATTR_ENTRY_BYTES..)?.split_at_checked(name_len)?;
        let rest = self.rest.get(xattr_entry_bytes(name_len, value_len)..)?;
        Some((Entry { prefix: xattr_prefix(number)?, rest: name, value: after.get(..value_len)? }, rest))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, TreeError>;

    /// After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = self.entry();
        self.rest = entry.as_ref().map_or(&[], |(_, rest)| rest);
        Some(entry.map(|(entry, _)| entry).ok_or_else(|| self.found.damaged("an extended attribute is cut off")))
    }
}
