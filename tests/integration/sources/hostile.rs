//! Real indexes, damaged: each is declined, or says what the layer has, and never shows a wrong byte.

use std::cell::Cell;
use std::ops::Range;
use std::sync::OnceLock;

use oncefs::index::frames::FrameId;
use oncefs::index::scan::Limits;
use oncefs::index::sources::{Contents, Landmarks, Packing, Shape, read_toc, read_ztoc};
use oncefs::index::tree::read::Tree;
use oncefs::index::tree::write::{Labels, write};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::contract::{Disguise, all, chunked_table, estargz_table};
use super::from_memory::{Whole, decode};
use super::made::Indexed;
use crate::index::made;

/// What is done to bytes.
#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, u8),
    CutAt(Index),
    Swap(Index, Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<Index>(), 1u8..).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        1 => any::<Index>().prop_map(Damage::CutAt),
        1 => (any::<Index>(), any::<Index>(), 1usize..2000).prop_map(|(a, b, len)| Damage::Swap(a, b, len)),
    ]
}

impl Damage {
    /// Does it to a part of the bytes, and says what of them is not as it was.
    fn act(&self, bytes: &mut Vec<u8>, part: &Range<usize>) -> Range<usize> {
        let within = |at: &Index| part.start + at.index(part.len());
        match self {
            Self::Flip(at, bits) => {
                bytes[within(at)] ^= bits;
                within(at)..within(at) + 1
            }
            Self::CutAt(at) => {
                let end = bytes.len();
                bytes.truncate(within(at));
                within(at)..end
            }
            Self::Swap(a, b, len) => {
                let (a, b) = (within(a).min(within(b)), within(a).max(within(b)));
                let len = (*len).min(b - a).min(bytes.len() - b);
                let (front, back) = bytes.split_at_mut(b);
                front[a..a + len].swap_with_slice(&mut back[..len]);
                a..b + len
            }
        }
    }
}

/// A damaged blob under its old digest, as a registry that lies would give it.
#[test]
fn a_damaged_layer_never_shows_a_wrong_byte() {
    let images = all();
    let layers = |image: &Indexed| (0..3).map(|n| image.whole(n).unwrap()).collect();
    let wholes: Vec<Vec<Whole>> = images.iter().map(|(_, _, image)| layers(image)).collect();
    let declined = Cell::new(0);
    let of_image = (0..images.len(), 0..3usize, damage(), any::<bool>());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(150));
    let outcome = runner.run(&of_image, |(which, layer, damage, is_of_index)| {
        let (name, mut image) = (images[which].0, images[which].2.clone());
        let whole = &wholes[which][layer];
        let digest = image.layer_digest(layer);
        let blob = image.blobs.get_mut(&digest).unwrap();
        // Most of a blob is no index: half of the damage is done to where that is, after the last frame.
        let ends = (0..whole.frames.len()).map(|id| whole.frames.source_range(FrameId(id)).unwrap().end as usize);
        let index = ends.max().unwrap()..blob.len();
        let part = if is_of_index && !index.is_empty() { index } else { 0..blob.len() };
        let damaged = damage.act(blob, &part);
        blob.resize(whole.frames.heading().blob_bytes as usize, 0);
        let Ok(Some((tree, frames))) = image.index_of(layer) else {
            declined.set(declined.get() + 1);
            return Ok(());
        };
        prop_assert_eq!(tree.counts(), whole.tree.counts(), "{}", name);
        for id in (0..frames.len()).map(FrameId) {
            let frame = frames.get(id).unwrap();
            let source = frame.source.start as usize..frame.source.end as usize;
            if source.start >= damaged.end || damaged.start >= source.end {
                continue;
            }
            if let Ok(bytes) = decode(&frame, image.layer(layer)) {
                let expected = &whole.data[frame.data.start as usize..frame.data.end as usize];
                prop_assert!(bytes.get() == expected, "{}: {:?} is wrong", name, id);
            }
        }
        Ok(())
    });
    outcome.unwrap();
    assert!(declined.get() > 20, "{declined:?} of 150: this test does not reach the indexes");
}

/// A damaged index, or a ztoc, under its old digest.
#[test]
fn a_damaged_index_beside_the_image_is_declined() {
    let (_, _, image) = all().iter().find(|(name, _, _)| *name == "SOCI").unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(60));
    let outcome = runner.run(&(0..3usize, damage()), |(layer, damage)| {
        let (mut image, before) = (image.clone(), image.ztoc(layer).to_vec());
        let ztoc = image.blobs.values_mut().find(|bytes| **bytes == before).unwrap();
        let len = ztoc.len();
        damage.act(ztoc, &(0..len));
        prop_assume!(*ztoc != before);
        prop_assert!(image.index_of(layer).is_err());
        Ok(())
    });
    outcome.unwrap();
}

