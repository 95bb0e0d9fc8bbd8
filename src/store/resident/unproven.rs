//! Frames that are on disk and must be compared with their digests before somebody reads them: from an earlier process, or not readable a moment
//! ago.

use std::ops::Range;

use super::{GROUP, bit};
use crate::sync::atomic::{AtomicU32, Ordering};

/// One bit a frame.
#[derive(Debug)]
pub(super) struct Unproven {
    groups: Box<[AtomicU32]>,
    /// Bits that are set: a layer without costs its readers one load.
    left: AtomicU32,
}

// === impl Unproven ===

impl Unproven {
    /// Nothing is to be proven.
    pub(super) fn new(groups: usize) -> Self {
        Self { groups: (0..groups).map(|_| AtomicU32::new(0)).collect(), left: AtomicU32::new(0) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }

    /// From the first to the last frame of `range` whose bit is set.
    pub(super) fn within(&self, mut range: Range<u32>) -> Option<Range<u32>> {
        let first = range.find(|frame| self.has(*frame))?;
        let last = range.rev().find(|frame| self.has(*frame)).unwrap_or(first);
        Some(first..last + 1)
    }

    pub(super) fn set(&self, frame: u32) {
        let Some(group) = self.groups.get((frame / GROUP) as usize) else { return };
        // Counted first: who finds none left looks at no bit.
        self.left.fetch_add(1, Ordering::AcqRel);
        if group.fetch_or(bit(frame), Ordering::AcqRel) & bit(frame) != 0 {
            self.left.fetch_sub(1, Ordering::AcqRel);
        }
    }

    pub(super) fn clear(&self, frame: u32) {
        let Some(group) = self.groups.get((frame / GROUP) as usize) else { return };
        if group.fetch_and(!bit(frame), Ordering::AcqRel) & bit(frame) != 0 {
            self.left.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn has(&self, frame: u32) -> bool {
        let group = self.groups.get((frame / GROUP) as usize);
        group.is_some_and(|group| group.load(Ordering::Acquire) & bit(frame) != 0)
    }
}
