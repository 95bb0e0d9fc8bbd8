//! Places that readers get before background work: what stands before connections, requests, decoders and the disk.
//!
//! Who enters a [`Gate`] says by an [`Urgency`] whether somebody waits for the result. Readers are let in first, in the
//! order they came. Background work gets what they leave, and never the last quarter of the places, so that a reader
//! seldom finds all of them taken; but of so many readers that pass it one gives way, so that it is never shut out for ever.
//! Work that a reader joins becomes a reader's ([`Urgency::raise`]), wherever it waits.
//!
//! Nothing here knows what the places are for, and no caller is woken with a lock held.

mod bucket;
mod urgency;

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::sync::{Arc, Mutex};

pub use bucket::Bucket;
pub use urgency::{Urgency, Waiting};

/// So many places, which callers enter and leave. Clones share them.
#[derive(Clone)]
pub struct Gate {
    shared: Arc<Mutex<State>>,
}

/// A place, until it is dropped.
#[must_use = "the place is free again when this is dropped"]
pub struct Place {
    gate: Gate,
    is_reader: bool,
}

/// Resolves to a place. Dropping it gives the turn to the next.
pub struct Enter {
    gate: Gate,
    urgency: Waiting,
    /// Its number in the queue, once it stands in it.
    number: Option<u64>,
}

struct State {
    free: usize,
    /// Places that background work may still take.
    free_for_background: usize,
    next_number: u64,
    /// Who waits, by number.
    readers: BTreeMap<u64, Waker>,
    background: BTreeMap<u64, Waker>,
    /// Who was let in and does not know it yet, and as what.
    readers_in: HashSet<u64>,
    background_in: HashSet<u64>,
    /// Readers let in while background work waited, since it last got a turn.
    passed: u32,
}

/// So many readers may go before background work that came earlier; then it is its turn. One place in 33 is little to a
/// reader, and enough for background work to come to an end.
const PASSED_MAX: u32 = 32;

// === impl Gate ===

impl Gate {
    /// At least one place.
    pub fn new(places: usize) -> Self {
        let places = places.max(1);
        let kept_for_readers = if places == 1 { 0 } else { places.div_ceil(4) };
        let state = State {
            free: places,
            free_for_background: places - kept_for_readers,
            next_number: 0,
            readers: BTreeMap::new(),
            background: BTreeMap::new(),
            readers_in: HashSet::new(),
            background_in: HashSet::new(),
            passed: 0,
        };
        Self { shared: Arc::new(Mutex::new(state)) }
    }

    /// Waits for a place. What waits in the background is let in as a reader from when its urgency is raised.
    pub fn enter(&self, urgency: &Urgency) -> Enter {
        Enter { gate: self.clone(), urgency: urgency.waiting(), number: None }
    }

    /// How many hold on to it: its clones, those who are in, and those who wait.
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.shared)
    }

    /// Changes the state, and wakes those who were let in by that.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (changed, woken) = {
            let mut state = self.shared.lock();
            let changed = change(&mut state);
            (changed, state.let_in())
        };
        woken.into_iter().for_each(Waker::wake);
        changed
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").finish_non_exhaustive()
    }
}

// === impl State ===

impl State {
    /// Gives the free places to those whose turn it is.
    fn let_in(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        while self.free > 0 {
            let background_may = self.free_for_background > 0 && !self.background.is_empty();
            let is_its_turn = background_may && (self.readers.is_empty() || self.passed >= PASSED_MAX);
            let queue = if is_its_turn { &mut self.background } else { &mut self.readers };
            let Some((number, waker)) = queue.pop_first() else { break };
            self.free -= 1;
            if is_its_turn {
                self.free_for_background -= 1;
                self.background_in.insert(number);
                self.passed = 0;
            } else {
                self.readers_in.insert(number);
                self.passed = if self.background.is_empty() { 0 } else { self.passed.saturating_add(1) };
            }
            woken.push(waker);
        }
        woken
    }

    fn stand(&mut self, number: u64, is_reader: bool, waker: Waker) {
        // One that was raised keeps its number, and with it its turn among the readers.
        self.background.remove(&number);
        let queue = if is_reader { &mut self.readers } else { &mut self.background };
        queue.insert(number, waker);
    }

    /// Whether this one has been let in, and as what.
    fn was_let_in(&mut self, number: u64) -> Option<bool> {
        if self.readers_in.remove(&number) {
            return Some(true);
        }
        self.background_in.remove(&number).then_some(false)
    }

    fn leave(&mut self, is_reader: bool) {
        self.free += 1;
        self.free_for_background += usize::from(!is_reader);
    }
}

// === impl Enter ===

impl Future for Enter {
    type Output = Place;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Place> {
        let this = &mut *self;
        // Before the queue is looked at: raised after this, it wakes us.
        let is_reader = this.urgency.is_reader(cx.waker());
        let number = this.number;
        let (number, let_in) = this.gate.change(|state| {
            let number = number.unwrap_or_else(|| {
                state.next_number += 1;
                state.next_number
            });
            let let_in = state.was_let_in(number);
            if let_in.is_none() {
                state.stand(number, is_reader, cx.waker().clone());
            }
            (number, let_in)
        });
        this.number = Some(number);
        // The change itself may have let us in.
        let let_in = let_in.or_else(|| this.gate.shared.lock().was_let_in(number));
        let Some(is_reader) = let_in else { return Poll::Pending };
        this.number = None;
        Poll::Ready(Place { gate: this.gate.clone(), is_reader })
    }
}

impl Drop for Enter {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        self.gate.change(|state| {
            state.readers.remove(&number);
            state.background.remove(&number);
            if let Some(is_reader) = state.was_let_in(number) {
                state.leave(is_reader);
            }
        });
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        let is_reader = self.is_reader;
        self.gate.change(|state| state.leave(is_reader));
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("is_reader", &self.is_reader).finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod model;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
