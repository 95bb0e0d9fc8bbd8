//! A server that cannot do all that it is there for: it says so, and what is well is not looked into for it.

use std::path::Path;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use super::stage::Service;
use crate::cli::image::Image;
use crate::cli::node::{ONCEFS, Ran, names_in};

/// What a database writes is soon beyond this, and the note of a pin is not.
const NOTES_ONLY: u64 = 4096;

/// So many pins are more than that.
const PINS_MAX: usize = 100;

/// For programs that are to see errors of such writes, and no signal.
pub(crate) const WITHOUT_SIGNAL: &str = "trap '' XFSZ && exec \"$@\"";

/// Has the database of this server fail.
pub(crate) fn break_database(service: &Service, server: i32, image: &str) {
    let bound = Rlimit { current: Some(NOTES_ONLY), maximum: Some(NOTES_ONLY) };
    prlimit(Pid::from_raw(server), Resource::Fsize, bound).unwrap();
    let mut pins = ["pin", "unpin"].into_iter().cycle().take(PINS_MAX);
    let failed = pins.find_map(|pin| Some(service.oncefs(&[pin, image]).end()).filter(|ran| ran.code != Some(0)));
    failed.expect("the database takes everything").fails(7, &["database", "File too large"]);
}

/// Files of layers that a process has open or mapped.
fn layers_open(pid: i32) -> Vec<String> {
    let fds = format!("/proc/{pid}/fd");
    let links = names_in(Path::new(&fds)).into_iter().filter_map(|number| {
        let link = std::fs::read_link(Path::new(&fds).join(number)).ok()?;
        Some(link.display().to_string())
    });
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    links.chain(maps.lines().map(str::to_owned)).filter(|name| name.contains("/layers/sha256/")).collect()
}

/// A disk that is slow would take its time over each.
#[test]
fn whether_a_server_is_well_is_asked_of_no_layer() {
    let mut service = Service::started("");
    let image = Image::usual(341).write_layout(&service.path("layout"));
    service.oncefs(&["pull", &image]).end().well();
    service.signal(Signal::KILL);
    service.end();
    service.start(&[("WATCHDOG_USEC", "200000")]);
    service.hear("READY=1");
    service.hear("WATCHDOG=1");
    assert_eq!(service.get("/healthz").status, 200);
    assert_eq!(layers_open(service.pid()), [""; 0]);
}

#[test]
fn a_database_that_has_failed_is_no_health() {
    let mut service = Service::new("");
    let mut command = service.command("sh");
    command.args(["-c", WITHOUT_SIGNAL, "sh", ONCEFS]).args(service.arguments()).arg("serve");
    service.started_by(&mut command);
    service.hear("READY=1");
    let image = Image::usual(342).write_layout(&service.path("layout"));
    service.oncefs(&["pull", &image]).end().well();
    assert_eq!(service.get("/healthz").status, 200);
    break_database(&service, service.pid(), &image);
    service.oncefs(&["pin", &image]).end().fails(7, &["database"]);
    let page = service.get("/healthz");
    assert!(page.status == 503 && page.body.contains("database"), "{}: {}", page.status, page.body);
    for said in [doctor(&service), service.oncefs(&["status"]).end().well()] {
        assert!(said.out.contains("File too large"), "{said:?}");
    }
}

fn doctor(service: &Service) -> Ran {
    let nothing = service.path("nothing");
    let nothing = nothing.to_str().unwrap();
    service.oncefs(&["doctor", "--containerd-config", nothing, "--kubelet-config", nothing]).end()
}
