//! Trouble while layers without an index come: who looks first into the view waits for its end, or for the end of its patience.

use super::ending::TROUBLES;
use super::proxy::{Proxy, Trouble};
use super::stage::{Hub, Mounted, assert_eio, assert_read};
use crate::cli::node::until;

#[test]
fn who_looks_first_waits_for_the_end_of_any_trouble_that_its_layers_meet() {
    const SEED: u64 = 5_400;
    let hub = Hub::with_plain_layers(TROUBLES.len(), SEED);
    let proxy = Proxy::before(hub.address());
    for (n, trouble) in TROUBLES.into_iter().enumerate() {
        proxy.troubles(&hub.layer(n), trouble);
    }
    let mounted = Mounted::unread(&proxy.address().to_string(), 100, "");
    let asked = |n: usize| proxy.asked(&hub.layer(n));
    assert_eq!((0..TROUBLES.len()).map(asked).sum::<usize>(), 0, "a mount asks for no layer");
    let mut reader = mounted.starts_reading(0, 0);
    // A download and its retry, perhaps after a question whether the blob is there: what comes after that is another opening of the view.
    for (n, trouble) in TROUBLES.iter().enumerate() {
        until(&format!("{trouble:?} is met again"), || asked(n) > 4);
        assert!(!reader.has_ended(), "{trouble:?} was not waited for");
    }
    proxy.heals();
    assert_read(reader.end(), SEED, 0, 0);
    for (n, trouble) in TROUBLES.iter().enumerate() {
        assert!(asked(n) <= 100, "{trouble:?}: {} requests", asked(n));
        assert_read(mounted.reads(n, 1), SEED, n, 1);
    }
}

#[test]
fn a_view_whose_layers_do_not_come_is_an_error_and_is_tried_again_by_the_next() {
    // All at the same time: each spends its own in waiting.
    std::thread::scope(|scope| {
        for (seed, trouble) in (5_500..).zip(TROUBLES) {
            scope.spawn(move || is_an_error_and_is_tried_again(trouble, seed));
        }
    });
}

fn is_an_error_and_is_tried_again(trouble: Trouble, seed: u64) {
    let hub = Hub::with_plain_layers(1, seed);
    let proxy = Proxy::before(hub.address());
    proxy.troubles(&hub.layer(0), trouble);
    let mounted = Mounted::unread(&proxy.address().to_string(), 1, "");
    assert_eio(&mounted.reads(0, 0));
    assert!(mounted.log().contains(&hub.layer(0)), "{trouble:?} is not told with the layer");
    // Who gives up does not wait for the try that is under way.
    let left = || std::fs::read_dir(mounted.node.root().join("staging")).unwrap().count();
    until(&format!("nothing is left behind of {trouble:?}"), || left() == 0);
    proxy.heals();
    assert_read(mounted.reads(0, 0), seed, 0, 0);
}
