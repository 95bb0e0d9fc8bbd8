//! A layer's tree: its names, attributes and extents, kept as an EROFS metadata image.
//!
//! `format` holds the structures on disk, `write` makes an image, `read` serves from one (mapped, never
//! parsed), `show` prints one for people, and `draft` is a layer's tree while its tar goes by.

pub mod compare;
pub mod draft;
pub mod format;
pub mod read;
pub mod show;
pub mod write;

/// A node of one layer's tree: its place in the image in units of 32 bytes (the EROFS `nid`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nid(pub u32);

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
}

/// A moment, in seconds since 1970 (negative before) and nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    pub seconds: i64,
    /// 0..1,000,000,000
    pub nanos: u32,
}

/// A node's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    pub kind: Kind,
    /// Permission bits with set-user-id, set-group-id and sticky: `0o7777` at most.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Bytes of a file's content or a symlink's target; of a directory what EROFS says.
    pub size: u64,
    pub mtime: Time,
    pub nlink: u32,
    /// Major and minor number; zeros unless the node is a device.
    pub device: (u32, u32),
}

/// Where a stretch of a file's content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At this offset in the layer's data file.
    Data(u64),
    /// At this offset in the tree image itself: small pieces the tar does not hold block-aligned.
    Tree(u64),
    /// Nowhere: zeros.
    Hole,
}

/// A stretch of a file's content, all of it in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub place: Place,
    /// Bytes from the asked-for offset to the end of the stretch.
    pub len: u64,
}

/// Extended attributes, name (with its namespace, `user.x`) and value, ordered by name.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The attribute that makes a directory of a layer hide the same directory of the layers below
/// (kernel, Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories"); its value is `y`.
pub const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// Marks a directory that no entry of the tar names: it is there only because something below it is. Its
/// attributes are those of the layers below, and of none of them root's, mode 0755. The value is empty.
pub const IMPLIED: &[u8] = b"trusted.oncefs.implied";

/// Marks an empty regular file that stands for a hard link whose target is in a layer below. The value is the
/// target's path from the root, without a leading slash.
pub const LOWER_LINK: &[u8] = b"trusted.oncefs.link";
