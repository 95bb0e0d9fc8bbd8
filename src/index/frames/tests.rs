//! Round trips, searches, and damage.

use std::os::unix::fs::FileExt as _;

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;

fn heading(frames: &[Frame]) -> Heading {
    Heading {
        layer: LayerDigest(Digest::of(b"layer")),
        diff_id: DiffId(Digest::of(b"tar")),
        blob_bytes: frames.last().map_or(0, |frame| frame.source.end + 8),
        data_bytes: frames.last().map_or(0, |frame| frame.data.end),
        index_source: IndexSource::Scan(Codec::Gzip),
        bond: None,
    }
}

fn some_frames() -> Vec<Frame> {
    let window: Vec<u8> = (0..32u32 << 10).map(|i| ((i * i) >> 7) as u8).collect();
    let starts = [
        Start::Member,
        Start::Block { bits: 3, window: window.clone() },
        Start::Block { bits: 0, window: window[..100].to_vec() },
        Start::Plain,
        Start::Zstd,
    ];
    let frame = |(i, start): (u64, Start)| Frame {
        source: i * 100..i * 100 + 101,
        data: i * 1000..i * 1000 + 1000,
        start,
        digest: FrameDigest::of(&i.to_le_bytes()),
    };
    (0..).zip(starts).map(frame).collect()
}

fn written(frames: &[Frame], heading: &Heading) -> File {
    let file = tempfile::tempfile().unwrap();
    let mut writer = FramesWriter::new(file.try_clone().unwrap()).unwrap();
    frames.iter().for_each(|frame| writer.push(frame).unwrap());
    writer.finish(heading).unwrap();
    file
}

