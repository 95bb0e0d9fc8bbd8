//! One finished layer: its four files, open.
//!
//! Reads never wait for the network and take no lock. Bytes get into the data file through `fill` alone once the
//! layer is in the store.

use std::fs::File;
use std::io::{self, BufWriter};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::blob::{Blob, Origin};
use crate::digest::{Checked, DiffId, FrameDigest, LayerDigest};
use crate::errors::with_causes;
use crate::index::frames::{FrameId, Frames, FramesError};
use crate::index::tree::read::{Tree, TreeError};
use crate::store::ahead::Ahead;
use crate::store::cache::Evicted;
use crate::store::layout::{DATA, FRAMES, Layout, RESIDENT, TREE};
use crate::store::outage::{Outages, SourceAway};
use crate::store::places::Sources;
use crate::store::recency::{self, Recency};
use crate::store::recording::Recorders;
use crate::store::resident::{Resident, Unread};
use crate::store::sums::Sums;
use crate::store::verdicts::Judged;
use crate::store::waits::Waits;
use crate::store::{Shared, StoreError};
use crate::sync::Arc;
use crate::sync::atomic::AtomicBool;
use crate::sys::file;

/// A layer of the store, cheap to share and safe to keep: it reads on, and fills on, after it was removed.
pub struct Layer {
    digest: LayerDigest,
    slot: u32,
    directory: PathBuf,
    data: File,
    tree: Arc<Tree>,
    frames: Frames,
    resident: Resident,
    /// Where frames have no digest of their own data.
    pub(super) sums: Option<Sums>,
    recency: Recency,
    recorders: Recorders,
    waits: Waits,
    pub(super) sources: Arc<Sources>,
    /// The blob that frames are fetched from, once one was; empty again after it failed.
    pub(super) blob: tokio::sync::Mutex<Option<Arc<dyn Blob>>>,
    pub(super) outages: Outages,
    /// What is known of its blob as a whole.
    pub(super) judged: Judged,
    /// The readers of its files that go on and on.
    pub(super) ahead: Ahead,
    /// Whether somebody will write the bitmap soon.
    pub(super) sync_awaited: AtomicBool,
    pub(super) shared: Arc<Shared>,
}

/// What a layer is and takes, whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// None if the tar was never compared with it.
    pub diff_id: Option<DiffId>,
    pub data_bytes: u64,
    pub inodes: u64,
}

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Fill these frames, then read again. Some of them may be resident.
    #[error("frames {frames:?} of the layer are not resident")]
    NotResident { frames: Range<u32> },
    #[error("bytes {at}.. of layer {layer} were asked for, its data file ends before them")]
    Beyond { layer: LayerDigest, at: u64 },
    #[error("layer {layer} is quarantined: its index was found to be wrong; mount the image anew")]
    Quarantined { layer: LayerDigest },
}

/// How much of a frame is in memory while it is compared with its digest.
const CHECK_BYTES: usize = 256 << 10;

impl Measure {
    pub fn of(layer: &Layer) -> Self {
        let inodes = layer.tree().counts().inodes.into();
        let diff_id = Some(layer.diff_id()).filter(|_| layer.is_verified());
        Self { diff_id, data_bytes: layer.data_bytes(), inodes }
    }
}

impl Layer {
    /// Opens the layer in its place. `Damaged` means that the files are at fault, and no retry will help.
    pub(super) fn open(
        digest: LayerDigest,
        slot: u32,
        origin: Option<Origin>,
        shared: Arc<Shared>,
    ) -> Result<Self, StoreError> {
        let directory = shared.layout.layer(&digest);
        let damaged = |cause: String| StoreError::Damaged { layer: digest, cause };
        let frames = Frames::open(&open_file(&directory, FRAMES)?);
        // What the disk does not give back can be had again elsewhere.
        let unread = |name: &str, source: io::Error| match rustix::io::Errno::from_io_error(&source) {
            Some(rustix::io::Errno::IO) => damaged(format!("{name} cannot be read: {source}")),
            _ => StoreError::io("read", &directory.join(name))(source),
        };
        let frames = frames.map_err(|error| match error {
            FramesError::Io(source) => unread(FRAMES, source),
            other => damaged(other.to_string()),
        })?;
        if frames.heading().layer != digest {
            return Err(damaged(format!("they are those of {}", frames.heading().layer)));
        }
        let tree = Tree::open(&open_file(&directory, TREE)?).map_err(|error| match error {
            TreeError::Map(source) => unread(TREE, source),
            other => damaged(other.to_string()),
        })?;
        if tree.diff_id() != frames.heading().diff_id {
            return Err(damaged(format!("the tree is that of {}", tree.diff_id())));
        }
        // Two megabytes for an image of a gigabyte, once: a name or a mode that rotted would be shown like any other.
        tree.check().map_err(|error| damaged(error.to_string()))?;
        let data = open_file(&directory, DATA)?;
        let length = data.metadata().map_err(StoreError::io("read", &directory.join(DATA)))?.len();
        if length < frames.heading().data_bytes {
            return Err(damaged(format!("data has {length} bytes instead of {}", frames.heading().data_bytes)));
        }
        let resident = open_resident(&directory, digest, frames.len())?;
        let sums = Sums::open(&directory)?;
        let recency = Recency::new(frames.heading().data_bytes, shared.cache.last_access(&digest));
        Ok(Self {
            digest,
            slot,
            directory,
            data,
            tree: Arc::new(tree),
            frames,
            resident,
            sums,
            recency,
            recorders: Recorders::default(),
            waits: Waits::default(),
            sources: Arc::new(Sources::new(origin)),
            blob: tokio::sync::Mutex::new(None),
            outages: Outages::default(),
            judged: Judged::default(),
            ahead: Ahead::default(),
            sync_awaited: AtomicBool::new(false),
            shared,
        })
    }