/// What anybody who makes an image may do to one place of a table.
fn spoiled(entry: &mut Value, what: u8, number: u64) {
    let keys = [
        "name",
        "type",
        "size",
        "offset",
        "endOffset",
        "innerOffset",
        "chunkOffset",
        "chunkSize",
        "chunkDigest",
        "digest",
        "linkName",
        "xattrs",
        "modtime",
        "mode",
        "uid",
        "devMajor",
        "chunkType",
    ];
    let values = [
        json!(number),
        json!(number % 5000),
        json!(u64::MAX),
        json!(-1),
        json!(0),
        json!(null),
        json!(""),
        json!("../../x"),
        json!("usr/bin"),
        json!("."),
        json!("reg"),
        json!("dir"),
        json!("chunk"),
        json!("hardlink"),
        json!("zeros"),
        json!("sha256:00"),
        json!({}),
        json!([1]),
    ];
    let key = keys[usize::from(what) % keys.len()];
    match number % 20 {
        0 => drop(entry.as_object_mut().unwrap().remove(key)),
        n => entry[key] = values[(n as usize * 7 + usize::from(what)) % values.len()].clone(),
    }
}

/// Whatever is made of a table is a sound tree, and frames within the blob that follow one another.
fn assert_sound(contents: &Contents, shape: &Shape) {
    let (parts, diff_id) = (made::parts(), oncefs::digest::DiffId(oncefs::digest::Digest::of(b"")));
    let labels = Labels { diff_id, data_bytes: contents.data_bytes };
    if write(&contents.tree, &labels, &parts.tree).is_ok() {
        Tree::open(&parts.tree).and_then(|tree| tree.check()).unwrap();
    }
    let mut end = 0;
    for frame in &contents.frames {
        assert!(frame.source.start < frame.source.end && frame.source.end <= shape.data_end);
        assert!(frame.data.start >= end && frame.data.start < frame.data.end);
        end = frame.data.end;
    }
    assert!(end <= contents.data_bytes);
}

const LANDMARKS: Landmarks = Landmarks { wanted_before: ".prefetch.landmark", nothing_wanted: ".no.prefetch.landmark" };

/// A table of a real blob, how it is read, and the blob.
type Table = (Vec<u8>, Shape, Vec<u8>);

fn tables() -> &'static [Table] {
    static TABLES: OnceLock<Vec<Table>> = OnceLock::new();
    TABLES.get_or_init(find_tables)
}

fn find_tables() -> Vec<Table> {
    let of_image = |(_, _, image): &Disguise| {
        let (layer, blob) = (image.layered(1), image.layer(1).to_vec());
        let ((json, start), packing) = match layer.media_type.ends_with("gzip") {
            true => (estargz_table(&blob), Packing::Gzip),
            false => (chunked_table(&layer, &blob), Packing::Zstd),
        };
        let (data_end, blob_bytes) = (start as u64, blob.len() as u64);
        let shape = Shape { packing, data_end, blob_bytes, hidden: &["stargz.index.json"], landmarks: Some(LANDMARKS) };
        (json, shape, blob)
    };
    all().iter().filter(|(name, ..)| !name.contains("SOCI") && !name.contains("another image")).map(of_image).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The manifest may bind any table at all: who makes an image chooses it.
    #[test]
    fn no_table_that_a_manifest_binds_makes_anything_unsound(
        which in any::<Index>(), changes in prop::collection::vec((any::<Index>(), any::<u8>(), any::<u64>()), 1..6),
        order in prop::collection::vec((any::<Index>(), any::<Index>()), 0..4), bytes in prop::option::of(damage()),
    ) {
        let tables = tables();
        let (text, shape, blob) = &tables[which.index(tables.len())];
        let mut table: Value = serde_json::from_slice(text).unwrap();
        let entries = table["entries"].as_array_mut().unwrap();
        for (a, b) in order {
            let (a, b) = (a.index(entries.len()), b.index(entries.len()));
            entries.swap(a, b);
        }
        for (entry, what, number) in changes {
            let entry = entry.index(entries.len());
            spoiled(&mut entries[entry], what, number);
        }
        let mut text = table.to_string().into_bytes();
        if let Some(damage) = bytes {
            let len = text.len();
            damage.act(&mut text, &(0..len));
        }
        if let Ok(contents) = read_toc(&text, shape, &Limits::default()) {
            assert_sound(&contents, shape);
            // What is decoded has the digest that the table says, or is an error.
            for frame in contents.frames.iter().take(10) {
                let _ = decode(frame, blob);
            }
        }
    }
}

/// What fuzzing begins with is worth nothing if the readers turn it down at the door.
#[test]
fn the_seeds_of_the_fuzz_targets_are_read() {
    let seeds = |target: &str| {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        let files = std::fs::read_dir(dir).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        files.collect::<Vec<_>>()
    };
    let (tables, ztocs) = (seeds("toc"), seeds("ztoc"));
    assert!(tables.len() >= 5 && ztocs.len() >= 2);
    for text in tables {
        let packing =
            if String::from_utf8_lossy(&text).contains("innerOffset") { Packing::Gzip } else { Packing::Zstd };
        let shape = Shape { packing, data_end: 10_000, blob_bytes: 11_000, hidden: &[], landmarks: Some(LANDMARKS) };
        assert!(read_toc(&text, &shape, &Limits::default()).unwrap().frames.len() > 3);
    }
    for bytes in ztocs {
        let (size, ztoc) = bytes.split_first_chunk().unwrap();
        let ztoc = read_ztoc(ztoc, u64::from(u16::from_le_bytes(*size)), &Limits::default()).unwrap();
        assert!(!ztoc.contents.frames.is_empty());
    }
}
