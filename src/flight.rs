//! Singleflight: work in progress that everybody who wants the same thing joins. The idea oncefs is named for.
//!
//! The first caller of [`Flight::join`] for a key starts the work; everybody who comes while it runs joins it;
//! all of them get the same result. The work belongs to none of them: it runs in a task of its own, and each
//! caller holds a [`Ticket`]. A caller that leaves drops its ticket and takes nobody down; the work is dropped
//! when the *last* ticket is. Background work is nothing special: it is somebody who keeps a ticket.
//!
//! A result, error or not, is not remembered: who joins after the end starts again. A panic in the work is an
//! error for all who wait, never a hang. Work for one key never runs twice at the same time, not even while
//! work that was left is still being dropped: its successor waits for that.
//!
//! This module knows nothing of what the work is, and never polls it with a lock held.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, spawn};

/// All flights of one kind of work, by key. Clones share them.
pub struct Flight<K, T, E> {
    shared: Arc<Shared<K, T, E>>,
}

/// A place in a flight: resolves to the result of the work. Dropping a flight's last ticket ends its work.
#[must_use = "the work ends when its last ticket is dropped"]
pub struct Ticket<T, E> {
    leg: Arc<Leg<T, E>>,
    id: u64,
}

/// Why a flight gave no value. Every waiter gets the same one.
#[derive(Debug)]
pub enum Failed<E> {
    /// The work ended with this error.
    Work(Arc<E>),
    /// The work ended without a result: it panicked, or the runtime stopped under it.
    Panicked,
}

struct Shared<K, T, E> {
    /// The leg that callers join or, if it was left, succeed. A leg is in here until its work has been dropped.
    legs: Mutex<HashMap<K, Arc<Leg<T, E>>>>,
    started: AtomicU64,
    joined: AtomicU64,
}

/// One generation of the work for one key. Lock order: `Shared::legs`, then `Leg::state`.
struct Leg<T, E> {
    state: Mutex<State<T, E>>,
}

struct State<T, E> {
    tickets: usize,
    next_id: u64,
    waiting: HashMap<u64, Waker>,
    phase: Phase<T, E>,
    /// Wakes the task that runs the work, to make it see that it was left.
    runner: Option<Waker>,
    /// The successor's task, which may start when this leg's work has been dropped.
    successor: Option<Waker>,
}

enum Phase<T, E> {
    Flying,
    /// The last ticket was dropped: nobody can join any more; the work is about to be dropped.
    Left,
    Landed(Result<T, Failed<E>>),
    /// Left, and the work has been dropped.
    Gone,
}

/// The task that owns the work.
struct Run<K: Eq + Hash, T, E, F> {
    flight: Arc<Shared<K, T, E>>,
    key: K,
    leg: Arc<Leg<T, E>>,
    /// The leg before this one, until its work has been dropped.
    after: Option<Arc<Leg<T, E>>>,
    /// `None` once the work has been dropped.
    work: Option<Pin<Box<F>>>,
}

// === impl Flight ===

impl<K, T, E> Flight<K, T, E>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + 'static,
    E: Send + Sync + 'static,
{
    pub fn new() -> Self {
        Self::default()
    }

    /// Joins the work in progress for `key`; if there is none, starts `work` in a task of its own.
    ///
    /// `work` is called by this caller, with no lock held, and only if it is the one that starts. Must be called
    /// inside a runtime.
    pub fn join<F>(&self, key: K, work: impl FnOnce() -> F) -> Ticket<T, E>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let (leg, after) = {
            let mut legs = self.shared.legs.lock();
            let before = legs.get(&key).cloned();
            if let Some(ticket) = before.as_ref().and_then(Leg::board) {
                self.shared.joined.fetch_add(1, Ordering::Relaxed);
                return ticket;
            }
            let leg = Arc::new(Leg::default());
            legs.insert(key.clone(), leg.clone());
            (leg, before)
        };
        self.shared.started.fetch_add(1, Ordering::Relaxed);
        let ticket = Ticket { leg: leg.clone(), id: 0 };
        // From here on `Run`'s drop lands the leg, whatever happens: also when `work` itself panics.
        let mut run = Run { flight: self.shared.clone(), key, leg, after, work: None };
        run.work = Some(Box::pin(work()));
        spawn(run);
        ticket
    }

    /// How many keys have work in progress.
    pub fn len(&self) -> usize {
        self.shared.legs.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often work was started, and how often a caller joined work that was under way, since the beginning.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.started.load(Ordering::Relaxed), self.shared.joined.load(Ordering::Relaxed))
    }
}

impl<K, T, E> Default for Flight<K, T, E> {
    fn default() -> Self {
        let shared = Shared { legs: Mutex::new(HashMap::new()), started: AtomicU64::new(0), joined: AtomicU64::new(0) };
        Self { shared: Arc::new(shared) }
    }
}

impl<K, T, E> Clone for Flight<K, T, E> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K, T, E> fmt::Debug for Flight<K, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight").finish_non_exhaustive()
    }
}

// === impl Leg ===

impl<T, E> Default for Leg<T, E> {
    /// A leg with one ticket out, number 0.
    fn default() -> Self {
        let state = State {
            tickets: 1,
            next_id: 1,
            waiting: HashMap::new(),
            phase: Phase::Flying,
            runner: None,
            successor: None,
        };
        Self { state: Mutex::new(state) }
    }
}

