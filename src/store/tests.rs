//! The store with layers made by hand: many small frames, and sources that fail on command.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use tempfile::TempDir;

use super::*;
use crate::blob::{Blob, BlobError, Fault, Faulty, InMemory};
use crate::digest::{DiffId, Digest, FrameDigest};
use crate::flight::Failed;
use crate::index::codec::Codec;
use crate::index::frames::{Frame, FramesWriter, Heading, IndexSource, Start};
use crate::index::tree::write::{Content, Inode, Labels, Source};
use crate::index::tree::{Kind, Time, write};
use crate::sync::atomic::{AtomicUsize, Ordering};

mod around;
mod passing;

/// A layer whose blob is its data, in frames of one size.
struct Sample {
    digest: LayerDigest,
    bytes: Bytes,
    frame_bytes: u64,
}

/// Blobs in memory, a fault for all of them, and counts.
#[derive(Default)]
struct Shelf {
    blobs: Mutex<HashMap<LayerDigest, Bytes>>,
    fault: Mutex<Option<Fault>>,
    opened: AtomicUsize,
    /// What comes from there in the time of a round trip.
    carries: AtomicUsize,
    requests: Arc<Mutex<Vec<Range<u64>>>>,
}

/// Notes what it is asked for.
struct Counted(Arc<dyn Blob>, Arc<Mutex<Vec<Range<u64>>>>, u64);

const FRAME: u64 = 5000;

impl Sample {
    fn new(seed: u8, len: u64, frame_bytes: u64) -> Self {
        let mut bytes = vec![0; len as usize];
        blake3::Hasher::new_derive_key("oncefs store tests").update(&[seed]).finalize_xof().fill(&mut bytes);
        Self { digest: LayerDigest(Digest::of(&bytes)), bytes: bytes.into(), frame_bytes }
    }

    fn heading(&self) -> Heading {
        Heading {
            layer: self.digest,
            diff_id: DiffId(self.digest.0),
            blob_bytes: self.bytes.len() as u64,
            data_bytes: self.bytes.len() as u64,
            index_source: IndexSource::Scan(Codec::Plain),
            bond: None,
        }
    }

    fn write(&self, receiving: &Receiving) {
        let parts = receiving.parts();
        parts.data.write_all_at(&self.bytes, 0).unwrap();
        let labels = Labels { diff_id: DiffId(self.digest.0), data_bytes: self.bytes.len() as u64 };
        write::write(&Source { inodes: vec![root()] }, &labels, &parts.tree).unwrap();
        let mut frames = FramesWriter::new(parts.frames.try_clone().unwrap()).unwrap();
        for (number, data) in self.bytes.chunks(self.frame_bytes as usize).enumerate() {
            let start = number as u64 * self.frame_bytes;
            let range = start..start + data.len() as u64;
            let digest = FrameDigest::of(data);
            frames.push(&Frame { source: range.clone(), data: range, start: Start::Plain, digest }).unwrap();
        }
        frames.finish(&self.heading()).unwrap();
    }

    fn put(&self, store: &Store) -> Arc<Layer> {
        let receiving = store.receive(&self.digest).unwrap();
        self.write(&receiving);
        receiving.complete(origin()).unwrap()
    }

    /// Whether all that the layer gives is right. What it does not give is the caller's business.
    fn agrees(&self, layer: &Layer) {
        for frame in 0..layer.frames().len() {
            let range = layer.frames().data_range(crate::index::frames::FrameId(frame)).unwrap();
            if let Some(read) = read(layer, range.clone()) {
                assert!(read == self.bytes[range.start as usize..range.end as usize], "frame {frame} reads wrong");
            }
        }
    }

    /// Whether the layer gives all its bytes without fetching.
    fn is_whole(&self, layer: &Layer) {
        assert!(read(layer, 0..self.bytes.len() as u64).expect("all is resident") == self.bytes);
    }
}

fn root() -> Inode {
    Inode {
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        device: (0, 0),
        xattrs: Vec::new(),
        content: Content::Children(Vec::new()),
    }
}

