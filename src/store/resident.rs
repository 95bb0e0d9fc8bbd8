//! Which frames of a layer are in its data file: bits in memory for readers, and the file `resident` for restarts.
//!
//! Four rules, all kept here:
//! - A bit is set only after the frame's checked bytes were written, and is on disk only after they are.
//! - A bit that is not on disk is cleared when the disk refuses data: nobody knows whose, and the kernel says it once, and takes all
//!   pages for written then.
//! - A bit is cleared, on disk too, before the frame's bytes are punched out.
//! - A reader that saw bits set before its read and the same era after it has read whole frames.
//!
//! A bit lost in a crash costs fetching its frame again and nothing else. The file, little-endian:
//!
//! ```text
//! 0    magic "oncefsR1"
//! 8    frames, 4 bytes; CRC-32C of the 12 bytes before, 4 bytes
//! 16   groups of 8 bytes: 32 frames' bits, and the CRC-32C of the group's number and its bits
//! ```
//!
//! A group checks itself because groups change in place: a torn or rotten one counts as not resident.

mod unproven;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use self::unproven::Unproven;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

const MAGIC: &[u8; 8] = b"oncefsR1";
const HEADER_BYTES: usize = 16;
const GROUP_BYTES: usize = 8;
/// Frames of a group.
const GROUP: u32 = u32::BITS;

/// The bits of one layer's frames.
#[derive(Debug)]
pub(super) struct Resident {
    frames: u32,
    groups: Box<[AtomicU32]>,
    /// Frames whose bit is clear: a layer that has all costs its readers one load.
    missing: AtomicU32,
    /// Rises with every drop, after its bits were cleared and before its bytes are punched, and when the disk refuses data.
    era: AtomicU64,
    /// Held from clearing to punching, and while a bit is set. Lock order: `disk`, then this.
    changing: Mutex<()>,
    disk: Mutex<Disk>,
    unproven: Unproven,
}

/// What the file says, or may say: frames whose bytes are on disk.
#[derive(Debug)]
struct Disk {
    file: File,
    frames: u32,
    groups: Box<[u32]>,
    /// Whether it has taken that.
    is_written: bool,
}

/// A stretch of time in which nothing of the layer was dropped or lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Era(u64);

/// Why [`Resident::read`] read nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread<E> {
    /// From the first to the last that is missing.
    NotResident(Range<u32>),
    Failed(E),
}

