//! Whether somebody waits for a piece of work: what decides who goes first, and may change while the work waits.

use std::collections::HashMap;
use std::task::{Poll, Waker};

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex};

/// How urgent a piece of work is. Clones speak of the same work.
#[derive(Clone)]
pub struct Urgency {
    shared: Arc<Shared>,
}

struct Shared {
    is_reader: AtomicBool,
    waiting: Mutex<Wakers>,
}

/// Who is told when it is raised.
#[derive(Default)]
struct Wakers {
    next_number: u64,
    by_number: HashMap<u64, Waker>,
}

/// One who looks at the urgency while it waits.
pub struct Waiting {
    urgency: Urgency,
    number: Option<u64>,
}

// === impl Urgency ===

impl Urgency {
    /// Somebody waits for the work.
    pub fn reader() -> Self {
        Self::new(true)
    }

    /// Nobody does, yet.
    pub fn background() -> Self {
        Self::new(false)
    }

    fn new(is_reader: bool) -> Self {
        Self { shared: Arc::new(Shared { is_reader: AtomicBool::new(is_reader), waiting: Mutex::default() }) }
    }

    pub fn is_reader(&self) -> bool {
        self.shared.is_reader.load(Ordering::SeqCst)
    }

    /// From now on somebody waits for the work.
    pub fn raise(&self) {
        if self.shared.is_reader.swap(true, Ordering::SeqCst) {
            return;
        }
        let waiting = std::mem::take(&mut self.shared.waiting.lock().by_number);
        waiting.into_values().for_each(Waker::wake);
    }

    /// Returns once somebody waits for the work.
    pub async fn raised(&self) {
        let mut waiting = self.waiting();
        std::future::poll_fn(|cx| if waiting.is_reader(cx.waker()) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    pub(super) fn waiting(&self) -> Waiting {
        Waiting { urgency: self.clone(), number: None }
    }
}

impl std::fmt::Debug for Urgency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Urgency").field("is_reader", &self.is_reader()).finish()
    }
}

// === impl Waiting ===

impl Waiting {
    /// Whether it is a reader's; if not, `waker` is woken when it becomes one.
    pub(super) fn is_reader(&mut self, waker: &Waker) -> bool {
        if self.urgency.is_reader() {
            return true;
        }
        {
            let mut wakers = self.urgency.shared.waiting.lock();
            let number = *self.number.get_or_insert_with(|| {
                wakers.next_number += 1;
                wakers.next_number
            });
            wakers.by_number.insert(number, waker.clone());
        }
        // It may have been raised before the waker was there.
        self.urgency.is_reader()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.urgency.shared.waiting.lock().by_number.remove(&number);
        }
    }
}
