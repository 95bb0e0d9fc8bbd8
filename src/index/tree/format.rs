//! The structures of an EROFS image as they lie on disk (kernel, `fs/erofs/erofs_fs.h`), and how oncefs uses
//! them. Packs and unpacks bytes, decides nothing; nothing here trusts a length it has read.
//!
//! ```text
//!    0  nothing                                1024 bytes
//! 1024  superblock                              128
//! 1152  device slot 1: the data file            128
//! 1280  label: what oncefs notes for itself     128       with the checksum of 1024..1536
//! 1408  nothing                                 128
//! 1536  inodes: 64 bytes, xattrs, then an inline tail (directories, symlinks) or chunk indexes (files)
//!    .  blocks of 512 bytes: directories, long symlinks, pieces of files that the data file does not hold aligned
//! ```
//! Node ids count 32-byte units from the start of the image. Numbers are little-endian.

use crate::digest::{DiffId, Digest};
use crate::index::tree::{Kind, Nid};

pub const BLOCK_BITS: u32 = 9;
/// Tar's unit too, which is why file contents can stay where the tar has them.
pub const BLOCK: u64 = 1 << BLOCK_BITS;
/// Nodes lie at multiples of this.
pub const SLOT: u64 = 32;
pub const INODE_BYTES: u64 = 64;
/// Where inodes begin, the root's first.
pub const HEADING_BYTES: u64 = 1536;
pub const NAME_MAX: usize = 255;

const SUPERBLOCK_AT: usize = 1024;
const DEVICE_AT: usize = 1152;
const DEVICE_SLOT_BYTES: usize = 128;
const LABEL_AT: usize = 1280;
const CHECKSUMMED: std::ops::Range<usize> = SUPERBLOCK_AT..HEADING_BYTES as usize;
const CHECKSUM_AT: usize = LABEL_AT + 48;

const MAGIC: u32 = 0xE0F5_E1E2;
/// The only one. EROFS's own checksum of the superblock is not among them: with blocks below 1024 bytes the kernel
/// takes it, but `fsck.erofs` up to 1.8.6 computes a negative length and crashes, so the label has one instead.
const COMPAT_MTIME: u32 = 2;
const INCOMPAT_CHUNKED_FILE: u32 = 4;
const INCOMPAT_DEVICE_TABLE: u32 = 8;
/// Ours, with the version of what the label says.
const LABEL_MAGIC: [u8; 8] = *b"oncefs\0\x01";

/// Of a chunk that has no blocks: zeros.
pub const NULL_BLOCK: u32 = u32::MAX;
/// A chunk has at most this many blocks, as a power of two (`EROFS_CHUNK_FORMAT_BLKBITS_MASK`).
pub const CHUNK_BITS_MAX: u32 = 31;
pub const CHUNK_INDEX_BYTES: u64 = 8;
pub const DIRENT_BYTES: usize = 12;
pub const XATTR_HEADER_BYTES: u64 = 12;
pub const XATTR_ENTRY_BYTES: usize = 4;
const CHUNK_FORMAT_INDEXES: u16 = 0x20;

/// What stands before the inodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// The superblock has 16 bits for it.
    pub root: Nid,
    pub inodes: u32,
    /// Blocks of the image.
    pub blocks: u32,
    pub diff_id: DiffId,
    /// Blocks of the data file, the last perhaps not whole.
    pub data_blocks: u32,
    pub implied: u32,
    pub lower_links: u32,
    /// Of all bytes after the heading.
    pub body: Digest,
}

/// How a node's content is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// In blocks of the image beginning at this one.
    Plain { block: u32 },
    /// As `Plain`, but what does not fill the last block follows the node itself.
    Inline { block: u32 },
    /// In chunks of `2^bits` blocks, each with an index after the node.
    Chunks { bits: u32 },
    /// A device's number in place of content.
    Device { number: u32 },
}

/// A node as it lies in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawInode {
    pub layout: Layout,
    /// Bytes of the extended attributes that follow the node.
    pub xattr_bytes: u32,
    /// With the bits of the kind.
    pub mode: u16,
    pub size: u64,
    pub number: u32,
    pub uid: u32,
    pub gid: u32,
    pub seconds: i64,
    pub nanos: u32,
    pub nlink: u32,
}

/// A directory's entry without its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirent {
    pub nid: u64,
    /// From the start of the directory's block.
    pub name_at: u16,
    pub kind: u8,
}

/// Where a chunk of a file begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkIndex {
    /// 0 the image, 1 the data file.
    pub device: u16,
    pub block: u32,
}