/// Why a file is no bitmap of this layer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ResidentError {
    #[error("the residency bitmap is not one: {0}")]
    Damaged(&'static str),
    #[error("the residency bitmap is of {has} frames, the layer has {want}")]
    Frames { has: u32, want: u32 },
    #[error("the residency bitmap cannot be read")]
    Io(#[from] io::Error),
}

// === impl Resident ===

impl Resident {
    /// Writes the bitmap of a layer whose frames are all in its data file.
    pub(super) fn write_all(file: &File, frames: u32) -> io::Result<()> {
        let groups: Vec<u32> = (0..frames.div_ceil(GROUP)).map(|group| full(group, frames)).collect();
        file.write_all_at(&bytes(frames, &groups), 0)
    }

    /// Writes the bitmap of a layer of which nothing is known to be in its data file.
    pub(super) fn write_none(file: &File, frames: u32) -> io::Result<()> {
        file.write_all_at(&bytes(frames, &vec![0; frames.div_ceil(GROUP) as usize]), 0)
    }

    pub(super) fn open(file: File, frames: u32) -> Result<Self, ResidentError> {
        let mut head = [0; HEADER_BYTES];
        read(&file, &mut head, 0)?;
        let has = parse_header(&head)?;
        if has != frames {
            return Err(ResidentError::Frames { has, want: frames });
        }
        let count = frames.div_ceil(GROUP) as usize;
        let mut bytes = vec![0; count * GROUP_BYTES];
        read(&file, &mut bytes, HEADER_BYTES as u64)?;
        let groups = bytes.chunks_exact(GROUP_BYTES).enumerate();
        let groups: Box<[u32]> =
            groups.map(|(number, bytes)| parse_group(number, bytes) & full(number as u32, frames)).collect();
        let set: u32 = groups.iter().map(|bits| bits.count_ones()).sum();
        Ok(Self {
            frames,
            groups: groups.iter().map(|bits| AtomicU32::new(*bits)).collect(),
            missing: AtomicU32::new(frames - set),
            era: AtomicU64::new(0),
            changing: Mutex::new(()),
            disk: Mutex::new(Disk { file, frames, groups, is_written: true }),
            unproven: Unproven::new(count),
        })
    }

    /// From now on readers get nothing of those of the frames that are resident before it was proven.
    pub(super) fn distrust(&self, frames: Range<u32>) {
        frames.filter(|frame| self.has(*frame)).for_each(|frame| self.unproven.set(frame));
    }

    /// Whether every frame is resident.
    pub(super) fn all(&self) -> bool {
        self.missing.load(Ordering::Acquire) == 0
    }

    pub(super) fn has(&self, frame: u32) -> bool {
        let group = self.groups.get((frame / GROUP) as usize);
        group.is_some_and(|group| group.load(Ordering::Acquire) & bit(frame) != 0)
    }

    /// From the first to the last frame of `range` that is not resident; none if all are.
    pub(super) fn missing(&self, mut range: Range<u32>) -> Option<Range<u32>> {
        let first = range.find(|frame| !self.has(*frame))?;
        let last = range.rev().find(|frame| !self.has(*frame)).unwrap_or(first);
        Some(first..last + 1)
    }

    /// Has `read` read these frames' bytes from the data file, if all of them are resident and stay so meanwhile. They
    /// are only asked for if there is a frame missing at all.
    pub(super) fn read<E>(
        &self,
        frames: impl Fn() -> Range<u32>,
        mut read: impl FnMut() -> Result<(), E>,
    ) -> Result<(), Unread<E>> {
        // Goes round only if something was dropped while it read.
        loop {
            let era = self.era();
            if !(self.all() && self.unproven.is_empty())
                && let Some(lacking) = self.lacking(frames())
            {
                return Err(Unread::NotResident(lacking));
            }
            let done = read();
            fence(Ordering::SeqCst);
            if self.era() == era {
                return done.map_err(Unread::Failed);
            }
        }
    }

    /// From the first to the last frame of `range` that is missing, or not proven.
    fn lacking(&self, range: Range<u32>) -> Option<Range<u32>> {
        let (missing, unproven) = (self.missing(range.clone()), self.unproven(range));
        let Some((missing, unproven)) = missing.clone().zip(unproven.clone()) else { return missing.or(unproven) };
        Some(missing.start.min(unproven.start)..missing.end.max(unproven.end))
    }

    /// Whether no resident frame must be compared with its digest first.
    pub(super) fn is_proven(&self) -> bool {
        self.unproven.is_empty()
    }

    /// From the first to the last frame of `range` that is resident and must be compared with its digest first; none if there is none.
    pub(super) fn unproven(&self, range: Range<u32>) -> Option<Range<u32>> {
        if self.unproven.is_empty() { None } else { self.unproven.within(range) }
    }

    /// Readers get the frame if `proof`, which looks at its bytes, says that they may. A frame that is not resident needs none.
    pub(super) fn prove<E>(&self, frame: u32, mut proof: impl FnMut() -> Result<(), E>) -> Result<(), E> {
        loop {
            let era = self.era();
            if !self.has(frame) {
                return Ok(());
            }
            let proven = proof();
            fence(Ordering::SeqCst);
            if self.era() == era {
                return proven.map(|()| self.unproven.clear(frame));
            }
        }
    }

    fn era(&self) -> Era {
        Era(self.era.load(Ordering::SeqCst))
    }

    /// The era to write a frame in: no drop is under way at its beginning.
    pub(super) fn era_for_writing(&self) -> Era {
        let _changing = self.changing.lock();
        self.era()
    }

    /// Sets the bit of a frame that was written since `era` began. False if something was dropped or lost meanwhile: that may have
    /// hit what was written, so it must be written again.
    #[must_use]
    pub(super) fn mark(&self, frame: u32, era: Era) -> bool {
        let _changing = self.changing.lock();
        if self.era() != era {
            return false;
        }
        let group = self.groups.get((frame / GROUP) as usize).filter(|_| frame < self.frames);
        let group = group.expect("bug: a frame beyond the layer's last was filled");
        self.unproven.clear(frame);
        if group.fetch_or(bit(frame), Ordering::AcqRel) & bit(frame) == 0 {
            self.missing.fetch_sub(1, Ordering::AcqRel);
        }
        true
    }

    /// Makes the bits of now durable, after the data they speak of. If the disk refuses some of that, all frames that came since the
    /// last time are not resident any more.
    pub(super) fn sync(&self, data: &File) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let now: Box<[u32]> = self.groups.iter().map(|group| group.load(Ordering::Acquire)).collect();
        if now == disk.groups && disk.is_written {
            return Ok(());
        }
        // What was set before the lines above was written before them too.
        data.sync_data().inspect_err(|_| self.forget_undurable(&disk))?;
        disk.write(now)
    }

    /// Clears the bits that are not on disk, also of what is being written just now: its bytes may have been refused already.
    fn forget_undurable(&self, disk: &Disk) {
        let _changing = self.changing.lock();
        let is_durable =
            |frame: u32| disk.groups.get((frame / GROUP) as usize).is_some_and(|bits| bits & bit(frame) != 0);
        for frame in (0..self.frames).filter(|frame| !is_durable(*frame)) {
            self.clear(frame);
        }
        self.era.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether the file is as it was last written.
    pub(super) fn is_written(&self) -> io::Result<bool> {
        let disk = self.disk.lock();
        let want = bytes(self.frames, &disk.groups);
        let mut has = vec![0; want.len()];
        match disk.file.read_exact_at(&mut has, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            read => read.map(|()| has == want),
        }
    }

    /// Writes the file again as it was last written.
    pub(super) fn write_again(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let groups = disk.groups.clone();
        disk.write(groups)
    }

    /// Clears the bits of `frames`, first for readers, then on disk, and then has `punch` take away the bytes of those
    /// that were resident. A failure in between leaves them not resident.
    pub(super) fn drop_frames(
        &self,
        frames: impl IntoIterator<Item = u32>,
        punch: impl FnOnce(&[u32]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let _changing = self.changing.lock();
        let dropped: Vec<u32> = frames.into_iter().filter(|frame| self.clear(*frame)).collect();
        if dropped.is_empty() {
            return Ok(());
        }
        self.era.fetch_add(1, Ordering::SeqCst);
        let mut groups = disk.groups.clone();
        for frame in &dropped {
            if let Some(group) = groups.get_mut((frame / GROUP) as usize) {
                *group &= !bit(*frame);
            }
        }
        disk.write(groups)?;
        punch(&dropped)
    }

    /// Whether the bit was set.
    fn clear(&self, frame: u32) -> bool {
        let group = self.groups.get((frame / GROUP) as usize);
        let was_set = group.is_some_and(|group| group.fetch_and(!bit(frame), Ordering::AcqRel) & bit(frame) != 0);
        if was_set {
            self.missing.fetch_add(1, Ordering::AcqRel);
        }
        was_set
    }
}

// === impl Disk ===

impl Disk {
    fn write(&mut self, groups: Box<[u32]>) -> io::Result<()> {
        (self.groups, self.is_written) = (groups, false);
        self.file.write_all_at(&bytes(self.frames, &self.groups), 0)?;
        self.file.sync_data()?;
        self.is_written = true;
        Ok(())
    }
}

// === the bytes ===

fn bit(frame: u32) -> u32 {
    1 << (frame % GROUP)
}

/// The whole file.
fn bytes(frames: u32, groups: &[u32]) -> Vec<u8> {
    let groups = groups.iter().enumerate().flat_map(|(number, bits)| group_bytes(number, *bits));
    header(frames).into_iter().chain(groups).collect()
}

/// The bits of a group all of whose frames are resident; those beyond the layer's last frame are clear.
fn full(group: u32, frames: u32) -> u32 {
    match frames.saturating_sub(group * GROUP) {
        0 => 0,
        left @ 1..GROUP => (1 << left) - 1,
        _ => u32::MAX,
    }
}

fn group_bytes(number: usize, bits: u32) -> [u8; GROUP_BYTES] {
    let check = crc32c::crc32c_append(number as u32, &bits.to_le_bytes());
    (u64::from(bits) | u64::from(check) << 32).to_le_bytes()
}

/// The bits of a group, none if it does not pass its own check.
fn parse_group(number: usize, bytes: &[u8]) -> u32 {
    let Some(bits) = bytes.first_chunk().map(|bits| u32::from_le_bytes(*bits)) else { return 0 };
    if group_bytes(number, bits) == bytes { bits } else { 0 }
}

fn header(frames: u32) -> [u8; HEADER_BYTES] {
    let covered = [MAGIC.as_slice(), &frames.to_le_bytes()].concat();
    let check = crc32c::crc32c(&covered).to_le_bytes();
    [covered.as_slice(), &check].concat().try_into().expect("bug: 8, 4 and 4 bytes are 16")
}

fn parse_header(bytes: &[u8; HEADER_BYTES]) -> Result<u32, ResidentError> {
    if !bytes.starts_with(MAGIC) {
        return Err(ResidentError::Damaged("it does not begin with oncefsR1"));
    }
    let frames = bytes.get(MAGIC.len()..).and_then(<[u8]>::first_chunk).map(|frames| u32::from_le_bytes(*frames));
    let frames = frames.filter(|frames| header(*frames) == *bytes);
    frames.ok_or(ResidentError::Damaged("its header's checksum is wrong"))
}

fn read(file: &File, bytes: &mut [u8], at: u64) -> Result<(), ResidentError> {
    file.read_exact_at(bytes, at).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ResidentError::Damaged("it ends early"),
        _ => ResidentError::Io(error),
    })
}

#[cfg(test)]
mod tests;
