//! The gate under the model checker. `cargo test --features shuttle --lib gate::model`

use shuttle::future::{block_on, spawn};

use super::*;
use crate::sync::atomic::{AtomicUsize, Ordering};

const SCHEDULES: usize = 3000;
const PLACES: usize = 2;

/// One who is inside, until it is dropped: by who leaves, and by who is ended there.
struct Inside(Arc<AtomicUsize>);

impl Inside {
    fn new(count: Arc<AtomicUsize>) -> Self {
        assert!(count.fetch_add(1, Ordering::SeqCst) < PLACES, "more inside than there are places");
        Self(count)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Enters, looks that there is room, and leaves: what was made last is dropped first.
async fn pass(gate: Gate, urgency: Urgency, inside: Arc<AtomicUsize>) {
    let _place = gate.enter(&urgency).await;
    let _inside = Inside::new(inside);
    shuttle::future::yield_now().await;
}

/// Everybody gets in, whoever gives up, and whatever is raised while it waits: no wake-up is lost.
#[test]
fn everybody_gets_in_and_all_places_are_free_at_the_end() {
    let scenario = || {
        block_on(async {
            let (gate, inside) = (Gate::new(PLACES), Arc::new(AtomicUsize::new(0)));
            let raised = Urgency::background();
            let urgencies = [Urgency::background(), raised.clone(), Urgency::reader(), Urgency::background()];
            let passing: Vec<_> =
                urgencies.into_iter().map(|urgency| spawn(pass(gate.clone(), urgency, inside.clone()))).collect();
            let leaver = spawn(pass(gate.clone(), Urgency::background(), inside.clone()));
            let raising = spawn(async move { raised.raise() });
            leaver.abort();
            for passing in passing {
                passing.await.unwrap();
            }
            raising.await.unwrap();
        });
    };
    shuttle::check_random(scenario, SCHEDULES);
}
