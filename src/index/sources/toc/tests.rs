//! Tables of contents that are right, and ones that are wrong at one place.

#![allow(clippy::single_range_in_vec_init)] // lists of ranges, some of them with one

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::index::tree::write::{Content, Source};

const DATA_END: u64 = 10_000;

fn shape() -> Shape {
    Shape {
        packing: Packing::Gzip,
        data_end: DATA_END,
        blob_bytes: 11_000,
        hidden: &[".landmark", ".none"],
        landmarks: Some(LANDMARKS),
    }
}

const LANDMARKS: Landmarks = Landmarks { wanted_before: ".landmark", nothing_wanted: ".none" };

fn digest(of: &str) -> String {
    Digest::of(of.as_bytes()).to_string()
}

/// A directory, a small file, and one of three chunks.
fn sound() -> Value {
    json!({"version": 1, "entries": [
        {"name": ".landmark", "type": "reg", "size": 1, "offset": 50, "digest": digest("l"), "chunkDigest": digest("l")},
        {"name": "etc/", "type": "dir", "mode": 0o755, "modtime": "2024-02-29T12:34:56Z", "uid": 7, "gid": 8},
        {"name": "etc/small", "type": "reg", "size": 700, "mode": 0o4755, "offset": 100, "digest": digest("s"),
         "xattrs": {"user.a": "AAE="}},
        {"name": "link", "type": "symlink", "linkName": "etc/small"},
        {"name": "large", "type": "reg", "size": 1000, "offset": 900, "chunkSize": 400, "chunkDigest": digest("1")},
        {"name": "large", "type": "chunk", "offset": 1500, "innerOffset": 30, "chunkOffset": 400, "chunkSize": 500,
         "chunkDigest": digest("2")},
        {"name": "large", "type": "chunk", "offset": 2500, "chunkOffset": 900, "chunkDigest": digest("3")},
        {"name": "same", "type": "hardlink", "linkName": "large"},
    ]})
}

fn read_value(table: &Value) -> Result<Contents, Fault> {
    read_toc(table.to_string().as_bytes(), &shape(), &Limits::default())
}

/// What is said of the sound table after a change of one entry.
fn refused(entry: usize, key: &str, value: Value) -> String {
    let mut table = sound();
    table["entries"][entry][key] = value;
    crate::errors::with_causes(&read_value(&table).unwrap_err())
}

fn extents(tree: &Source) -> Vec<(u64, usize)> {
    let of = |inode: &crate::index::tree::write::Inode| match &inode.content {
        Content::Extents { size, pieces } => Some((*size, pieces.len())),
        _ => None,
    };
    tree.inodes.iter().filter_map(of).collect()
}

#[test]
fn a_table_becomes_a_tree_and_frames_that_end_where_the_next_begins() {
    let Contents { tree, frames, data_bytes, .. } = read_value(&sound()).unwrap();
    let found: Vec<_> = frames.iter().map(|frame| (frame.source.clone(), frame.data.clone(), &frame.start)).collect();
    let inside = Start::Inside { skip: 30 };
    assert_eq!(
        found,
        [
            (100..900, 0..700, &Start::Member),
            (900..1500, 1024..1424, &Start::Member),
            (1500..2500, 1424..1924, &inside),
            (2500..DATA_END, 1924..2024, &Start::Member),
        ]
    );
    assert_eq!(frames[0].digest, Digest::of(b"s").into());
    assert_eq!(data_bytes, 2024);
    assert_eq!(extents(&tree), [(700, 1), (1000, 1)]);
    let directory = tree.inodes.iter().find(|inode| inode.uid == 7).unwrap();
    assert_eq!((directory.gid, directory.mode, directory.mtime.seconds), (8, 0o755, 1_709_210_096));
    let small = tree.inodes.iter().find(|inode| inode.mode == 0o4755).unwrap();
    assert_eq!(small.xattrs, [(b"user.a".to_vec(), vec![0, 1])]);
}

