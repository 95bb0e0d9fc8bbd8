//! Small frames that come along in a reader's request.

use super::*;

const SMALL: u64 = 5000;
/// What the tests expect; the code's own is not theirs to see.
const STRETCH: u64 = 128 << 10;

/// A hundred small frames, none of them here.
fn small() -> (Sample, TempDir, Arc<Shelf>, Store, Arc<Layer>) {
    let sample = Sample::new(5, 100 * SMALL, SMALL);
    let (dir, shelf, store) = fixture(&[&sample]);
    let layer = sample.put(&store);
    layer.drop_frames(0..100).unwrap();
    (sample, dir, shelf, store, layer)
}

/// Once everything under way has ended.
async fn resident(layer: &Layer) -> Vec<u32> {
    let ended = async {
        while !layer.shared.fills.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("fills end");
    (0..layer.frames().len()).filter(|frame| layer.is_resident(*frame)).collect()
}

#[tokio::test]
async fn what_lies_in_the_same_stretch_comes_in_the_same_request() {
    let (sample, _dir, shelf, _store, layer) = small();
    layer.fill(30..31).await.unwrap();
    assert!(layer.is_resident(30));
    // Frames 27 to 51 are those that lie wholly in the second stretch.
    let (first, after) = (STRETCH.div_ceil(SMALL) as u32, (2 * STRETCH / SMALL) as u32);
    assert_eq!(resident(&layer).await, (first..after).collect::<Vec<_>>());
    assert_eq!(shelf.requests(), vec![u64::from(first) * SMALL..u64::from(after) * SMALL; 1]);
    layer.fill(first..after).await.unwrap();
    assert_eq!(shelf.requests(), []);
    sample.agrees(&layer);
}

#[tokio::test]
async fn what_is_here_or_on_its_way_is_not_asked_for_again() {
    let (sample, _dir, shelf, store, layer) = small();
    layer.fill_for(28..29, Priority::Background).await.unwrap();
    assert_eq!(shelf.requests(), vec![28 * SMALL..29 * SMALL; 1], "nothing comes along with background work");
    let on_its_way = store.inner.shared.wishes.wish((layer.slot(), 33), Priority::Background);
    layer.fill(30..31).await.unwrap();
    drop(on_its_way);
    assert_eq!(resident(&layer).await, [28, 29, 30, 31, 32]);
    assert_eq!(shelf.requests(), vec![29 * SMALL..33 * SMALL; 1]);
    sample.agrees(&layer);
}

#[tokio::test]
async fn nothing_comes_along_where_it_is_set_so_or_the_cache_is_full() {
    let (_sample, _dir, _shelf, store, layer) = small();
    store.set_fetch(FetchConfig { read_ahead_bytes_max: 0, ..FetchConfig::default() });
    layer.fill(30..31).await.unwrap();
    assert_eq!(resident(&layer).await, [30]);
    store.set_fetch(FetchConfig::default());
    store.set_cache(CacheConfig { max_bytes: 10 * SMALL, ..CacheConfig::default() });
    layer.fill(60..61).await.unwrap();
    assert_eq!(resident(&layer).await, [30, 60]);
}

#[tokio::test]
async fn a_neighbour_that_comes_wrong_is_no_readers_error() {
    let (sample, _dir, shelf, _store, layer) = small();
    let mut bytes = sample.bytes.to_vec();
    bytes[31 * SMALL as usize] ^= 1;
    shelf.blobs.lock().insert(sample.digest, bytes.into());
    layer.fill(30..31).await.unwrap();
    assert!(!resident(&layer).await.contains(&31));
    assert!(matches!(layer.fill(31..32).await, Err(Failed::Work(_))), "who wants it is told");
    sample.agrees(&layer);
}

#[tokio::test]
async fn a_reader_of_much_waits_for_nothing_else() {
    let (_sample, _dir, shelf, _store, layer) = small();
    layer.fill(30..50).await.unwrap();
    assert_eq!(resident(&layer).await, (30..50).collect::<Vec<_>>());
    assert_eq!(shelf.requests(), vec![30 * SMALL..50 * SMALL; 1]);
}