/// Beginnings of attribute names that are stored as a number, the longer before those they begin with.
pub const XATTR_PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

// === bytes ===

fn put<const N: usize>(into: &mut [u8], at: usize, value: [u8; N]) {
    let field = into.get_mut(at..).and_then(<[u8]>::first_chunk_mut);
    *field.expect("bug: a field lies outside its structure") = value;
}

/// The `N` bytes at `at`, if there are so many.
pub fn get<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..)?.first_chunk().copied()
}

fn get_u16(from: &[u8], at: usize) -> Option<u16> {
    get(from, at).map(u16::from_le_bytes)
}

fn get_u32(from: &[u8], at: usize) -> Option<u32> {
    get(from, at).map(u32::from_le_bytes)
}

fn get_u64(from: &[u8], at: usize) -> Option<u64> {
    get(from, at).map(u64::from_le_bytes)
}

// === impl Heading ===

impl Heading {
    pub fn pack(&self) -> [u8; HEADING_BYTES as usize] {
        let mut bytes = [0; HEADING_BYTES as usize];
        let sb = bytes.get_mut(SUPERBLOCK_AT..).unwrap_or_default();
        put(sb, 0, MAGIC.to_le_bytes());
        put(sb, 8, COMPAT_MTIME.to_le_bytes());
        put(sb, 12, [BLOCK_BITS as u8]);
        put(sb, 14, (self.root.0 as u16).to_le_bytes());
        put(sb, 16, u64::from(self.inodes).to_le_bytes());
        put(sb, 36, self.blocks.to_le_bytes());
        put(sb, 48, uuid(&self.diff_id));
        put(sb, 64, *b"oncefs");
        put(sb, 80, (INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE).to_le_bytes());
        put(sb, 86, 1u16.to_le_bytes()); // devices besides the image
        put(sb, 88, ((DEVICE_AT / DEVICE_SLOT_BYTES) as u16).to_le_bytes());
        let tag = self.diff_id.0.hex();
        bytes.iter_mut().skip(DEVICE_AT).zip(tag.bytes()).for_each(|(to, from)| *to = from);
        put(&mut bytes, DEVICE_AT + 64, self.data_blocks.to_le_bytes());
        put(&mut bytes, LABEL_AT, LABEL_MAGIC);
        put(&mut bytes, LABEL_AT + 8, self.implied.to_le_bytes());
        put(&mut bytes, LABEL_AT + 12, self.lower_links.to_le_bytes());
        put(&mut bytes, LABEL_AT + 16, *self.body.as_bytes());
        seal(&mut bytes);
        bytes
    }

    /// Takes an image's heading apart, or says what is wrong with it.
    pub fn unpack(image: &[u8]) -> Result<Self, &'static str> {
        const SHORT: &str = "it is too short";
        let sb = image.get(SUPERBLOCK_AT..).ok_or(SHORT)?;
        let expect = |ok: bool, what| if ok { Ok(()) } else { Err(what) };
        expect(get_u32(sb, 0).ok_or(SHORT)? == MAGIC, "it is no EROFS image")?;
        let foreign = "it is an EROFS image that oncefs has not made";
        expect(get(image, LABEL_AT) == Some(LABEL_MAGIC), foreign)?;
        expect(get_u32(image, CHECKSUM_AT) == Some(checksum(image).ok_or(SHORT)?), "its heading's checksum is wrong")?;
        expect(get(sb, 12) == Some([BLOCK_BITS as u8]) && get_u32(sb, 40) == Some(0), foreign)?;
        expect(get_u32(sb, 80) == Some(INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE), foreign)?;
        let tag: [u8; 64] = get(image, DEVICE_AT).ok_or(SHORT)?;
        let diff_id = std::str::from_utf8(&tag).ok().and_then(|tag| Digest::from_hex(tag).ok()).ok_or(foreign)?;
        Ok(Self {
            root: Nid(u32::from(get_u16(sb, 14).ok_or(SHORT)?)),
            inodes: get_u64(sb, 16).and_then(|inodes| inodes.try_into().ok()).ok_or(foreign)?,
            blocks: get_u32(sb, 36).ok_or(SHORT)?,
            diff_id: DiffId(diff_id),
            data_blocks: get_u32(image, DEVICE_AT + 64).ok_or(SHORT)?,
            implied: get_u32(image, LABEL_AT + 8).ok_or(SHORT)?,
            lower_links: get_u32(image, LABEL_AT + 12).ok_or(SHORT)?,
            body: Digest::from_bytes(get(image, LABEL_AT + 16).ok_or(SHORT)?),
        })
    }
}

