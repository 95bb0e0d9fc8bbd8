//! The flight under the model checker: shuttle runs each scenario in many interleavings of its threads.
//! `cargo test --features shuttle --lib flight::model`

use std::future::poll_fn;

use shuttle::future::block_on;
use shuttle::sync::Mutex as ShuttleMutex;
use shuttle::thread;

use super::*;

/// Schedules tried for each scenario: some seconds on one core.
const SCHEDULES: usize = 4000;

type Numbers = Flight<&'static str, u64, &'static str>;

/// Counts work that runs, and fails when two run at once.
#[derive(Clone, Default)]
struct Track {
    running: Arc<AtomicU64>,
    started: Arc<AtomicU64>,
}

struct Running(Track);

impl Track {
    /// Marks work as running until the guard is dropped; gives the number of this start.
    fn start(&self) -> (Running, u64) {
        assert_eq!(self.running.fetch_add(1, Ordering::SeqCst), 0, "two pieces of work for one key at once");
        (Running(self.clone()), self.started.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Yields `times` times, so that the checker can put other threads in between.
async fn yields(times: usize) {
    let mut left = times;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(());
        }
        left -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn numbered(track: Track) -> Result<u64, &'static str> {
    let (_running, number) = track.start();
    yields(2).await;
    Ok(number)
}

/// Leaves after `polls` polls if there is no result by then.
async fn patient_for(mut ticket: Ticket<u64, &'static str>, polls: usize) -> Option<u64> {
    let mut left = polls;
    poll_fn(|cx| {
        if let Poll::Ready(result) = Pin::new(&mut ticket).poll(cx) {
            return Poll::Ready(Some(result.expect("bug: this work does not fail")));
        }
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

fn check(scenario: impl Fn() + Send + Sync + 'static) {
    shuttle::check_random(scenario, SCHEDULES);
}

#[test]
fn callers_that_overlap_share_one_start_and_one_result() {
    check(|| {
        let (flight, track) = (Numbers::new(), Track::default());
        let callers: Vec<_> = (0..3)
            .map(|_| {
                let (flight, track) = (flight.clone(), track.clone());
                thread::spawn(move || block_on(flight.join("layer", || numbered(track))).expect("it does not fail"))
            })
            .collect();
        let results: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        let (started, joined) = flight.counts();
        assert_eq!(started + joined, 3, "every caller started or joined");
        assert_eq!(track.started.load(Ordering::SeqCst), started, "each generation starts its work once");
        assert!(results.iter().all(|number| (1..=started).contains(number)));
    });
}

#[test]
fn leaving_callers_never_take_a_patient_one_down_and_work_never_overlaps() {
    check(|| {
        let (flight, track) = (Numbers::new(), Track::default());
        let leaving: Vec<_> = (0..2)
            .map(|polls| {
                let (flight, track) = (flight.clone(), track.clone());
                thread::spawn(move || block_on(patient_for(flight.join("layer", || numbered(track)), polls)))
            })
            .collect();
        let result = block_on(flight.join("layer", || numbered(track.clone())));
        assert!(result.is_ok(), "who stays gets a result");
        for caller in leaving {
            let _left_or_served = caller.join().unwrap();
        }
        let (started, _) = flight.counts();
        assert!(track.started.load(Ordering::SeqCst) <= started, "at most one start a generation");
    });
}

#[test]
fn an_error_and_a_panic_reach_every_waiter_and_nobody_hangs() {
    check(|| {
        let flight = Numbers::new();
        let fail = |panics: bool| async move {
            yields(1).await;
            assert!(!panics, "on purpose");
            Err("no such layer")
        };
        let callers: Vec<_> = [false, true]
            .into_iter()
            .map(|panics| {
                let flight = flight.clone();
                thread::spawn(move || block_on(flight.join("layer", || fail(panics))).is_err())
            })
            .collect();
        assert!(callers.into_iter().all(|caller| caller.join().unwrap()));
    });
}

#[test]
fn work_that_everybody_left_is_dropped_and_the_key_is_free_again() {
    check(|| {
        let flight = Numbers::new();
        let dropped = Arc::new(ShuttleMutex::new(0));
        struct Bomb(Arc<ShuttleMutex<u64>>);
        impl Drop for Bomb {
            fn drop(&mut self) {
                *self.0.lock().unwrap() += 1;
            }
        }
        let bomb = Bomb(dropped.clone());
        let first = flight.join("layer", || async move {
            let _bomb = bomb;
            std::future::pending::<()>().await;
            Ok(0)
        });
        let second = first.clone();
        let leaver = thread::spawn(move || drop(first));
        drop(second);
        leaver.join().unwrap();
        // Lands only when the endless work before it has been dropped.
        assert!(matches!(block_on(flight.join("layer", || async { Ok(7) })), Ok(7)));
        assert_eq!(*dropped.lock().unwrap(), 1);
    });
}
