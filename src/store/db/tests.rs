//! What the database remembers, hands out and survives.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::blob::Origin;
use crate::digest::Digest;
use crate::store::records::{VerdictKind, VerdictRecord};

/// Opens it as a store does, which has made the directory of layers.
fn open(root: &Path) -> Opened {
    let layout = Layout::new(root);
    fs::create_dir_all(layout.layers()).unwrap();
    Db::open(&layout).unwrap()
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
        manifest: vec![b'm'; 200 << 10],
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
    assert_eq!(again.rebuilt, None);
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
    assert_eq!((opened.rebuilt, opened.db.images().unwrap()), (None, vec![image("redis:7")]));
    assert_eq!(opened.db.with(|trees| trees.number("version")).unwrap(), Some(VERSION));
}

#[test]
fn a_store_of_the_second_version_is_noted_when_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let db = open(dir.path()).db;
    db.change(0, |trees| trees.meta.insert("version", &2u32.to_le_bytes()).map(drop)).unwrap();
    drop(db);
    fs::remove_dir_all(dir.path().join("notes")).unwrap();
    fs::remove_file(Layout::new(dir.path()).layer_note(&digest("a"))).unwrap();
    assert_eq!(open(dir.path()).rebuilt, None);
    damage(dir.path(), |log| log.set_len(0).unwrap());
    assert_all_is_there(&open(dir.path()));
}

#[test]
fn after_an_error_it_is_left_alone_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path()).db;
    db.put_snapshot(1, b"one").unwrap();
    assert_eq!(db.failure(), None);
    let broken = |_: &Trees| Err(sled::Error::Io(std::io::Error::other("the disk is on fire")));
    db.change(0, broken).unwrap_err();
    // Also while somebody changes something, which may take long.
    let changing = db.trees.lock();
    assert!(db.failure().unwrap().contains("the disk is on fire"), "{:?}", db.failure());
    drop(changing);
    assert!(matches!(db.put_snapshot(2, b"two"), Err(StoreError::DatabaseFailed { .. })));
    assert!(db.failure().unwrap().contains("the disk is on fire"), "the first error is why");
}

// === a broken one ===

/// Something of each kind, and what was there before.
fn fill(root: &Path) {
    let db = open(root).db;
    fs::create_dir_all(Layout::new(root).layer(&digest("a"))).unwrap();
    db.add_layer(&digest("gone"), record).unwrap();
    db.remove_layer(&digest("gone")).unwrap();
    db.add_layer(&digest("a"), record).unwrap();
    db.put_verdict(&digest("bad"), &verdict()).unwrap();
    db.put_image(&image("redis:7")).unwrap();
    db.put_image(&image("redis:8")).unwrap();
    db.remove_image("redis:8", "linux/amd64").unwrap();
    db.put_pin("redis:7", "linux/amd64").unwrap();
    for id in 1..50u64 {
        db.put_snapshot(id, format!("active {id}").as_bytes()).unwrap();
        db.put_snapshot(id, format!("committed {id}").as_bytes()).unwrap();
    }
    db.remove_snapshot(7).unwrap();
    assert_eq!(db.new_view_slots(5).unwrap(), 1);
}

fn verdict() -> VerdictRecord {
    VerdictRecord { slot: 9, kind: VerdictKind::Bad, cause: "it lies".to_owned(), at_secs: 1 }
}

fn snapshots() -> Vec<(u64, Vec<u8>)> {
    (1..50).filter(|id| *id != 7).map(|id| (id, format!("committed {id}").into_bytes())).collect()
}

#[track_caller]
fn assert_all_is_there(opened: &Opened) {
    let db = &opened.db;
    assert_eq!(opened.layers, [(digest("a"), record(2))]);
    assert_eq!(db.snapshots().unwrap(), snapshots());
    let mut images = db.images().unwrap();
    // That it was removed may be what was lost: no harm.
    images.retain(|image| image.reference != "redis:8");
    assert!(images == [image("redis:7")], "{} images, or another", images.len());
    assert_eq!(db.pins().unwrap(), [("redis:7".to_owned(), "linux/amd64".to_owned())]);
    assert_eq!(db.verdicts().unwrap(), [(digest("bad"), verdict())]);
    let (layer, view) = (db.add_layer(&digest("b"), record).unwrap(), db.new_view_slots(1).unwrap());
    assert!(layer > 2 && view > 5, "the numbers {layer} and {view} are handed out a second time");
    db.remove_layer(&digest("b")).unwrap();
}

