//! Frames that were dropped, and come again when they are read.

use super::*;

#[tokio::test]
async fn what_was_dropped_is_fetched_in_one_request_and_reads_the_same() {
    let sample = Sample::new(1, 20 * FRAME + 1, FRAME);
    let (dir, shelf, store) = fixture(&[&sample]);
    let layer = sample.put(&store);
    layer.drop_frames(3..6).unwrap();
    layer.drop_frames(20..21).unwrap();
    assert_eq!(layer.resident_bytes(), 17 * FRAME);
    assert_eq!(read(&layer, 0..3 * FRAME).unwrap(), sample.bytes[..3 * FRAME as usize]);
    assert_eq!(read(&layer, 3 * FRAME - 1..3 * FRAME + 1), None);
    assert_eq!(missing(&layer), Some(3..21));
    sample.agrees(&layer);

    layer.fill(0..4).await.unwrap();
    assert_eq!(shelf.requests(), vec![3 * FRAME..4 * FRAME; 1]);
    layer.fill(0..100).await.unwrap();
    let mut requests = shelf.requests();
    requests.sort_by_key(|range| range.start);
    assert_eq!(requests, [4 * FRAME..6 * FRAME, 20 * FRAME..20 * FRAME + 1]);
    sample.is_whole(&layer);
    assert_eq!(shelf.opened.load(Ordering::Relaxed), 1);
    drop((layer, store));

    let store = open(&dir, &shelf);
    sample.is_whole(&store.layer(&sample.digest).unwrap().unwrap());
    assert!(shelf.requests().is_empty(), "a store that was closed knows what it had");
}

