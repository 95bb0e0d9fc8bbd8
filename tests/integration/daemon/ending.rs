//! SIGTERM: nothing new, and what is under way gets its time; and the watchdog, for a server that does not end but should.

use rustix::process::Signal;

use super::stage::Service;
use crate::cli::image::Image;
use crate::cli::node::{Running, until};
use crate::cli::registry::{Fault, Registry};

/// A service that pulls from a registry which stalls in the middle of a layer.
fn pulling(configuration: &str, seed: u64) -> (Service, Registry, Running) {
    let service = Service::started(configuration);
    let image = Image::usual(seed);
    let registry = Registry::with(&image);
    let layer = image.layers[2].digest();
    registry.fault(layer, Fault::StallsAfter(200_000));
    let pull = service.oncefs(&["pull", &registry.image()]);
    until("the layer stalls", || registry.count(layer).bytes == 200_000);
    (service, registry, pull)
}

#[test]
fn a_pull_that_is_under_way_may_come_to_its_end() {
    let (mut service, registry, pull) = pulling("", 311);
    service.signal(Signal::TERM);
    service.hear("STOPPING=1");
    until("nothing new is taken", || !service.socket("control").exists());
    assert!(!service.has_ended());
    registry.heal();
    pull.end().well();
    service.end().well();
}

#[test]
fn when_its_time_is_over_a_pull_is_told_so() {
    let (mut service, _registry, pull) = pulling("[server]\ndrain_secs = 1\n", 312);
    service.signal(Signal::TERM);
    pull.end().fails(1, &["told to end before this was done"]);
    let ran = service.end().well();
    assert!(ran.err.contains("cut short"), "{ran:?}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (mut service, _registry, pull) = pulling("[server]\ndrain_secs = 100000\n", 313);
    service.signal(Signal::TERM);
    service.hear("STOPPING=1");
    service.signal(Signal::INT);
    service.end().well();
    pull.end().fails(1, &["told to end before this was done"]);
}

#[test]
fn a_watchdog_is_fed_and_a_server_that_stands_still_feeds_it_not() {
    let mut service = Service::new("");
    service.start(&[("WATCHDOG_USEC", "200000")]);
    service.hear("READY=1");
    for _ in 0..3 {
        service.hear("WATCHDOG=1");
    }
    service.signal(Signal::STOP);
    // What was sent before it stood still is read, and then there is nothing.
    while service.hears_within(std::time::Duration::from_secs(2), "WATCHDOG=1") {}
    service.signal(Signal::CONT);
    service.hear("WATCHDOG=1");
}