fn bytes_of(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn file_of(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

/// Whether everything in the file can be had.
fn read_all(file: &File) -> Result<Vec<Frame>, FramesError> {
    let frames = Frames::open(file)?;
    (0..frames.len()).map(|i| frames.get(FrameId(i))).collect()
}

#[test]
fn frames_are_read_as_they_were_written() {
    let written_frames = some_frames();
    let heading = heading(&written_frames);
    let file = written(&written_frames, &heading);
    let frames = Frames::open(&file).unwrap();
    assert_eq!(*frames.heading(), heading);
    assert_eq!(frames.len(), 5);
    for (i, frame) in (0..).zip(&written_frames) {
        assert_eq!(frames.get(FrameId(i)).unwrap(), *frame);
        assert_eq!(frames.data_range(FrameId(i)).unwrap(), frame.data);
        assert_eq!(frames.source_range(FrameId(i)).unwrap(), frame.source);
        assert_eq!(frames.digest(FrameId(i)).unwrap(), frame.digest);
    }
    assert!(matches!(frames.get(FrameId(5)), Err(FramesError::NoSuchFrame { frame: 5, frames: 5 })));
}

#[test]
fn what_is_wanted_first_is_kept_in_its_order() {
    let frames = some_frames();
    let write = |wanted: Option<Vec<Range<u32>>>| {
        let file = tempfile::tempfile().unwrap();
        let mut writer = FramesWriter::new(file.try_clone().unwrap()).unwrap();
        frames.iter().for_each(|frame| writer.push(frame).unwrap());
        writer.want_first(wanted);
        writer.finish(&heading(&frames)).unwrap();
        file
    };
    for wanted in [None, Some(vec![]), Some(vec![3..5, 0..1])] {
        let file = write(wanted.clone());
        assert_eq!(Frames::open(&file).unwrap().wanted_first(), wanted);
        assert_eq!(read_all(&file).unwrap(), frames);
    }
    let bytes = bytes_of(&write(Some(vec![3..5, 0..1])));
    for at in bytes.len() - 5 * RECORD_BYTES - 16..bytes.len() - 5 * RECORD_BYTES {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1;
        assert!(Frames::open(&file_of(&wrong)).is_err(), "byte {at}");
    }
    for none in [4..6, 2..2] {
        assert!(matches!(Frames::open(&write(Some(vec![none]))), Err(FramesError::Damaged(_))));
    }
}

#[test]
fn a_layer_without_bytes_has_no_frames() {
    let frames = Frames::open(&written(&[], &heading(&[]))).unwrap();
    assert!(frames.is_empty());
    assert_eq!(frames.covering(0..1), 0..0);
}

#[test]
fn an_unfinished_file_is_refused() {
    let file = tempfile::tempfile().unwrap();
    let mut writer = FramesWriter::new(file.try_clone().unwrap()).unwrap();
    some_frames().iter().for_each(|frame| writer.push(frame).unwrap());
    drop(writer);
    assert!(matches!(Frames::open(&file), Err(FramesError::NotFrames)));
    assert!(Frames::open(&tempfile::tempfile().unwrap()).is_err());
}

#[test]
fn another_version_is_refused_by_number() {
    let frames = some_frames();
    let file = written(&frames, &heading(&frames));
    file.write_all_at(&2u32.to_le_bytes(), 8).unwrap();
    assert!(matches!(Frames::open(&file), Err(FramesError::Version(2))));
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    let frames = some_frames();
    let bytes = bytes_of(&written(&frames, &heading(&frames)));
    assert!(read_all(&file_of(&bytes)).is_ok());
    // The header's spare bytes are covered too; between checksum and windows nothing is left over.
    for at in (0..bytes.len()).filter(|at| *at < 300 || at % 37 == 0) {
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x10;
        assert!(read_all(&file_of(&wrong)).is_err(), "byte {at} of {}", bytes.len());
    }
}

#[test]
fn a_file_cut_short_or_made_longer_is_refused() {
    let frames = some_frames();
    let bytes = bytes_of(&written(&frames, &heading(&frames)));
    for len in [0, 7, 100, 255, 256, 400, bytes.len() - 1] {
        assert!(read_all(&file_of(&bytes[..len])).is_err(), "{len}");
    }
    assert!(read_all(&file_of(&[&bytes[..], b"x"].concat())).is_err());
}

#[test]
fn frames_that_do_not_make_up_the_data_are_refused() {
    let good = some_frames();
    let heading = heading(&good);
    let refused = |change: &dyn Fn(&mut Vec<Frame>)| {
        let mut frames = good.clone();
        change(&mut frames);
        assert!(matches!(Frames::open(&written(&frames, &heading)), Err(FramesError::Damaged(_))));
    };
    refused(&|frames| frames[1].data = 1001..2000);
    refused(&|frames| frames[1].data = 999..2000);
    refused(&|frames| frames[4].data.end += 1);
    refused(&|frames| frames.truncate(4));
    refused(&|frames| frames[2].data = 2000..2000);
    refused(&|frames| frames[2].source = 50..60);
    refused(&|frames| frames[4].source.end = heading.blob_bytes + 1);
}

proptest! {
    #[test]
    fn covering_is_what_a_search_from_one_end_finds(
        lengths in prop::collection::vec(1u64..50, 0..40), start in 0u64..1500, len in 0u64..300,
    ) {
        let mut end = 0;
        let frames: Vec<Frame> = lengths.iter().map(|len| {
            end += len;
            Frame { source: end..end + 1, data: end - len..end, start: Start::Plain, digest: FrameDigest::Blake3([0; 32]) }
        }).collect();
        let file = written(&frames, &heading(&frames));
        let covering = Frames::open(&file).unwrap().covering(start..start + len);
        let overlaps = |frame: &Frame| frame.data.start < start + len && frame.data.end > start;
        let expected: Vec<u32> = (0..).zip(&frames).filter(|(_, frame)| len > 0 && overlaps(frame)).map(|(i, _)| i).collect();
        prop_assert_eq!(covering.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn random_bytes_are_an_error_and_no_panic(bytes: Vec<u8>) {
        let file = file_of(&[b"1cFRAMES\x01\0\0\0\x02\0\0\0".as_slice(), &bytes].concat());
        prop_assert!(Frames::open(&file).is_err());
    }
}