/// Does something to sled's log.
fn damage(root: &Path, how: impl FnOnce(&fs::File)) {
    how(&fs::File::options().read(true).write(true).open(root.join("db/db")).unwrap());
}

/// The log's bytes that are not zero begin and end here.
fn written(log: &fs::File) -> (u64, u64) {
    let mut bytes = vec![0; log.metadata().unwrap().len() as usize];
    log.read_exact_at(&mut bytes, 0).unwrap();
    let first = bytes.iter().position(|byte| *byte != 0).unwrap();
    (first as u64, bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1)
}

#[test]
fn whatever_befalls_the_log_nothing_is_lost_and_no_number_used_again() {
    let kept = tempfile::tempdir().unwrap();
    fill(kept.path());
    // By kind of damage: how much of the log still matters, and so how many in all, is sled's affair.
    let mut broken = [0; 4];
    for case in 0..36u64 {
        let dir = tempfile::tempdir().unwrap();
        copy(kept.path(), dir.path());
        damage(dir.path(), |log| {
            let (first, end) = written(log);
            let at = first + (end - first) * (case / 4) / 9;
            match case % 4 {
                0 => log.set_len(at).unwrap(),
                1 => log.write_all_at(&[0; 4096], at).unwrap(),
                2 => log.write_all_at(Digest::of(&[7]).as_bytes(), at).unwrap(),
                _ => {
                    let mut byte = [0];
                    log.read_exact_at(&mut byte, at).unwrap();
                    log.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
                }
            }
        });
        let opened = open(dir.path());
        broken[case as usize % 4] += u32::from(opened.rebuilt.is_some());
        assert_all_is_there(&opened);
        drop(opened);
        assert_eq!(open(dir.path()).rebuilt, None, "case {case}");
    }
    assert!(broken.iter().all(|cases| *cases > 1), "only {broken:?} were broken");
}

#[test]
fn a_database_of_garbage_is_kept_aside_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let mut numbers = vec![5];
    for round in 0..3 {
        let files = walk(&dir.path().join("db"));
        files.iter().for_each(|path| fs::write(path, vec![0x5a; 700_000]).unwrap());
        let opened = open(dir.path());
        let rebuilt = opened.rebuilt.as_ref().unwrap();
        let aside = dir.path().join(format!("db.broken-{round}"));
        assert_eq!((rebuilt.kept.as_ref(), rebuilt.images, rebuilt.snapshots), (Some(&aside), 1, 48));
        assert_eq!(fs::read(aside.join("db")).unwrap(), vec![0x5a; 700_000]);
        assert_all_is_there(&opened);
        numbers.push(opened.db.new_view_slots(1).unwrap());
    }
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
}

#[test]
fn a_database_that_is_gone_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    fs::remove_dir_all(dir.path().join("db")).unwrap();
    let opened = open(dir.path());
    assert_eq!(opened.rebuilt.as_ref().unwrap().kept, None);
    assert_all_is_there(&opened);
}

#[test]
fn a_database_that_hangs_is_left_to_its_thread() {
    // On a slow machine the thread may not hang yet when the time is over; then it gets more.
    assert!([300, 3_000, 30_000].map(Duration::from_millis).into_iter().any(hangs_and_is_left));
}

/// Who reads from a pipe that nobody writes to waits for ever. False if nobody does when `patience` is over.
fn hangs_and_is_left(patience: Duration) -> bool {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let conf = dir.path().join("db/conf");
    fs::remove_file(&conf).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &conf, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let opened = opening::open(&Layout::new(dir.path()), patience).unwrap();
    assert!(opened.rebuilt.as_ref().unwrap().cause.contains("did not end"), "{:?}", opened.rebuilt);
    assert_all_is_there(&opened);
    drop(opened);
    // The thread goes on at last, in the directory it began with. Without a reader the pipe cannot be opened so.
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let hangs = rustix::fs::open(dir.path().join("db.broken-0/conf"), flags, mode).map(drop).is_ok();
    assert_all_is_there(&open(dir.path()));
    hangs
}

#[test]
fn a_damaged_note_is_left_out_and_kept_and_the_directory_of_its_snapshot_is_put_aside() {
    assert_damaged_notes_are_kept(|root| damage(root, |log| log.set_len(0).unwrap()));
    assert_damaged_notes_are_kept(|root| fs::remove_dir_all(root.join("db")).unwrap());
}

