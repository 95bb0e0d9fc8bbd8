//! Frames whose own digest is that of their source, after a restart.

use super::*;

/// Four frames that were fetched, and a store that is opened again.
async fn restarted(between: impl FnOnce(&Path)) -> (Sample, TempDir, Arc<Shelf>, Arc<Layer>) {
    let of_source = |source: &[u8]| FrameDigest::Source(*Digest::of(source).as_bytes());
    let sample = Sample { digest_of: of_source, ..Sample::new(6, 4 * FRAME, FRAME) };
    let (dir, shelf, store) = fixture(&[&sample]);
    let layer = sample.put(&store);
    layer.drop_frames(0..4).unwrap();
    layer.fill(0..3).await.unwrap();
    layer.sync().unwrap();
    drop((layer, store));
    between(&place(&dir, &sample));
    shelf.requests();
    let layer = open(&dir, &shelf).layer(&sample.digest).unwrap().unwrap();
    layer.fill(0..4).await.unwrap();
    sample.is_whole(&layer);
    (sample, dir, shelf, layer)
}

#[tokio::test]
async fn what_is_kept_of_them_is_believed_because_its_sum_was_noted() {
    let (.., shelf, _) = restarted(|_| ()).await;
    assert_eq!(shelf.requests(), vec![3 * FRAME..4 * FRAME; 1], "what was never kept");
}

#[tokio::test]
async fn a_bit_that_turned_in_them_or_in_their_sums_costs_a_request() {
    for (file, at) in [("data", FRAME + 100), ("sums", 32)] {
        let (.., shelf, _) = restarted(|layer| flip(&layer.join(file), at)).await;
        assert_eq!(shelf.requests(), [FRAME..2 * FRAME, 3 * FRAME..4 * FRAME], "{file}");
    }
}

#[tokio::test]
async fn sums_that_are_gone_for_the_most_part_cost_requests_too() {
    let cut = |layer: &Path| fs::File::options().write(true).open(layer.join("sums")).unwrap().set_len(32).unwrap();
    let (.., shelf, _) = restarted(cut).await;
    let mut requests = shelf.requests();
    requests.sort_by_key(|range| range.start);
    assert_eq!(requests.iter().map(|range| range.end - range.start).sum::<u64>(), 3 * FRAME, "{requests:?}");
}

#[tokio::test]
async fn a_layer_that_an_older_oncefs_received_has_none_and_is_believed() {
    let (.., shelf, layer) = restarted(|layer| fs::remove_file(layer.join("sums")).unwrap()).await;
    assert_eq!(shelf.requests(), vec![3 * FRAME..4 * FRAME; 1]);
    assert!(!layer.directory().join("sums").exists());
}

#[test]
fn other_layers_have_none() {
    let sample = Sample::new(7, 2 * FRAME, FRAME);
    let (dir, _, store) = fixture(&[&sample]);
    sample.put(&store);
    assert_eq!(names(&place(&dir, &sample)), ["data", "frames", "note", "resident", "tree"]);
}
