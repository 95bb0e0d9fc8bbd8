//! A start-up profile: which parts of an image's blobs were read when it started, in that order.
//!
//! A part is a range of a blob, not a frame's number: so a profile means the same to every node, whichever index it has for
//! a layer. It is advice. One that lies makes somebody fetch in vain, within bounds that others keep, and no more. As bytes,
//! little-endian:
//!
//! ```text
//! 0    magic "oncefsP1"
//! 8    the manifest's digest, 32 bytes
//! 40   number of layers, 4 bytes; number of parts, 4 bytes
//! 48   the layers' digests, 32 bytes each
//!      parts of 24 bytes: the layer's place among them, 4; starts that did without it, 4; start and length in the blob, 8 each
//!      SHA-256 of all that
//! ```

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::digest::{Digest, LayerDigest};
use crate::index::frames::{FrameId, Frames};

const MAGIC: &[u8; 8] = b"oncefsP1";
const HEADER_BYTES: usize = 48;
const DIGEST_BYTES: usize = 32;
const PART_BYTES: usize = 24;

/// As many layers as any runtime takes, and parts for the start of a large program.
pub const LAYERS_MAX: usize = 512;
pub const PARTS_MAX: usize = 8192;

/// What a profile has in bytes at most.
pub const PROFILE_BYTES_MAX: usize = HEADER_BYTES + LAYERS_MAX * DIGEST_BYTES + PARTS_MAX * PART_BYTES + DIGEST_BYTES;

/// A part that so many starts one after the other did without is forgotten.
const MISSED_MAX: u32 = 8;

/// A range of a layer's blob that starts want.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part {
    pub layer: LayerDigest,
    pub source: Range<u64>,
    /// How many of the last starts did without it.
    pub missed: u32,
}

/// What starts of one image want, first things first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    pub parts: Vec<Part>,
}

/// Why bytes are no profile of an image. It starts without one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    #[error("this is no profile, or one of another version")]
    NotProfile,
    #[error("the profile is damaged")]
    Damaged,
    #[error("the profile is that of {0}")]
    OtherImage(Digest),
    #[error("the profile is larger than any that is used")]
    TooLarge,
}

// === impl Profile ===

impl Profile {
    /// What starts want now that one more was seen. What that one did without comes last, and is forgotten in time; but one that
    /// found most things in the kernel's page cache shows nothing of what it did without.
    pub fn with_start(self, start: Vec<Part>) -> Self {
        let ages = u32::from(start.len() * 2 >= self.parts.len());
        let seen: HashSet<(LayerDigest, u64)> = start.iter().map(|part| (part.layer, part.source.start)).collect();
        let others = self.parts.into_iter().filter(|part| !seen.contains(&(part.layer, part.source.start)));
        let others = others.map(|part| Part { missed: part.missed.saturating_add(ages), ..part });
        let parts = start.into_iter().chain(others.filter(|part| part.missed < MISSED_MAX)).take(PARTS_MAX);
        Self { parts: parts.collect() }
    }

