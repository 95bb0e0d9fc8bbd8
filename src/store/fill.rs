//! Making frames resident: fetch, decode, check, write, mark. One flight a frame, one request for neighbours.
//!
//! A byte goes into the data file only after its frame's digest matched, so a fill that is cancelled, or fails, or
//! dies half way can leave a frame half written but never wrong.

mod again;
mod error;
mod large;
mod together;

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _, Shared as SharedFuture};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::oneshot;

use crate::digest::check_frame;
use crate::errors::with_causes;
use crate::flight::Failed;
use crate::gate::{Place, Urgency};
use crate::index::codec;
use crate::index::frames::FrameId;
use crate::store::layer::Layer;
use crate::store::wishes::Priority;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, spawn};

/// Frames up to this size, packed and unpacked, pass through memory; larger ones through an unnamed file.
const IN_MEMORY_BYTES_MAX: u64 = 8 << 20;

/// How many requests one call has under way.
const REQUESTS_OF_A_CALL: usize = 4;

/// Residency is written down so long after a fill: a crash costs fetching what was filled since then once more.
const SYNC_DELAY: Duration = Duration::from_secs(5);

pub use error::FillError;
use large::Shown;
pub(super) use large::{PIECE_BYTES, PIECES_UNHEARD, Piece};
use together::Together;

/// What [`Layer::fill`] fails with; everybody who waited for the same frame gets the same.
pub type FillFailed = Failed<FillError>;

/// Source bytes of neighbouring frames, and the right to hold them in memory.
#[derive(Clone)]
pub(super) struct Fetched {
    pub(super) start: u64,
    pub(super) bytes: Bytes,
    /// None if something else bounds them.
    pub(super) _place: Option<Arc<Place>>,
}

type Fetching = SharedFuture<BoxFuture<'static, Result<Fetched, FillError>>>;

/// How a frame's flight gets at its bytes.
enum Way {
    /// They are there.
    Resident,
    /// In memory, from a request that it may share.
    Small(Fetching, Urgency),
    /// Piece by piece through a file, and somebody may look on.
    Large(Shown, Urgency),
}

/// A request that is being put together. Flights that need it wait for it from the start.
struct Request {
    fetching: Fetching,
    urgency: Urgency,
    range: Option<Range<u64>>,
    sender: oneshot::Sender<Range<u64>>,
}

// === impl Request ===

impl Request {
    fn new(layer: Arc<Layer>) -> Self {
        let (sender, range) = oneshot::channel::<Range<u64>>();
        let urgency = Urgency::background(); // until a wish for one of its frames says otherwise
        let own = urgency.clone();
        let fetching = async move {
            let range = range.await.map_err(|_| FillError::Stopping)?;
            let (bytes, place) = layer.fetch(range.clone(), &own).await?;
            Ok(Fetched { start: range.start, bytes, _place: Some(Arc::new(place)) })
        };
        Self { fetching: fetching.boxed().shared(), urgency, range: None, sender }
    }

    /// Asks for the source of one frame more, which begins no earlier than those it asks for already.
    fn extend(&mut self, source: Range<u64>) {
        let start = self.range.as_ref().map_or(source.start, |range| range.start);
        let end = self.range.as_ref().map_or(source.end, |range| range.end.max(source.end));
        self.range = Some(start..end);
    }

    fn send(self) {
        if let Some(range) = self.range {
            let _ = self.sender.send(range); // nobody listens if every flight was left in the meantime
        }
    }
}

// === impl Layer ===

impl Layer {
    /// Returns when every frame of `frames` was resident; one that is dropped again right away is the reader's to ask
    /// for again. Must be called inside a runtime. Dropping it gives up what nobody else waits for.
    pub async fn fill(self: &Arc<Self>, frames: Range<u32>) -> Result<(), FillFailed> {
        let _waits = self.shared.reader_waits();
        self.fetch_around(&frames);
        self.fill_for(frames, Priority::Reader).await
    }

    /// The same, for readers or in the background. What a reader joins goes on as a reader's.
    pub async fn fill_for(self: &Arc<Self>, frames: Range<u32>, priority: Priority) -> Result<(), FillFailed> {
        self.prove(frames.clone(), priority).await;
        self.take_from_twins(frames.clone(), priority).await;
        let requests = self.plan(frames, priority).map_err(|error| Failed::Work(Arc::new(error)))?;
        let filling = stream::iter(requests).map(|together| self.fill_together(together, priority));
        filling.buffer_unordered(REQUESTS_OF_A_CALL).try_collect().await
    }

    /// Joins the flights of neighbouring frames. Those that nobody fills yet share requests, each for frames without
    /// a gap, so that no byte is asked for twice. Returns when those that were asked for are there.
    async fn fill_together(self: &Arc<Self>, together: Together, priority: Priority) -> Result<(), FillFailed> {
        let failed = |error| Failed::Work(Arc::new(self.index_error(error)));
        let (mut tickets, mut others, mut open) = (Vec::new(), Vec::new(), None);
        for frame in together.frames {
            let is_wanted = together.wanted.contains(&frame);
            let source = self.frames().source_range(FrameId(frame)).map_err(failed)?;
            let data = self.frames().data_range(FrameId(frame)).map_err(failed)?;
            let mut request = open.take().unwrap_or_else(|| Request::new(self.clone()));
            let mut shares = false;
            let key = (self.slot(), frame);
            // What comes along hurries for nobody: only the request does.
            let urgency = if is_wanted { request.urgency.clone() } else { Urgency::background() };
            // Before the flight is joined: whoever starts it sees it, or we see that one's work.
            let wish = self.shared.wishes.wish(key, if is_wanted { priority } else { Priority::Background });
            let ticket = self.shared.fills.join(key, || {
                wish.works(&request.urgency);
                if !is_wanted {
                    wish.works(&urgency);
                }
                // Nobody else fills the frame from here on; but somebody may have since it was planned for.
                let way = match is_large(&source, &data) {
                    _ if self.is_at_hand(frame) => Way::Resident,
                    true => Way::Large(Shown::nobody(), urgency),
                    false => Way::Small(request.fetching.clone(), urgency),
                };
                shares = matches!(way, Way::Small(..));
                self.clone().fill_one(frame, way)
            });
            if is_wanted { &mut tickets } else { &mut others }.push(ticket.map(move |filled| {
                drop(wish);
                filled
            }));
            if shares {
                request.extend(source);
                open = Some(request);
            } else {
                request.send();
            }
        }
        if let Some(request) = open {
            request.send();
        }
        if !others.is_empty() {
            // Whoever comes to want one is told what became of it.
            spawn(async move { drop(futures::future::join_all(others).await) });
        }
        futures::future::try_join_all(tickets).await.map(drop)
    }

