//! Trouble that does not end: an error for who waits, in time, and nothing is left of it.

use super::ending::TROUBLES;
use super::proxy::Proxy;
use super::stage::{Hub, Mounted, assert_eio, assert_read};
use crate::cli::node::until;

#[test]
fn a_read_fails_when_trouble_lasts_and_leaves_nothing_behind() {
    const SEED: u64 = 5_300;
    let hub = Hub::with_layers(TROUBLES.len(), SEED);
    let proxy = Proxy::before(hub.address());
    let mounted = Mounted::through(&proxy, 2);
    // All that one needs to fetch, and to answer readers in numbers, is there.
    for n in 0..TROUBLES.len() {
        assert_read(mounted.reads(n, 2), SEED, n, 2);
    }
    let descriptors = || mounted.metric("process_open_fds");
    let threads = || mounted.metric("process_threads");
    let (open, running) = (descriptors(), threads());
    let before: Vec<usize> = (0..TROUBLES.len()).map(|n| proxy.asked(&hub.layer(n))).collect();
    for (n, trouble) in TROUBLES.into_iter().enumerate() {
        proxy.troubles(&hub.layer(n), trouble);
    }
    let readers: Vec<_> =
        (0..TROUBLES.len()).flat_map(|n| [mounted.starts_reading(n, 0), mounted.starts_reading(n, 1)]).collect();
    for reader in readers {
        assert_eio(&reader.end());
    }
    for (n, trouble) in TROUBLES.iter().enumerate() {
        let asked = proxy.asked(&hub.layer(n)) - before[n];
        assert!((3..=60).contains(&asked), "{trouble:?}: {asked} requests");
    }
    until("no descriptor is left", || descriptors() <= open);
    until("no thread is left", || threads() <= running);
    assert_eq!(mounted.metric("oncefs_fetch_waiting"), 0.0);
    // Nothing of it is remembered either.
    proxy.heals();
    for n in 0..TROUBLES.len() {
        assert_read(mounted.reads(n, 0), SEED, n, 0);
    }
}
