//! What a keeper needs to start the next server, and does not always have.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use oncefs::digest::{ChainId, DiffId};
use oncefs::snapshotter::protocol::v1::Info;
use rustix::process::{Signal, kill_process};
use tokio::runtime::Runtime;
use tonic::Code;

use super::stage::{Kept, keeper_and_server, kill, processes};
use crate::cli::image::Image;
use crate::cli::mounting::assert_usual;
use crate::cli::node::{Node, ONCEFS, copy_program, mounts_below, run, until};
use crate::containerd::snapshots::Snapshots;

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

/// Takes all that is free there, until the file is removed.
fn fill(dir: &Path) -> PathBuf {
    let ballast = dir.join("ballast");
    std::io::copy(&mut std::io::repeat(7), &mut std::fs::File::create(&ballast).unwrap()).unwrap_err();
    ballast
}

#[test]
fn no_container_begins_over_a_view_that_cannot_be_noted() {
    let (kept, image, runtime) = (Kept::started_on_tmpfs(), Image::usual(139), Runtime::new().unwrap());
    kept.service.oncefs(&["pull", &kept.layout(&image)]).end().well();
    let diff_ids: Vec<_> = image.layers.iter().map(|layer| DiffId(layer.diff_id)).collect();
    let chains: Vec<_> = ChainId::of_prefixes(&diff_ids).iter().map(ToString::to_string).collect();
    let mut snapshots = Snapshots::at(&runtime, &kept.service.socket("snapshotter"), "test");
    let mut parent = String::new();
    for chain in &chains {
        let (key, meant) = (format!("extract {chain}"), ("containerd.io/snapshot.ref", chain.as_str()));
        assert_eq!(snapshots.prepare(&key, &parent, &[meant]).unwrap_err().code(), Code::AlreadyExists);
        let is_it = |info: &Info| info.labels.get(meant.0) == Some(chain);
        parent = snapshots.list().into_iter().find(is_it).unwrap().name;
    }
    let ballast = fill(&kept.service.run_dir());
    let refused = snapshots.prepare("container", &parent, &[]).unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("remembered.json") && refused.message().contains("No space left"), "{refused}");
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(snapshots.prepare("container", &parent, &[]).unwrap(), 1);
}

/// What is mounted without it would be lost with the server.
#[test]
fn what_cannot_be_noted_is_not_mounted() {
    let kept = Kept::started_on_tmpfs();
    let image = kept.layout(&Image::usual(134));
    let (at, ballast) = (kept.service.path("mnt"), fill(&kept.service.run_dir()));
    std::fs::create_dir(&at).unwrap();
    for owner in ["image", "1000:1000"] {
        let ran = kept.service.oncefs(&["mount", "--owner", owner, &image, at.to_str().unwrap()]).end();
        ran.fails(7, &["remembered.json", "No space left"]);
        assert!(mounts_below(&at).is_empty());
    }
    assert_eq!(kept.service.oncefs(&["status", "--json"]).end().well().out.matches("\"at\"").count(), 0);
    std::fs::remove_file(&ballast).unwrap();
    std::fs::remove_dir(&at).unwrap();
    let at = kept.mount(&image);
    kept.signal(Signal::KILL);
    assert_usual(&at, 134);
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

#[test]
fn a_keeper_whose_words_nobody_reads_any_more_keeps_all_the_same() {
    let unread = "mkfifo gone && { head -c 0 <gone & exec \"$@\" 2>gone; }";
    let kept = Kept::by("", unread, Path::new(ONCEFS));
    let at = kept.mount(&kept.layout(&Image::usual(134)));
    for _ in 0..2 {
        let before = kept.signal(Signal::KILL);
        until("another server answers", || kept.server().is_some_and(|server| server != before));
        assert_usual(&at, 134);
    }
}

/// That no other server follows is said to a server; whoever has a keeper may well say it to that.
#[test]
fn usr1_to_a_keeper_ends_nothing() {
    let kept = Kept::by("", "exec \"$@\"", Path::new(ONCEFS));
    let at = kept.mount(&kept.layout(&Image::usual(135)));
    let keeper = keeper_and_server(&kept.service.path("")).0.unwrap();
    kill_process(keeper, Signal::USR1).unwrap();
    let before = kept.signal(Signal::KILL);
    until("another server answers", || kept.server().is_some_and(|server| server != before));
    assert_usual(&at, 135);
    assert_eq!(keeper_and_server(&kept.service.path("")).0, Some(keeper));
}

/// Its server cannot say any more that it is ready, or what is to be let go.
#[test]
fn a_keeper_whose_socket_was_removed_ends_with_its_last_mount() {
    let node = Node::new();
    let at = node.mount(&Image::usual(136).write_layout(&node.path("layout")), "mnt");
    kill(processes(&node).1);
    assert_usual(&at, 136);
    for entry in std::fs::read_dir(node.run()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_socket() {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    kill(processes(&node).1);
    until("another server has taken over", || processes(&node).1.is_some());
    assert_usual(&at, 136);
    rustix::mount::unmount(&at, rustix::mount::UnmountFlags::empty()).unwrap();
    until("keeper and server have ended", || processes(&node) == (None, None));
}
