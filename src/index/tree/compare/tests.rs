//! Every lie that a tree can tell is found, and what a format cannot say is none.

use super::*;
use crate::digest::{DiffId, Digest};
use crate::index::tree::draft::{Attributes, Draft, DraftLimits, Entry, What};
use crate::index::tree::write::{Labels, write};
use crate::index::tree::{Time, Xattrs};

fn tree(entries: &[(&str, Attributes, What<'_>)]) -> Tree {
    let mut draft = Draft::new(DraftLimits::default());
    for (path, attributes, what) in entries {
        let entry = Entry { path: path.as_bytes(), attributes: attributes.clone(), what: what.clone() };
        draft.apply(entry).unwrap();
    }
    let file = tempfile::tempfile().unwrap();
    let labels = Labels { diff_id: DiffId(Digest::of(b"a layer")), data_bytes: 1 << 20 };
    write(&draft.finish().unwrap(), &labels, &file).unwrap();
    Tree::open(&file).unwrap()
}

fn plain() -> Attributes {
    Attributes { mode: 0o755, uid: 1, gid: 2, mtime: Time { seconds: 100, nanos: 5 }, xattrs: Xattrs::new() }
}

const FILE: What<'static> = What::File { size: 5, at: 512 };

fn truth() -> Vec<(&'static str, Attributes, What<'static>)> {
    vec![
        ("bin", plain(), What::Directory),
        ("bin/a", plain(), FILE),
        ("bin/b", plain(), What::HardLink(b"bin/a")),
        ("bin.d", plain(), What::Directory),
        ("dev", plain(), What::CharDevice(1, 3)),
        ("empty", plain(), What::File { size: 0, at: 0 }),
        ("link", plain(), What::Symlink(b"bin/a")),
        ("old/.wh.gone", plain(), What::File { size: 0, at: 0 }),
    ]
}

#[test]
fn what_is_the_same_gives_each_file_once_wherever_its_bytes_lie() {
    let mut moved = truth();
    moved[1].2 = What::File { size: 5, at: 4096 };
    moved.iter_mut().for_each(|(_, attributes, _)| attributes.mtime.nanos = 0);
    let files = compare(&tree(&moved), &tree(&truth()), &[]).unwrap();
    assert_eq!(files.iter().map(|(.., size)| *size).collect::<Vec<_>>(), [5]);
}

#[test]
fn every_lie_is_found() {
    type Lie = (&'static str, fn(&mut Vec<(&'static str, Attributes, What<'static>)>));
    let lies: [Lie; 14] = [
        ("/bin/a has another mode", |said| said[1].1.mode = 0o4755),
        ("/bin has another mode", |said| said[0].1.mode = 0o777),
        ("/bin/a has another owner", |said| said[1].1.uid = 0),
        ("/bin/a has another owner", |said| said[1].1.gid = 0),
        ("/bin/a has another time", |said| said[1].1.mtime.seconds = 0),
        ("/bin/a has another time", |said| said[1].1.mtime.nanos = 6),
        ("/bin/a has another set", |said| said[1].1.xattrs = vec![(b"user.x".to_vec(), b"1".to_vec())]),
        ("/bin/a has another size", |said| said[1].2 = What::File { size: 6, at: 512 }),
        ("/bin/a has another number of links", |said| said[2].2 = FILE),
        ("/dev has another device number", |said| said[4].2 = What::CharDevice(8, 0)),
        ("/dev has another kind", |said| said[4].2 = What::BlockDevice(1, 3)),
        ("/link has another target", |said| said[6].2 = What::Symlink(b"bin/c")),
        ("/bin/c is in the index and not", |said| said.push(("bin/c", plain(), FILE))),
        ("/old/gone is in the layer and not", |said| {
            said.pop();
            said.push(("old/.wh.goner", plain(), What::File { size: 0, at: 0 }));
        }),
    ];
    let layer = tree(&truth());
    for (want, lie) in lies {
        let mut said = truth();
        lie(&mut said);
        let found = compare(&tree(&said), &layer, &[]).unwrap_err().to_string();
        assert!(found.contains(want), "{found}, not {want}");
    }
    let mut said = truth();
    said.remove(5);
    let found = compare(&tree(&said), &layer, &[]).unwrap_err().to_string();
    assert_eq!(found, "/empty is in the layer and not in the index");
}

#[test]
fn a_formats_own_files_may_be_left_out() {
    let mut said = truth();
    said.remove(5);
    assert!(compare(&tree(&said), &tree(&truth()), &["empty"]).is_ok());
    assert!(compare(&tree(&said), &tree(&truth()), &["bin/empty"]).is_err());
}