fn assert_damaged_notes_are_kept(lose_database: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    for id in [3, 4, 5, 77] {
        fs::create_dir_all(dir.path().join(format!("snapshots/{id}/fs"))).unwrap();
    }
    let (flipped, empty) = (dir.path().join("notes/snapshot/4"), dir.path().join("notes/snapshot/5"));
    let mut bytes = fs::read(&flipped).unwrap();
    bytes[30] ^= 1;
    fs::write(&flipped, &bytes).unwrap();
    fs::write(&empty, b"").unwrap();
    lose_database(dir.path());
    let opened = open(dir.path());
    let rebuilt = opened.rebuilt.unwrap();
    let told = |mut paths: Vec<std::path::PathBuf>| {
        paths.sort();
        paths
    };
    let kept = dir.path().join("notes.lost-0");
    assert_eq!(told(rebuilt.damaged), ["snapshot-4", "snapshot-5"].map(|name| kept.join(name)));
    assert_eq!(fs::read(kept.join("snapshot-4")).unwrap(), bytes);
    let aside = dir.path().join("snapshots.lost-0");
    assert_eq!(told(rebuilt.unknown), ["4", "5", "77"].map(|id| aside.join(id)));
    assert!(aside.join("4/fs").exists() && dir.path().join("snapshots/3/fs").exists());
    assert_eq!(rebuilt.snapshots, 46);
}

#[test]
fn a_kill_between_a_record_and_its_note_is_seen_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let aside = dir.path().join("notes/aside");
    let note = |id: u64, value: &str| Note::new(Kind::Snapshot, id.to_be_bytes(), value).encode();
    let place = |id: u64| dir.path().join(format!("notes/snapshot/{id}"));
    // Its database was changed: or was not. It was to be written, to be removed, or half written.
    for (number, old) in [(8, Some("active 8")), (9, None)] {
        fs::write(&aside, note(number, "what was to come")).unwrap();
        match old {
            Some(old) => fs::write(place(number), note(number, old)).unwrap(),
            None => fs::remove_file(place(number)).unwrap(),
        }
        assert_all_is_there(&open(dir.path()));
        assert_eq!(fs::read(place(number)).unwrap(), note(number, &format!("committed {number}")));
        assert!(!aside.exists());
    }
    fs::write(&aside, note(7, "committed 7")).unwrap();
    assert_all_is_there(&open(dir.path()));
    fs::write(&aside, &note(10, "")[..20]).unwrap();
    assert_all_is_there(&open(dir.path()));
    assert_eq!(open(dir.path()).rebuilt, None);
}

#[test]
fn after_a_power_loss_the_database_is_right_and_notes_only_add_to_it() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let place = dir.path().join("notes/snapshot/8");
    let old = Note::new(Kind::Snapshot, 8u64.to_be_bytes(), b"active 8".as_slice()).encode();
    // Whole notes that are older than the database.
    fs::write(dir.path().join("notes/boot"), "another").unwrap();
    fs::write(&place, &old).unwrap();
    let opened = open(dir.path());
    assert_eq!(opened.rebuilt, None);
    assert_all_is_there(&opened);
    drop(opened);
    assert_ne!(fs::read(&place).unwrap(), old, "it was not brought up to date");
    // And a record that the database lost.
    open(dir.path()).db.change(0, |trees| trees.remove(Kind::Snapshot, &20u64.to_be_bytes())).unwrap();
    fs::write(dir.path().join("notes/boot"), "another").unwrap();
    fs::write(&place, &old).unwrap();
    let opened = open(dir.path());
    assert!(opened.rebuilt.is_some());
    assert_all_is_there(&opened);
}

#[test]
fn a_check_finds_notes_that_differ_and_repairs_them() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let db = open(dir.path()).db;
    assert_eq!(db.check_notes(false).unwrap(), [""; 0]);
    fs::write(dir.path().join("notes/snapshot/8"), b"garbage").unwrap();
    fs::remove_file(dir.path().join("notes/pin").join(names(&dir.path().join("notes/pin")).remove(0))).unwrap();
    let found = ["pin redis:7 linux/amd64", "snapshot 8"];
    for repair in [false, true] {
        let mut told = db.check_notes(repair).unwrap();
        told.sort();
        assert_eq!(told, found);
    }
    assert_eq!(db.check_notes(false).unwrap(), [""; 0]);
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(copied.success());
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The files below a directory.
fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