fn origin() -> Origin {
    Origin("oci:/images".into())
}

fn read(layer: &Layer, range: Range<u64>) -> Option<Vec<u8>> {
    let mut out = vec![0xaa; (range.end - range.start) as usize];
    match layer.read_at(range.start, &mut out) {
        Ok(()) => Some(out),
        Err(ReadError::NotResident { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

fn missing(layer: &Layer) -> Option<Range<u32>> {
    match layer.read_at(0, &mut vec![0; layer.data_bytes() as usize]) {
        Ok(()) => None,
        Err(ReadError::NotResident { frames }) => Some(frames),
        Err(error) => panic!("{error}"),
    }
}

// === impl Shelf ===

impl Shelf {
    fn with(samples: &[&Sample]) -> Arc<Self> {
        let shelf = Self::default();
        shelf.blobs.lock().extend(samples.iter().map(|sample| (sample.digest, sample.bytes.clone())));
        Arc::new(shelf)
    }

    fn requests(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.requests.lock())
    }
}

impl Blobs for Shelf {
    fn open(&self, layer: LayerDigest, size: u64, origin: Origin) -> BoxFuture<'_, Result<Arc<dyn Blob>, BlobError>> {
        Box::pin(async move {
            self.opened.fetch_add(1, Ordering::Relaxed);
            assert_eq!(origin, self::origin());
            let blob = self.blobs.lock().get(&layer).cloned().ok_or(BlobError::NotFound("not on the shelf".into()))?;
            assert_eq!(size, blob.len() as u64);
            let blob: Arc<dyn Blob> = match *self.fault.lock() {
                None => Arc::new(InMemory(blob)),
                Some(fault) => Arc::new(Faulty { inner: InMemory(blob), fault }),
            };
            let carries = self.carries.load(Ordering::Relaxed) as u64;
            Ok(Arc::new(Counted(blob, self.requests.clone(), carries)) as Arc<dyn Blob>)
        })
    }
}

impl Blob for Counted {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn carries(&self) -> u64 {
        self.2
    }

    fn range(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        self.1.lock().push(range.clone());
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.0.range(range).await
        })
    }

    fn stream(&self) -> futures::stream::BoxStream<'static, Result<Bytes, BlobError>> {
        self.0.stream()
    }
}

/// A store in a directory of its own.
fn open(dir: &TempDir, shelf: &Arc<Shelf>) -> Store {
    Store::open(dir.path(), Config::default(), shelf.clone()).unwrap()
}

