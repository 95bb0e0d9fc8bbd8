//! A layer's frames that are not kept, or dropped as fast as they come: lent to their readers from memory for a while.

use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use crate::digest::Checked;
use crate::index::frames::FrameId;
use crate::store::layer::Layer;
use crate::store::resident::Unread;
use crate::sync::{Arc, spawn};

/// How long: who waits for a frame reads it at once, and a full disk should not cost memory for ever.
const LENT_FOR: Duration = Duration::from_secs(10);

/// As long as this is there, small frames that are filled are lent too: who drops them meanwhile takes them from nobody.
pub struct Insisting {
    layer: Arc<Layer>,
    frames: Range<u32>,
}

impl Drop for Insisting {
    fn drop(&mut self) {
        let layer = &self.layer;
        self.frames.clone().for_each(|frame| layer.shared.cache.unkept.want_no_more((layer.slot(), frame)));
    }
}

impl Layer {
    /// For a reader who has found these frames dropped again and again.
    pub fn insist(self: &Arc<Self>, frames: Range<u32>) -> Insisting {
        let frames = frames.start..frames.end.min(self.frames().len());
        frames.clone().for_each(|frame| self.shared.cache.unkept.want((self.slot(), frame)));
        Insisting { layer: self.clone(), frames }
    }

    /// Holds a frame that is kept in memory as well, if somebody insists.
    pub(super) fn lend_too(self: &Arc<Self>, frame: u32, bytes: Checked<Vec<u8>>) {
        if self.shared.cache.unkept.is_wanted((self.slot(), frame)) {
            self.hold(frame, bytes);
        }
    }

    /// Holds a frame in memory for those who wait for it.
    pub(super) fn lend(self: &Arc<Self>, frame: u32, bytes: Checked<Vec<u8>>, cause: &dyn std::fmt::Display) {
        self.shared.cache.note_unkept(self.digest(), cause);
        self.hold(frame, bytes);
    }

    /// Called where something runs that blocks.
    fn hold(self: &Arc<Self>, frame: u32, bytes: Checked<Vec<u8>>) {
        let key = (self.slot(), frame);
        self.shared.cache.unkept.put(key, bytes);
        let shared = Arc::downgrade(&self.shared); // a root is free as soon as its store is closed
        spawn(async move {
            tokio::time::sleep(LENT_FOR).await;
            if let Some(shared) = shared.upgrade() {
                shared.cache.unkept.remove(key);
            }
        });
    }

    /// Whether the frame can be read just now.
    pub(super) fn is_at_hand(&self, frame: u32) -> bool {
        self.is_resident(frame) || self.shared.cache.unkept.has((self.slot(), frame))
    }

    /// Reads what is partly resident and partly lent. Says whether all of it was; if not, `out` is not to be looked at.
    pub(super) fn read_unkept(&self, range: Range<u64>, out: &mut [u8]) -> bool {
        let mut frames = self.frames().covering(range.clone());
        if !frames.clone().all(|frame| self.is_at_hand(frame)) {
            return false;
        }
        // Between frames there may be zeros that belong to none.
        out.fill(0);
        frames.all(|frame| self.read_part(frame, &range, out).is_some())
    }

    /// Reads what `range` has of the frame to its place in `out`, from memory if it is lent.
    fn read_part(&self, frame: u32, range: &Range<u64>, out: &mut [u8]) -> Option<()> {
        let data = self.frames().data_range(FrameId(frame)).ok()?;
        let part = data.start.max(range.start)..data.end.min(range.end);
        let within = |start: u64| {
            let place = |at: u64| at.checked_sub(start).and_then(|at| usize::try_from(at).ok());
            place(part.start).zip(place(part.end))
        };
        let (start, end) = within(range.start)?;
        let into = out.get_mut(start..end)?;
        if let Some(lent) = self.shared.cache.unkept.get((self.slot(), frame)) {
            let (start, end) = within(data.start)?;
            into.copy_from_slice(lent.get().get(start..end)?);
            return Some(());
        }
        match self.resident().read(|| frame..frame + 1, || self.data().read_exact_at(into, part.start)) {
            Ok(()) => Some(()),
            Err(Unread::NotResident(_)) => None,
            Err(Unread::Failed(_seen_again_when_it_is_compared)) => {
                self.distrust(frame..frame + 1);
                None
            }
        }
    }
}
