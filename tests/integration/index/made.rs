//! Layers as image builders make them: one tar in many disguises, and a place to scan them into.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use flate2::write::{DeflateEncoder, GzEncoder};
use flate2::{Compression, Crc, GzBuilder};
use oncefs::blob::{Blob, InMemory, Layered};
use oncefs::digest::{DiffId, Digest, LayerDigest};
use oncefs::index::codec;
use oncefs::index::frames::{FrameId, Frames};
use oncefs::index::scan::{Limits, Parts, Progress, ScanError, Verified, scan};

pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A tar of `len` bytes or somewhat more, with every kind of entry and with content that compresses as programs do.
pub(crate) fn tar_of(len: usize) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = |kind: tar::EntryType, path: &str, content: &[u8], link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        if link.is_empty() {
            builder.append_data(&mut header, path, content).unwrap();
        } else {
            builder.append_link(&mut header, path, link).unwrap();
        }
    };
    header(tar::EntryType::Directory, "usr/", b"", "");
    header(tar::EntryType::Directory, "usr/bin/", b"", "");
    header(tar::EntryType::Symlink, "bin", b"", "usr/bin");
    header(tar::EntryType::Regular, "etc/empty", b"", "");
    let mut made = 0;
    for i in 0u64.. {
        let content = program(i, [100, 5_000, 70_000, 900_000][i as usize % 4]);
        made += content.len();
        header(tar::EntryType::Regular, &format!("usr/bin/program-{i}"), &content, "");
        if i == 3 {
            header(tar::EntryType::Link, "usr/bin/same", b"", "usr/bin/program-3");
            header(tar::EntryType::Regular, &format!("usr/{}", "long/".repeat(60)), b"", "");
        }
        if made >= len {
            break;
        }
    }
    builder.into_inner().unwrap()
}

/// Bytes that repeat themselves at all distances, with noise between.
pub(crate) fn program(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) + 1;
    let mut bytes: Vec<u8> = Vec::with_capacity(len + 64);
    while bytes.len() < len {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let back = (state >> 40) as usize % 50_000 + 40;
        if state % 8 < 5 && back < bytes.len() {
            let from = bytes.len() - back;
            bytes.extend_from_within(from..from + 8 + (state >> 59) as usize);
        } else {
            bytes.extend(&state.to_le_bytes()[3..]);
        }
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What a program makes of `bytes` on its standard input.
pub(crate) fn through(program: &str, arguments: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("this test needs the program {program}: {error}"));
    let mut input = child.stdin.take().unwrap();
    let mut output = child.stdout.take().unwrap();
    let made = std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(bytes).unwrap());
        let mut made = Vec::new();
        output.read_to_end(&mut made).unwrap();
        made
    });
    assert!(child.wait().unwrap().success(), "{program} failed");
    made
}

/// As pigz and pgzip do it: pieces of input compressed apart, joined at byte boundaries by empty stored blocks.
fn pigz_like(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(6));
    for piece in bytes.chunks(128 << 10) {
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

fn with_header_fields(bytes: &[u8]) -> Vec<u8> {
    let builder = GzBuilder::new().extra(b"AB\x02\0xy".to_vec()).filename("layer.tar").comment("a comment").mtime(7);
    let mut encoder = builder.write(Vec::new(), Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd_frames_with_skippable(bytes: &[u8]) -> Vec<u8> {
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    let frame = |piece: &[u8]| [zstd::bulk::compress(piece, 3).unwrap(), skippable.to_vec()].concat();
    [skippable.to_vec(), bytes.chunks(333_333).flat_map(frame).collect()].concat()
}

/// The same tar as builders and registries may hold it.
pub(crate) fn disguises(tar: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let members = |len: usize| tar.chunks(len).flat_map(|piece| gzip(piece, 6)).collect::<Vec<u8>>();
    vec![
        ("plain", tar.to_vec()),
        ("gzip -1", through("gzip", &["-1"], tar)),
        ("gzip -6", through("gzip", &["-6"], tar)),
        ("gzip -9", through("gzip", &["-9"], tar)),
        ("zlib-rs level 1", gzip(tar, 1)),
        ("stored blocks", gzip(tar, 0)),
        ("small members", members(40_000)),
        ("large members", members(2_500_000)),
        ("header fields", with_header_fields(tar)),
        ("pigz-like", pigz_like(tar)),
        ("padded with zeros", [gzip(tar, 6), vec![0; 5000]].concat()),
        ("zstd", through("zstd", &["-3", "-c"], tar)),
        ("zstd -19 --long", through("zstd", &["-19", "--long=27", "-c"], tar)),
        ("zstd frames", zstd_frames_with_skippable(tar)),
    ]
}

pub(crate) fn layered(blob: &[u8], tar: &[u8]) -> Layered {
    Layered {
        digest: LayerDigest(Digest::of(blob)),
        diff_id: DiffId(Digest::of(tar)),
        size: blob.len() as u64,
        media_type: GZIP.to_owned(),
        annotations: Default::default(),
    }
}

pub(crate) fn parts() -> Parts {
    let file = || tempfile::tempfile().unwrap();
    Parts { data: file(), tree: file(), frames: file() }
}

pub(crate) fn in_memory(blob: &[u8]) -> InMemory {
    InMemory(Bytes::copy_from_slice(blob))
}

pub(crate) fn block_on<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(work)
}

/// Scans with a deadline.
pub(crate) fn scan_into(
    layer: &Layered,
    blob: &dyn Blob,
    parts: &Parts,
    limits: &Limits,
) -> Result<Verified, ScanError> {
    let progress = Arc::new(Progress::default());
    block_on(async {
        let work = scan(layer, blob, parts, limits, &progress);
        tokio::time::timeout(std::time::Duration::from_secs(60), work).await.expect("the scan hangs")
    })
}

pub(crate) fn content(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Decodes every frame alone, from nothing but its own source, and compares with its digest and with the data.
pub(crate) fn assert_frames_decode_alone(frames: &Frames, blob: &[u8], data: &[u8]) {
    for id in (0..frames.len()).map(FrameId) {
        let frame = frames.get(id).unwrap();
        let mut source = &blob[frame.source.start as usize..frame.source.end as usize];
        let mut out = Vec::new();
        codec::decode(&frame, &mut source, &mut out).unwrap();
        assert_eq!(oncefs::digest::FrameDigest::of(&out), frame.digest, "{id:?}");
        assert!(out == data[frame.data.start as usize..frame.data.end as usize], "{id:?}");
    }
}
