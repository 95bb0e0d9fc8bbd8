//! Unpacks whole blobs into memory, then decodes every frame alone and compares.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use flate2::{Crc, FlushCompress, GzBuilder};
use proptest::prelude::*;

use super::*;
use crate::digest::FrameDigest;

/// Keeps everything, and gives rooms of a chosen size.
struct Memory {
    tar: Vec<u8>,
    room: Vec<u8>,
    frames: Vec<Frame>,
    start: (u64, Start),
    data_start: usize,
    /// Of each window that was made smaller, how many of its bytes were left.
    thinned: Vec<usize>,
}

impl Memory {
    fn new(room: usize, first: Start) -> Self {
        let (room, start) = (vec![0; room], (0, first));
        Self { tar: Vec::new(), room, frames: Vec::new(), start, data_start: 0, thinned: Vec::new() }
    }
}

impl Sink for Memory {
    fn room(&mut self) -> Result<&mut [u8], Stopped> {
        Ok(&mut self.room)
    }

    fn filled(&mut self, count: usize) -> Result<(), Stopped> {
        self.tar.extend_from_slice(&self.room[..count]);
        Ok(())
    }

    fn cut(&mut self, cut: Cut) -> Result<(), Stopped> {
        let data = self.data_start as u64..self.tar.len() as u64;
        if !data.is_empty() {
            let digest = FrameDigest::of(&self.tar[self.data_start..]);
            self.frames.push(Frame { source: self.start.0..cut.end, data, start: self.start.1.clone(), digest });
        }
        self.data_start = self.tar.len();
        if let Some(next) = cut.next {
            self.start = next;
        }
        Ok(())
    }

    fn thinned(&mut self, thin: Vec<u8>) {
        let (_, Start::Block { window, .. }) = &mut self.start else { panic!("it has no window") };
        let is_part = |(thin, byte): (&u8, &u8)| thin == byte || *thin == 0;
        assert!(thin.len() <= window.len() && thin.iter().rev().zip(window.iter().rev()).all(is_part));
        self.thinned.push(thin.iter().filter(|byte| **byte != 0).count());
        *window = thin;
    }
}

fn unpack(blob: &[u8], piece: usize, room: usize) -> Result<(Vec<u8>, Vec<Frame>), DecodeError> {
    unpack_whole(blob, piece, room).map(|memory| (memory.tar, memory.frames))
}

fn unpack_whole(blob: &[u8], piece: usize, room: usize) -> Result<Memory, DecodeError> {
    let codec = recognise(&blob[..blob.len().min(RECOGNISE_BYTES)], "")?;
    let mut unpacker = Unpacker::new(codec)?;
    let mut memory = Memory::new(room, unpacker.first());
    let outcome = blob.chunks(piece).try_for_each(|piece| unpacker.push(piece, &mut memory));
    match outcome.and_then(|()| unpacker.finish(&mut memory)) {
        Ok(()) => Ok(memory),
        Err(UnpackError::Decode(error)) => Err(error),
        Err(UnpackError::Stopped) => unreachable!("this sink takes everything"),
    }
}

fn check_frames(blob: &[u8], tar: &[u8], frames: &[Frame]) {
    let mut end = 0;
    for frame in frames {
        assert_eq!(frame.data.start, end);
        end = frame.data.end;
        let source = &blob[frame.source.start as usize..frame.source.end as usize];
        let mut out = Vec::new();
        decode(frame, &mut &source[..], &mut out).unwrap();
        assert_eq!(out.len() as u64, frame.data.end - frame.data.start);
        assert_eq!(FrameDigest::of(&out), frame.digest);
    }
    assert_eq!(end, tar.len() as u64);
}

/// Unpacks `blob`, which must give `tar`, in frames that each decode alone; gives their number.
fn check(blob: &[u8], tar: &[u8]) -> usize {
    let (out, frames) = unpack(blob, 60_001, 250_007).unwrap();
    assert!(out == tar);
    check_frames(blob, tar, &frames);
    frames.len()
}