#[test]
fn dropping_gives_the_disk_space_back() {
    let sample = Sample::new(1, 64 << 16, 1 << 16);
    let (dir, _, store) = fixture(&[&sample]);
    let layer = sample.put(&store);
    let data = fs::File::open(place(&dir, &sample).join("data")).unwrap();
    layer.drop_frames(8..40).unwrap();
    let allocated = file::allocated(&data, 0..64 << 16).unwrap();
    assert_eq!(allocated, [0..8 << 16, 40 << 16..64 << 16]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_readers_of_the_same_frames_cost_their_bytes_once() {
    let sample = Sample::new(1, 40 * FRAME, FRAME);
    let (_dir, shelf, store) = fixture(&[&sample]);
    let layer = sample.put(&store);
    layer.drop_frames(0..40).unwrap();
    let fills = (0..20u32).map(|at| {
        let layer = layer.clone();
        async move { layer.fill(at..at + 20).await }
    });
    futures::future::try_join_all(fills).await.unwrap();
    let fetched: u64 = shelf.requests().iter().map(|range| range.end - range.start).sum();
    assert_eq!(fetched, 39 * FRAME);
    assert_eq!(missing(&layer), Some(39..40));
}

#[tokio::test]
async fn frames_that_somebody_else_filled_meanwhile_are_not_fetched_again() {
    let sample = Sample::new(1, 12 * FRAME, FRAME);
    let (_dir, shelf, store) = fixture(&[&sample]);
    let layer = sample.put(&store);
    for frames in [0..1, 2..3, 4..5, 6..7, 8..11] {
        layer.drop_frames(frames).unwrap();
    }
    layer.shared.twins.begin_to_note(); // who is the first to do that waits before it plans
    let mut first = Box::pin(layer.fill(0..12)); // plans all, and may have only the first four requests under way
    assert!(futures::poll!(&mut first).is_pending());
    layer.fill(9..10).await.unwrap();
    first.await.unwrap();
    sample.is_whole(&layer);
    let fetched: u64 = shelf.requests().iter().map(|range| range.end - range.start).sum();
    assert_eq!(fetched, 7 * FRAME);
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_right_ones_taken_from_the_same_place_later() {
    let sample = Sample::new(1, 4 * FRAME, FRAME);
    let (_dir, shelf, store) = fixture(&[&sample]);
    let layer = sample.put(&store);
    layer.drop_frames(0..4).unwrap();
    *shelf.fault.lock() = Some(Fault::FlippedAt(2 * FRAME + 9));
    let failed = layer.fill(0..4).await.unwrap_err();
    let Failed::Work(error) = failed else { panic!("{failed}") };
    assert!(matches!(*error, FillError::Mismatch { frame: 2, .. }), "{error}");
    assert_eq!(read(&layer, 2 * FRAME..3 * FRAME), None);
    sample.agrees(&layer);

    *shelf.fault.lock() = None;
    layer.fill(0..4).await.unwrap();
    sample.is_whole(&layer);
}

#[tokio::test]
async fn a_source_that_broke_is_opened_again() {
    let sample = Sample::new(1, 4 * FRAME, FRAME);
    let (_dir, shelf, store) = fixture(&[&sample]);
    let layer = sample.put(&store);
    layer.drop_frames(0..4).unwrap();
    *shelf.fault.lock() = Some(Fault::BreaksAfter(FRAME));
    layer.fill(0..1).await.unwrap();
    let failed = layer.fill(1..4).await.unwrap_err();
    assert!(matches!(&failed, Failed::Work(error) if matches!(**error, FillError::Blob { .. })), "{failed}");
    assert_eq!(shelf.opened.load(Ordering::Relaxed), 2, "once for the first fill, again when that blob had broken");
    *shelf.fault.lock() = None;
    layer.fill(1..4).await.unwrap();
    sample.is_whole(&layer);
}

#[tokio::test]
async fn a_frame_too_large_for_memory_goes_through_a_file() {
    let sample = Sample::new(1, (20 << 20) + 5, 9 << 20);
    let (dir, shelf, store) = fixture(&[&sample]);
    let layer = sample.put(&store);
    layer.drop_frames(0..3).unwrap();
    *shelf.fault.lock() = Some(Fault::FlippedAt(17 << 20));
    let failed = layer.fill(0..3).await.unwrap_err();
    assert!(
        matches!(&failed, Failed::Work(error) if matches!(**error, FillError::Mismatch { frame: 1, .. })),
        "{failed}"
    );
    sample.agrees(&layer);
    *shelf.fault.lock() = None;
    shelf.requests();
    layer.fill(0..3).await.unwrap();
    sample.is_whole(&layer);
    assert!(shelf.requests().iter().all(|range| range.end - range.start <= (2 << 20) + 5));
    assert!(names(&dir.path().join("staging")).is_empty());
}

#[tokio::test]
async fn a_fill_that_is_given_up_does_no_harm() {
    let sample = Sample::new(1, 30 * FRAME, FRAME);
    let (_dir, _, store) = fixture(&[&sample]);
    let layer = sample.put(&store);
    for polls in 0..12 {
        layer.drop_frames(0..30).unwrap();
        let mut fill = Box::pin(layer.fill(0..30));
        for _ in 0..polls {
            if futures::poll!(&mut fill).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(fill);
        sample.agrees(&layer);
    }
    layer.fill(0..30).await.unwrap();
    sample.is_whole(&layer);
}

/// A reader that is slower than whoever drops frames gets its bytes all the same.
#[tokio::test]
async fn who_insists_reads_frames_that_were_dropped_right_after_they_came() {
    let sample = Sample::new(1, 8 * FRAME, FRAME);
    let (_dir, shelf, store) = fixture(&[&sample]);
    let layer = sample.put(&store);
    let mut out = vec![0; 3 * FRAME as usize];
    layer.fill(2..5).await.unwrap();
    layer.drop_frames(0..8).unwrap();
    assert!(matches!(layer.read_at(2 * FRAME, &mut out), Err(ReadError::NotResident { .. })));
    let insisting = layer.insist(2..5);
    layer.fill(2..5).await.unwrap();
    layer.drop_frames(0..8).unwrap();
    layer.read_at(2 * FRAME, &mut out).unwrap();
    assert!(out == sample.bytes[2 * FRAME as usize..5 * FRAME as usize]);
    assert_eq!((layer.resident_bytes(), shelf.opened.load(Ordering::Relaxed)), (0, 1));
    drop(insisting);
    layer.fill(5..6).await.unwrap();
    layer.drop_frames(0..8).unwrap();
    assert!(layer.read_at(5 * FRAME, &mut out[..1]).is_err(), "nobody insisted on that one");
}

/// Readers, droppers and fillers at once: whoever gets bytes gets the right ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bytes_are_right_while_frames_come_and_go() {
    let sample = Arc::new(Sample::new(1, 16 * FRAME, FRAME));
    let (_dir, _, store) = fixture(&[&sample]);
    let layer = sample.put(&store);
    // Until enough of both has happened, however busy the machine is.
    let counts = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let (enough, begun) = ((2000, 200), Instant::now());
    let is_over = {
        let counts = counts.clone();
        move || {
            let (reads, drops) = (counts.0.load(Ordering::Relaxed), counts.1.load(Ordering::Relaxed));
            (reads >= enough.0 && drops >= enough.1) || begun.elapsed() > Duration::from_secs(60)
        }
    };
    let drops = {
        let (layer, counts, is_over) = (layer.clone(), counts.clone(), is_over.clone());
        tokio::task::spawn_blocking(move || {
            for turn in 0u32.. {
                if is_over() {
                    break;
                }
                layer.drop_frames(turn % 13..turn % 13 + 3).unwrap();
                counts.1.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let readers = (0..4).map(|reader| {
        let (layer, sample, counts, is_over) = (layer.clone(), sample.clone(), counts.clone(), is_over.clone());
        tokio::runtime::Handle::current().spawn(async move {
            let mut at = reader * 104_729;
            while !is_over() {
                at = (at + 7919) % (15 * FRAME);
                let mut out = vec![0; FRAME as usize];
                match layer.read_at(at, &mut out) {
                    Ok(()) => assert!(out == sample.bytes[at as usize..(at + FRAME) as usize], "wrong bytes at {at}"),
                    Err(ReadError::NotResident { frames }) => layer.fill(frames).await.unwrap(),
                    Err(error) => panic!("{error}"),
                }
                counts.0.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    futures::future::try_join_all(readers).await.unwrap();
    drops.await.unwrap();
    assert!(counts.0.load(Ordering::Relaxed) >= enough.0, "nothing much happened: {counts:?}");
}
