//! SIGHUP with good files and bad ones.

use rustix::process::Signal;

use super::stage::Service;
use crate::cli::image::Image;
use crate::cli::registry::Registry;

fn reload(service: &mut Service) -> String {
    service.signal(Signal::HUP);
    let reloading = service.hear("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    service.hear("READY=1")
}

#[test]
fn what_can_be_changed_counts_at_once_and_the_rest_is_named() {
    let mut service = Service::started("");
    service.configure("log = \"debug\"\n[scan]\nconcurrent_layers = 2\n[scan.limits]\n");
    assert_eq!(reload(&mut service), "READY=1\nSTATUS=serving\n");
    service.signal(Signal::TERM);
    let ran = service.end().well();
    let changed = ran.err.lines().find(|line| line.contains("configuration read again")).unwrap();
    assert!(changed.contains("changed=\"log\""), "{changed}");
    let later = ran.err.lines().find(|line| line.contains("from the next start on")).unwrap();
    assert!(later.contains("scan.concurrent_layers") && !later.contains("log,"), "{later}");
}

#[test]
fn a_broken_file_changes_nothing_and_is_told_on_one_line_of_status() {
    let mut service = Service::started("log = \"warn\"\n");
    for wrong in ["lgo = 1\n", "log = [\n"] {
        service.configure(wrong);
        let told = reload(&mut service);
        assert!(told.contains("STATUS=serving with the old configuration") && told.contains("config.toml"), "{told}");
        assert_eq!(told.lines().count(), 2, "{told:?}");
    }
    service.configure("log = \"oncefs=loudly\"\n");
    let told = reload(&mut service);
    assert!(told.contains("refused") && told.contains("neither a level nor a filter"), "{told}");
    assert_eq!(service.get("/healthz").status, 200);
    service.signal(Signal::TERM);
    let ran = service.end().well();
    assert!(ran.err.contains("the old one stays in force") && !ran.err.contains("INFO"), "{}", ran.err);
}

#[test]
fn limits_and_registries_of_a_new_configuration_count_for_the_next_pull() {
    let mut service = Service::started("");
    let image = Image::usual(321);
    let registry = Registry::with(&image);
    service.configure("[scan.limits]\ndata_bytes_max = 1000\n");
    reload(&mut service);
    service.oncefs(&["pull", &registry.image()]).end().fails(3, &["data_bytes_max"]);
    let name = registry.image();
    service.configure("");
    reload(&mut service);
    service.oncefs(&["pull", &name]).end().well();
}
