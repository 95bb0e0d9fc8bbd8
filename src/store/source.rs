//! Where a layer's blob is had: opened when first needed, kept, opened again after it failed.

use std::io::{self, Read};
use std::ops::Range;

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

use crate::blob::Blob;
use crate::gate::{Place, Urgency};
use crate::store::fill::FillError;
use crate::store::layer::Layer;
use crate::store::outage::Turn;
use crate::sync::Arc;

/// Pieces of a blob as they come from another task, read as one stream. It ends when the sender is dropped.
pub(super) struct Pieces {
    from: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

// === impl Layer ===

impl Layer {
    /// Exactly these bytes of the layer's blob, unverified, and the right to hold them in memory. While the source is away
    /// readers wait for it, as long as is set.
    pub(super) async fn fetch(&self, range: Range<u64>, urgency: &Urgency) -> Result<(Bytes, Place), FillError> {
        let (outage, fetching) = (&self.outages.away, &self.shared.fetching);
        if fetching.patience().is_zero() {
            return self.fetch_now(range, urgency).await;
        }
        let mut patience = None;
        if outage.is_away() {
            if !urgency.is_reader() {
                let _trying = outage.try_now(fetching)?;
                let fetched = self.fetch_now(range, urgency).await;
                if !fetched.as_ref().is_err_and(is_away) {
                    outage.ended(self.digest());
                }
                return fetched;
            }
            patience = Some(outage.patience(self.digest(), fetching));
        }
        loop {
            let asking = self.fetch_now(range.clone(), urgency);
            let turn = if let Some(patience) = &patience { patience.turn().await } else { Turn::Ask };
            let fetched = match (turn, &patience) {
                (Turn::GiveUp(error), _) => return Err(error),
                (Turn::Try(_trying), Some(patience)) => {
                    match tokio::time::timeout_at(patience.deadline, asking).await {
                        Ok(fetched) => fetched,
                        Err(_too_late) => continue,
                    }
                }
                _ => asking.await,
            };
            match fetched {
                Err(error) if is_away(&error) && urgency.is_reader() => {
                    outage.began(self.digest(), &error, fetching);
                    patience.get_or_insert_with(|| outage.patience(self.digest(), fetching));
                }
                Err(error) if is_away(&error) => return Err(error),
                answered => {
                    outage.ended(self.digest());
                    return answered;
                }
            }
        }
    }

    async fn fetch_now(&self, range: Range<u64>, urgency: &Urgency) -> Result<(Bytes, Place), FillError> {
        let place = self.shared.fetches.enter(urgency).await;
        let asking = self.fetch_range(range.clone(), urgency);
        let bytes = self.recorders().asked(self.digest(), range, asking).await?;
        Ok((bytes, place))
    }

    async fn fetch_range(&self, range: Range<u64>, urgency: &Urgency) -> Result<Bytes, FillError> {
        let (blob, kept) = self.blob().await?;
        let mut fetched = blob.range_for(range.clone(), urgency).await;
        if fetched.is_err() {
            self.forget_blob(&blob).await;
            // A blob that once worked may only have grown old: a token that ran out, an address that moved.
            if kept {
                let (again, _) = self.blob().await?;
                fetched = again.range_for(range, urgency).await;
                if fetched.is_err() {
                    self.forget_blob(&again).await;
                }
            }
        }
        let failed = |source| FillError::Blob { layer: self.digest(), source };
        fetched.map_err(failed)
    }

    /// The blob, and whether it had been opened before.
    pub(super) async fn blob(&self) -> Result<(Arc<dyn Blob>, bool), FillError> {
        let mut kept = self.blob.lock().await;
        if let Some(blob) = &*kept {
            return Ok((blob.clone(), true));
        }
        let layer = self.digest();
        let places = self.places().ok_or(FillError::NoOrigin { layer })?;
        places.open().await.map_err(|source| FillError::Blob { layer, source })?;
        let blob: Arc<dyn Blob> = Arc::new(places);
        *kept = Some(blob.clone());
        Ok((blob, false))
    }

    async fn forget_blob(&self, failed: &Arc<dyn Blob>) {
        let mut kept = self.blob.lock().await;
        if kept.as_ref().is_some_and(|blob| Arc::ptr_eq(blob, failed)) {
            *kept = None;
        }
    }
}

/// Whether another time may be better. The layer has an index, so its blob was there once: a registry that does not find it now, wants
/// another login for it or sends another length than it has may be itself again in a moment.
fn is_away(error: &FillError) -> bool {
    matches!(error, FillError::Blob { .. })
}

// === impl Pieces ===

impl Pieces {
    pub(super) fn new(from: mpsc::Receiver<Bytes>) -> Self {
        Self { from, piece: Bytes::new() }
    }
}

impl Read for Pieces {
    /// Blocks until a piece comes: not for async code.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.from.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let len = self.piece.len().min(into.len());
        self.piece.split_to(len).copy_to_slice(into.get_mut(..len).unwrap_or_default());
        Ok(len)
    }
}
