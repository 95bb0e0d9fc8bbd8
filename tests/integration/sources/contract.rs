//! What every source must give for the same layers: the same tree, the same bytes, frames that each decode alone. A new source is
//! a new line here.

use std::io::Read as _;
use std::sync::OnceLock;

use oncefs::blob::Layered;
use oncefs::index::frames::{FrameId, IndexSource};

use super::from_memory::scanned;
use super::made::{Indexed, beside_soci, convert, converted, original, plain, repacked, with_soci};
use super::ztocs::{SPANS, with_first_checkpoint_implied};
use crate::cli::image::{Image, Layer, Tar};
use crate::index::made::program;

/// What a tool made of the original: how it is called, which source reads it, and the image.
pub(crate) type Disguise = (&'static str, IndexSource, Indexed);

const SMALL_MEMBERS: [&str; 5] = ["--estargz", "--estargz-chunk-size", "30000", "--estargz-min-chunk-size", "200000"];

/// All that there are.
pub(crate) fn all() -> &'static [Disguise] {
    static MADE: OnceLock<Vec<Disguise>> = OnceLock::new();
    MADE.get_or_init(make)
}

fn make() -> Vec<Disguise> {
    let (estargz, chunked, soci) = (IndexSource::EStargz, IndexSource::ZstdChunked, IndexSource::Soci);
    vec![
        ("eStargz", estargz, converted(&["--estargz"])),
        ("eStargz, small chunks", estargz, converted(&["--estargz", "--estargz-chunk-size", "65536"])),
        ("eStargz, several chunks a member", estargz, converted(&SMALL_MEMBERS)),
        ("eStargz, the table in another image", estargz, converted(&["--estargz", "--estargz-external-toc"])),
        (
            "eStargz, the table in another image and the tar as it was",
            estargz,
            converted(&["--estargz", "--estargz-external-toc", "--estargz-keep-diff-id"]),
        ),
        ("zstd:chunked of containers/storage", chunked, repacked()),
        ("zstd:chunked of stargz-snapshotter", chunked, converted(&["--zstdchunked"])),
        ("the same, small chunks", chunked, converted(&["--zstdchunked", "--zstdchunked-chunk-size", "65536"])),
        ("SOCI", soci, with_soci(&original(), &SPANS)),
        ("SOCI, one span", soci, with_soci(&original(), &["--min-layer-size", "100"])),
        ("SOCI, the first checkpoint implied", soci, with_first_checkpoint_implied()),
        ("SOCI, version 1", soci, beside_soci(&original(), &SPANS)),
        ("SOCI of tars that are not packed", soci, with_soci(&plain(), &SPANS)),
    ]
}

#[test]
fn the_same_layers_in_all_disguises_give_the_same_trees_and_bytes() {
    let original = Indexed::plain(&original());
    let expected: Vec<Vec<String>> =
        (0..original.layers()).map(|n| scanned(&original.layered(n), original.layer(n)).lines()).collect();
    assert!(expected.iter().all(|lines| lines.len() > 3), "{expected:?}");
    for (name, source, image) in all() {
        for (n, expected) in expected.iter().enumerate() {
            let whole = image.whole(n).unwrap_or_else(|| panic!("{name} leaves out layer {n}"));
            assert_eq!(whole.frames.heading().index_source, *source, "{name}");
            assert_eq!(whole.lines(), *expected, "{name}, layer {n}");
        }
    }
}

#[test]
fn a_hole_that_a_table_tells_of_is_never_fetched() {
    let (_, frames) = repacked().index_of(0).unwrap().unwrap();
    let lengths = (0..frames.len()).map(|id| frames.data_range(FrameId(id)).unwrap()).map(|data| data.end - data.start);
    // The original has 240,000 bytes of zeros.
    assert!(lengths.sum::<u64>() < frames.heading().data_bytes - 200_000);
}

/// The table of contents of an eStargz blob, and where the member that holds it begins.
pub(crate) fn estargz_table(blob: &[u8]) -> (Vec<u8>, usize) {
    let footer = blob.last_chunk::<51>().unwrap();
    let start = usize::from_str_radix(std::str::from_utf8(&footer[16..32]).unwrap(), 16).unwrap();
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(&blob[start..]).read_to_end(&mut tar).unwrap();
    let (mut archive, mut json) = (tar::Archive::new(&tar[..]), Vec::new());
    archive.entries().unwrap().next().unwrap().unwrap().read_to_end(&mut json).unwrap();
    (json, start)
}

