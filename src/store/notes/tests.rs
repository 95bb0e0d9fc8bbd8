//! Notes as bytes.

use super::*;
use proptest::prelude::*;

fn note() -> Note {
    Note::new(Kind::Snapshot, 7u64.to_be_bytes(), b"{}".as_slice())
}

#[test]
fn a_note_is_read_as_it_was_written_and_says_what_it_is_of() {
    for kind in Kind::ALL {
        let note = Note { kind, ..note() };
        assert_eq!(Note::decode(&note.encode()), Some(note));
    }
    assert_eq!(note().title(), "snapshot 7");
    assert_eq!(Note::new(Kind::Pin, b"redis:7\0linux/amd64".as_slice(), []).title(), "pin redis:7 linux/amd64");
}

/// As it lies on disks: a change of the code must go on reading it.
#[test]
fn the_bytes_of_version_1_stay() {
    let said = b"oncefs note\n\x01\x08\0\0\0snapshot\x08\0\0\0\0\0\0\0\0\0\0\x07\x02\0\0\0{}";
    assert_eq!(note().encode(), [said.as_slice(), Digest::of(said).as_bytes()].concat());
}

#[test]
fn every_flipped_bit_and_every_cut_is_seen() {
    let bytes = note().encode();
    for at in 0..bytes.len() {
        assert_eq!(Note::decode(&bytes[..at]), None);
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert_eq!(Note::decode(&flipped), None, "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn a_note_in_the_place_of_another_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    fs::create_dir_all(layout.layers()).unwrap();
    let notes = Notes::open(&layout).unwrap();
    notes.put_all(&[note()]).unwrap();
    fs::rename(dir.path().join("notes/snapshot/7"), dir.path().join("notes/snapshot/8")).unwrap();
    let found = notes.all().unwrap();
    assert_eq!((found.notes, found.damaged), (vec![], vec![dir.path().join("notes/snapshot/8")]));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(fields: Vec<u8>) {
        let said = [MAGIC, &[VERSION], &fields].concat();
        let _ = Note::decode(&[said.as_slice(), Digest::of(&said).as_bytes()].concat());
        let _ = Note::decode(&fields);
    }
}
