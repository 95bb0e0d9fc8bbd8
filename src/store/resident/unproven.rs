//! Frames that are on disk from an earlier process, and of which this one has not seen yet whether they still have their digests.

use std::ops::Range;

use super::{GROUP, bit};
use crate::sync::atomic::{AtomicU32, Ordering};

/// One bit a frame. Bits are only ever cleared. Without groups there is nothing to prove.
#[derive(Debug, Default)]
pub(super) struct Unproven {
    groups: Box<[AtomicU32]>,
    /// Bits that are set: a layer without costs its readers one load.
    left: AtomicU32,
}

// === impl Unproven ===

impl Unproven {
    pub(super) fn is_empty(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }

    /// From the first to the last frame of `range` whose bit is set.
    pub(super) fn within(&self, mut range: Range<u32>) -> Option<Range<u32>> {
        let first = range.find(|frame| self.has(*frame))?;
        let last = range.rev().find(|frame| self.has(*frame)).unwrap_or(first);
        Some(first..last + 1)
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

impl FromIterator<u32> for Unproven {
    fn from_iter<T: IntoIterator<Item = u32>>(groups: T) -> Self {
        let groups: Box<[u32]> = groups.into_iter().collect();
        let left = groups.iter().map(|bits| bits.count_ones()).sum();
        Self { groups: groups.iter().map(|bits| AtomicU32::new(*bits)).collect(), left: AtomicU32::new(left) }
    }
}
