//! Each sentence of the flight's promise, and a property test against the simplest model of it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tokio::sync::{oneshot, watch};

use super::*;

type Words = Flight<u8, &'static str, &'static str>;

/// Work that ends when the sender says how.
fn when_told()
-> (oneshot::Sender<Result<&'static str, &'static str>>, impl Future<Output = Result<&'static str, &'static str>>) {
    let (tell, told) = oneshot::channel();
    (tell, async move { told.await.unwrap_or(Err("nobody told")) })
}

/// Work that never ends, and a receiver whose value is gone when the work was dropped.
fn endless() -> (watch::Receiver<()>, impl Future<Output = Result<&'static str, &'static str>>) {
    let (alive, watched) = watch::channel(());
    let work = async move {
        let _alive = alive;
        std::future::pending().await
    };
    (watched, work)
}

async fn until_dropped(mut work: watch::Receiver<()>) {
    while work.changed().await.is_ok() {}
}

#[tokio::test]
async fn everybody_who_comes_while_it_runs_joins_and_gets_the_same_result() {
    let flight = Words::new();
    let (tell, work) = when_told();
    let first = flight.join(1, || work);
    let second = flight.join(1, || async { unreachable!("the work runs already") });
    tell.send(Ok("layer")).unwrap();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), ("layer", "layer"));
    assert_eq!(flight.counts(), (1, 1));
    assert!(flight.is_empty());
}

/// More than a node has containers: a base image that all of them wait for.
#[tokio::test]
async fn ten_thousand_wait_for_one_run_while_every_second_of_them_leaves() {
    const WAITERS: usize = 10_000;
    let flight = Words::new();
    let (tell, work) = when_told();
    let first = flight.join(1, || work);
    let mut tickets: Vec<_> =
        (0..WAITERS).map(|_| flight.join(1, || async { unreachable!("the work runs already") })).collect();
    let mut number = 0;
    tickets.retain(|_| {
        number += 1;
        number % 2 == 0
    });
    tell.send(Ok("layer")).unwrap();
    let got = futures::future::join_all(tickets).await;
    assert_eq!(first.await.unwrap(), "layer");
    assert_eq!(got.into_iter().filter(|result| result.as_ref().is_ok_and(|got| *got == "layer")).count(), WAITERS / 2);
    assert_eq!(flight.counts(), (1, WAITERS as u64));
    assert!(flight.is_empty());
}

