//! Frames that another layer has.

use super::*;

/// A layer of frames of the others, in this order: which layer, and which of its frames.
fn joined(of: &[(&Sample, u64)]) -> Sample {
    let frame = |(sample, number): &(&Sample, u64)| {
        sample.bytes.slice((number * FRAME) as usize..((number + 1) * FRAME) as usize)
    };
    let bytes = Bytes::from(of.iter().map(frame).collect::<Vec<_>>().concat());
    Sample { digest: LayerDigest(Digest::of(&bytes)), bytes, frame_bytes: FRAME, digest_of: FrameDigest::of }
}

/// As who asks first does, who waits for it only for a moment.
fn look_for_twins(layer: &Layer) {
    assert!(!layer.shared.twins.begin_to_note());
    layer.shared.look_for_twins();
}

#[tokio::test]
async fn a_frame_that_another_layer_has_is_not_fetched() {
    let (one, other) = (Sample::new(1, 10 * FRAME, FRAME), Sample::new(2, 10 * FRAME, FRAME));
    let mixed = joined(&[(&other, 0), (&one, 3), (&one, 4), (&other, 1), (&one, 9)]);
    let (_dir, shelf, store) = fixture(&[&one, &mixed]);
    one.put(&store);
    let layer = mixed.put(&store);
    layer.drop_frames(0..5).unwrap();
    look_for_twins(&layer);
    layer.fill(0..5).await.unwrap();
    mixed.is_whole(&layer);
    let mut requests = shelf.requests();
    requests.sort_by_key(|range| range.start);
    assert_eq!(requests, [0..FRAME, 3 * FRAME..4 * FRAME]);
    assert_eq!(store.deduplicated_bytes(), 3 * FRAME);
    drop(layer);

    // Also one that came later, and was itself fetched.
    let late = joined(&[(&other, 1), (&other, 5)]);
    shelf.blobs.lock().insert(late.digest, late.bytes.clone());
    let layer = late.put(&store);
    layer.drop_frames(0..2).unwrap();
    layer.fill(0..2).await.unwrap();
    assert_eq!(shelf.requests(), vec![FRAME..2 * FRAME; 1]);
    late.is_whole(&layer);
}

#[tokio::test]
async fn a_twin_that_is_damaged_or_gone_costs_a_request_and_nothing_else() {
    let one = Sample::new(1, 10 * FRAME, FRAME);
    let joined = joined(&[(&one, 3), (&one, 4), (&one, 5), (&one, 6)]);
    let (dir, shelf, store) = fixture(&[&one, &joined]);
    let (its, layer) = (one.put(&store), joined.put(&store));
    layer.drop_frames(0..4).unwrap();
    look_for_twins(&layer);
    layer.fill(0..1).await.unwrap();
    assert_eq!(shelf.requests(), []);
    flip(&place(&dir, &one).join("data"), 4 * FRAME + 100);
    its.drop_frames(5..6).unwrap();
    layer.fill(0..3).await.unwrap();
    assert_eq!(shelf.requests(), vec![FRAME..3 * FRAME; 1]);
    drop(its);
    store.remove(&one.digest).unwrap();
    layer.fill(0..4).await.unwrap();
    assert_eq!(shelf.requests(), vec![3 * FRAME..4 * FRAME; 1]);
    joined.is_whole(&layer);
    assert_eq!(store.deduplicated_bytes(), FRAME);
}

#[tokio::test]
async fn a_full_cache_takes_nothing_from_twins() {
    let one = Sample::new(1, 10 * FRAME, FRAME);
    let joined = joined(&[(&one, 3), (&one, 4)]);
    let (_dir, shelf, store) = fixture(&[&one, &joined]);
    one.put(&store);
    let layer = joined.put(&store);
    layer.drop_frames(0..2).unwrap();
    let pinned = [one.digest, joined.digest];
    store.set_uses(Arc::new(move || Uses { pinned: pinned.into(), ..Uses::default() }));
    store.set_cache(CacheConfig { max_bytes: 10 * FRAME, ..CacheConfig::default() });
    layer.fill(0..2).await.unwrap();
    assert_eq!((shelf.requests(), store.deduplicated_bytes()), (vec![0..2 * FRAME; 1], 0));
    assert_eq!(read(&layer, 0..2 * FRAME).unwrap(), joined.bytes, "it is lent");
}