    /// The work of one frame's flight.
    async fn fill_one(self: Arc<Self>, id: u32, way: Way) -> Result<(), FillError> {
        let (filled, urgency) = match way {
            Way::Resident => return Ok(()),
            Way::Large(shown, urgency) => (self.fill_large(id, shown, &urgency).await, urgency),
            Way::Small(fetching, urgency) => (self.fill_small(id, fetching, &urgency).await, urgency),
        };
        let filled = match filled {
            Err(wrong) if wrong.is_of_bytes() => self.fill_again(id, wrong, &urgency).await,
            filled => filled,
        };
        if filled.is_ok() {
            self.sync_soon();
        }
        filled
    }

    /// A frame whose bytes are here already, through the same door as all.
    pub(super) async fn fill_fetched(self: &Arc<Self>, id: u32, fetched: Fetched) -> Result<(), FillFailed> {
        let (key, urgency) = ((self.slot(), id), Urgency::background());
        let wish = self.shared.wishes.wish(key, Priority::Background);
        let ticket = self.shared.fills.join(key, || {
            wish.works(&urgency);
            let fetching: Fetching = futures::future::ready(Ok(fetched)).boxed().shared();
            let way = if self.is_at_hand(id) { Way::Resident } else { Way::Small(fetching, urgency) };
            self.clone().fill_one(id, way)
        });
        ticket.await
    }

    async fn fill_small(self: &Arc<Self>, id: u32, fetching: Fetching, urgency: &Urgency) -> Result<(), FillError> {
        let fetched = fetching.await?;
        let permit = self.shared.decodes.enter(urgency).await;
        let layer = self.clone();
        blocking(move || {
            let _until_the_end = permit; // also when nobody waits any more
            layer.keep_small(id, &fetched)
        })
        .await
    }

    /// Decodes and checks a frame in memory, and keeps it if there is room.
    fn keep_small(self: &Arc<Self>, id: u32, fetched: &Fetched) -> Result<(), FillError> {
        let frame = self.frames().get(FrameId(id)).map_err(|error| self.index_error(error))?;
        let place = |at: u64| at.checked_sub(fetched.start).and_then(|at| usize::try_from(at).ok());
        let place = place(frame.source.start).zip(place(frame.source.end));
        let source = place.and_then(|(start, end)| fetched.bytes.get(start..end)).unwrap_or_default();
        let decode = |mut source: &[u8]| {
            let mut data = Vec::with_capacity(length(&frame.data) as usize);
            codec::decode(&frame, &mut source, &mut data).map_err(|error| self.decode_error(id, error))?;
            Ok(data)
        };
        let check = |error| self.mismatch(id, error);
        let data = if frame.digest.is_of_source() {
            check_frame(source, &frame.digest).map_err(check)?.derive(decode)?
        } else {
            check_frame(decode(source)?, &frame.digest).map_err(check)?
        };
        let Some(room) = self.shared.cache.room(length(&frame.data)) else {
            self.lend(id, data, &"the cache is full of what may not go");
            return Ok(());
        };
        match self.keep_bytes(id, frame.data.start, &data).map_err(|error| self.write_error(id, error)) {
            Ok(()) => {
                room.kept();
                self.lend_too(id, data);
            }
            // A disk that is full, broken or read-only takes nothing; readers have their bytes all the same.
            Err(error) => self.lend(id, data, &with_causes(&error)),
        }
        Ok(())
    }

    /// Sees to it that residency is written down in a while.
    pub(super) fn sync_soon(self: &Arc<Self>) {
        if self.sync_awaited.swap(true, Ordering::AcqRel) {
            return;
        }
        let layer = Arc::downgrade(self); // a store that is closed meanwhile has written it down itself
        spawn(async move {
            tokio::time::sleep(SYNC_DELAY).await;
            let Some(layer) = layer.upgrade() else { return };
            layer.sync_awaited.store(false, Ordering::Release);
            let digest = layer.digest();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || layer.sync()).await {
                tracing::warn!(layer = %digest, %error, "residency was not written down; what came since the last time is fetched again");
            }
        });
    }
}

/// Runs what blocks where it may. A panic goes on to the flight, which makes it everybody's error.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FillError> + Send + 'static,
) -> Result<T, FillError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_stopping) => Err(FillError::Stopping),
    }
}

/// Whether a frame passes through a file instead of memory; it is not fetched together with others either.
pub(super) fn is_large(source: &Range<u64>, data: &Range<u64>) -> bool {
    length(source).max(length(data)) > IN_MEMORY_BYTES_MAX
}

fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}
