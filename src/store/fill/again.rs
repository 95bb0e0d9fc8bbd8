//! Bytes that are not the layer's: from a mirror that lies, a proxy that spoils them, a disk behind the registry. They are had from the next
//! place; where there is none, readers wait for right ones as they wait for a source that is away.

use futures::future::FutureExt as _;

use crate::gate::Urgency;
use crate::index::frames::FrameId;
use crate::store::fill::large::Shown;
use crate::store::fill::{Fetched, FillError, is_large};
use crate::store::layer::Layer;
use crate::store::outage::Turn;
use crate::sync::Arc;

/// Places that are asked for one frame without a pause.
const PLACES_MAX: usize = 4;

impl Layer {
    /// Fills the frame although what came for it was `wrong`.
    pub(super) async fn fill_again(
        self: &Arc<Self>,
        id: u32,
        mut wrong: FillError,
        urgency: &Urgency,
    ) -> Result<(), FillError> {
        for _ in 0..PLACES_MAX {
            if !self.leave_place().await {
                break;
            }
            match self.fill_anew(id, urgency).await {
                Err(error) if error.is_of_bytes() => wrong = error,
                ended => return ended,
            }
        }
        let (spoilt, fetching) = (&self.outages.spoilt, &self.shared.fetching);
        if fetching.patience().is_zero() || !urgency.is_reader() {
            return Err(wrong);
        }
        spoilt.began(self.digest(), &wrong, fetching);
        let patience = spoilt.patience(self.digest(), fetching);
        loop {
            // A turn to try is kept until the frame has been looked at: one at a time, for all frames of the layer.
            let _turn = match patience.turn().await {
                Turn::GiveUp(_) => return Err(wrong),
                turn => turn,
            };
            match tokio::time::timeout_at(patience.deadline, self.fill_anew(id, urgency)).await {
                Err(_too_late) => return Err(wrong),
                Ok(Err(error)) if error.is_of_bytes() => {
                    self.leave_place().await;
                    spoilt.began(self.digest(), &error, fetching);
                    wrong = error;
                }
                Ok(ended) => {
                    if ended.is_ok() {
                        spoilt.ended(self.digest());
                    }
                    return ended;
                }
            }
        }
    }

    /// The place that the last bytes came from is not asked for the blob again. Says whether there is another, or another frame has left it
    /// before. In any case the blob is looked up anew.
    async fn leave_place(&self) -> bool {
        self.blob.lock().await.take().is_none_or(|blob| blob.was_wrong())
    }

    /// Fetches the frame alone.
    async fn fill_anew(self: &Arc<Self>, id: u32, urgency: &Urgency) -> Result<(), FillError> {
        let source = self.frames().source_range(FrameId(id)).map_err(|error| self.index_error(error))?;
        let data = self.frames().data_range(FrameId(id)).map_err(|error| self.index_error(error))?;
        if is_large(&source, &data) {
            return self.fill_large(id, Shown::nobody(), urgency).await;
        }
        let (bytes, place) = self.fetch(source.clone(), urgency).await?;
        let fetched = Fetched { start: source.start, bytes, _place: Some(Arc::new(place)) };
        self.fill_small(id, futures::future::ready(Ok(fetched)).boxed().shared(), urgency).await
    }
}