impl<T, E> Leg<T, E> {
    /// A further ticket, if the leg can still be joined.
    fn board(self: &Arc<Self>) -> Option<Ticket<T, E>> {
        let mut state = self.state.lock();
        matches!(state.phase, Phase::Flying).then(|| state.issue(self))
    }

    /// Whether the work has been dropped; if not, `successor` is woken when it is.
    fn is_over(&self, successor: &Waker) -> bool {
        let mut state = self.state.lock();
        let over = matches!(state.phase, Phase::Landed(_) | Phase::Gone);
        if !over {
            state.successor = Some(successor.clone());
        }
        over
    }
}

impl<T, E> State<T, E> {
    fn issue(&mut self, leg: &Arc<Leg<T, E>>) -> Ticket<T, E> {
        let id = self.next_id;
        self.next_id += 1;
        self.tickets += 1;
        Ticket { leg: leg.clone(), id }
    }
}

// === impl Run ===

impl<K: Eq + Hash, T, E, F> Run<K, T, E, F> {
    /// Ends the leg. The work has been dropped already, so the next generation may start at once.
    fn land(&mut self, result: Result<T, Failed<E>>) {
        let wakers = {
            let mut legs = self.flight.legs.lock();
            if legs.get(&self.key).is_some_and(|leg| Arc::ptr_eq(leg, &self.leg)) {
                legs.remove(&self.key);
            }
            let mut state = self.leg.state.lock();
            state.phase = match state.phase {
                Phase::Flying => Phase::Landed(result),
                _ => Phase::Gone, // a result nobody waits for
            };
            let waiting = std::mem::take(&mut state.waiting).into_values();
            waiting.chain(state.successor.take()).collect::<Vec<_>>()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Drops the work. A destructor that panics must not keep the waiters waiting.
    fn drop_work(&mut self) {
        let work = self.work.take();
        let _: Result<(), Box<dyn Any + Send>> = catch_unwind(AssertUnwindSafe(|| drop(work)));
    }

    /// Whether the last ticket was dropped; if not, `runner` is woken when it is.
    fn was_left(&self, runner: &Waker) -> bool {
        let mut state = self.leg.state.lock();
        state.runner = Some(runner.clone());
        matches!(state.phase, Phase::Left)
    }
}

/// Nothing in a `Run` is pinned in place: the work is in a box of its own.
impl<K: Eq + Hash, T, E, F> Unpin for Run<K, T, E, F> {}

impl<K, T, E, F> Future for Run<K, T, E, F>
where
    K: Eq + Hash,
    F: Future<Output = Result<T, E>>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let run = &mut *self;
        // Wait for the predecessor even when this leg has been left: the key is free only when both are over.
        if run.after.as_ref().is_some_and(|before| !before.is_over(cx.waker())) {
            return Poll::Pending;
        }
        run.after = None;
        if run.was_left(cx.waker()) {
            run.drop_work();
            run.land(Err(Failed::Panicked)); // seen by nobody
            return Poll::Ready(());
        }
        let Some(work) = run.work.as_mut() else {
            return Poll::Ready(());
        };
        let result = match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => result.map_err(|error| Failed::Work(Arc::new(error))),
            Err(_panic) => Err(Failed::Panicked),
        };
        run.drop_work();
        run.land(result);
        Poll::Ready(())
    }
}

impl<K: Eq + Hash, T, E, F> Drop for Run<K, T, E, F> {
    fn drop(&mut self) {
        self.drop_work();
        if !matches!(self.leg.state.lock().phase, Phase::Landed(_) | Phase::Gone) {
            self.land(Err(Failed::Panicked));
        }
    }
}

// === impl Ticket ===

impl<T: Clone, E> Future for Ticket<T, E> {
    type Output = Result<T, Failed<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.leg.state.lock();
        if let Phase::Landed(result) = &state.phase {
            return Poll::Ready(result.clone());
        }
        let id = self.id;
        state.waiting.insert(id, cx.waker().clone());
        Poll::Pending
    }
}

impl<T, E> Clone for Ticket<T, E> {
    fn clone(&self) -> Self {
        self.leg.state.lock().issue(&self.leg)
    }
}

impl<T, E> Drop for Ticket<T, E> {
    fn drop(&mut self) {
        let runner = {
            let mut state = self.leg.state.lock();
            state.tickets -= 1;
            state.waiting.remove(&self.id);
            if state.tickets > 0 || !matches!(state.phase, Phase::Flying) {
                return;
            }
            state.phase = Phase::Left;
            state.runner.take()
        };
        if let Some(runner) = runner {
            runner.wake();
        }
    }
}

impl<T, E> fmt::Debug for Ticket<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).finish_non_exhaustive()
    }
}

// === impl Failed ===

impl<E> Clone for Failed<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Work(error) => Self::Work(error.clone()),
            Self::Panicked => Self::Panicked,
        }
    }
}

impl<E: fmt::Display> fmt::Display for Failed<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work(error) => error.fmt(f),
            Self::Panicked => f.write_str("the work ended without a result (it panicked, or oncefs is stopping)"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Failed<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // The text is the error's own already, so its cause comes next.
            Self::Work(error) => error.source(),
            Self::Panicked => None,
        }
    }
}

#[cfg(all(test, feature = "shuttle"))]
mod model;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;
