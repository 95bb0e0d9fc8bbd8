//! Frames that are too large for memory: fetched piece by piece, decoded and checked into an unnamed file, kept from there.
//!
//! A pass over the blob that comes to such a frame does not fetch it beside the frame's own flight, but *overhears* it: the flight
//! shows it each piece. The flight waits until the pass has taken the piece, and so goes no faster than background work may. Once a reader
//! has joined the flight nothing is waited for any more: a pass that does not keep up loses the thread, and asks for the rest itself.

use std::fs::File;
use std::io::{BufWriter, Write as _};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::digest::{Checked, FrameHashing, SourceHashing};
use crate::gate::Urgency;
use crate::index::codec::{self, DecodeError};
use crate::index::frames::{Frame, FrameId};
use crate::store::fill::{FillError, FillFailed, Way, blocking, length};
use crate::store::layer::Layer;
use crate::store::source::Pieces;
use crate::store::wishes::Priority;
use crate::sync::Arc;
use crate::sys::file;

/// A large frame is fetched in requests of this size, with at most this many waiting to be decoded.
pub(in crate::store) const PIECE_BYTES: u64 = 1 << 20;
const PIECES_WAITING: usize = 2;

/// How many a pass may be behind the flight that it overhears.
pub(in crate::store) const PIECES_UNHEARD: usize = 1;

/// A piece of a blob, and where in the blob it begins.
#[derive(Debug)]
pub(in crate::store) struct Piece {
    pub(in crate::store) start: u64,
    pub(in crate::store) bytes: Bytes,
}

/// Shows a pass what a flight fetches, as long as the pass listens and nobody is in a hurry.
pub(super) struct Shown {
    to: Option<mpsc::Sender<Piece>>,
}

// === impl Shown ===

impl Shown {
    /// To nobody.
    pub(super) fn nobody() -> Self {
        Self { to: None }
    }

    fn to(pass: mpsc::Sender<Piece>) -> Self {
        Self { to: Some(pass) }
    }

    async fn show(&mut self, piece: Piece, urgency: &Urgency) {
        let Some(to) = &self.to else { return };
        let keeps_up = tokio::select! {
            biased;
            room = to.reserve() => room.map(|room| room.send(piece)).is_ok(),
            () = urgency.raised() => to.try_send(piece).is_ok(),
        };
        if !keeps_up {
            self.to = None;
        }
    }
}

// === impl Layer ===

impl Layer {
    /// Joins the flight of a large frame in the background. If that begins with it, it shows `pass` what it fetches.
    pub(in crate::store) async fn fill_shown(
        self: Arc<Self>,
        id: u32,
        pass: mpsc::Sender<Piece>,
    ) -> Result<(), FillFailed> {
        let (key, urgency) = ((self.slot(), id), Urgency::background());
        let wish = self.shared.wishes.wish(key, Priority::Background);
        let ticket = self.shared.fills.join(key, || {
            wish.works(&urgency);
            let way = if self.is_at_hand(id) { Way::Resident } else { Way::Large(Shown::to(pass), urgency) };
            self.clone().fill_one(id, way)
        });
        ticket.await
    }

    pub(super) async fn fill_large(
        self: &Arc<Self>,
        id: u32,
        mut shown: Shown,
        urgency: &Urgency,
    ) -> Result<(), FillError> {
        let frame = self.frames().get(FrameId(id)).map_err(|error| self.index_error(error))?;
        let permit = self.shared.large.enter(urgency).await;
        let (pieces, source) = mpsc::channel(PIECES_WAITING);
        let (layer, range) = (self.clone(), frame.source.clone());
        let keeping = blocking(move || {
            let _until_the_end = permit;
            let checked = layer.unpack_large(id, &frame, &mut Pieces::new(source))?;
            let room = layer.shared.cache.room(length(&frame.data)).ok_or_else(|| layer.no_room(id))?;
            layer.keep_file(id, &frame.data, &checked).map_err(|error| layer.write_error(id, error))?;
            room.kept();
            Ok(())
        });
        let sending = async {
            let mut start = range.start;
            while start < range.end {
                let end = range.end.min(start + PIECE_BYTES);
                let (bytes, place) = self.fetch(start..end, urgency).await?;
                if pieces.send(bytes.clone()).await.is_err() {
                    break; // the decoder gave up, and says why
                }
                drop(place);
                shown.show(Piece { start, bytes }, urgency).await;
                start = end;
            }
            drop((pieces, shown));
            Ok(())
        };
        let (sent, kept) = futures::future::join(sending, keeping).await;
        sent.and(kept) // a source that failed is why the decoder did
    }

    fn unpack_large(&self, id: u32, frame: &Frame, source: &mut Pieces) -> Result<Checked<BufWriter<File>>, FillError> {
        let unnamed = file::unnamed(self.shared.layout.root()).map_err(|error| self.write_error(id, error))?;
        if frame.digest.is_of_source() {
            let mut source = SourceHashing::new(source);
            let mut out = BufWriter::with_capacity(PIECE_BYTES as usize, unnamed);
            codec::decode(frame, &mut source, &mut out).map_err(|error| self.decode_error(id, error))?;
            out.flush().map_err(|error| self.write_error(id, error))?;
            let finished = source.finish(out, &frame.digest).map_err(DecodeError::Read);
            let finished = finished.map_err(|error| self.decode_error(id, error))?;
            return finished.map_err(|error| self.mismatch(id, error));
        }
        let mut hashing = FrameHashing::new(BufWriter::with_capacity(PIECE_BYTES as usize, unnamed), &frame.digest);
        codec::decode(frame, source, &mut hashing).map_err(|error| self.decode_error(id, error))?;
        hashing.flush().map_err(|error| self.write_error(id, error))?;
        hashing.finish().map_err(|error| self.mismatch(id, error))
    }
}