#[test]
fn what_begins_before_the_landmark_is_wanted_first() {
    let wanted = |name: &str, offset: u64| {
        let mut table = sound();
        table["entries"][0]["name"] = name.into();
        table["entries"][0]["offset"] = offset.into();
        read_value(&table).unwrap().wanted_first
    };
    assert_eq!(wanted(".landmark", 1500), Some(vec![0..2]));
    assert_eq!(wanted(".landmark", 50), Some(vec![]));
    assert_eq!(wanted(".none", 1500), Some(vec![]));
    assert_eq!(wanted("a-file", 1500), None);
    // Data may lie in the blob in another order than in the table.
    let mut table = sound();
    table["entries"][0]["offset"] = 1600.into();
    table["entries"][2]["offset"] = 8000.into();
    assert_eq!(read_value(&table).unwrap().wanted_first, Some(vec![1..3]));
}

#[test]
fn a_hole_has_no_frame_and_order_is_not_relied_on() {
    let mut table = sound();
    table["entries"][5] =
        json!({"name": "large", "type": "chunk", "chunkType": "zeros", "chunkOffset": 400, "chunkSize": 500});
    table["entries"][4]["offset"] = 5000.into();
    let Contents { frames, .. } = read_value(&table).unwrap();
    let found: Vec<_> = frames.iter().map(|frame| (frame.source.clone(), frame.data.clone())).collect();
    assert_eq!(found, [(100..2500, 0..700), (5000..DATA_END, 1024..1424), (2500..5000, 1924..2024)]);
}

#[test]
fn chunks_that_overlap_leave_gaps_or_say_too_much_are_refused() {
    for (entry, key, value) in [
        (5, "chunkOffset", json!(399)),
        (5, "chunkOffset", json!(401)),
        (5, "chunkSize", json!(601)),
        (5, "chunkSize", json!(u64::MAX)),
        (5, "name", json!("other")),
        (4, "chunkSize", json!(0)),
        (4, "chunkSize", json!(1001)),
        (4, "chunkOffset", json!(1)),
        (6, "type", json!("dir")),
        (6, "chunkSize", json!(99)),
        (1, "type", json!("chunk")),
    ] {
        let said = refused(entry, key, value.clone());
        assert!(said.contains("chunks that do not make up the file"), "{entry} {key} {value}: {said}");
    }
}

#[test]
fn what_lies_outside_or_cannot_be_checked_is_refused() {
    for (entry, key, value, expected) in [
        (2, "offset", json!(DATA_END), "outside the blob's data"),
        (2, "offset", json!(u64::MAX), "outside the blob's data"),
        (2, "endOffset", json!(DATA_END + 1), "outside the blob's data"),
        (2, "digest", Value::Null, "without a digest"),
        (2, "digest", json!("sha256:short"), "without a digest"),
        (2, "digest", json!("md5:d41d8cd98f00b204e9800998ecf8427e"), "without a digest"),
        (5, "chunkDigest", Value::Null, "without a digest"),
        (5, "innerOffset", json!(u64::MAX), "too deep"),
        (2, "size", json!(u64::MAX), "data_bytes_max"),
        (2, "size", json!(65u64 << 30), "data_bytes_max"),
        (2, "size", json!(-1), "JSON"),
        (1, "uid", json!(-1), "JSON"),
        (1, "type", json!("socket"), "unknown type"),
        (1, "name", json!("../up"), "`..`"),
        (1, "name", json!("lost\u{fffd}"), "JSON could not hold"),
        (3, "linkName", json!("lost\u{fffd}"), "JSON could not hold"),
        (1, "modtime", json!("yesterday"), "a time that is none"),
        (2, "xattrs", json!({"user.a": "?"}), "base64"),
        (7, "linkName", json!("etc"), "is a directory"),
    ] {
        let said = refused(entry, key, value.clone());
        assert!(said.contains(expected), "{entry} {key} {value}: {said}");
    }
}