/// The same of a zstd:chunked blob, and where the frame that holds it begins.
pub(crate) fn chunked_table(layer: &Layered, blob: &[u8]) -> (Vec<u8>, usize) {
    let (_, position) = layer.annotations.iter().find(|(key, _)| key.ends_with("manifest-position")).unwrap();
    let mut numbers = position.split(':').map(|number| number.parse::<usize>().unwrap());
    let (start, length, unpacked) = (numbers.next().unwrap(), numbers.next().unwrap(), numbers.next().unwrap());
    (zstd::bulk::decompress(&blob[start..start + length], unpacked).unwrap(), start - 8)
}

/// What is done to a table of stargz-snapshotter's before it is bound again, as another writer could have it.
fn retold(image: &mut Indexed, layer: usize, retell: impl Fn(&mut Vec<serde_json::Value>)) {
    use oncefs::digest::Digest;
    let (blob, layered) = (image.layer(layer).to_vec(), image.layered(layer));
    let (json, start) = chunked_table(&layered, &blob);
    let mut table: serde_json::Value = serde_json::from_slice(&json).unwrap();
    retell(table["entries"].as_array_mut().unwrap());
    let json = table.to_string().into_bytes();
    let packed = zstd::bulk::compress(&json, 3).unwrap();
    let skippable = |payload: &[u8]| [b"\x50\x2a\x4d\x18", &(payload.len() as u32).to_le_bytes()[..], payload].concat();
    // The footer says another thing than the annotations, and nobody asks it.
    let made = [&blob[..start], &skippable(&packed), &skippable(&[0x55; 64])].concat();
    let (old, new) = (image.layer_digest(layer), Digest::of(&made).to_string());
    let descriptor = &mut image.manifest["layers"][layer];
    (descriptor["digest"], descriptor["size"]) = (new.clone().into(), made.len().into());
    let position = format!("{}:{}:{}:1", start + 8, packed.len(), json.len());
    for (key, value) in image.annotations(layer) {
        match key.rsplit('.').next().unwrap() {
            "manifest-position" => *value = position.clone().into(),
            "manifest-checksum" => *value = Digest::of(&packed).to_string().into(),
            _ => {}
        }
    }
    image.blobs.remove(&old);
    image.blobs.insert(new, made);
}

#[test]
fn entries_in_another_order_and_a_footer_that_disagrees_change_nothing() {
    for (name, _, image) in all().iter().filter(|(name, _, _)| name.starts_with("zstd:chunked")) {
        let expected = image.whole(1).unwrap().lines();
        let mut other = image.clone();
        retold(&mut other, 1, |entries| {
            // A file's chunks follow it, and what links to a file comes after it; nothing else is certain.
            let mut groups: Vec<Vec<serde_json::Value>> = Vec::new();
            for entry in entries.drain(..) {
                match entry["type"].as_str() {
                    Some("chunk") => groups.last_mut().unwrap().push(entry),
                    _ => groups.push(vec![entry]),
                }
            }
            groups.reverse();
            groups.sort_by_key(|group| group[0]["type"] == "hardlink");
            entries.extend(groups.into_iter().flatten());
        });
        assert_eq!(other.whole(1).unwrap().lines(), expected, "{name}");
    }
}

/// A layer whose files `a`, `b` and `c` follow one another.
fn three_files() -> Image {
    let tar = Tar::new().file("a", &program(1, 9_000)).file("b", &program(2, 9_000)).file("c", &program(3, 9_000));
    Image::of(&[Layer::gzip(&tar.done())])
}

/// The same whose prioritised files, `c` and `b`, come first, as ctr-remote writes them for a record of what a container reads; and
/// the one that is not.
pub(crate) fn prioritised(kind: &str) -> (Indexed, &'static str) {
    let (image, dir) = (three_files(), tempfile::tempdir().unwrap());
    let record = dir.path().join("record.json");
    let lines = ["c", "b"].map(|path| {
        let manifest = image.manifest_digest();
        serde_json::json!({"path": path, "manifestDigest": manifest.to_string(), "layerIndex": 0}).to_string()
    });
    std::fs::write(&record, lines.join("\n")).unwrap();
    let (format, record) = (format!("--{kind}"), format!("--{kind}-record-in={}", record.display()));
    (convert(&image, &[&format, &record]), "a")
}

#[test]
fn what_lies_before_the_landmark_is_wanted_first() {
    for kind in ["estargz", "zstdchunked"] {
        let (prioritised, _) = prioritised(kind);
        let (_, frames) = prioritised.index_of(0).unwrap().unwrap();
        assert_eq!((frames.wanted_first(), frames.len()), (Some(vec![0..2; 1]), 3), "{kind}");
        let without = convert(&three_files(), &[&format!("--{kind}")]);
        assert_eq!(without.index_of(0).unwrap().unwrap().1.wanted_first(), Some(vec![]), "{kind}");
    }
    // containers/storage has no landmarks, and may have files of that name.
    assert_eq!(repacked().index_of(0).unwrap().unwrap().1.wanted_first(), None);
}
