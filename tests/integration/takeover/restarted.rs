//! A server that ends in order and is followed by another, while somebody waits for bytes that do not come.

use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use super::stage::Kept;
use crate::cli::node::{ONCEFS, Running, ls, sha256sum, until};
use crate::cli::registry::{Fault, Registry};
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
    registry: Registry,
    reader: Running,
}

impl Waiting {
    fn of(kept: Kept) -> Self {
        let image = converted(&["--estargz"]);
        let registry = image.registry();
        let at = kept.mount(&registry.image());
        ls(&at);
        sha256sum(&at.join(READ));
        registry.fault(image.layer_digest(0), Fault::StallsAfter(0));
        let reader = Running::start(Command::new("cat").arg(at.join(WANTED.0)));
        let waiting = Self { kept, registry, reader };
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
    let mut waiting = Waiting::of(Kept::by(LINES, "trap '' XFSZ && exec \"$@\"", Path::new(ONCEFS)));
    let server = Pid::from_raw(waiting.kept.server().unwrap() as i32);
    prlimit(server, Resource::Fsize, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
    waiting.kept.signal(Signal::TERM);
    waiting.is_followed();
    waiting.ends_well();
}
