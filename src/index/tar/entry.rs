//! An entry's header with all that extended headers have said about it, put together: what it is called, what it
//! makes, how many bytes of payload follow.

use std::mem;

use crate::index::tar::fault::Fault;
use crate::index::tar::header::{Block, SparseMap};
use crate::index::tar::pax::{Pax, Sparse};
use crate::index::tree::Time;
use crate::index::tree::draft::Attributes;

/// What headers before an entry's own said about it, and global ones about all.
#[derive(Debug, Default)]
pub(super) struct Announced {
    pub(super) global: Pax,
    pub(super) pax: Option<Pax>,
    /// GNU's `L` and `K`.
    pub(super) long_name: Option<Vec<u8>>,
    pub(super) long_link: Option<Vec<u8>>,
}

/// A whole entry but for its payload.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) attributes: Attributes,
    pub(super) makes: Makes,
    /// Bytes of payload in the tar.
    pub(super) payload: u64,
}

#[derive(Debug)]
pub(super) enum Makes {
    Directory,
    File,
    /// The map's start is in the header; the flag says that blocks go on with it.
    OldSparse {
        map: SparseMap,
        goes_on: bool,
        size: u64,
    },
    /// The map is in the extended header.
    Sparse {
        map: SparseMap,
        size: u64,
    },
    /// The map is the payload's start.
    MappedInPayload {
        size: u64,
    },
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    /// A volume's label and the like: no part of the tree.
    Nothing,
}

impl Announced {
    pub(super) fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }

    /// Takes what was announced for one entry and leaves the global part.
    pub(super) fn take(&mut self) -> Self {
        let pax = self.pax.take().unwrap_or_else(|| self.global.clone());
        let (long_name, long_link) = (self.long_name.take(), self.long_link.take());
        Self { global: Pax::default(), pax: Some(pax), long_name, long_link }
    }

    /// The entry's name. GNU tar lets pax's long name win, Go lets `L` win, so both must say the same.
    pub(super) fn name(&mut self, block: &Block) -> Result<Vec<u8>, Fault> {
        let pax = self.pax.get_or_insert_default();
        let sparse_name = pax.sparse.as_mut().and_then(|sparse| sparse.name.take());
        let name = sparse_name.or_else(|| pax.path.take());
        Ok(one_of(name, self.long_name.take())?.unwrap_or_else(|| block.name()))
    }

    /// The rest of the entry called `name`.
    pub(super) fn describe(mut self, block: &Block, name: &[u8]) -> Result<Described, Fault> {
        let mut pax = self.pax.take().unwrap_or_default();
        let size = pax.size.map_or_else(|| block.size(), Ok)?;
        let mut payload = 0;
        // Types without a payload have none whatever their size field says (as in Go's archive/tar, which all
        // container engines use).
        let makes = match block.typeflag() {
            0 if name.ends_with(b"/") => {
                payload = size; // V7 has no type for directories
                Makes::Directory
            }
            0 | b'0' | b'7' => {
                payload = size;
                pax.sparse.take().map_or(Ok(Makes::File), Makes::of_sparse)?
            }
            b'S' => {
                payload = size;
                let (map, goes_on, size) = block.sparse()?;
                Makes::OldSparse { map, goes_on, size }
            }
            b'V' => {
                payload = size;
                Makes::Nothing
            }
            b'1' => Makes::HardLink(self.link(&mut pax, block)?),
            b'2' => Makes::Symlink(self.link(&mut pax, block)?),
            b'3' => {
                let (major, minor) = block.device()?;
                Makes::CharDevice(major, minor)
            }
            b'4' => {
                let (major, minor) = block.device()?;
                Makes::BlockDevice(major, minor)
            }
            b'5' => Makes::Directory,
            b'6' => Makes::Fifo,
            other => return Err(Fault::Type(other.escape_ascii().to_string())),
        };
        let attributes = Attributes {
            mode: block.mode()?,
            uid: pax.uid.map_or_else(|| block.uid(), Ok)?,
            gid: pax.gid.map_or_else(|| block.gid(), Ok)?,
            mtime: pax.mtime.map_or_else(|| block.mtime().map(|seconds| Time { seconds, nanos: 0 }), Ok)?,
            xattrs: mem::take(&mut pax.xattrs),
        };
        Ok(Described { attributes, makes, payload })
    }

    fn link(&mut self, pax: &mut Pax, block: &Block) -> Result<Vec<u8>, Fault> {
        Ok(one_of(pax.link.take(), self.long_link.take())?.unwrap_or_else(|| block.link().to_vec()))
    }
}

fn one_of(pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Fault> {
    match (pax, gnu) {
        (Some(pax), Some(gnu)) if pax != gnu => Err(Fault::NamedTwice),
        (pax, gnu) => Ok(pax.or(gnu)),
    }
}

impl Makes {
    fn of_sparse(sparse: Sparse) -> Result<Self, Fault> {
        use crate::index::tar::sparse::SparseError;
        let size = sparse.size.ok_or(SparseError::NoSize)?;
        match sparse.version {
            (1, 0) => Ok(Self::MappedInPayload { size }),
            (0, 0 | 1) => Ok(Self::Sparse { map: sparse.map()?, size }),
            (major, minor) => Err(SparseError::Version(major, minor).into()),
        }
    }
}
