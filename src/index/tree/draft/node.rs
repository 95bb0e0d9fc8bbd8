//! A node of a draft: attributes and what it holds, as small as they go.

use std::collections::BTreeMap;

use crate::index::tree::draft::{Attributes, DraftError, NodeId, What, xattr};
use crate::index::tree::write::{From, Piece};
use crate::index::tree::{Kind, Time, Xattrs};

/// A symlink's target has to fit a page with its end (Linux `PATH_MAX`).
const TARGET_MAX: usize = 4095;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) body: Body,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    pub(super) xattrs: Option<Box<Xattrs>>,
    /// How many names it has; the root has one that nobody wrote.
    pub(super) names: u32,
}

#[derive(Debug)]
pub(super) enum Body {
    Directory(Box<Directory>),
    File {
        size: u64,
        at: u64,
    },
    Sparse(Box<(u64, Vec<Piece>)>),
    Symlink(Box<[u8]>),
    /// A hard link to what a layer below has at this path.
    LowerLink(Box<[u8]>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    Gone,
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) children: BTreeMap<Box<[u8]>, NodeId>,
    /// No entry names it; it is there for what is below.
    pub(super) implied: bool,
    /// It stands where this layer had (or hid) something else, so nothing of a lower one shows through.
    pub(super) fresh: bool,
    /// What lower layers have in it is hidden.
    pub(super) opaque: bool,
}

// === impl Node ===

impl Node {
    pub(super) fn new(body: Body, attributes: Attributes) -> Result<Self, DraftError> {
        let mode = if matches!(body, Body::Symlink(_)) { 0o777 } else { attributes.mode & 0o7777 };
        let Attributes { uid, gid, mtime, .. } = attributes;
        Ok(Self { body, mode, uid, gid, mtime, xattrs: xattr::kept(attributes.xattrs)?, names: 0 })
    }

    /// A directory that no entry names: root's, mode 0755, of 1970.
    pub(super) fn implied_directory() -> Self {
        let body = Body::Directory(Box::new(Directory { implied: true, ..Directory::default() }));
        Self { body, mode: 0o755, uid: 0, gid: 0, mtime: Time::default(), xattrs: None, names: 0 }
    }

    pub(super) fn kept_bytes(&self) -> usize {
        let xattrs = self.xattrs.iter().flat_map(|xattrs| xattrs.iter());
        let body = match &self.body {
            Body::Symlink(target) | Body::LowerLink(target) => target.len(),
            Body::Sparse(sparse) => sparse.1.iter().map(piece_bytes).sum(),
            _ => 0,
        };
        xattrs.map(|(name, value)| size_of::<(Vec<u8>, Vec<u8>)>() + name.len() + value.len()).sum::<usize>() + body
    }
}

fn piece_bytes(piece: &Piece) -> usize {
    size_of::<Piece>() + if let From::Bytes(bytes) = &piece.from { bytes.len() } else { 0 }
}

impl Body {
    pub(super) fn of(what: What<'_>) -> Result<Self, DraftError> {
        Ok(match what {
            What::Directory | What::HardLink(_) => Self::Gone,
            What::File { size, at } => Self::File { size, at },
            What::Sparse { size, pieces } => Self::Sparse(Box::new((size, pieces))),
            What::Symlink(target) if target.is_empty() || target.len() > TARGET_MAX || target.contains(&0) => {
                return Err(DraftError::SymlinkTarget);
            }
            What::Symlink(target) => Self::Symlink(target.into()),
            What::CharDevice(major, minor) | What::BlockDevice(major, minor)
                if major >= 1 << 12 || minor >= 1 << 20 =>
            {
                return Err(DraftError::Device { major, minor });
            }
            // 0:0 is how overlayfs writes a whiteout. Major 0 is no device, so 0:1 opens as little and hides nothing.
            What::CharDevice(0, 0) => Self::CharDevice(0, 1),
            What::CharDevice(major, minor) => Self::CharDevice(major, minor),
            What::BlockDevice(major, minor) => Self::BlockDevice(major, minor),
            What::Fifo => Self::Fifo,
        })
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Directory(_) => Kind::Directory,
            Self::Symlink(_) => Kind::Symlink,
            Self::CharDevice(..) => Kind::CharDevice,
            Self::BlockDevice(..) => Kind::BlockDevice,
            Self::Fifo => Kind::Fifo,
            Self::File { .. } | Self::Sparse(_) | Self::LowerLink(_) | Self::Gone => Kind::File,
        }
    }
}
