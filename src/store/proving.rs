//! Frames that an earlier process left on disk, compared with their digests before somebody reads them (`[store] recheck`).
//!
//! A bit that turned on the disk meanwhile costs a request and is seen by nobody.

use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use futures::future::join_all;

use crate::digest::{Checked, FrameDigest, FrameHashing};
use crate::gate::Urgency;
use crate::index::frames::FrameId;
use crate::store::fill::{FillError, blocking};
use crate::store::layer::Layer;
use crate::store::wishes::Priority;
use crate::sync::Arc;

/// How much of a frame is in memory while it is compared.
const READ_BYTES: usize = 256 << 10;

impl Layer {
    /// Compares those of the frames that are resident and not proven, each in its flight; what is not as it should be is dropped, for the
    /// caller to fetch.
    pub(super) async fn prove(self: &Arc<Self>, frames: Range<u32>, priority: Priority) {
        let unproven = self.resident().unproven(frames.start..frames.end.min(self.frames().len()));
        let proving = unproven.into_iter().flatten().map(|frame| {
            let (key, urgency) = ((self.slot(), frame), Urgency::background());
            let wish = self.shared.wishes.wish(key, priority);
            let ticket = self.shared.fills.join(key, || {
                wish.works(&urgency);
                self.clone().prove_one(frame, urgency)
            });
            async move {
                let _until_then = wish;
                ticket.await
            }
        });
        join_all(proving).await;
    }

    async fn prove_one(self: Arc<Self>, frame: u32, urgency: Urgency) -> Result<(), FillError> {
        let permit = self.shared.decodes.enter(&urgency).await;
        blocking(move || {
            let _until_the_end = permit;
            if let Err(cause) = self.prove_now(frame) {
                tracing::warn!(layer = %self.digest(), frame, cause, "a frame on disk cannot be shown to be what it was; it is fetched again");
                let dropped = self.drop_frames(frame..frame + 1);
                return dropped.map_err(|error| self.write_error(frame, io::Error::other(error)));
            }
            Ok(())
        })
        .await
    }

    fn prove_now(&self, frame: u32) -> Result<(), String> {
        self.check_frame(frame, &mut vec![0; READ_BYTES])
    }

    /// Whether the frame's bytes on disk have its digest, or what is wrong with them; nothing is known to be if it is not
    /// resident, or was kept by an oncefs that noted nothing to compare it with.
    /// `buffer` is what is read at a time.
    pub(super) fn check_frame(&self, frame: u32, buffer: &mut [u8]) -> Result<(), String> {
        let range = self.frames().data_range(FrameId(frame)).map_err(|error| error.to_string())?;
        let hash = || match self.digest_of_kept(frame).map_err(|error| error.to_string())? {
            Some(digest) => self.check_data(&range, &digest, &mut *buffer).map(drop).map_err(|error| error.to_string()),
            None => Ok(()),
        };
        self.resident().prove(frame, hash)
    }

    /// What is in the data file, if it has the digest.
    pub(super) fn check_data(
        &self,
        range: &Range<u64>,
        digest: &FrameDigest,
        buffer: &mut [u8],
    ) -> io::Result<Checked<io::Sink>> {
        let (mut hashing, mut at) = (FrameHashing::new(io::sink(), digest), range.start);
        while at < range.end {
            let len = usize::try_from(range.end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
            let piece = buffer.get_mut(..len).unwrap_or_default();
            self.data().read_exact_at(piece, at)?;
            hashing.write_all(piece)?;
            at += len as u64;
        }
        hashing.finish().map_err(|mismatch| io::Error::new(io::ErrorKind::InvalidData, mismatch))
    }
}