/// Something like a tar: begins with a header, and compresses about as programs do.
fn tar(len: usize) -> Vec<u8> {
    let mut bytes = tar_header().to_vec();
    let mut state = 7u64;
    while bytes.len() < len {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let back = (state >> 40) as usize % 60_000;
        if state % 8 < 5 && back + 64 < bytes.len() {
            let from = bytes.len() - 64 - back;
            let copied = bytes[from..from + 16 + (state >> 60) as usize].to_vec();
            bytes.extend(copied);
        } else {
            bytes.extend(&state.to_le_bytes()[2..]);
        }
    }
    bytes.truncate(len);
    bytes
}

fn tar_header() -> [u8; 512] {
    let mut header = ::tar::Header::new_ustar();
    header.set_path("a").unwrap();
    header.set_size(0);
    header.set_cksum();
    *header.as_bytes()
}

fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// As pigz does it: blocks of input compressed apart and joined at byte boundaries by empty stored blocks.
fn pigz_like(bytes: &[u8], block: usize) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(6));
    for piece in bytes.chunks(block) {
        encoder.write_all(piece).unwrap();
        encoder.flush().unwrap();
    }
    out.extend(encoder.finish().unwrap());
    let mut crc = Crc::new();
    crc.update(bytes);
    out.extend(crc.sum().to_le_bytes());
    out.extend((bytes.len() as u32).to_le_bytes());
    out
}

#[test]
fn a_plain_tar_is_cut_into_ranges() {
    let tar = tar(3_500_000);
    assert_eq!(check(&tar, &tar), 4);
}

#[test]
fn every_frame_of_a_gzip_decodes_alone_at_any_level() {
    let tar = tar(5_000_000);
    // At level 1 zlib-rs, like zlib-ng, makes one block of everything: correct, if of little use.
    for (level, expected) in [(0, 4..=5), (1, 1..=2), (2, 4..=5), (6, 4..=5), (9, 4..=5)] {
        let frames = check(&gzip(&tar, level), &tar);
        assert!(expected.contains(&frames), "level {level}: {frames} frames");
    }
}

#[test]
fn members_smaller_than_a_frame_share_one() {
    let tar = tar(4_000_000);
    let blob: Vec<u8> = tar.chunks(30_000).flat_map(|member| gzip(member, 6)).collect();
    assert_eq!(check(&blob, &tar), 4);
}

#[test]
fn a_frame_runs_on_across_members() {
    let tar = tar(4_000_000);
    // The second frame starts inside the first member and goes on into the second.
    let blob = [gzip(&tar[..1_500_000], 6), gzip(&[], 6), gzip(&tar[1_500_000..], 6)].concat();
    check(&blob, &tar);
}

