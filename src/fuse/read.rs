//! The read path: a file's bytes from its layer's data file, at once if they are resident.
//!
//! A FUSE thread that finds a frame missing hands the reply to a task and takes the next request.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use super::metrics::Cause;
use crate::index::tree::read::TreeError;
use crate::index::tree::{Nid, Place};
use crate::store::{FillFailed, Layer, ReadError};

/// How often a read fills what it misses. More than once only if the frames are dropped again before it read them.
const FILLS_MAX: usize = 16;

/// After so many it insists on having them.
const FILLS_PATIENT: usize = 3;

/// Extents that are looked at for what comes next.
const STRETCHES_MAX: usize = 256;

/// A stretch of one file, as the kernel asks for it.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) layer: Arc<Layer>,
    pub(super) file: Nid,
    pub(super) at: u64,
    pub(super) len: usize,
}

/// Why there are no bytes.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadFailed {
    #[error("frames {0:?} are not resident")]
    NotResident(Range<u32>),
    #[error("the layer's tree is damaged; run `oncefs check --repair`")]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Data(ReadError),
    #[error(transparent)]
    Fill(#[from] FillFailed),
    #[error("its frames are dropped as fast as they are fetched")]
    Evicted,
}

impl ReadFailed {
    /// For those who count.
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Tree(_) => Cause::Tree,
            Self::Data(_) => Cause::Disk,
            Self::NotResident(_) | Self::Fill(_) | Self::Evicted => Cause::Fetch,
        }
    }
}

thread_local! {
    /// The reply's bytes. A megabyte for each request would be most of its cost.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Wanted {
    /// Hands the bytes to `give`, fewer at the end of the file. Waits for nothing but the disk.
    pub(super) fn now(&self, give: impl FnOnce(&[u8])) -> Result<(), ReadFailed> {
        BUFFER.with_borrow_mut(|buffer| {
            let size = self.layer.tree().node(self.file)?.size;
            let left = usize::try_from(size.saturating_sub(self.at)).unwrap_or(usize::MAX);
            let len = self.len.min(left);
            if buffer.len() < len {
                buffer.resize(len, 0);
            }
            let out = buffer.get_mut(..len).unwrap_or_default();
            self.read_into(out)?;
            give(out);
            Ok(())
        })
    }

    /// Has what comes next fetched, if the file is being read on and on. Waits for nothing. Must be called inside a runtime.
    pub(super) fn ahead(&self) {
        let Ok(node) = self.layer.tree().node(self.file) else { return };
        let end = self.at.saturating_add(self.len as u64).min(node.size);
        let Some(ahead) = self.layer.reads_on(self.file.0.into(), &(self.at..end), node.size) else { return };
        let (mut at, mut stretches) = (ahead.start, Vec::new());
        while at < ahead.end && stretches.len() < STRETCHES_MAX {
            let Ok(extent) = self.layer.tree().extent(self.file, at) else { return };
            let len = extent.len.min(ahead.end - at);
            if let Place::Data(offset) = extent.place {
                stretches.push(offset..offset + len);
            }
            at += len.max(1);
        }
        self.layer.fetch_ahead(stretches);
    }

    /// Fetches what is missing, and then what is missing still, until there are bytes for `give`.
    pub(super) async fn later(&self, missing: Range<u32>, mut give: impl FnMut(&[u8])) -> Result<(), ReadFailed> {
        let _waiting = self.layer.waits().begin(missing.clone());
        let mut missing = missing;
        for fills in 0..FILLS_MAX {
            let _until_it_has_read = (fills >= FILLS_PATIENT).then(|| self.layer.insist(missing.clone()));
            self.layer.fill(missing).await?;
            missing = match self.now(&mut give) {
                Err(ReadFailed::NotResident(missing)) => missing,
                read => return read,
            };
        }
        Err(ReadFailed::Evicted)
    }

    /// `out` lies within the file.
    fn read_into(&self, out: &mut [u8]) -> Result<(), ReadFailed> {
        let (mut at, mut rest) = (self.at, out);
        while !rest.is_empty() {
            let extent = self.layer.tree().extent(self.file, at)?;
            let here = usize::try_from(extent.len).unwrap_or(usize::MAX).min(rest.len());
            let (part, after) = rest.split_at_mut(here);
            match extent.place {
                Place::Data(offset) => self.layer.read_at(offset, part).map_err(|error| match error {
                    ReadError::NotResident { frames } => ReadFailed::NotResident(frames),
                    other => ReadFailed::Data(other),
                })?,
                Place::Tree(offset) => part.copy_from_slice(self.layer.tree().bytes(offset, here as u64)?),
                Place::Hole => part.fill(0),
            }
            at += here as u64;
            rest = after;
        }
        Ok(())
    }
}