#[tokio::test]
async fn other_keys_fly_alone() {
    let flight = Words::new();
    let (one, two) = (flight.join(1, || async { Ok("one") }), flight.join(2, || async { Ok("two") }));
    assert_eq!((one.await.unwrap(), two.await.unwrap()), ("one", "two"));
    assert_eq!(flight.counts(), (2, 0));
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_take_the_others_down() {
    let flight = Words::new();
    let (tell, work) = when_told();
    let first = flight.join(1, || work);
    let second = flight.join(1, || async { unreachable!("the work runs already") });
    drop(first);
    tell.send(Ok("layer")).unwrap();
    assert_eq!(second.await.unwrap(), "layer");
}

#[tokio::test]
async fn the_work_ends_when_the_last_waiter_leaves() {
    let flight = Words::new();
    let (work_dropped, work) = endless();
    let first = flight.join(1, || work);
    let second = first.clone();
    drop(first);
    tokio::task::yield_now().await;
    assert_eq!(flight.len(), 1, "somebody still waits");
    drop(second);
    until_dropped(work_dropped).await;
}

#[tokio::test]
async fn who_joins_left_work_starts_anew_after_it_is_gone() {
    let flight = Words::new();
    let (work_dropped, work) = endless();
    drop(flight.join(1, || work));
    let again = flight.join(1, || async move {
        assert!(work_dropped.has_changed().is_err(), "the work before is still there");
        Ok("again")
    });
    assert_eq!(again.await.unwrap(), "again");
}

#[tokio::test]
async fn an_error_reaches_every_waiter_and_is_not_remembered() {
    let flight = Words::new();
    let (tell, work) = when_told();
    let (first, second) = (flight.join(1, || work), flight.join(1, || async { Ok("never run") }));
    tell.send(Err("registry away")).unwrap();
    for waiter in [first, second] {
        assert_eq!(waiter.await.unwrap_err().to_string(), "registry away");
    }
    assert_eq!(flight.join(1, || async { Ok("back") }).await.unwrap(), "back");
}

#[tokio::test]
async fn a_panic_in_the_work_is_an_error_for_all() {
    let flight = Words::new();
    let first = flight.join(1, || async { panic!("on purpose") });
    let second = flight.join(1, || async { Ok("never run") });
    assert!(matches!(first.await, Err(Failed::Panicked)));
    assert!(matches!(second.await, Err(Failed::Panicked)));
    assert!(flight.is_empty());
}

#[tokio::test]
async fn a_panic_while_the_work_is_made_leaves_the_key_usable() {
    let flight = Words::new();
    let make = || -> std::future::Ready<Result<&'static str, &'static str>> { panic!("on purpose") };
    let made = catch_unwind(AssertUnwindSafe(|| flight.join(1, make)));
    assert!(made.is_err());
    assert_eq!(flight.join(1, || async { Ok("fine") }).await.unwrap(), "fine");
}

#[tokio::test]
async fn a_landed_ticket_can_be_asked_again_and_cloned() {
    let flight = Words::new();
    let mut ticket = flight.join(1, || async { Ok("layer") });
    assert_eq!((&mut ticket).await.unwrap(), "layer");
    assert_eq!(ticket.clone().await.unwrap(), "layer");
    assert_eq!(ticket.await.unwrap(), "layer");
}

#[test]
fn a_runtime_that_stops_is_an_error_not_a_hang() {
    let flight = Words::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let ticket = {
        let _inside = runtime.enter();
        flight.join(1, std::future::pending)
    };
    drop(runtime);
    assert!(matches!(futures::executor::block_on(ticket), Err(Failed::Panicked)));
}

#[derive(Debug, Clone)]
enum Step {
    Join(u8),
    Leave(u8),
    Succeed(u8),
    Fail(u8),
    Panic(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0u8..3, 0u8..8).prop_map(|(key, which)| match which {
        0..=3 => Step::Join(key),
        4 | 5 => Step::Leave(key),
        6 => Step::Succeed(key),
        _ if key == 0 => Step::Panic(key),
        _ => Step::Fail(key),
    });
    prop::collection::vec(step, 0..60)
}

/// What is known of a key with work in progress: its waiters, and the end its work waits for.
type Model = BTreeMap<u8, (Vec<Ticket<u64, &'static str>>, oneshot::Sender<Option<Result<u64, &'static str>>>, u64)>;

/// Runs the steps on a flight and on the model; every start, result and end must agree.
async fn agree(steps: Vec<Step>) {
    let flight = Flight::<u8, u64, &'static str>::new();
    let (mut model, mut starts) = (Model::new(), 0u64);
    for step in steps {
        match step {
            Step::Join(key) => {
                let (tell, told) = oneshot::channel::<Option<Result<u64, &'static str>>>();
                let ticket = flight.join(key, || async move {
                    told.await.expect("bug: the model tells every end").expect("on purpose")
                });
                let known = model.entry(key).or_insert_with(|| {
                    starts += 1;
                    (Vec::new(), tell, starts)
                });
                known.0.push(ticket);
            }
            Step::Leave(key) => {
                let Some(known) = model.get_mut(&key) else { continue };
                known.0.pop();
                if known.0.is_empty() {
                    model.remove(&key);
                }
            }
            Step::Succeed(key) | Step::Fail(key) | Step::Panic(key) => {
                let Some((waiters, tell, generation)) = model.remove(&key) else { continue };
                let end = match step {
                    Step::Succeed(_) => Some(Ok(generation)),
                    Step::Fail(_) => Some(Err("failed")),
                    _ => None,
                };
                assert!(tell.send(end).is_ok(), "the work of {key} waits to be told");
                for waiter in waiters {
                    match (waiter.await, end) {
                        (Ok(got), Some(Ok(want))) => assert_eq!(got, want),
                        (Err(Failed::Work(got)), Some(Err(want))) => assert_eq!(*got, want),
                        (Err(Failed::Panicked), None) => {}
                        (got, want) => panic!("{got:?} where the model says {want:?}"),
                    }
                }
            }
        }
        assert_eq!(flight.counts().0, starts, "work is started once a generation");
    }
}

proptest! {
    #[test]
    fn any_order_of_joins_leaves_and_ends_agrees_with_the_model(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(agree(steps));
    }
}
