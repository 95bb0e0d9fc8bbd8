//! Passes over blobs with frames that are too large for memory.

use super::*;
use crate::store::fill::PIECE_BYTES;

/// A large frame, another one, and what is left.
const LARGE: u64 = (9 << 20) + 7;

/// However slow the machine is: what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn large() -> Sample {
    Sample::new(3, 2 * LARGE + (3 << 20), LARGE)
}

/// A layer of which nothing is here.
fn nothing_of(sample: &Sample, store: &Store) -> Arc<Layer> {
    let layer = sample.put(store);
    layer.drop_frames(0..layer.frames().len()).unwrap();
    layer.shared.twins.begin_to_note(); // a reader who is the first to do that waits before it joins anything
    layer
}

/// What of the blob passes until its end, or until it fails.
async fn rest(passing: &mut Passing) -> Result<Vec<u8>, FillFailed> {
    let mut bytes = Vec::new();
    while let Some(piece) = passing.next().await? {
        bytes.extend(&piece[..]);
    }
    Ok(bytes)
}

fn asked(shelf: &Shelf) -> u64 {
    shelf.requests.lock().iter().map(|range| range.end - range.start).sum()
}

#[tokio::test]
async fn large_frames_that_pass_are_kept_without_being_fetched_twice_or_ahead_of_the_pass() {
    let sample = large();
    let (dir, shelf, store) = fixture(&[&sample]);
    let layer = nothing_of(&sample, &store);
    let (mut passing, mut passed) = (layer.pass().unwrap(), Vec::new());
    loop {
        let most = passing.next_bytes();
        let Some(piece) = passing.next().await.unwrap() else { break };
        assert!(piece.len() as u64 <= most);
        passed.extend(&piece[..]);
        // One piece that is not heard yet, and one that waits for that.
        assert!(
            asked(&shelf) <= passed.len() as u64 + 2 * PIECE_BYTES,
            "{} ahead",
            asked(&shelf) - passed.len() as u64
        );
    }
    assert!(passed == sample.bytes);
    sample.is_whole(&layer);
    assert_eq!(asked(&shelf), sample.bytes.len() as u64);
    assert!(names(&dir.path().join("staging")).is_empty());
}

#[tokio::test]
async fn who_reads_a_frame_that_passes_shares_the_work_and_waits_for_no_pass() {
    let sample = large();
    let (_dir, shelf, store) = fixture(&[&sample]);
    let layer = nothing_of(&sample, &store);
    let mut passing = layer.pass().unwrap();
    let mut passed = passing.next().await.unwrap().unwrap().to_vec();
    tokio::time::timeout(PATIENCE, layer.fill(0..1)).await.expect("a reader waits for the pass").unwrap();
    assert!(read(&layer, 0..LARGE).unwrap() == sample.bytes[..LARGE as usize]);
    assert_eq!(asked(&shelf), LARGE, "the pass had begun to fetch it");
    passed.extend(rest(&mut passing).await.unwrap());
    assert!(passed == sample.bytes);
    sample.is_whole(&layer);
}

#[tokio::test]
async fn a_pass_that_ends_early_ends_what_nobody_else_wants() {
    let sample = large();
    let (_dir, _shelf, store) = fixture(&[&sample]);
    let layer = nothing_of(&sample, &store);
    let mut passing = layer.pass().unwrap();
    passing.next().await.unwrap();
    let mut reader = Box::pin(layer.fill(0..1));
    assert!(futures::poll!(&mut reader).is_pending());
    drop(passing);
    tokio::time::timeout(PATIENCE, reader).await.expect("the work ended with the pass").unwrap();
    assert!(layer.is_resident(0));

    let mut passing = layer.pass().unwrap();
    let mut passed = 0;
    while passed <= LARGE {
        passed += passing.next().await.unwrap().unwrap().len() as u64;
    }
    assert_eq!(store.inner.shared.fills.len(), 1);
    drop(passing);
    let begun = Instant::now();
    while !store.inner.shared.fills.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "the work goes on for nobody");
        tokio::task::yield_now().await;
    }
    assert!(!layer.is_resident(1));
}

#[tokio::test]
async fn a_large_frame_that_passes_and_is_wrong_is_not_kept() {
    let sample = large();
    let (_dir, shelf, store) = fixture(&[&sample]);
    let layer = nothing_of(&sample, &store);
    *shelf.fault.lock() = Some(Fault::FlippedAt(LARGE + (5 << 20)));
    let failed = rest(&mut layer.pass().unwrap()).await.unwrap_err();
    let Failed::Work(error) = failed else { panic!("{failed}") };
    assert!(matches!(*error, FillError::Mismatch { frame: 1, .. }), "{error}");
    assert!(!layer.is_resident(1));
    sample.agrees(&layer);
}

#[tokio::test]
async fn a_large_frame_that_passes_drives_nothing_out_of_the_cache() {
    let sample = large();
    let (_dir, _shelf, store) = fixture(&[&sample]);
    let layer = nothing_of(&sample, &store);
    store.set_cache(CacheConfig { max_bytes: LARGE + (1 << 20), high: 100, low: 90 });
    let passed = rest(&mut layer.pass().unwrap()).await.unwrap();
    assert!(passed == sample.bytes);
    assert_eq!((layer.is_resident(0), layer.is_resident(1)), (true, false));
    assert_eq!(store.cache_usage().evicted, Evicted::default());
}
