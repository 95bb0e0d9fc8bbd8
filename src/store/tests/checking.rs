//! A check of all files, with repair and without.

use super::*;

fn check(store: &Store, repair: bool) -> CheckReport {
    store.check(repair, &|progress| assert!(progress.bytes_done <= progress.bytes)).unwrap()
}

#[test]
fn a_check_of_a_sound_store_finds_nothing() {
    let samples = [1, 2, 3].map(|seed| Sample::new(seed, 10 * FRAME, FRAME));
    let (_dir, _, store) = fixture(&[]);
    for sample in &samples {
        sample.put(&store).drop_frames(0..1).unwrap();
    }
    let report = check(&store, false);
    let expected = CheckReport { layers: 3, frames: 27, bytes: 27 * FRAME, repaired: true, ..CheckReport::default() };
    assert_eq!(report, expected);
}

#[tokio::test]
async fn a_check_finds_flipped_and_punched_bytes_and_repairing_makes_them_readable() {
    let sample = Sample::new(1, 10 * FRAME, FRAME);
    let (dir, shelf, store) = fixture(&[&sample]);
    let layer = sample.put(&store);
    let data = place(&dir, &sample).join("data");
    flip(&data, 4 * FRAME);
    let file = fs::File::options().write(true).open(&data).unwrap();
    file::punch(&file, 7 * FRAME..8 * FRAME).unwrap();

    let report = check(&store, false);
    assert_eq!((report.damaged_frames, report.repaired), (2, false));
    assert_eq!(layer.resident_bytes(), 10 * FRAME, "without repair nothing is changed");
    let report = check(&store, true);
    assert_eq!((report.damaged_frames, report.repaired), (2, true));
    assert!(report.problems[0].contains("frame 4") && report.problems[1].contains("frame 7"), "{report:?}");
    assert_eq!(missing(&layer), Some(4..8));
    layer.fill(4..8).await.unwrap();
    sample.is_whole(&layer);
    assert_eq!(shelf.requests().len(), 2);
    assert_eq!(check(&store, false).problems, Vec::<String>::new());
}

#[test]
fn a_check_removes_a_layer_whose_index_rotted_and_writes_a_rotten_bitmap_again() {
    let [tree, frames, bitmap] = [1, 2, 3].map(|seed| Sample::new(seed, 4 * FRAME, FRAME));
    let (dir, shelf, store) = fixture(&[]);
    for sample in [&tree, &frames, &bitmap] {
        sample.put(&store);
    }
    flip(&place(&dir, &tree).join("tree"), 1540);
    flip(&place(&dir, &frames).join("frames"), 300);
    flip(&place(&dir, &bitmap).join("resident"), 17);
    let report = check(&store, true);
    assert_eq!((report.damaged_layers, report.problems.len(), report.repaired), (2, 3, true), "{report:?}");
    assert_eq!([&tree, &frames, &bitmap].map(|sample| store.has(&sample.digest)), [false, false, true]);
    drop(store);
    bitmap.is_whole(&open(&dir, &shelf).layer(&bitmap.digest).unwrap().unwrap());
}

#[test]
fn a_check_takes_in_a_layer_that_somebody_put_there() {
    let sample = Sample::new(1, 4 * FRAME, FRAME);
    let (dir, _, store) = fixture(&[]);
    sample.put(&store);
    let other = tempfile::tempdir().unwrap();
    let there = open(&other, &Shelf::with(&[]));
    fs::rename(place(&dir, &sample), place(&other, &sample)).unwrap();
    assert_eq!(check(&there, true).problems.len(), 1);
    sample.is_whole(&there.layer(&sample.digest).unwrap().unwrap());
    assert_eq!(check(&store, true).damaged_layers, 1, "and the one it was taken from misses it");
}

#[test]
fn a_check_without_repair_changes_nothing() {
    let sample = Sample::new(1, 4 * FRAME, FRAME);
    let (dir, _, store) = fixture(&[]);
    sample.put(&store);
    fs::remove_file(place(&dir, &sample).join("data")).unwrap();
    let half = dir.path().join("layers/sha256").join("a".repeat(64));
    fs::create_dir(&half).unwrap();
    let report = check(&store, false);
    assert_eq!((report.problems.len(), report.damaged_layers, report.repaired), (2, 1, false), "{report:?}");
    assert!(half.exists() && place(&dir, &sample).exists() && store.has(&sample.digest));
    assert_eq!(check(&store, true).problems.len(), 2);
    assert!(!half.exists() && !place(&dir, &sample).exists() && !store.has(&sample.digest));
    assert_eq!(check(&store, true), CheckReport { repaired: true, ..CheckReport::default() });
}

#[test]
fn the_space_of_the_disk_is_known() {
    let (_dir, _, store) = fixture(&[]);
    let space = store.statfs().unwrap();
    assert!(space.total >= space.available && space.available > 0);
}

#[test]
fn io_errors_say_what_to_do() {
    let path = Path::new("/store/data");
    let full = StoreError::io("write", path)(io::ErrorKind::StorageFull.into()).to_string();
    assert_eq!(full, "the disk is full: write /store/data failed; free some space, or choose another root with --root");
    let locked = StoreError::Locked { root: "/store".into(), pid: Some(7) }.to_string();
    assert_eq!(locked, "the store /store is in use by process 7; stop it, or choose another root with --root");
}
