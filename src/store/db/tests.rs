//! What the database remembers, hands out and survives.

use super::*;
use crate::blob::Origin;

fn open(root: &Path) -> Opened {
    Db::open(&Layout::new(root)).unwrap()
}

fn digest(name: &str) -> LayerDigest {
    LayerDigest(Digest::of(name.as_bytes()))
}

fn record(slot: u32) -> LayerRecord {
    LayerRecord { slot, origin: Some(Origin("oci:/images".into())) }
}

fn image(reference: &str) -> ImageRecord {
    ImageRecord {
        reference: reference.into(),
        platform: "linux/amd64".into(),
        manifest_digest: Digest::of(reference.as_bytes()),
        manifest: vec![b'm'; 3 << 20],
        config: b"{}".to_vec(),
        origin: Origin("oci:/images".into()),
        seen_at_secs: 1,
        kept: true,
    }
}

#[test]
fn numbers_are_never_handed_out_twice_not_even_those_of_removed_layers() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path()).db;
    assert_eq!(db.add_layer(&digest("a"), record).unwrap(), 1);
    assert_eq!(db.add_layer(&digest("b"), record).unwrap(), 2);
    assert_eq!((db.new_view_slots(1).unwrap(), db.new_view_slots(1).unwrap()), (1, 2));
    db.remove_layer(&digest("b")).unwrap();
    drop(db);
    let again = open(dir.path());
    assert!(again.lost.is_none());
    assert_eq!(again.layers, [(digest("a"), record(1))]);
    assert_eq!(again.db.add_layer(&digest("b"), record).unwrap(), 3);
    assert_eq!(again.db.new_view_slots(1).unwrap(), 3);
}

#[test]
fn images_are_found_by_reference_and_platform_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path()).db;
    db.put_image(&image("redis:7")).unwrap();
    db.put_image(&image("redis:70")).unwrap();
    drop(db);
    let db = open(dir.path()).db;
    assert_eq!(db.image("redis:7", "linux/amd64").unwrap(), Some(image("redis:7")));
    assert_eq!(db.image("redis:7", "linux/arm64").unwrap(), None);
    assert_eq!(db.images().unwrap().len(), 2);
    db.remove_image("redis:7", "linux/amd64").unwrap();
    assert_eq!(db.images().unwrap(), [image("redis:70")]);
}

#[test]
fn a_database_of_a_newer_program_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path()).db;
    db.change(0, |trees| trees.meta.insert("version", &(VERSION + 1).to_le_bytes()).map(drop)).unwrap();
    drop(db);
    let refused = Db::open(&Layout::new(dir.path())).map(drop).unwrap_err();
    assert!(matches!(refused, StoreError::Newer { has, known: VERSION, .. } if has == VERSION + 1), "{refused}");
    assert!(!dir.path().join("db.broken-0").exists());
}

#[test]
fn a_database_of_the_first_version_is_read_and_is_of_this_one_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path()).db;
    db.put_image(&image("redis:7")).unwrap();
    db.change(0, |trees| trees.meta.insert("version", &1u32.to_le_bytes()).map(drop)).unwrap();
    drop(db);
    let opened = open(dir.path());
    assert_eq!((opened.lost, opened.db.images().unwrap()), (None, vec![image("redis:7")]));
    assert_eq!(opened.db.with(|trees| trees.number("version")).unwrap(), Some(VERSION));
}

#[test]
fn a_database_of_garbage_is_moved_aside_and_its_numbers_are_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3u32 {
        let opened = open(dir.path());
        assert_eq!(opened.lost.is_some(), round > 0, "round {round}: {:?}", opened.lost);
        let first = Counter::Layer.first(round);
        assert_eq!(opened.db.add_layer(&digest("a"), record).unwrap(), first);
        drop(opened);
        let files = walk(&dir.path().join("db"));
        files.iter().for_each(|path| fs::write(path, vec![0x5a; 700_000]).unwrap());
    }
    assert!(dir.path().join("db.broken-1").exists());
}

#[test]
fn a_database_cut_to_nothing_is_a_lost_one() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).db.add_layer(&digest("a"), record).unwrap();
    fs::write(dir.path().join("db").join("db"), b"").unwrap();
    let opened = open(dir.path());
    assert!(opened.lost.is_some());
    assert_eq!(opened.layers, []);
}

/// The files below a directory.
fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
