//! One header block of a tar: its fields as they mean, whichever of the old formats wrote it (V7, ustar, GNU,
//! star). Numbers are read here, since the `tar` crate cuts off what does not fit and takes a blank for an error.

use tar::Header;

pub(super) const BLOCK: usize = 512;

/// Where the stretches of a sparse file's payload belong: offset and length of each, in the payload's order.
pub(super) type SparseMap = Vec<(u64, u64)>;

/// A header block whose checksum has matched.
pub(super) struct Block {
    header: Header,
    is_star: bool,
}

/// A field that holds no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its {0} field holds no number that could be meant")]
pub struct BadField(pub &'static str);

impl Block {
    /// The header in `block`, if its checksum says that it is one.
    pub(super) fn read(block: &[u8; BLOCK]) -> Option<Self> {
        let mut header = Header::from_byte_slice(block).clone();
        let stored = number(&header.as_old().cksum)?;
        header.as_old_mut().cksum = [b' '; 8];
        // Some old programs summed signed bytes; everybody accepts both.
        let unsigned: i64 = header.as_bytes().iter().map(|byte| i64::from(*byte)).sum();
        let signed: i64 = header.as_bytes().iter().map(|byte| i64::from(byte.cast_signed())).sum();
        if stored != unsigned && stored != signed {
            return None;
        }
        let [.., a, b, c, d] = *header.as_bytes();
        let is_star = [a, b, c, d] == *b"tar\0";
        // The crate wants the version too, which some writers leave blank; Go and GNU tar look at the magic alone.
        if let Some(magic) = header.as_mut_bytes().get_mut(257..265)
            && magic.starts_with(b"ustar\0")
        {
            magic.copy_from_slice(b"ustar\x0000");
        }
        Some(Self { header, is_star })
    }

    /// As it stands there: the crate takes V7's 0 for ustar's `0`.
    pub(super) fn typeflag(&self) -> u8 {
        let [typeflag] = self.header.as_old().linkflag;
        typeflag
    }

    /// The name with ustar's prefix; empty where longer names are said elsewhere.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = until_zero(&self.header.as_old().name);
        let prefix = match (self.header.as_ustar(), self.header.as_gnu()) {
            (Some(ustar), _) if self.is_star => ustar.prefix.get(..131).map_or(&b""[..], until_zero),
            (Some(ustar), _) => until_zero(&ustar.prefix),
            // Go before 1.8 wrote a prefix into GNU headers where GNU has its times.
            (None, Some(gnu)) if number(&gnu.atime).is_none() => self.prefix_of_old_go(),
            _ => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    fn prefix_of_old_go(&self) -> &[u8] {
        let prefix = self.header.as_bytes().get(345..500).map_or(&b""[..], until_zero);
        if prefix.is_ascii() { prefix } else { b"" }
    }

    pub(super) fn link(&self) -> &[u8] {
        until_zero(&self.header.as_old().linkname)
    }

    /// Bytes of payload that follow, if the type has a payload.
    pub(super) fn size(&self) -> Result<u64, BadField> {
        unsigned(&self.header.as_old().size, "size")
    }

    pub(super) fn mode(&self) -> Result<u16, BadField> {
        let mode = unsigned(&self.header.as_old().mode, "mode")?;
        Ok((mode & 0o7777) as u16)
    }

    pub(super) fn uid(&self) -> Result<u32, BadField> {
        narrow(&self.header.as_old().uid, "uid")
    }

    pub(super) fn gid(&self) -> Result<u32, BadField> {
        narrow(&self.header.as_old().gid, "gid")
    }

    /// Seconds since 1970.
    pub(super) fn mtime(&self) -> Result<i64, BadField> {
        number(&self.header.as_old().mtime).ok_or(BadField("mtime"))
    }

    /// Major and minor number; zeros in V7, which has no place for them.
    pub(super) fn device(&self) -> Result<(u32, u32), BadField> {
        let (major, minor) = match (self.header.as_ustar(), self.header.as_gnu()) {
            (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
            (None, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
            (None, None) => return Ok((0, 0)),
        };
        Ok((narrow(major, "device major")?, narrow(minor, "device minor")?))
    }

    /// Of a GNU sparse file: the start of its map, whether extension blocks go on with it, and the file's size.
    pub(super) fn sparse(&self) -> Result<(SparseMap, bool, u64), BadField> {
        let gnu = self.header.as_gnu().ok_or(BadField("magic"))?;
        let map = gnu.sparse.iter().map(|segment| (&segment.offset, &segment.numbytes));
        Ok((sparse_map(map)?, gnu.isextended != [0], unsigned(&gnu.realsize, "real size")?))
    }
}

/// A block that goes on with a GNU sparse map, and whether another follows.
pub(super) fn sparse_extension(block: &[u8; BLOCK]) -> Result<(SparseMap, bool), BadField> {
    let mut extension = tar::GnuExtSparseHeader::new();
    extension.as_mut_bytes().copy_from_slice(block);
    let map = extension.sparse.iter().map(|segment| (&segment.offset, &segment.numbytes));
    Ok((sparse_map(map)?, extension.isextended != [0]))
}

fn sparse_map<'a>(map: impl Iterator<Item = (&'a [u8; 12], &'a [u8; 12])>) -> Result<SparseMap, BadField> {
    map.take_while(|(_, len)| len.first() != Some(&0))
        .map(|(at, len)| Ok((unsigned(at, "sparse offset")?, unsigned(len, "sparse size")?)))
        .collect()
}

fn unsigned(field: &[u8], name: &'static str) -> Result<u64, BadField> {
    number(field).and_then(|number| u64::try_from(number).ok()).ok_or(BadField(name))
}

fn narrow(field: &[u8], name: &'static str) -> Result<u32, BadField> {
    number(field).and_then(|number| u32::try_from(number).ok()).ok_or(BadField(name))
}

/// A numeric field: octal digits among spaces and zero bytes, nothing at all for 0, or GNU's base-256, big-endian
/// and in two's complement after the marking bit.
fn number(field: &[u8]) -> Option<i64> {
    match field.split_first() {
        Some((first, rest)) if first & 0x80 != 0 => {
            // Bit 6 is the sign: shifting out the mark and back in extends it.
            let first = i128::from((first << 1).cast_signed() >> 1);
            // 12 bytes are 96 bits at most, so nothing is shifted out of 128.
            rest.iter().fold(first, |number, byte| number << 8 | i128::from(*byte)).try_into().ok()
        }
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<i64> {
    let blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let Some(start) = field.iter().position(|byte| !blank(byte)) else { return Some(0) };
    let digits = field.get(start..)?;
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    let (digits, after) = digits.split_at_checked(end)?;
    // Behind a zero byte anything may stand; behind a space only more of the same.
    if after.iter().take_while(|byte| **byte != 0).any(|byte| *byte != b' ') {
        return None;
    }
    digits.iter().try_fold(0_i64, |number, digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

pub(super) fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_read_in_every_spelling_that_is_written() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"000644 \0", 0o644),
            (b"   644 \0", 0o644),
            (b"00000000000\0", 0),
            (b"777777777777", 0o777_777_777_777),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"        ", 0),
            (b"644\0\xff\xff\xff\xff", 0o644),
            (b"\x80\0\0\0\0\0\x10\0", 0x1000),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", -1),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", i64::MAX),
        ] {
            assert_eq!(number(field), Some(value), "{}", field.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_number_is_told() {
        for field in [&b"0000648\0"[..], b"-000001\0", b"+000001\0", b"64 4\0\0\0\0", b"0x10\0\0\0\0"] {
            assert_eq!(number(field), None, "{}", field.escape_ascii());
        }
        assert_eq!(number(b"\x80\0\0\0\x80\0\0\0\0\0\0\0"), None, "beyond 63 bits");
        assert_eq!(number(b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None, "beyond 63 bits");
    }

    proptest! {
        #[test]
        fn no_block_makes_the_fields_panic(bytes in prop::collection::vec(any::<u8>(), BLOCK), kind in 0_u8..4) {
            let mut block: [u8; BLOCK] = bytes.try_into().unwrap();
            match kind {
                0 => block[257..265].copy_from_slice(b"ustar\x0000"),
                1 => block[257..265].copy_from_slice(b"ustar  \0"),
                _ => {}
            }
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let header = Block::read(&block).unwrap();
            let _ = (header.typeflag(), header.name(), header.link().len(), header.size(), header.mode(), header.uid());
            let _ = (header.gid(), header.mtime(), header.device(), header.sparse(), sparse_extension(&block));
        }
    }
}
