//! What is fetched beside the frames that readers wait for, over links that carry more or less.

use super::*;

const PIECE: u64 = 100_000;

/// Forty frames, and a link to them.
fn far(carries: usize) -> (Sample, TempDir, Arc<Shelf>, Store, Arc<Layer>) {
    let sample = Sample::new(4, 40 * PIECE, PIECE);
    let (dir, shelf, store) = fixture(&[&sample]);
    shelf.carries.store(carries, Ordering::Relaxed);
    let layer = sample.put(&store);
    layer.drop_frames(0..40).unwrap();
    (sample, dir, shelf, store, layer)
}

fn resident(layer: &Layer) -> Vec<u32> {
    (0..layer.frames().len()).filter(|frame| layer.is_resident(*frame)).collect()
}

async fn around(layer: &Arc<Layer>, missed: Range<u32>) -> Vec<u32> {
    layer.fill_around(&missed, 4 << 20).await.unwrap();
    resident(layer)
}

#[tokio::test]
async fn as_much_as_the_link_carries_comes_on_either_side_in_few_requests() {
    let (sample, _dir, shelf, _store, layer) = far(512 << 10);
    assert_eq!(around(&layer, 20..21).await, [15, 16, 17, 18, 19, 21, 22, 23, 24, 25]);
    let mut requests = shelf.requests();
    requests.sort_by_key(|range| range.start);
    assert_eq!(requests, [15 * PIECE..20 * PIECE, 21 * PIECE..26 * PIECE]);
    sample.agrees(&layer);
    // What is here is not asked for again, and at the ends there is less.
    assert_eq!(around(&layer, 22..23).await, [15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27]);
    around(&layer, 0..1).await;
    around(&layer, 39..40).await;
    assert_eq!(resident(&layer).len(), 13 + 5 + 5);
}

#[tokio::test]
async fn nothing_comes_over_a_link_that_carries_little_and_where_it_is_set_so() {
    let (_sample, _dir, _shelf, _store, layer) = far(255 << 10);
    assert!(around(&layer, 20..21).await.is_empty());
    let (_sample, _dir, _shelf, store, layer) = far(3 << 20);
    store.set_fetch(FetchConfig { read_ahead_bytes_max: 0, ..FetchConfig::default() });
    layer.fill(20..21).await.unwrap();
    assert_eq!((resident(&layer), store.fetch_counts().arounds), (vec![20], 0));
}

#[tokio::test]
async fn a_layer_that_is_small_beside_the_link_comes_whole() {
    let (sample, _dir, shelf, _store, layer) = far(1 << 20);
    assert_eq!(around(&layer, 20..21).await.len(), 39);
    sample.agrees(&layer);
    assert!(shelf.requests().iter().all(|range| range.end - range.start <= 1 << 20));
}

#[tokio::test]
async fn no_more_is_under_way_at_once_than_links_carry_in_some_round_trips() {
    let (_sample, _dir, _shelf, store, layer) = far(512 << 10);
    let under_way = &store.inner.shared.fetching.around_bytes;
    under_way.fetch_add(2 << 20, Ordering::SeqCst);
    assert!(around(&layer, 20..21).await.is_empty());
    under_way.fetch_sub(2 << 20, Ordering::SeqCst);
    assert_eq!(around(&layer, 20..21).await.len(), 10);
    assert_eq!(under_way.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_readers_own_frame_and_what_others_wait_for_are_left_to_them() {
    let (_sample, _dir, _shelf, store, layer) = far(512 << 10);
    let others = store.inner.shared.wishes.wish((layer.slot(), 22), super::super::wishes::Priority::Reader);
    assert_eq!(around(&layer, 20..21).await, [15, 16, 17, 18, 19, 21, 23, 24, 25]);
    drop(others);
    assert!(!layer.is_resident(20));
}