#[test]
fn a_layer_that_would_unpack_to_far_more_than_its_blob_is_refused() {
    let mut table = sound();
    table["entries"][2]["size"] = (300u64 << 20).into();
    assert!(matches!(read_value(&table), Err(Fault::Ratio(200))));
}

#[test]
fn more_entries_than_a_layer_may_have_are_refused() {
    let limits = Limits { inodes_max: 4, ..Limits::default() };
    let read = read_toc(sound().to_string().as_bytes(), &shape(), &limits);
    assert!(matches!(read, Err(Fault::Entry { fault: EntryFault::Draft(_), .. })), "{read:?}");
}

#[test]
fn json_that_is_another_ends_early_or_goes_on_is_refused() {
    let sound = sound().to_string();
    let twice = r#"{"version":1,"entries":[],"entries":[]}"#;
    for json in ["", "[]", "null", "{}", &sound[..sound.len() - 1], &format!("{sound}x"), twice] {
        let read = read_toc(json.as_bytes(), &shape(), &Limits::default());
        assert!(matches!(read, Err(Fault::Json(_) | Fault::Version(None))), "{:.50}: {read:?}", json);
    }
    let read = read_toc(br#"{"version": 2, "entries": []}"#, &shape(), &Limits::default());
    assert!(matches!(read, Err(Fault::Version(Some(2)))), "{read:?}");
}

/// What is passed over takes no stack, and what is read may not be deep.
#[test]
fn deep_json_does_no_harm() {
    let deep = format!("{}1{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let passed_over =
        format!(r#"{{"version": 1, "x": {deep}, "entries": [{{"type": "dir", "name": "a", "x": {deep}}}]}}"#);
    assert!(read_toc(passed_over.as_bytes(), &shape(), &Limits::default()).is_ok());
    let read = format!(r#"{{"version": 1, "entries": [{{"type": "dir", "name": "a", "xattrs": {deep}}}]}}"#);
    assert!(matches!(read_toc(read.as_bytes(), &shape(), &Limits::default()), Err(Fault::Json(_))));
}

fn any_entry() -> impl Strategy<Value = Value> {
    let small = prop_oneof![0u64..3000, Just(u64::MAX), any::<u64>()];
    let kind = prop::sample::select(vec!["reg", "chunk", "dir", "symlink", "hardlink", "char", "fifo", "x"]);
    let name = prop::sample::select(vec!["a", "b", "a/c", "b/../c", ".wh.a", "", ".landmark"]);
    let hole = prop::sample::select(vec!["", "zeros", "x"]);
    (kind, name, prop::collection::vec(small, 6), hole).prop_map(|(kind, name, numbers, hole)| {
        json!({"type": kind, "name": name, "linkName": "a", "size": numbers[0], "offset": numbers[1],
            "endOffset": numbers[2], "innerOffset": numbers[3], "chunkOffset": numbers[4], "chunkSize": numbers[5],
            "chunkDigest": digest("d"), "chunkType": hole})
    })
}

proptest! {
    #[test]
    fn whatever_is_read_has_frames_within_the_blob_and_the_data(entries in prop::collection::vec(any_entry(), 0..12)) {
        if let Ok(contents) = read_value(&json!({"version": 1, "entries": entries})) {
            let mut end = 0;
            for frame in &contents.frames {
                prop_assert!(frame.source.start < frame.source.end && frame.source.end <= DATA_END);
                prop_assert!(frame.data.start >= end && frame.data.start < frame.data.end);
                end = frame.data.end;
            }
            prop_assert!(end <= contents.data_bytes);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, at in any::<prop::sample::Index>(), byte: u8) {
        let _ = read_toc(&bytes, &shape(), &Limits::default());
        let mut json = sound().to_string().into_bytes();
        let at = at.index(json.len());
        json[at] = byte;
        let _ = read_toc(&json, &shape(), &Limits::default());
    }
}
