//! Trouble that does not end: an error for who waits, in time, and nothing is left of it.

use super::ending::{TROUBLES, certificate, server, trusting};
use super::proxy::{Proxy, TokenTrouble};
use super::stage::{Hub, Mounted, assert_eio, assert_read};
use crate::cli::node::until;

#[test]
fn a_read_fails_when_trouble_lasts_and_leaves_nothing_behind() {
    const SEED: u64 = 5_300;
    let hub = Hub::with_layers(TROUBLES.len(), SEED);
    let proxy = Proxy::before(hub.address());
    // Time for three tries also where each takes its time.
    let mounted = Mounted::through(&proxy, 4);
    // All that one needs to fetch, and to answer readers in numbers, is there.
    for n in 0..TROUBLES.len() {
        assert_read(mounted.reads(n, 2), SEED, n, 2);
    }
    let descriptors = || mounted.metric("process_open_fds");
    let threads = || mounted.metric("process_threads");
    let tasks = || mounted.metric("oncefs_tasks");
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
    // What serves on has a handful; a reader of before may still be looked after, so that a number from then says nothing.
    until("no task is left", || tasks() < TROUBLES.len() as f64);
    assert_eq!(mounted.metric("oncefs_fetch_waiting"), 0.0);
    // Nothing of it is remembered either.
    proxy.heals();
    for n in 0..TROUBLES.len() {
        assert_read(mounted.reads(n, 0), SEED, n, 0);
    }
}

#[test]
fn a_closed_port_and_another_certificate_that_last_are_errors() {
    const SEED: u64 = 5_900;
    let hub = Hub::with_layers(1, SEED);
    let right = certificate();
    let mut proxy = Proxy::over_tls(hub.address(), server(&right));
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), right.cert.pem()).unwrap();
    let mounted = Mounted::of(&proxy.address().to_string(), 1, &trusting(&proxy, ca.path()));
    proxy.closes();
    assert_eio(&mounted.reads(0, 0));
    proxy.opens_again();
    assert_read(mounted.reads(0, 0), SEED, 0, 0);
    proxy.says_over(server(&certificate()));
    assert_eio(&mounted.reads(0, 1));
    proxy.says_over(server(&right));
    assert_read(mounted.reads(0, 1), SEED, 0, 1);
    assert_eq!(mounted.metric("oncefs_fetch_waiting"), 0.0);
}

#[test]
fn logins_and_signatures_that_are_refused_for_long_are_errors() {
    const SEED: u64 = 6_000;
    let hub = Hub::with_layers(1, SEED);
    let (proxy, storage) = (Proxy::before(hub.address()), Proxy::before(hub.address()));
    proxy.wants_new_token();
    let mounted = Mounted::through(&proxy, 1);
    for (file, trouble) in [TokenTrouble::NotTaken, TokenTrouble::NotGiven].into_iter().enumerate() {
        proxy.wants_new_token();
        proxy.token_trouble(Some(trouble));
        assert_eio(&mounted.reads(0, file));
        proxy.token_trouble(None);
        assert_read(mounted.reads(0, file), SEED, 0, file);
    }
    proxy.signs_anew(&storage);
    storage.wants_new_token();
    assert_eio(&mounted.reads(0, 2));
    assert!(storage.asked(&hub.layer(0)) == 0, "a wrong signature opened the storage");
    proxy.signs_anew(&storage);
    assert_read(mounted.reads(0, 2), SEED, 0, 2);
    assert_eq!(mounted.metric("oncefs_fetch_waiting"), 0.0);
}
