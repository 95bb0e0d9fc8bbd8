//! Footers, and blobs that end otherwise.

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;
use crate::blob::{InMemory, Nothing};
use crate::digest::{DiffId, LayerDigest};
use crate::index::scan::Limits;

fn footer(offset: u64) -> Vec<u8> {
    [FOOTER_BEGIN, format!("{offset:016x}").as_bytes(), FOOTER_END].concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    builder.append_data(&mut header, name, content).unwrap();
    builder.into_inner().unwrap()
}

fn read(blob: Vec<u8>, bound_by: Digest) -> Result<Contents, Fault> {
    let digest = Digest::of(&blob);
    let layer = Layered {
        digest: LayerDigest(digest),
        diff_id: DiffId(digest),
        size: blob.len() as u64,
        media_type: String::new(),
        annotations: BTreeMap::new(),
    };
    let (blob, limits) = (InMemory(blob.into()), Limits::default());
    let wanted = Wanted { layer: &layer, blob: &blob, beside: &Nothing, limits: &limits };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(EStargz.read(&wanted, bound_by)).map(Option::unwrap)
}

const EMPTY: &[u8] = br#"{"version": 1, "entries": []}"#;

#[test]
fn a_table_larger_than_the_first_request_is_fetched_whole() {
    for padding in [0, 2_000] {
        // Bytes that gzip cannot make smaller.
        let noise: String = (0..padding).map(|n| Digest::of(&u32::to_le_bytes(n)).hex()).collect();
        let json = format!(r#"{{"version": 1, "x": "{noise}", "entries": []}}"#);
        let data = vec![7; 50_000];
        let toc = gzip(&tar_of(TOC_NAME, json.as_bytes()));
        let blob = [&data[..], &toc, &footer(50_000)].concat();
        assert_eq!(read(blob, Digest::of(json.as_bytes())).unwrap().data_bytes, 0);
    }
}

#[test]
fn ends_that_are_no_footer_are_told_apart() {
    let legacy =
        [&b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x16\0"[..], b"0000000000000007STARGZ", b"\x01\0\0\xff\xff", &[0; 8]];
    let external =
        [&b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x15\0SG\x11\0"[..], b"STARGZEXTERNALTOC\x01\0\0\xff\xff", &[0; 8]];
    for (end, expected) in [
        (legacy.concat(), "CRFS"),
        (external.concat(), "cannot be fetched"),
        (vec![0; 60], "no footer"),
        (vec![0; 50], "too short"),
        (footer(u64::MAX), "where none can be"),
        (footer(1000), "where none can be"),
        ([FOOTER_BEGIN, b"00000000000000+1", FOOTER_END].concat(), "no offset"),
    ] {
        let before = if end.len() == 50 { 0 } else { 100 };
        let said = read([vec![0; before], end].concat(), Digest::of(EMPTY)).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_table_that_is_packed_otherwise_or_is_another_is_refused() {
    let right = Digest::of(EMPTY);
    let blob = |toc: &[u8]| [&[7; 100], toc, &footer(100)].concat();
    assert!(read(blob(&gzip(&tar_of(TOC_NAME, EMPTY))), right).is_ok());
    for (toc, expected) in [
        (gzip(&tar_of("other", EMPTY)), "not in the tar"),
        (gzip(EMPTY), "not in the tar"),
        (gzip(&tar_of(TOC_NAME, EMPTY)[..520]), "not in the tar"),
        (tar_of(TOC_NAME, EMPTY), "cannot be unpacked"),
        (gzip(&tar_of(TOC_NAME, b"{}")), "not the one that the manifest names"),
    ] {
        let said = read(blob(&toc), right).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_bomb_is_not_unpacked_to_its_end() {
    let bomb = gzip(&vec![0; TOC_BYTES_MAX as usize + 1000]);
    let blob = [&[7; 100], &bomb[..], &footer(100)].concat();
    assert!(matches!(read(blob, Digest::of(EMPTY)), Err(Fault::TooLarge(TOC_BYTES_MAX))));
}

proptest! {
    #[test]
    fn no_end_of_a_blob_makes_it_panic(bytes: Vec<u8>, at in any::<prop::sample::Index>(), byte: u8) {
        let _ = read(bytes, Digest::of(EMPTY));
        let mut blob = [&[7; 100], &gzip(&tar_of(TOC_NAME, EMPTY))[..], &footer(100)].concat();
        let at = at.index(blob.len());
        blob[at] = byte;
        let _ = read(blob, Digest::of(EMPTY));
    }
}