    pub fn digest(&self) -> LayerDigest {
        self.digest
    }

    /// The digest of the tar; what the image said that made the layer known, unless [`Layer::is_verified`].
    pub fn diff_id(&self) -> DiffId {
        self.frames.heading().diff_id
    }

    /// Whether blob and tar were compared with their digests as a whole. If not, each frame is what an index says that a
    /// manifest binds to the layer; it counts for that manifest alone.
    pub fn is_verified(&self) -> bool {
        self.frames.heading().index_source.verifies_layer() || self.judged.has_good_content()
    }

    /// The layer's number in node ids: no other layer of this root had it, or will.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    pub fn frames(&self) -> &Frames {
        &self.frames
    }

    /// Bytes of the data file.
    pub fn data_bytes(&self) -> u64 {
        self.frames.heading().data_bytes
    }

    /// Bytes of the data file that can be read without fetching.
    pub fn resident_bytes(&self) -> u64 {
        if self.is_complete() {
            return self.data_bytes();
        }
        let resident = (0..self.frames.len()).filter(|frame| self.resident.has(*frame));
        let ranges = resident.filter_map(|frame| self.frames.data_range(FrameId(frame)).ok());
        ranges.map(|range| range.end - range.start).sum()
    }

    /// Those of the frames that are resident are compared with their digests before somebody reads them.
    pub(super) fn distrust(&self, frames: Range<u32>) {
        self.resident.distrust(frames);
    }

    /// Whether all of the layer is resident.
    pub fn is_complete(&self) -> bool {
        self.resident.all()
    }

    /// Reads the data file from `at` on; `out` is whole, or not to be looked at. Never waits for anything but the
    /// disk, and takes no lock.
    pub fn read_at(&self, at: u64, out: &mut [u8]) -> Result<(), ReadError> {
        let end = at.checked_add(out.len() as u64).filter(|end| *end <= self.data_bytes());
        let range = at..end.ok_or(ReadError::Beyond { layer: self.digest, at })?;
        if self.is_quarantined() {
            return Err(ReadError::Quarantined { layer: self.digest });
        }
        self.recency.note(&range, recency::now());
        let read = self.read_range(range.clone(), out);
        self.recorders.read(self, &range, read.is_ok());
        read
    }

    fn read_range(&self, range: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        let at = range.start;
        let read = self.resident.read(|| self.frames.covering(range.clone()), || self.data.read_exact_at(out, at));
        match read {
            Ok(()) => Ok(()),
            Err(Unread::NotResident(frames)) => match self.read_unkept(range, out) {
                true => Ok(()),
                false => Err(ReadError::NotResident { frames }),
            },
            // A disk that does not give back what was kept costs a request, like one that gives back something else.
            Err(Unread::Failed(_seen_again_when_it_is_compared)) => {
                let frames = self.frames.covering(range);
                self.distrust(frames.clone());
                Err(ReadError::NotResident { frames })
            }
        }
    }

    /// Gives the disk space of these frames back; who reads them again fetches them. They are forgotten on disk
    /// before their bytes are taken away. Blocking.
    pub fn drop_frames(&self, frames: Range<u32>) -> Result<(), StoreError> {
        self.drop_some(frames).map(drop)
    }

    /// The same for frames that need not be neighbours; says what went.
    pub(super) fn drop_some(&self, frames: impl IntoIterator<Item = u32>) -> Result<Evicted, StoreError> {
        let mut gone = Evicted::default();
        let punch = |frames: &[u32]| {
            frames.iter().try_for_each(|frame| {
                let range = self.frames.data_range(FrameId(*frame)).map_err(io::Error::other)?;
                gone.frames += 1;
                gone.bytes += range.end - range.start;
                file::punch(&self.data, range)
            })
        };
        let dropped = self.resident.drop_frames(frames, punch);
        dropped.map_err(StoreError::io("drop frames of", &self.directory)).map(|()| gone)
    }

    /// Writes down which frames are resident, so that a restart knows. Blocking.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let sync = || {
            // Before the bits of what they are of.
            self.sums.as_ref().map_or(Ok(()), Sums::sync)?;
            self.resident.sync(&self.data)
        };
        sync().map_err(StoreError::io("sync", &self.directory))
    }

    /// Whether the bitmap on disk is as it was last written.
    pub(super) fn residency_is_written(&self) -> Result<bool, StoreError> {
        self.resident.is_written().map_err(StoreError::io("read", &self.directory.join(RESIDENT)))
    }

    /// Writes the bitmap again as it was last written.
    pub(super) fn write_residency(&self) -> Result<(), StoreError> {
        self.resident.write_again().map_err(StoreError::io("write", &self.directory.join(RESIDENT)))
    }

    /// When which part was read.
    pub(super) fn recency(&self) -> &Recency {
        &self.recency
    }

    /// Readers that wait for frames that are not here.
    pub fn waits(&self) -> &Waits {
        &self.waits
    }

    /// What its source was last found to be away with, while readers wait for it.
    pub fn source_away(&self) -> Option<SourceAway> {
        self.waits.now().and(self.outages.now())
    }

    /// Who writes down what is read and asked for.
    pub(super) fn recorders(&self) -> &Recorders {
        &self.recorders
    }

    pub(super) fn resident(&self) -> &Resident {
        &self.resident
    }

    /// Not to be read where the frame is not resident.
    pub(super) fn data(&self) -> &File {
        &self.data
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn is_resident(&self, frame: u32) -> bool {
        self.resident.has(frame)
    }

    /// Puts a frame from memory into the data file and makes it resident. This, [`Layer::keep_file`] and [`Layer::keep_shared`]
    /// are the only doors, and open to checked bytes alone.
    pub(super) fn keep_bytes(&self, frame: u32, at: u64, bytes: &Checked<Vec<u8>>) -> io::Result<()> {
        self.note_sum(frame, || Ok(FrameDigest::of(bytes.get())))?;
        self.keep(frame, || self.data.write_all_at(bytes.get(), at))
    }

    /// Puts the frame that `file` holds, `range` of the data file, into the data file and makes it resident.
    pub(super) fn keep_file(&self, frame: u32, range: &Range<u64>, file: &Checked<BufWriter<File>>) -> io::Result<()> {
        let from = file.get().get_ref();
        self.note_sum(frame, || FrameDigest::of_file(from))?;
        self.keep(frame, || file::copy(from, &self.data, range.start, range.end - range.start))
    }

    /// Puts the frame that lies at `from_at` in another layer's data file into this one's, and makes it resident if it has its
    /// digest there.
    pub(super) fn keep_shared(&self, frame: u32, from: &File, from_at: u64) -> io::Result<()> {
        let (range, digest) = self
            .frames
            .data_range(FrameId(frame))
            .and_then(|range| Ok((range, self.frames.digest(FrameId(frame))?)))
            .map_err(io::Error::other)?;
        let mut buffer =
            vec![0; usize::try_from(range.end - range.start).map_or(CHECK_BYTES, |len| len.min(CHECK_BYTES))];
        self.keep(frame, || {
            file::share(from, from_at, &self.data, range.start, range.end - range.start)?;
            self.check_data(&range, &digest, &mut buffer).map(drop)
        })
    }

    fn keep(&self, frame: u32, mut write: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        // Goes round only if frames were dropped while it wrote.
        loop {
            let era = self.resident.era_for_writing();
            write()?;
            if self.resident.mark(frame, era) {
                self.shared.twins.note(self, frame);
                return Ok(());
            }
        }
    }
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer").field("digest", &self.digest).field("slot", &self.slot).finish_non_exhaustive()
    }
}

