//! Power losses while a database is made anew: whatever each leaves, nothing that either the database or a note knew is lost.

use std::fs;
use std::path::Path;
use std::process::Command;

use oncefs::store::{Config, Store};

use super::shelf::Shelf;
use crate::cli::node::ONCEFS;
use crate::support::recorded_disk::{Mounted, RecordedDisk};

/// Points in time at which the power goes.
const CUTS: usize = 10;

fn open(root: &Path) -> Store {
    Store::open(root, Config::default(), Shelf::with(&[])).unwrap()
}

/// Opens it in another process: what has a broken database open keeps it to its end.
fn open_elsewhere(root: &Path) {
    let run = tempfile::tempdir().unwrap();
    let mut status = Command::new(ONCEFS);
    status.arg("--root").arg(root).arg("--run").arg(run.path()).arg("--config").arg("/dev/null").arg("status");
    let ran = status.output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
}

/// As after a boot: notes may be older than records.
fn boot(root: &Path) {
    fs::write(root.join("notes/boot"), "the boot before").unwrap();
}

/// A store whose database has what its notes lack, and lacks what they have.
fn store_after_a_power_loss(root: &Path) {
    let store = open(root);
    let note = |id: u64| root.join(format!("notes/snapshot/{id}"));
    for id in 1..6 {
        store.put_snapshot(id, b"active").unwrap();
    }
    let (old, gone) = (fs::read(note(3)).unwrap(), fs::read(note(5)).unwrap());
    store.put_snapshot(3, b"committed").unwrap();
    store.remove_snapshot(5).unwrap();
    assert_eq!(store.new_view_slot().unwrap(), 1);
    drop(store);
    fs::write(note(3), old).unwrap();
    fs::remove_file(note(4)).unwrap();
    fs::write(note(5), gone).unwrap();
    boot(root);
}

fn look(disk: &Mounted, what: &str) {
    let root = disk.path().join("store");
    boot(&root);
    open_elsewhere(&root);
    let store = open(&root);
    let there = store.snapshots().unwrap();
    let want = [(1, "active"), (2, "active"), (3, "committed"), (4, "active"), (5, "active")];
    assert_eq!(there, want.map(|(id, record)| (id, record.as_bytes().to_vec())), "{what}");
    assert!(store.new_view_slot().unwrap() > 1, "{what}: a number is handed out twice");
    assert!(!root.join("db.new").exists() && root.join("db.broken-0").exists(), "{what}");
    assert!(!root.join("db.broken-1").exists(), "{what}: a database that was never whole is kept");
}

#[test]
fn a_power_loss_while_a_database_is_made_anew_costs_nothing() {
    let disk = RecordedDisk::new();
    let root = disk.path().join("store");
    store_after_a_power_loss(&root);
    disk.forgets("store");
    let begin = disk.now();
    open_elsewhere(&root);
    assert!(root.join("db.broken-0").exists(), "it was not made anew");
    disk.forgets("store");
    let end = disk.now();
    let mut replay = disk.end();
    for cut in 0..=CUTS {
        let (at, kept) = (begin + (end - begin) * cut / CUTS, [0, 5, 2][cut % 3]);
        let what = format!("a loss at {at} of {begin} to {end}, {kept} fifths of what was not flushed kept");
        look(&replay.disk(at, |number| (number * 7919 + cut) % 5 < kept), &what);
    }
}
