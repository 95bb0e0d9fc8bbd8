//! Sockets first, then everything else; and what is said meanwhile.

use std::os::unix::net::UnixStream;

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

use super::stage::{Service, get};
use crate::cli::image::Image;
use crate::cli::mounting::assert_usual;
use crate::cli::node::{mounts_below, until};

#[test]
fn who_connects_before_it_is_ready_is_answered_when_it_is() {
    let mut service = Service::new("");
    // Its place is taken: it comes as far as the sockets, and waits.
    std::fs::create_dir(service.run_dir()).unwrap();
    std::fs::set_permissions(service.run_dir(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let place = std::fs::File::create(service.run_dir().join("server.lock")).unwrap();
    flock(&place, FlockOperation::LockExclusive).unwrap();
    service.start(&[]);
    let sockets = ["control", "snapshotter", "cri"].map(|name| service.socket(name));
    for socket in &sockets {
        until("the socket is there", || UnixStream::connect(socket).is_ok());
    }
    let waiting = UnixStream::connect(&sockets[0]).unwrap();
    let asked = std::thread::spawn(move || get(waiting, "/healthz"));
    service.hear("STATUS=opening the store");
    assert!(!asked.is_finished());
    drop(place);
    service.hear("READY=1");
    let page = asked.join().unwrap();
    assert_eq!((page.status, page.body.as_str()), (200, "ok\n"));
}

#[test]
fn the_mount_is_there_when_it_is_ready_and_stays_without_any_image() {
    let mut service = Service::started("");
    assert_eq!(mounts_below(&service.run_dir()), [service.run_dir().join("fs")]);
    let image = Image::usual(301).write_layout(&service.path("layout"));
    let at = service.path("mnt");
    std::fs::create_dir(&at).unwrap();
    let at_text = at.to_str().unwrap();
    service.oncefs(&["mount", &image, at_text]).end().well();
    assert_usual(&at, 301);
    service.oncefs(&["umount", at_text]).end().well();
    assert_eq!(mounts_below(&service.run_dir()), [service.run_dir().join("fs")]);
    service.signal(Signal::TERM);
    service.end().well();
    assert!(mounts_below(&service.run_dir()).is_empty());
    for name in ["control", "snapshotter", "cri"] {
        assert!(!service.socket(name).exists(), "{name} is left");
    }
}

#[test]
fn a_second_one_is_refused_and_does_the_first_no_harm() {
    let service = Service::started("");
    let second = service.oncefs(&["serve"]).end();
    second.fails(7, &[service.socket("control").to_str().unwrap(), "another server answers there"]);
    assert_eq!(service.get("/healthz").status, 200);
}

#[test]
fn what_a_killed_one_left_is_replaced() {
    let mut service = Service::started("");
    service.signal(Signal::KILL);
    service.end();
    assert!(service.socket("control").exists(), "nobody was there to take it away");
    service.start(&[]);
    service.hear("READY=1");
    assert_eq!(service.get("/healthz").status, 200);
    assert_eq!(mounts_below(&service.run_dir()), [service.run_dir().join("fs")]);
}

#[test]
fn the_snapshots_service_listens_where_it_is_told() {
    let mut service = Service::new("");
    let address = service.path("elsewhere/s.sock");
    let mut command = service.command(crate::cli::node::ONCEFS);
    command.args(service.arguments()).args(["serve", "--address", address.to_str().unwrap()]);
    service.started_by(&mut command);
    service.hear("READY=1");
    UnixStream::connect(&address).unwrap();
    assert!(!service.socket("snapshotter").exists());
}

#[test]
fn each_line_of_a_log_in_json_is_json() {
    let mut service = Service::started("log = \"debug\"\nlog_format = \"json\"\n");
    service.signal(Signal::HUP);
    service.hear("RELOADING=1");
    service.signal(Signal::TERM);
    let ran = service.end().well();
    assert!(ran.err.lines().count() > 0);
    for line in ran.err.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["message"].is_string() && line["level"].is_string(), "{line}");
    }
}
