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
mod checking;
mod dropping;
mod passing;
mod restarting;
mod sums;
mod together;
mod twins;

/// A layer whose blob is its data, in frames of one size.
struct Sample {
    digest: LayerDigest,
    bytes: Bytes,
    frame_bytes: u64,
    digest_of: fn(&[u8]) -> FrameDigest,
}

/// Blobs in memory, a fault for all of them, and counts.
#[derive(Default)]
struct Shelf {
    blobs: Mutex<HashMap<LayerDigest, Bytes>>,
    fault: Arc<Mutex<Option<Fault>>>,
    opened: AtomicUsize,
    /// What comes from there in the time of a round trip.
    carries: AtomicUsize,
    requests: Arc<Mutex<Vec<Range<u64>>>>,
}

/// A blob on the shelf, which notes what it is asked for. It has the shelf's fault of the moment, also if it was opened before: fills that
/// were left may open one at any time.
struct Lent {
    blob: InMemory,
    fault: Arc<Mutex<Option<Fault>>>,
    requests: Arc<Mutex<Vec<Range<u64>>>>,
    carries: u64,
}

/// Too large for others to come along.
const FRAME: u64 = 70_000;

impl Sample {
    fn new(seed: u8, len: u64, frame_bytes: u64) -> Self {
        let mut bytes = vec![0; len as usize];
        blake3::Hasher::new_derive_key("oncefs store tests").update(&[seed]).finalize_xof().fill(&mut bytes);
        Self { digest: LayerDigest(Digest::of(&bytes)), bytes: bytes.into(), frame_bytes, digest_of: FrameDigest::of }
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
            let digest = (self.digest_of)(data);
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

    /// Whether the layer gives all its bytes without fetching, once what an earlier process left was compared.
    fn is_whole(&self, layer: &Layer) {
        (0..layer.frames().len()).for_each(|frame| layer.check_frame(frame, &mut [0; 4096]).unwrap());
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
            Ok(Arc::new(Lent {
                blob: InMemory(blob),
                fault: self.fault.clone(),
                requests: self.requests.clone(),
                carries: self.carries.load(Ordering::Relaxed) as u64,
            }) as Arc<dyn Blob>)
        })
    }
}

// === impl Lent ===

impl Lent {
    fn of_the_moment(&self) -> Arc<dyn Blob> {
        let blob = InMemory(self.blob.0.clone());
        match *self.fault.lock() {
            None => Arc::new(blob),
            Some(fault) => Arc::new(Faulty { inner: blob, fault }),
        }
    }
}

impl Blob for Lent {
    fn size(&self) -> u64 {
        self.blob.size()
    }

    fn carries(&self) -> u64 {
        self.carries
    }

    fn range(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        self.requests.lock().push(range.clone());
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.of_the_moment().range(range).await
        })
    }

    fn stream(&self) -> futures::stream::BoxStream<'static, Result<Bytes, BlobError>> {
        self.of_the_moment().stream()
    }
}

/// A store in a directory of its own. What ran in the background of the one that was there before may still be about to leave it.
fn open(dir: &TempDir, shelf: &Arc<Shelf>) -> Store {
    let mut opened = None;
    crate::sys::comes_to_be(|| {
        opened = Some(Store::open(dir.path(), Config::default(), shelf.clone()));
        !matches!(opened, Some(Err(StoreError::Locked { .. })))
    });
    opened.expect("it was tried").unwrap()
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