    /// The profile as bytes. What is beyond the bounds is left out.
    pub fn to_bytes(&self, manifest: &Digest) -> Vec<u8> {
        let (mut layers, mut places) = (Vec::new(), HashMap::new());
        let mut records = Vec::new();
        for part in self.parts.iter().take(PARTS_MAX) {
            let next = layers.len();
            let place = *places.entry(part.layer).or_insert(next);
            if place == next {
                if next == LAYERS_MAX {
                    places.remove(&part.layer);
                    continue;
                }
                layers.push(part.layer);
            }
            records.extend((place as u32).to_le_bytes());
            records.extend(part.missed.to_le_bytes());
            records.extend(part.source.start.to_le_bytes());
            records.extend(part.source.end.saturating_sub(part.source.start).to_le_bytes());
        }
        let mut bytes = Vec::with_capacity(HEADER_BYTES + layers.len() * DIGEST_BYTES + records.len() + DIGEST_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(manifest.as_bytes());
        bytes.extend((layers.len() as u32).to_le_bytes());
        bytes.extend(((records.len() / PART_BYTES) as u32).to_le_bytes());
        layers.iter().for_each(|layer| bytes.extend(layer.0.as_bytes()));
        bytes.extend(records);
        let digest = Digest::of(&bytes);
        bytes.extend(digest.as_bytes());
        bytes
    }

    /// Reads what [`Profile::to_bytes`] has written for this image, here or elsewhere.
    pub fn from_bytes(bytes: &[u8], manifest: &Digest) -> Result<Self, ProfileError> {
        if bytes.len() > PROFILE_BYTES_MAX {
            return Err(ProfileError::TooLarge);
        }
        let (content, digest) = bytes.split_last_chunk::<DIGEST_BYTES>().ok_or(ProfileError::NotProfile)?;
        let mut rest = content.strip_prefix(MAGIC).ok_or(ProfileError::NotProfile)?;
        if Digest::of(content) != Digest::from_bytes(*digest) {
            return Err(ProfileError::Damaged);
        }
        let image = Digest::from_bytes(take(&mut rest)?);
        if image != *manifest {
            return Err(ProfileError::OtherImage(image));
        }
        let (layers, parts) = (u32::from_le_bytes(take(&mut rest)?), u32::from_le_bytes(take(&mut rest)?));
        let (layers, parts) = (layers as usize, parts as usize);
        if layers > LAYERS_MAX || parts > PARTS_MAX || rest.len() != layers * DIGEST_BYTES + parts * PART_BYTES {
            return Err(ProfileError::Damaged);
        }
        let layers: Vec<LayerDigest> =
            (0..layers).map(|_| Ok(LayerDigest(Digest::from_bytes(take(&mut rest)?)))).collect::<Result<_, _>>()?;
        let parts = (0..parts).map(|_| part(&mut rest, &layers)).collect::<Result<_, _>>()?;
        Ok(Self { parts })
    }
}

fn part(rest: &mut &[u8], layers: &[LayerDigest]) -> Result<Part, ProfileError> {
    let place = u32::from_le_bytes(take(rest)?);
    let missed = u32::from_le_bytes(take(rest)?);
    let (start, length) = (u64::from_le_bytes(take(rest)?), u64::from_le_bytes(take(rest)?));
    let layer = *layers.get(place as usize).ok_or(ProfileError::Damaged)?;
    let end = start.checked_add(length).filter(|end| *end > start).ok_or(ProfileError::Damaged)?;
    Ok(Part { layer, source: start..end, missed })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], ProfileError> {
    let (taken, after) = rest.split_first_chunk::<N>().ok_or(ProfileError::Damaged)?;
    *rest = after;
    Ok(*taken)
}

/// A layer's frames by where they lie in the blob.
pub struct BySource {
    /// Twice the middle, the source range, the frame; by the first.
    sorted: Vec<(u128, Range<u64>, u32)>,
}

fn twice_the_middle(range: &Range<u64>) -> u128 {
    u128::from(range.start) + u128::from(range.end)
}

// === impl BySource ===

impl BySource {
    pub fn of(frames: &Frames) -> Self {
        let each = (0..frames.len()).filter_map(|frame| Some((frames.source_range(FrameId(frame)).ok()?, frame)));
        let mut sorted: Vec<_> = each.map(|(source, frame)| (twice_the_middle(&source), source, frame)).collect();
        sorted.sort_unstable_by_key(|(middle, _, frame)| (*middle, *frame));
        Self { sorted }
    }