#[test]
fn header_fields_of_members_are_passed_over() {
    let tar = tar(2_500_000);
    let member = |bytes: &[u8]| {
        let builder = GzBuilder::new().extra(vec![7; 300]).filename("layer.tar").comment("a comment").mtime(5);
        let mut encoder = builder.write(Vec::new(), Compression::new(6));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let blob = [member(&tar[..1_200_000]), member(&tar[1_200_000..1_300_000]), member(&tar[1_300_000..])].concat();
    check(&blob, &tar);
}

#[test]
fn a_header_crc_is_passed_over() {
    let tar = tar(10_000);
    let mut blob = gzip(&tar, 6);
    blob[3] |= 2; // FHCRC: the low half of the CRC-32 of the header so far (RFC 1952, section 2.3.1)
    let mut crc = Crc::new();
    crc.update(&blob[..10]);
    blob.splice(10..10, (crc.sum() as u16).to_le_bytes());
    check(&blob, &tar);
}

#[test]
fn flush_points_are_boundaries_too() {
    let tar = tar(4_000_000);
    check(&pigz_like(&tar, 128 << 10), &tar);
}

#[test]
fn of_a_window_is_kept_what_is_read() {
    let tar = tar(3_200_000);
    for blob in [gzip(&tar, 6), pigz_like(&tar, 300_000)] {
        let memory = unpack_whole(&blob, 60_001, 250_007).unwrap();
        check_frames(&blob, &tar, &memory.frames);
        let blocks = memory.frames.iter().filter(|frame| matches!(frame.start, Start::Block { .. })).count();
        assert_eq!(memory.thinned.len(), blocks, "each of them is thinned");
        assert!(memory.thinned.iter().all(|kept| *kept < 20_000), "{:?}", memory.thinned);
        for (piece, room) in [(5, 1000), (1 << 20, 65_536)] {
            let other = unpack_whole(&blob, piece, room).unwrap();
            assert!(other.frames == memory.frames, "the same frames however they come");
        }
    }
}

#[test]
fn of_a_window_that_nothing_reads_nothing_is_kept() {
    let tar = tar(3_500_000);
    let memory = unpack_whole(&gzip(&tar, 0), 60_001, 250_007).unwrap();
    assert!(memory.thinned.len() >= 2 && memory.thinned.iter().all(|kept| *kept == 0), "{:?}", memory.thinned);
}

#[test]
fn zeros_after_the_last_member_pass_and_anything_else_does_not() {
    let tar = tar(100_000);
    let blob = gzip(&tar, 6);
    check(&[blob.clone(), vec![0; 10_000]].concat(), &tar);
    for tail in [b"x".as_slice(), b"\0\0\0\0x", b"\x1f\x8c", b"\x1f"] {
        let wrong = [&blob, tail].concat();
        assert!(unpack(&wrong, 60_001, 250_007).is_err(), "{tail:?}");
    }
    let error = unpack(&[&blob, b"hello".as_slice()].concat(), 60_001, 250_007).unwrap_err();
    assert!(matches!(error, DecodeError::Garbage { at, found: b'h' } if at == blob.len() as u64), "{error}");
}

#[test]
fn neighbouring_zstd_frames_share_a_frame_and_skippable_ones_go_along() {
    let tar = tar(4_000_000);
    let skippable =
        |len: u32| [&0x184d_2a53_u32.to_le_bytes(), &len.to_le_bytes(), &vec![9; len as usize][..]].concat();
    let mut blob = skippable(100);
    for piece in tar.chunks(300_000) {
        blob.extend(::zstd::bulk::compress(piece, 3).unwrap());
        blob.extend(skippable(33));
    }
    assert_eq!(check(&blob, &tar), 4);
}

#[test]
fn one_zstd_frame_is_one_frame() {
    let tar = tar(4_000_000);
    assert_eq!(check(&::zstd::bulk::compress(&tar, 3).unwrap(), &tar), 1);
}

#[test]
fn a_zstd_window_above_128_mib_is_refused() {
    let mut encoder = ::zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(28).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(&tar(3_000_000)).unwrap();
    let error = unpack(&encoder.finish().unwrap(), 60_001, 250_007).unwrap_err();
    assert!(matches!(error, DecodeError::WindowTooLarge), "{error}");
}

#[test]
fn what_ends_early_is_truncated() {
    let tar = tar(3_000_000);
    for blob in [gzip(&tar, 6), ::zstd::bulk::compress(&tar, 3).unwrap()] {
        for keep in [600, blob.len() / 2, blob.len() - 1] {
            let error = unpack(&blob[..keep], 60_001, 250_007).unwrap_err();
            assert!(matches!(error, DecodeError::Truncated { .. }), "{keep}: {error}");
        }
    }
}

#[test]
fn what_is_no_layer_is_refused_with_what_was_expected_and_what_is_there() {
    let error = recognise(b"<html><body>404", "application/vnd.oci.image.layer.v1.tar+gzip").unwrap_err().to_string();
    assert!(error.contains("tar+gzip") && error.contains("3c 68 74 6d 6c"), "{error}");
    assert!(recognise(&[b'x'; 512], "").is_err());
    assert!(recognise(&tar_header()[..511], "").is_err());
}

#[test]
fn the_first_bytes_decide_and_not_the_media_type() {
    let header = tar_header();
    assert_eq!(recognise(&gzip(&header, 6), "application/vnd.oci.image.layer.v1.tar").unwrap(), Codec::Gzip);
    assert_eq!(recognise(&header, "application/vnd.oci.image.layer.v1.tar+gzip").unwrap(), Codec::Plain);
    assert_eq!(recognise(&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0], "").unwrap(), Codec::Zstd);
    assert_eq!(recognise(&[0; 512], "").unwrap(), Codec::Plain);
    assert_eq!(recognise(&[], "").unwrap(), Codec::Plain);
    let mut old = [0; 512]; // a header from before ustar has a checksum and no magic
    old[0] = b'a';
    let sum = b'a' as u32 + 8 * b' ' as u32;
    old[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(recognise(&old, "").unwrap(), Codec::Plain);
}

#[test]
fn decoding_less_source_than_a_frame_has_is_an_error() {
    let tar = tar(2_500_000);
    for blob in [tar.clone(), gzip(&tar, 6), ::zstd::bulk::compress(&tar, 3).unwrap()] {
        for frame in unpack(&blob, 60_001, 250_007).unwrap().1 {
            let source = &blob[frame.source.start as usize..frame.source.end as usize];
            let half = &source[..source.len() / 2];
            assert!(decode(&frame, &mut &half[..], &mut Vec::new()).is_err());
            assert!(decode(&frame, &mut &half[..0], &mut Vec::new()).is_err());
        }
    }
}

/// Random runs and noise, compressed with flushes of every kind in between and cut into members.
fn random_gzip(tar: &[u8], levels: &[(u32, usize, u8)]) -> Vec<u8> {
    let (mut blob, mut rest) = (Vec::new(), tar);
    for (level, len, flush) in levels.iter().cycle() {
        let (piece, after) = rest.split_at(rest.len().min(*len));
        rest = after;
        let mut member = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
        let mut deflate = flate2::Compress::new(Compression::new(*level), false);
        for part in piece.chunks(1 + len / 3) {
            let flush = [FlushCompress::None, FlushCompress::Sync, FlushCompress::Full][usize::from(flush % 3)];
            let before = deflate.total_in();
            while deflate.total_in() - before < part.len() as u64 {
                member.reserve(part.len() + 1024);
                let done = (deflate.total_in() - before) as usize;
                deflate.compress_vec(&part[done..], &mut member, flush).unwrap();
            }
        }
        while deflate.compress_vec(&[], &mut member, FlushCompress::Finish).unwrap() != flate2::Status::StreamEnd {
            member.reserve(1024);
        }
        let mut crc = Crc::new();
        crc.update(piece);
        member.extend(crc.sum().to_le_bytes());
        member.extend((piece.len() as u32).to_le_bytes());
        blob.extend(member);
        if rest.is_empty() {
            return blob;
        }
    }
    blob
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_frame_decodes_alone_however_the_blob_was_compressed(
        runs in prop::collection::vec((any::<u8>(), 1usize..80_000, any::<bool>()), 1..100),
        levels in prop::collection::vec((0u32..10, 1000usize..2_000_000, 0u8..3), 1..8),
        piece in 1usize..200_000,
        room in 300usize..300_000,
    ) {
        let mut state = 1u64;
        let mut tar = Vec::new();
        for (byte, len, noise) in runs {
            tar.extend((0..len).map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                if noise { (state >> 56) as u8 } else { byte }
            }));
        }
        let blob = random_gzip(&tar, &levels);
        let (out, frames) = unpack(&blob, piece, room).unwrap();
        prop_assert!(out == tar);
        check_frames(&blob, &tar, &frames);
    }

    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>, bits in 0u8..9, window: Vec<u8>, len in 0u64..1_000_000) {
        for magic in [b"\x1f\x8b\x08\0".as_slice(), b"\x28\xb5\x2f\xfd"] {
            let _ = unpack(&[magic, &bytes].concat(), 100, 1000);
        }
        for start in [Start::Plain, Start::Member, Start::Zstd, Start::Block { bits, window }] {
            let frame = Frame { source: 0..1, data: 0..len, start, digest: FrameDigest::Blake3([0; 32]) };
            let mut out = Vec::new();
            if decode(&frame, &mut &bytes[..], &mut out).is_ok() {
                prop_assert_eq!(out.len() as u64, len);
            }
        }
    }
}
