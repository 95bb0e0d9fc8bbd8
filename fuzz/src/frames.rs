//! A frames file of arbitrary bytes, and a sound one with arbitrary damage: opened, searched, every frame read.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use oncefs::digest::{DiffId, Digest, FrameDigest, LayerDigest};
use oncefs::index::codec::Codec;
use oncefs::index::frames::{Frame, FrameId, Frames, FramesWriter, Heading, IndexSource, Start};

pub(crate) fn fuzz(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    let file = tempfile::tempfile().unwrap();
    if mode % 2 == 0 {
        file.write_all_at(b"1cFRAMES\x01\0\0\0\x02\0\0\0", 0).unwrap();
        file.write_all_at(rest, 16).unwrap();
    } else {
        write_sound(&file, rest);
        for change in rest.chunks_exact(3) {
            let at = u64::from(u16::from_le_bytes([change[0], change[1]])) % file.metadata().unwrap().len();
            file.write_all_at(&change[2..], at).unwrap();
        }
    }
    ask_everything(&file);
}

fn write_sound(file: &File, window: &[u8]) {
    let mut writer = FramesWriter::new(file.try_clone().unwrap()).unwrap();
    let window = window[..window.len().min(32 << 10)].to_vec();
    let starts = [Start::Member, Start::Block { bits: 3, window }, Start::Plain, Start::Zstd];
    for (i, start) in (0u64..).zip(starts) {
        let digest = FrameDigest::Blake3([7; 32]);
        writer.push(&Frame { source: i * 10..i * 10 + 11, data: i * 1000..i * 1000 + 1000, start, digest }).unwrap();
    }
    let heading = Heading {
        layer: LayerDigest(Digest::of(b"layer")),
        diff_id: DiffId(Digest::of(b"tar")),
        blob_bytes: 100,
        data_bytes: 4000,
        index_source: IndexSource::Scan(Codec::Gzip),
        bond: None,
    };
    writer.finish(&heading).unwrap();
}

fn ask_everything(file: &File) {
    let Ok(frames) = Frames::open(file) else { return };
    let heading = *frames.heading();
    let mut end = 0;
    for id in (0..frames.len()).map(FrameId) {
        let data = frames.data_range(id).unwrap();
        assert_eq!(data.start, end);
        assert!(frames.source_range(id).unwrap().end <= heading.blob_bytes);
        assert_eq!(frames.covering(data.clone()), id.0..id.0 + 1);
        end = data.end;
        let _ = frames.get(id);
    }
    assert_eq!(end, heading.data_bytes);
    assert_eq!(frames.covering(0..u64::MAX), 0..frames.len());
    assert!(frames.get(FrameId(frames.len())).is_err());
}
