//! A large frame whose flight a pass overhears.

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use tokio::sync::mpsc;

use crate::flight::Failed;
use crate::store::fill::{FillError, FillFailed, PIECES_UNHEARD, Piece};
use crate::store::layer::Layer;
use crate::sync::Arc;

/// The wish for the frame, until it is dropped, and what its flight shows. It begins with the first look.
pub(super) struct Overheard {
    end: u64,
    shown: mpsc::Receiver<Piece>,
    filling: BoxFuture<'static, Result<(), FillFailed>>,
    filled: Option<Result<(), FillFailed>>,
}

impl Overheard {
    /// `end`: where in the blob the frame's source ends.
    pub(super) fn new(layer: &Arc<Layer>, frame: u32, end: u64) -> Self {
        let (to, shown) = mpsc::channel(PIECES_UNHEARD);
        Self { end, shown, filling: layer.clone().fill_shown(frame, to).boxed(), filled: None }
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// What comes at this place of the blob; `None` if that is not shown, as the flight had begun before or does not wait any more.
    pub(super) async fn next(&mut self, at: u64) -> Option<Bytes> {
        loop {
            let piece = tokio::select! {
                biased;
                filled = &mut self.filling, if self.filled.is_none() => {
                    self.filled = Some(filled);
                    continue;
                }
                piece = self.shown.recv() => piece?,
            };
            let passed = usize::try_from(at.checked_sub(piece.start)?).ok()?;
            if passed < piece.bytes.len() {
                return Some(piece.bytes.slice(passed..));
            }
        }
    }

    /// Waits for the end of the flight. That there was no room says nothing of the blob.
    pub(super) async fn ended(self) -> Result<(), FillFailed> {
        let filled = match self.filled {
            Some(filled) => filled,
            None => self.filling.await,
        };
        match filled {
            Err(Failed::Work(error)) if matches!(*error, FillError::Full { .. }) => Ok(()),
            ended => ended,
        }
    }
}
