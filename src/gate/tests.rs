//! The gate: its rules one by one, and whatever may happen to it in any order.

use std::collections::VecDeque;
use std::task::Context;

use futures::FutureExt as _;
use futures::task::noop_waker;
use proptest::prelude::*;

use super::*;

fn polled(enter: &mut Enter) -> Option<Place> {
    let waker = noop_waker();
    match Pin::new(enter).poll(&mut Context::from_waker(&waker)) {
        Poll::Ready(place) => Some(place),
        Poll::Pending => None,
    }
}

#[test]
fn readers_go_before_background_work_that_came_earlier() {
    let gate = Gate::new(1);
    let held = gate.enter(&Urgency::reader()).now_or_never().unwrap();
    let mut background = gate.enter(&Urgency::background());
    let mut reader = gate.enter(&Urgency::reader());
    assert!(polled(&mut background).is_none() && polled(&mut reader).is_none());
    drop(held);
    assert!(polled(&mut background).is_none());
    drop(polled(&mut reader).unwrap());
    assert!(polled(&mut background).is_some());
}

#[test]
fn a_quarter_of_the_places_is_kept_for_readers() {
    let gate = Gate::new(8);
    let mut held = Vec::new();
    while let Some(place) = gate.enter(&Urgency::background()).now_or_never() {
        held.push(place);
    }
    assert_eq!(held.len(), 6);
    held.extend([(); 2].map(|()| gate.enter(&Urgency::reader()).now_or_never().unwrap()));
    assert!(gate.enter(&Urgency::reader()).now_or_never().is_none());
}

#[test]
fn work_that_a_reader_joins_goes_before_what_came_later() {
    let gate = Gate::new(1);
    let held = gate.enter(&Urgency::reader()).now_or_never().unwrap();
    let joined = Urgency::background();
    let mut first = gate.enter(&joined);
    let mut second = gate.enter(&Urgency::reader());
    assert!(polled(&mut first).is_none() && polled(&mut second).is_none());
    joined.raise();
    assert!(polled(&mut first).is_none());
    drop(held);
    assert!(polled(&mut second).is_none());
    assert!(polled(&mut first).is_some());
}

#[test]
fn background_work_gets_a_turn_however_many_readers_come() {
    let gate = Gate::new(1);
    let mut held = Some(gate.enter(&Urgency::reader()).now_or_never().unwrap());
    let mut background = gate.enter(&Urgency::background());
    assert!(polled(&mut background).is_none());
    for turn in 0..=PASSED_MAX {
        let mut reader = gate.enter(&Urgency::reader());
        assert!(polled(&mut reader).is_none());
        drop(held.take());
        if let Some(place) = polled(&mut background) {
            assert_eq!(turn, PASSED_MAX);
            drop(place);
            return;
        }
        held = polled(&mut reader);
    }
    panic!("it never had a turn");
}

/// What a test does with a gate.
#[derive(Debug, Clone)]
enum Step {
    Come {
        is_reader: bool,
    },
    /// Of those who wait, this one: modulo their number.
    Raise(usize),
    GiveUp(usize),
    Leave(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(|is_reader| Step::Come { is_reader }),
        1 => any::<usize>().prop_map(Step::Raise),
        1 => any::<usize>().prop_map(Step::GiveUp),
        3 => any::<usize>().prop_map(Step::Leave),
    ]
}

struct Comer {
    urgency: Urgency,
    enter: Enter,
}

proptest! {
    /// Whatever happens: never more inside than places, nobody left outside beside a place that he may have, no reader behind
    /// another that came later, no background work in the readers' places, and all places free at the end.
    #[test]
    fn nobody_is_forgotten_and_no_place_is_lost(places in 1usize..9, steps in prop::collection::vec(step(), 0..200)) {
        let gate = Gate::new(places);
        let for_background = if places == 1 { 1 } else { places - places.div_ceil(4) };
        let (mut waiting, mut inside) = (VecDeque::<Comer>::new(), Vec::<Place>::new());
        for step in steps {
            match step {
                Step::Come { is_reader } => {
                    let urgency = if is_reader { Urgency::reader() } else { Urgency::background() };
                    waiting.push_back(Comer { enter: gate.enter(&urgency), urgency });
                }
                Step::Raise(at) if !waiting.is_empty() => waiting[at % waiting.len()].urgency.raise(),
                Step::GiveUp(at) if !waiting.is_empty() => drop(waiting.remove(at % waiting.len())),
                Step::Leave(at) if !inside.is_empty() => drop(inside.swap_remove(at % inside.len())),
                _ => {}
            }
            // Twice: a place may go to one who was asked before.
            for _ in 0..2 {
                let mut still = VecDeque::new();
                for mut comer in waiting.drain(..) {
                    match polled(&mut comer.enter) {
                        Some(place) => inside.push(place),
                        None => still.push_back(comer),
                    }
                }
                waiting = still;
            }
            let background = inside.iter().filter(|place| !place.is_reader).count();
            prop_assert!(inside.len() <= places && background <= for_background);
            let readers_wait = waiting.iter().any(|comer| comer.urgency.is_reader());
            prop_assert!(!readers_wait || inside.len() == places, "a reader waits beside a free place");
            let has_place = inside.len() < places && background < for_background;
            prop_assert!(waiting.is_empty() || readers_wait || !has_place, "background work waits beside a free place");
        }
        drop((waiting, inside));
        let state = gate.shared.lock();
        prop_assert_eq!((state.free, state.free_for_background), (places, for_background));
        prop_assert!(state.readers.is_empty() && state.background.is_empty());
    }
}
