//! What a start finds of an earlier process: whole, half, damaged, or nothing.

use super::*;

#[tokio::test]
async fn layers_outlive_the_database_with_their_numbers_and_origins() {
    let sample = Sample::new(1, 4 * FRAME, FRAME);
    let (dir, shelf, store) = fixture(&[&sample]);
    let slot = sample.put(&store).slot();
    drop(store);
    fs::write(dir.path().join("db/db"), b"").unwrap();
    let store = open(&dir, &shelf);
    let layer = store.layer(&sample.digest).unwrap().unwrap();
    assert_eq!((layer.slot(), layer.origin()), (slot, Some(origin())));
    layer.drop_frames(1..2).unwrap();
    layer.fill(1..2).await.unwrap();
    sample.is_whole(&layer);
}

#[tokio::test]
async fn layers_without_database_and_note_are_filled_again_once_an_image_names_them() {
    let sample = Sample::new(1, 4 * FRAME, FRAME);
    let (dir, shelf, store) = fixture(&[&sample]);
    let slot = sample.put(&store).slot();
    drop(store);
    fs::write(dir.path().join("db/db"), b"").unwrap();
    fs::remove_file(place(&dir, &sample).join("note")).unwrap();
    let store = open(&dir, &shelf);
    let layer = store.layer(&sample.digest).unwrap().unwrap();
    assert!(layer.slot() > slot && layer.origin().is_none());
    sample.is_whole(&layer);
    layer.drop_frames(1..2).unwrap();
    let failed = layer.fill(1..2).await.unwrap_err();
    assert!(matches!(&failed, Failed::Work(error) if matches!(**error, FillError::NoOrigin { .. })), "{failed}");
    store.set_origin(&sample.digest, &origin()).unwrap();
    layer.fill(1..2).await.unwrap();
    sample.is_whole(&layer);
}

#[test]
fn a_start_removes_what_is_half_and_forgets_what_is_gone() {
    let [whole, half, gone] = [1, 2, 3].map(|seed| Sample::new(seed, 4 * FRAME, FRAME));
    let (dir, shelf, store) = fixture(&[&whole, &half, &gone]);
    for sample in [&whole, &half, &gone] {
        sample.put(&store);
    }
    drop(store);
    fs::remove_file(place(&dir, &half).join("frames")).unwrap();
    fs::remove_dir_all(place(&dir, &gone)).unwrap();
    fs::create_dir_all(dir.path().join("staging/left.7/deep")).unwrap();
    fs::write(dir.path().join("staging/file"), b"x").unwrap();
    fs::create_dir(dir.path().join("layers/sha256/lost+found")).unwrap();
    let store = open(&dir, &shelf);
    assert_eq!([&whole, &half, &gone].map(|sample| store.has(&sample.digest)), [true, false, false]);
    assert!(names(&dir.path().join("staging")).is_empty());
    assert!(!place(&dir, &half).exists() && dir.path().join("layers/sha256/lost+found").exists());
    assert_eq!(store.layers().len(), 1);
}

#[test]
fn a_layer_with_a_damaged_index_is_removed_when_it_is_opened() {
    for (name, at) in [("frames", 100), ("frames", 300), ("tree", 1030)] {
        let sample = Sample::new(1, 4 * FRAME, FRAME);
        let (dir, shelf, store) = fixture(&[&sample]);
        sample.put(&store);
        drop(store);
        flip(&place(&dir, &sample).join(name), at);
        let store = open(&dir, &shelf);
        assert!(store.layer(&sample.digest).unwrap().is_none(), "byte {at} of {name}");
        assert!(!store.has(&sample.digest) && !place(&dir, &sample).exists());
        sample.is_whole(&sample.put(&store));
    }
}

#[tokio::test]
async fn a_damaged_bitmap_costs_the_bytes_and_not_the_layer() {
    let sample = Sample::new(1, 4 * FRAME, FRAME);
    let (dir, shelf, store) = fixture(&[&sample]);
    sample.put(&store);
    drop(store);
    flip(&place(&dir, &sample).join("resident"), 3);
    let store = open(&dir, &shelf);
    let layer = store.layer(&sample.digest).unwrap().unwrap();
    assert_eq!(layer.resident_bytes(), 0);
    layer.fill(0..4).await.unwrap();
    sample.is_whole(&layer);
}

/// Who reads on and on does not wait for that of what comes next.
#[tokio::test]
async fn what_is_read_on_and_on_is_compared_ahead_and_fetched_only_where_it_is_wrong() {
    let sample = Sample::new(1, 40 * FRAME, FRAME);
    let (dir, shelf, store) = fixture(&[&sample]);
    sample.put(&store);
    drop(store);
    flip(&place(&dir, &sample).join("data"), 12 * FRAME + 1);
    let layer = open(&dir, &shelf).layer(&sample.digest).unwrap().unwrap();
    assert!(layer.is_complete() && !layer.is_all_at_hand());
    let size = layer.data_bytes();
    assert_eq!(layer.reads_on(1, &(0..FRAME), size), None);
    let ahead = layer.reads_on(1, &(FRAME..2 * FRAME), size).expect("there is something to compare");
    layer.fetch_ahead(vec![ahead.clone()]);
    let of = layer.frames().covering(ahead);
    let compared = async {
        while !layer.shared.fills.is_empty() || layer.resident().unproven(of.clone()).is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), compared).await.expect("all of it is compared");
    assert!(of.contains(&12) && of.end < 40, "{of:?}");
    assert_eq!(layer.resident().unproven(0..40), Some(0..40), "what lies before and behind is not");
    assert_eq!(shelf.requests(), vec![12 * FRAME..13 * FRAME; 1]);
    sample.is_whole(&layer);
    assert!(layer.is_all_at_hand());
    assert_eq!(layer.reads_on(1, &(2 * FRAME..3 * FRAME), size), None);
}
