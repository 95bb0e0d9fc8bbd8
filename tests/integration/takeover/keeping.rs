//! What a keeper needs to start the next server, and does not always have.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::stage::{Kept, keeper_and_server};
use crate::cli::image::Image;
use crate::cli::mounting::assert_usual;
use crate::cli::node::{ONCEFS, copy_program, run, until};

/// Each has a descriptor of its own, which the keeper has twice for a moment when it starts a server.
#[test]
fn more_mounts_than_files_may_be_open_to_begin_with_outlive_their_server() {
    let kept = Kept::by("", "ulimit -Sn 64 && exec \"$@\"", Path::new(ONCEFS));
    let image = kept.layout(&Image::usual(131));
    let places: Vec<_> = (0..40).map(|number| kept.service.path(&format!("mnt-{number}"))).collect();
    for at in &places {
        std::fs::create_dir(at).unwrap();
        kept.service.oncefs(&["mount", "--owner", "1000:1000", &image, at.to_str().unwrap()]).end().well();
    }
    let before = kept.signal(Signal::KILL);
    let read = run(Command::new("cat").args(places.iter().map(|at| at.join("etc/hello")))).well().out;
    assert_eq!(read, "hello from the top\n".repeat(40));
    assert!(kept.server().is_some_and(|server| server != before));
}

#[test]
fn a_program_that_is_away_for_a_moment_is_tried_again_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (program, away) = (dir.path().join("oncefs"), dir.path().join("away"));
    copy_program(ONCEFS, &program);
    let kept = Kept::by("", "exec \"$@\" 2>keeper.log", &program);
    let (at, log) = (kept.mount(&kept.layout(&Image::usual(132))), kept.service.path("keeper.log"));
    std::fs::rename(&program, &away).unwrap();
    kept.signal(Signal::KILL);
    until("it was tried in vain", || std::fs::read_to_string(&log).unwrap().contains("cannot start"));
    assert!(keeper_and_server(&kept.service.path("")).0.is_some());
    std::fs::rename(&away, &program).unwrap();
    assert_usual(&at, 132);
}

/// A service manager's watchdog is for the process that it started: the keeper.
#[test]
fn a_keeper_feeds_the_watchdog_and_ends_a_server_that_stands_still() {
    let watched = "export WATCHDOG_USEC=2000000 WATCHDOG_PID=$$ && exec \"$@\"";
    let mut kept = Kept::by("", watched, Path::new(ONCEFS));
    let at = kept.mount(&kept.layout(&Image::usual(133)));
    kept.signal(Signal::STOP);
    // Nobody but the keeper could have ended it.
    kept.service.hear("READY=1");
    for _ in 0..3 {
        kept.service.hear("WATCHDOG=1");
    }
    assert_usual(&at, 133);
}