/// Of the same layer always the same: version 8 of RFC 9562, which leaves the rest to us.
fn uuid(diff_id: &DiffId) -> [u8; 16] {
    let mut uuid: [u8; 16] = get(diff_id.0.as_bytes(), 0).unwrap_or_default();
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut uuid;
    *version = *version & 0x0f | 0x80;
    *variant = *variant & 0x3f | 0x80;
    uuid
}

/// CRC-32C of the heading but for its own field.
fn checksum(image: &[u8]) -> Option<u32> {
    let before = image.get(CHECKSUMMED.start..CHECKSUM_AT)?;
    let after = image.get(CHECKSUM_AT + 4..CHECKSUMMED.end)?;
    Some(crc32c::crc32c_append(crc32c::crc32c(before), after))
}

/// Sets the checksum of an image's heading to what it has to be.
pub fn seal(image: &mut [u8]) {
    if let Some(checksum) = checksum(image) {
        put(image, CHECKSUM_AT, checksum.to_le_bytes());
    }
}

// === impl RawInode ===

/// `i_format`: bit 0 the 64-byte form, the layout above it.
const FORMAT_PLAIN: u16 = 1;
const FORMAT_INLINE: u16 = 1 | 2 << 1;
const FORMAT_CHUNKS: u16 = 1 | 4 << 1;

impl RawInode {
    pub fn pack(&self) -> [u8; INODE_BYTES as usize] {
        let mut bytes = [0; INODE_BYTES as usize];
        let (format, word) = match self.layout {
            Layout::Plain { block } => (FORMAT_PLAIN, block),
            Layout::Inline { block } => (FORMAT_INLINE, block),
            Layout::Chunks { bits } => (FORMAT_CHUNKS, bits | u32::from(CHUNK_FORMAT_INDEXES)),
            Layout::Device { number } => (FORMAT_PLAIN, number),
        };
        // The count is of 4-byte words, with all of the 12-byte header as the first.
        let xattr_words = self.xattr_bytes.checked_sub(XATTR_HEADER_BYTES as u32).map_or(0, |bytes| bytes / 4 + 1);
        put(&mut bytes, 0, format.to_le_bytes());
        put(&mut bytes, 2, (xattr_words as u16).to_le_bytes());
        put(&mut bytes, 4, self.mode.to_le_bytes());
        put(&mut bytes, 8, self.size.to_le_bytes());
        put(&mut bytes, 16, word.to_le_bytes());
        put(&mut bytes, 20, self.number.to_le_bytes());
        put(&mut bytes, 24, self.uid.to_le_bytes());
        put(&mut bytes, 28, self.gid.to_le_bytes());
        put(&mut bytes, 32, self.seconds.to_le_bytes());
        put(&mut bytes, 40, self.nanos.to_le_bytes());
        put(&mut bytes, 44, self.nlink.to_le_bytes());
        bytes
    }

    /// `None` for what is no node as oncefs writes them.
    pub fn unpack(bytes: &[u8; INODE_BYTES as usize]) -> Option<Self> {
        let word = get_u32(bytes, 16)?;
        let mode = get_u16(bytes, 4)?;
        let layout = match (get_u16(bytes, 0)?, kind_of_mode(mode)?) {
            (FORMAT_PLAIN, Kind::CharDevice | Kind::BlockDevice) => Layout::Device { number: word },
            (FORMAT_PLAIN, _) => Layout::Plain { block: word },
            (FORMAT_INLINE, Kind::Directory | Kind::Symlink) => Layout::Inline { block: word },
            (FORMAT_CHUNKS, Kind::File) => Layout::Chunks { bits: chunk_bits(word)? },
            _ => return None,
        };
        let xattr_bytes = match get_u16(bytes, 2)? {
            0 => 0,
            words => XATTR_HEADER_BYTES as u32 + 4 * (u32::from(words) - 1),
        };
        Some(Self {
            layout,
            xattr_bytes,
            mode,
            size: get_u64(bytes, 8)?,
            number: get_u32(bytes, 20)?,
            uid: get_u32(bytes, 24)?,
            gid: get_u32(bytes, 28)?,
            seconds: get(bytes, 32).map(i64::from_le_bytes)?,
            nanos: get_u32(bytes, 40).filter(|nanos| *nanos < 1_000_000_000)?,
            nlink: get_u32(bytes, 44)?,
        })
    }
}

fn chunk_bits(word: u32) -> Option<u32> {
    let bits = word & CHUNK_BITS_MAX;
    (word == bits | u32::from(CHUNK_FORMAT_INDEXES)).then_some(bits)
}

