//! A server that ends in order and is followed by another, while somebody waits for bytes that do not come.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use super::stage::Kept;
use crate::cli::node::{ONCEFS, Running, ls, sha256sum, until};
use crate::cli::registry::{Fault, Registry};
use crate::daemon::ailing::{WITHOUT_SIGNAL, break_database};
use crate::sources::made::{SMALL, converted};

/// Nothing is fetched that nobody asked for, and nobody's patience ends.
const LINES: &str = "[profile]\nrecord_secs = 0\n\
    [fetch]\nbackground = \"off\"\nread_ahead_bytes_max = 0\noutage_secs = 1000\n";

/// Files of the image's lowest layer: one that is read before the registry is away, and one that is wanted then.
const READ: &str = "large";
const WANTED: (&str, &str) = SMALL;

/// A lazy image whose registry has just stopped to send, and somebody who waits for a file of it.
struct Waiting {
    kept: Kept,
    at: PathBuf,
    registry: Registry,
    reader: Running,
}

fn reader(at: &Path) -> Running {
    Running::start(Command::new("cat").arg(at.join(WANTED.0)))
}

impl Waiting {
    fn of(kept: Kept) -> Self {
        let image = converted(&["--estargz"]);
        let registry = image.registry();
        let at = kept.mount(&registry.image());
        ls(&at);
        sha256sum(&at.join(READ));
        registry.fault(image.layer_digest(0), Fault::StallsAfter(0));
        let reader = reader(&at);
        let waiting = Self { kept, at, registry, reader };
        until("somebody waits", || waiting.is_waited_for());
        waiting
    }

    fn is_waited_for(&self) -> bool {
        let said = self.kept.service.oncefs(&["status", "--json", &self.registry.image()]).end().out;
        let said: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        said[0]["layers"][0]["waiting"]["count"] == 1
    }

    /// Another server has taken over, and is waited for.
    fn is_followed(&mut self) {
        self.kept.service.hear("READY=1");
        until("somebody waits for the next server", || {
            assert!(!self.reader.has_ended(), "an end was an answer");
            self.is_waited_for()
        });
    }

    fn ends_well(self) {
        self.registry.heal();
        assert_eq!(self.reader.end().well().out, WANTED.1);
    }
}

#[test]
fn who_waits_waits_on_when_the_server_is_restarted() {
    let mut waiting = Waiting::of(Kept::started(LINES));
    for _ in 0..3 {
        waiting.kept.signal(Signal::TERM);
        waiting.is_followed();
    }
    waiting.ends_well();
}

/// Residency and times of access have no place on its disk.
#[test]
fn who_waits_waits_on_when_a_server_that_is_restarted_cannot_write_its_last() {
    let mut waiting = Waiting::of(Kept::by(LINES, WITHOUT_SIGNAL, Path::new(ONCEFS)));
    let server = Pid::from_raw(waiting.kept.server().unwrap() as i32);
    prlimit(server, Resource::Fsize, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
    waiting.kept.signal(Signal::TERM);
    waiting.is_followed();
    waiting.ends_well();
}

/// One that ends by itself, since another can open it anew; and not again and again.
#[test]
fn a_server_whose_database_has_failed_makes_place_for_the_next() {
    let began = Instant::now();
    let lines = format!("[server]\nrenew_secs = 3\n{LINES}");
    let mut waiting = Waiting::of(Kept::by(&lines, WITHOUT_SIGNAL, Path::new(ONCEFS)));
    let image = waiting.registry.image();
    let pin = |kept: &Kept| kept.service.oncefs(&["pin", &image]).end();
    break_database(&waiting.kept.service, waiting.kept.server().unwrap() as i32, &image);
    waiting.is_followed();
    assert!(began.elapsed().as_secs() >= 3);
    pin(&waiting.kept).well();
    assert_eq!(waiting.kept.service.get("/healthz").status, 200);
    waiting.ends_well();
}

/// What it needs beside its mounts is there again when it is started once more.
#[test]
fn who_waits_waits_on_when_a_server_fails_after_it_took_over() {
    let mut waiting = Waiting::of(Kept::started(LINES));
    let (snapshots, away) = (waiting.kept.service.path("root/snapshots"), waiting.kept.service.path("away"));
    std::fs::rename(&snapshots, &away).unwrap();
    std::fs::write(&snapshots, "no directory").unwrap();
    waiting.kept.signal(Signal::KILL);
    // The first was there before.
    for _ in 0..4 {
        waiting.kept.service.hear("STATUS=opening the store");
    }
    assert!(!waiting.reader.has_ended());
    std::fs::remove_file(&snapshots).unwrap();
    std::fs::rename(&away, &snapshots).unwrap();
    waiting.is_followed();
    waiting.ends_well();
}

/// Whom the dead server owes an answer gets an error, since nobody would answer. The page cache reads ahead first, and then asks once more.
#[test]
fn on_an_older_kernel_nobody_waits_for_a_server_that_is_dead() {
    let older = concat!("exec python3 ", env!("CARGO_MANIFEST_DIR"), "/tests/integration/takeover/older.py \"$@\"");
    let mut waiting = Waiting::of(Kept::by(LINES, older, Path::new(ONCEFS)));
    // By a server that has mounted, and then by one that took over.
    waiting.kept.signal(Signal::KILL);
    waiting.is_followed();
    waiting.kept.signal(Signal::KILL);
    until("it waits no more", || waiting.reader.has_ended());
    let next = reader(&waiting.at);
    let ended = std::mem::replace(&mut waiting.reader, next).end();
    assert!(ended.code == Some(1) && ended.err.contains(WANTED.0), "{ended:?}");
    waiting.is_followed();
    waiting.ends_well();
}