    /// The frames whose middle the part has, else the one that has the part's middle. Neighbours may share a byte: what
    /// overlaps there alone does not count.
    pub fn frames(&self, part: &Range<u64>) -> Vec<u32> {
        let (start, end) = (u128::from(part.start) * 2, u128::from(part.end) * 2);
        let from = self.sorted.partition_point(|(middle, ..)| *middle < start);
        let within = self.sorted.iter().skip(from).take_while(|(middle, ..)| *middle < end);
        let within: Vec<u32> = within.map(|(_, _, frame)| *frame).take(PARTS_MAX).collect();
        if !within.is_empty() {
            return within;
        }
        let middle = twice_the_middle(part);
        let around = self.sorted.iter().skip(from.saturating_sub(1)).take(2);
        let has_middle =
            |source: &Range<u64>| u128::from(source.start) * 2 <= middle && middle < u128::from(source.end) * 2;
        around.filter(|(_, source, _)| has_middle(source)).map(|(_, _, frame)| *frame).take(1).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(seed: u8) -> LayerDigest {
        LayerDigest(Digest::of(&[seed]))
    }

    fn part(seed: u8, source: Range<u64>) -> Part {
        Part { layer: layer(seed), source, missed: 0 }
    }

    fn manifest() -> Digest {
        Digest::of(b"manifest")
    }

    #[test]
    fn it_is_read_as_it_was_written_and_not_when_a_byte_of_it_is_another() {
        let profile = Profile { parts: vec![part(1, 5..9), part(2, 0..1 << 40), part(1, 100..101)] };
        let bytes = profile.to_bytes(&manifest());
        assert_eq!(Profile::from_bytes(&bytes, &manifest()), Ok(profile));
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert!(Profile::from_bytes(&other, &manifest()).is_err(), "byte {at}");
            assert!(Profile::from_bytes(&bytes[..at], &manifest()).is_err(), "cut at {at}");
        }
        let other = Digest::of(b"another");
        assert_eq!(Profile::from_bytes(&bytes, &other), Err(ProfileError::OtherImage(manifest())));
    }

    #[test]
    fn what_no_part_can_be_is_refused_also_with_a_right_checksum() {
        for source in [7..7, u64::MAX..u64::MAX] {
            let bytes = Profile { parts: vec![part(1, source)] }.to_bytes(&manifest());
            assert_eq!(Profile::from_bytes(&bytes, &manifest()), Err(ProfileError::Damaged));
        }
        let many = (0..PARTS_MAX as u64 + 7).map(|at| part((at % 3) as u8, at..at + 1));
        let bytes = Profile { parts: many.collect() }.to_bytes(&manifest());
        assert_eq!(Profile::from_bytes(&bytes, &manifest()).unwrap().parts.len(), PARTS_MAX);
        assert_eq!(Profile::from_bytes(&[0; PROFILE_BYTES_MAX + 1], &manifest()), Err(ProfileError::TooLarge));
    }

    #[test]
    fn the_last_start_comes_first_and_what_starts_do_without_is_forgotten_in_time() {
        let mut profile = Profile::default().with_start(vec![part(1, 0..10), part(1, 10..20)]);
        profile = profile.with_start(vec![part(1, 10..20), part(2, 5..6)]);
        let order: Vec<_> = profile.parts.iter().map(|part| (part.source.clone(), part.missed)).collect();
        assert_eq!(order, [(10..20, 0), (5..6, 0), (0..10, 1)]);
        // A start that found nearly everything in the page cache says nothing of the rest.
        for _ in 0..20 {
            profile = profile.with_start(vec![part(2, 5..6)]);
        }
        assert_eq!(profile.parts.len(), 3);
        for _ in 0..MISSED_MAX {
            profile = profile.with_start(vec![part(2, 5..6), part(1, 10..20)]);
        }
        assert_eq!(profile.parts, [part(2, 5..6), part(1, 10..20)]);
    }

    #[test]
    fn parts_find_frames_of_an_index_with_smaller_larger_or_the_same_ones() {
        let sorted = |ranges: &[Range<u64>]| BySource {
            sorted: ranges.iter().zip(0..).map(|(range, id)| (twice_the_middle(range), range.clone(), id)).collect(),
        };
        // As checkpoints of a gzip stream: neighbours share a byte.
        let shared = sorted(&[0..101, 100..201, 200..301]);
        assert_eq!(shared.frames(&(100..201)), [1]);
        assert_eq!(shared.frames(&(0..301)), [0, 1, 2]);
        assert_eq!(shared.frames(&(130..140)), [1], "a part of a frame");
        assert_eq!(shared.frames(&(10..20)), [0]);
        assert_eq!(shared.frames(&(290..295)), [2]);
        assert_eq!(shared.frames(&(400..500)), [0u32; 0]);
        assert_eq!(sorted(&[]).frames(&(0..10)), [0u32; 0]);
    }
}