// === kinds and devices ===

/// A kind's bits in a mode (`S_IFMT`) and its number in a directory entry (`FT_*` of the kernel's fs_types.h).
const KINDS: [(Kind, u16, u8); 7] = [
    (Kind::File, 0o100_000, 1),
    (Kind::Directory, 0o040_000, 2),
    (Kind::CharDevice, 0o020_000, 3),
    (Kind::BlockDevice, 0o060_000, 4),
    (Kind::Fifo, 0o010_000, 5),
    (Kind::Socket, 0o140_000, 6),
    (Kind::Symlink, 0o120_000, 7),
];

/// Permission bits with set-user-id, set-group-id and sticky.
pub const MODE_BITS: u16 = 0o7777;

fn row(kind: Kind) -> (u16, u8) {
    KINDS.iter().find(|(known, ..)| *known == kind).map_or((0, 0), |(_, bits, number)| (*bits, *number))
}

pub fn mode_of_kind(kind: Kind) -> u16 {
    row(kind).0
}

pub fn number_of_kind(kind: Kind) -> u8 {
    row(kind).1
}

pub fn kind_of_mode(mode: u16) -> Option<Kind> {
    KINDS.iter().find(|(_, bits, _)| mode & !MODE_BITS == *bits).map(|(kind, ..)| *kind)
}

pub fn kind_of_number(number: u8) -> Option<Kind> {
    KINDS.iter().find(|(.., known)| number == *known).map(|(kind, ..)| *kind)
}

/// Linux's 32-bit form of a device number (`new_encode_dev`); `None` beyond 12 bits of major and 20 of minor.
pub fn pack_device((major, minor): (u32, u32)) -> Option<u32> {
    let fits = major < 1 << 12 && minor < 1 << 20;
    fits.then_some(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}

pub fn unpack_device(number: u32) -> (u32, u32) {
    ((number & 0xfff00) >> 8, number & 0xff | number >> 12 & 0xfff00)
}

// === impl Dirent, ChunkIndex ===

impl Dirent {
    pub fn pack(&self) -> [u8; DIRENT_BYTES] {
        let mut bytes = [0; DIRENT_BYTES];
        put(&mut bytes, 0, self.nid.to_le_bytes());
        put(&mut bytes, 8, self.name_at.to_le_bytes());
        put(&mut bytes, 10, [self.kind]);
        bytes
    }

    pub fn unpack(bytes: &[u8; DIRENT_BYTES]) -> Option<Self> {
        Some(Self { nid: get_u64(bytes, 0)?, name_at: get_u16(bytes, 8)?, kind: *bytes.get(10)? })
    }
}

impl ChunkIndex {
    pub const HOLE: Self = Self { device: 0, block: NULL_BLOCK };
    pub const IMAGE: u16 = 0;
    pub const DATA: u16 = 1;

    pub fn pack(self) -> [u8; CHUNK_INDEX_BYTES as usize] {
        let mut bytes = [0; CHUNK_INDEX_BYTES as usize];
        put(&mut bytes, 2, self.device.to_le_bytes());
        put(&mut bytes, 4, self.block.to_le_bytes());
        bytes
    }

    pub fn unpack(bytes: &[u8; CHUNK_INDEX_BYTES as usize]) -> Option<Self> {
        Some(Self { device: get_u16(bytes, 2)?, block: get_u32(bytes, 4)? })
    }
}

// === extended attributes ===

/// Splits an attribute's name into the number of its namespace and the rest; `None` where EROFS has no number.
pub fn split_xattr_name(name: &[u8]) -> Option<(u8, &[u8])> {
    let (number, prefix) = XATTR_PREFIXES.iter().find(|(_, prefix)| name.starts_with(prefix))?;
    let rest = name.get(prefix.len()..)?;
    // The names of access control lists are whole; all others have something after the namespace.
    (rest.is_empty() != prefix.ends_with(b".")).then_some((*number, rest))
}

/// The namespace of a number.
pub fn xattr_prefix(number: u8) -> Option<&'static [u8]> {
    XATTR_PREFIXES.iter().find(|(known, _)| *known == number).map(|(_, prefix)| *prefix)
}

/// Bytes of an attribute in the image.
pub fn xattr_entry_bytes(name_len: usize, value_len: usize) -> usize {
    (XATTR_ENTRY_BYTES + name_len + value_len).next_multiple_of(XATTR_ENTRY_BYTES)
}

#[cfg(test)]
mod tests;