/// One of the layer's files, for reading, and the data file for writing too.
fn open_file(directory: &Path, name: &str) -> Result<File, StoreError> {
    let path = directory.join(name);
    let writable = name == DATA || name == RESIDENT;
    let opened = File::options().read(true).write(writable).open(&path);
    opened.map_err(|error| match (error.kind(), Layout::layer_named(directory.file_name().unwrap_or_default())) {
        (io::ErrorKind::NotFound, Some(layer)) => StoreError::Damaged { layer, cause: format!("{name} is missing") },
        _ => StoreError::io("open", &path)(error),
    })
}

/// A bitmap that is damaged, or that the disk does not give back, costs fetching the layer's bytes again, not the layer.
fn open_resident(directory: &Path, layer: LayerDigest, frames: u32) -> Result<Resident, StoreError> {
    let path = directory.join(RESIDENT);
    let file = open_file(directory, RESIDENT)?;
    let again = file.try_clone().map_err(StoreError::io("open", &path))?;
    let cause = match Resident::open(file, frames) {
        Ok(resident) => return Ok(resident),
        Err(error) => with_causes(&error),
    };
    tracing::warn!(%layer, cause, "starting a new residency bitmap: the layer's bytes will be fetched again");
    // From an empty file on, since the blocks that it had may be lost.
    let made = again.set_len(0).and_then(|()| Resident::write_none(&again, frames));
    made.map_err(StoreError::io("write", &path))?;
    Resident::open(again, frames).map_err(|error| StoreError::Damaged { layer, cause: error.to_string() })
}
