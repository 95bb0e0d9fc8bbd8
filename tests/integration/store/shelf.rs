//! Layers to put into a store, and the source they come from: blobs in memory that fail on command.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use oncefs::blob::{Blob, BlobError, Blobs, Fault, Faulty, InMemory, Layered, Origin};
use oncefs::digest::{DiffId, Digest, LayerDigest};
use oncefs::index::frames::FrameId;
use oncefs::index::scan::{self, Limits, Progress};
use oncefs::store::{Config, Layer, ReadError, Store};
use oncefs::sync::Mutex;

/// A layer and the truth about it.
pub(crate) struct Sample {
    pub(crate) layered: Layered,
    pub(crate) blob: Bytes,
    pub(crate) tar: Vec<u8>,
}

/// Blobs by digest, and a fault that all of them have.
#[derive(Default)]
pub(crate) struct Shelf {
    blobs: Mutex<HashMap<LayerDigest, Bytes>>,
    fault: Arc<Mutex<Option<Fault>>>,
}

/// A blob of the shelf, with the fault that the shelf has now.
struct OnShelf {
    blob: InMemory,
    fault: Arc<Mutex<Option<Fault>>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

// === impl Sample ===

impl Sample {
    /// A tar of `len` bytes of content that packs to about half.
    pub(crate) fn new(seed: u64, len: usize, packing: Packing) -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        for (number, content) in half_random(seed, len).chunks(700_000).enumerate() {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, format!("dir/file-{number}"), content).unwrap();
        }
        let tar = builder.into_inner().unwrap();
        let blob = pack(&tar, packing);
        let layered = Layered {
            digest: LayerDigest(Digest::of(&blob)),
            diff_id: DiffId(Digest::of(&tar)),
            size: blob.len() as u64,
            media_type: String::new(),
            annotations: BTreeMap::new(),
        };
        Self { layered, blob: blob.into(), tar }
    }

    pub(crate) fn digest(&self) -> LayerDigest {
        self.layered.digest
    }

    /// Scans the layer into the store.
    pub(crate) async fn put(&self, store: &Store) -> Arc<Layer> {
        let receiving = store.receive(&self.digest()).unwrap();
        let (blob, limits, progress) = (InMemory(self.blob.clone()), Limits::default(), Arc::new(Progress::default()));
        let scanned = scan::scan(&self.layered, &blob, receiving.parts(), &limits, &progress).await;
        receiving.finish(scanned.unwrap(), origin()).unwrap()
    }

    /// The bytes of this range, if they can be had without fetching; they must be right then.
    pub(crate) fn read(&self, layer: &Layer, range: Range<u64>) -> Option<()> {
        let mut out = vec![0xaa; (range.end - range.start) as usize];
        match layer.read_at(range.start, &mut out) {
            Ok(()) => {
                assert!(out == self.tar[range.start as usize..range.end as usize], "wrong bytes in {range:?}");
                Some(())
            }
            Err(ReadError::NotResident { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// The frames that are resident, by reading each: whatever can be read must be right.
    pub(crate) fn resident(&self, layer: &Layer) -> std::collections::BTreeSet<u32> {
        let range = |frame: &u32| layer.frames().data_range(FrameId(*frame)).unwrap();
        (0..layer.frames().len()).filter(|frame| self.read(layer, range(frame)).is_some()).collect()
    }
}

/// For tests that ask what is resident by reading: what an earlier store left would first be compared.
pub(crate) fn believing() -> Config {
    Config { recheck: false, ..Config::default() }
}

/// Where all samples come from.
pub(crate) fn origin() -> Origin {
    Origin("oci:/samples".into())
}

/// Bytes of which every second 64 are random.
fn half_random(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 64);
    while bytes.len() < len {
        for _ in 0..8 {
            state ^= state << 13; // xorshift64
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.to_le_bytes());
        }
        bytes.extend([b'-'; 64]);
    }
    bytes.truncate(len);
    bytes
}

fn pack(tar: &[u8], packing: Packing) -> Vec<u8> {
    match packing {
        Packing::Plain => tar.to_vec(),
        Packing::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(tar).unwrap();
            gzip.finish().unwrap()
        }
        Packing::Zstd => zstd::encode_all(tar, 1).unwrap(),
    }
}

// === impl Shelf ===

impl Shelf {
    pub(crate) fn with(samples: &[&Sample]) -> Arc<Self> {
        let shelf = Self::default();
        shelf.blobs.lock().extend(samples.iter().map(|sample| (sample.digest(), sample.blob.clone())));
        Arc::new(shelf)
    }

    /// Breaks every blob in this way, or mends them.
    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        *self.fault.lock() = fault;
    }
}

impl Blobs for Shelf {
    fn open(&self, layer: LayerDigest, size: u64, at: Origin) -> BoxFuture<'_, Result<Arc<dyn Blob>, BlobError>> {
        Box::pin(async move {
            assert_eq!(at, origin());
            let blob = self.blobs.lock().get(&layer).cloned().ok_or(BlobError::NotFound("not on the shelf".into()))?;
            assert_eq!(size, blob.len() as u64);
            Ok(Arc::new(OnShelf { blob: InMemory(blob), fault: self.fault.clone() }) as Arc<dyn Blob>)
        })
    }
}

impl Blob for OnShelf {
    fn size(&self) -> u64 {
        self.blob.size()
    }

    fn range(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        let fault = *self.fault.lock();
        let inner = self.blob.clone();
        Box::pin(async move {
            match fault {
                None => inner.range(range).await,
                Some(fault) => Faulty { inner, fault }.range(range).await,
            }
        })
    }

    fn stream(&self) -> BoxStream<'static, Result<Bytes, BlobError>> {
        self.blob.stream()
    }
}