fn fixture(samples: &[&Sample]) -> (TempDir, Arc<Shelf>, Store) {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Shelf::with(samples);
    let store = open(&dir, &shelf);
    (dir, shelf, store)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn place(dir: &TempDir, sample: &Sample) -> std::path::PathBuf {
    Layout::new(dir.path()).layer(&sample.digest)
}

/// Changes one byte of a file.
fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

// === getting in, staying ===

#[test]
fn a_received_layer_reads_as_it_was_written_also_after_a_restart() {
    let sample = Sample::new(1, 12 * FRAME + 77, FRAME);
    let (dir, shelf, store) = fixture(&[&sample]);
    assert!(store.layer(&sample.digest).unwrap().is_none());
    let layer = sample.put(&store);
    sample.is_whole(&layer);
    let slot = layer.slot();
    drop((layer, store));

    let store = open(&dir, &shelf);
    let layer = store.layer(&sample.digest).unwrap().unwrap();
    sample.is_whole(&layer);
    assert_eq!((layer.slot(), layer.origin()), (slot, Some(origin())));
    assert_eq!(layer.resident_bytes(), sample.bytes.len() as u64);
    assert!(Arc::ptr_eq(&layer, &store.layer(&sample.digest).unwrap().unwrap()), "a layer is open once");
    assert!(shelf.requests().is_empty());
}

#[test]
fn a_receiving_that_is_dropped_leaves_nothing() {
    let sample = Sample::new(1, 3 * FRAME, FRAME);
    let (dir, _, store) = fixture(&[&sample]);
    let receiving = store.receive(&sample.digest).unwrap();
    sample.write(&receiving);
    assert_eq!(names(&dir.path().join("staging")).len(), 1);
    drop(receiving);
    assert!(names(&dir.path().join("staging")).is_empty());
    assert!(!store.has(&sample.digest));
}

#[test]
fn of_two_receivings_of_a_layer_the_first_to_finish_stays() {
    let sample = Sample::new(1, 3 * FRAME, FRAME);
    let (dir, _, store) = fixture(&[&sample]);
    let second = store.receive(&sample.digest).unwrap();
    sample.write(&second);
    let layer = sample.put(&store);
    let same = second.complete(Origin("docker://other/place".into())).unwrap();
    assert!(Arc::ptr_eq(&layer, &same));
    assert_eq!(layer.origin(), Some(Origin("docker://other/place".into())), "the newer origin counts");
    assert!(names(&dir.path().join("staging")).is_empty());
}

#[test]
fn files_that_are_no_finished_index_do_not_become_a_layer() {
    let sample = Sample::new(1, 3 * FRAME, FRAME);
    let (dir, _, store) = fixture(&[&sample]);
    let receiving = store.receive(&sample.digest).unwrap();
    let refused = receiving.complete(origin()).unwrap_err();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
    assert!(names(&dir.path().join("layers/sha256")).is_empty() && names(&dir.path().join("staging")).is_empty());
}

#[test]
fn a_read_beyond_the_end_is_an_error_and_an_empty_one_is_not() {
    let sample = Sample::new(1, 2 * FRAME, FRAME);
    let (_dir, _, store) = fixture(&[&sample]);
    let layer = sample.put(&store);
    for (at, len) in [(2 * FRAME - 1, 2), (2 * FRAME, 1), (u64::MAX, 1)] {
        assert!(matches!(layer.read_at(at, &mut vec![0; len]), Err(ReadError::Beyond { .. })), "{len} bytes at {at}");
    }
    layer.drop_frames(0..2).unwrap();
    layer.read_at(2 * FRAME, &mut []).unwrap();
}

#[test]
fn a_second_opener_is_told_who_holds_the_store() {
    let sample = Sample::new(1, FRAME, FRAME);
    let (dir, shelf, store) = fixture(&[&sample]);
    let layer = sample.put(&store);
    drop(store);
    let refused = Store::open(dir.path(), Config::default(), shelf.clone()).unwrap_err();
    let StoreError::Locked { pid, .. } = refused else { panic!("{refused}") };
    assert_eq!(pid, Some(std::process::id()));
    drop(layer);
    open(&dir, &shelf);
}

#[test]
fn a_removed_layer_reads_on_for_those_who_have_it_and_its_number_is_not_used_again() {
    let sample = Sample::new(1, 3 * FRAME, FRAME);
    let (dir, shelf, store) = fixture(&[&sample]);
    let layer = sample.put(&store);
    store.remove(&sample.digest).unwrap();
    store.remove(&sample.digest).unwrap();
    assert!(names(&dir.path().join("layers/sha256")).is_empty() && names(&dir.path().join("staging")).is_empty());
    sample.is_whole(&layer);
    drop(store);
    let slot = layer.slot();
    drop(layer);
    let store = open(&dir, &shelf);
    assert!(!store.has(&sample.digest));
    assert!(sample.put(&store).slot() > slot);
}

// === dropping and filling ===

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

// === restarts ===

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

// === check ===

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

// === twins ===

/// A layer of frames of the others, in this order: which layer, and which of its frames.
fn joined(of: &[(&Sample, u64)]) -> Sample {
    let frame = |(sample, number): &(&Sample, u64)| {
        sample.bytes.slice((number * FRAME) as usize..((number + 1) * FRAME) as usize)
    };
    let bytes = Bytes::from(of.iter().map(frame).collect::<Vec<_>>().concat());
    Sample { digest: LayerDigest(Digest::of(&bytes)), bytes, frame_bytes: FRAME }
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
