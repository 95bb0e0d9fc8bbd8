//! Two processes and one root.

use std::process::{Command, Stdio};

use oncefs::store::{Config, Store, StoreError};

use super::shelf::Shelf;
use crate::cli::node::until;

/// `flock` of util-linux, told to take the lock without waiting and to run a program under it.
fn flock(lock: &std::path::Path, program: &[&str]) -> Command {
    let mut command = Command::new("flock");
    command.arg("--nonblock").arg(lock).args(program).stdin(Stdio::null());
    command
}

#[test]
fn another_process_cannot_lock_an_open_store_and_can_when_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Config::default(), Shelf::with(&[])).unwrap();
    let lock = dir.path().join("lock");
    assert_eq!(std::fs::read_to_string(&lock).unwrap().trim(), std::process::id().to_string());
    let tried = || flock(&lock, &["true"]).status().expect("this test needs the program flock (util-linux)");
    assert!(!tried().success());
    drop(store);
    // A child that another test just forked has the lock until it executes its program.
    until("the lock is free", || tried().success());
}

#[test]
fn a_store_that_another_process_holds_is_refused_with_its_pid() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path(), Config::default(), Shelf::with(&[])).unwrap());
    let lock = dir.path().join("lock");
    // Says when it has the lock, and keeps it until its standard input ends.
    let script = "echo $$ > \"$0\"; echo locked; cat";
    let mut holder = flock(&lock, &["sh", "-c", script, lock.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs the program flock (util-linux)");
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.take().unwrap()), &mut said).unwrap();
    assert_eq!(said, "locked\n");

    let refused = Store::open(dir.path(), Config::default(), Shelf::with(&[])).unwrap_err();
    let StoreError::Locked { root, pid } = &refused else { panic!("{refused}") };
    assert_eq!(root, dir.path());
    let written = std::fs::read_to_string(&lock).unwrap();
    assert_eq!(pid.map(|pid| pid.to_string()).as_deref(), Some(written.trim()), "the message names who holds it");

    drop(holder.stdin.take());
    holder.wait().unwrap();
    until("the store can be opened", || Store::open(dir.path(), Config::default(), Shelf::with(&[])).is_ok());
}
