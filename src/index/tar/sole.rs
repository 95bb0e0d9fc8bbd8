//! A tar that is there for one file.

use crate::index::tar::header::{BLOCK, Block};

/// The content of the tar's first entry, if it is a file of this name.
pub(in crate::index) fn sole_file<'a>(tar: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (header, rest) = tar.split_first_chunk::<BLOCK>()?;
    let header = Block::read(header)?;
    let is_it = matches!(header.typeflag(), 0 | b'0') && header.name() == name;
    rest.get(..usize::try_from(header.size().ok()?).ok()?).filter(|_| is_it)
}
