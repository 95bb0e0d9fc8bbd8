//! Names: large directories, what is not there, and the directory of all views.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;

use oncefs::fuse::Operation;

use super::stage::{Gate, Packing, Stage, State};
use super::tars::Tar;

#[test]
fn privileged_a_hundred_thousand_names_are_listed_once_each() {
    const NAMES: usize = 100_000;
    let stage = Stage::new();
    let mut tar = Tar::new();
    for number in 0..NAMES {
        tar = tar.file(&format!("many/a-file-of-some-length-{number}"), b"");
    }
    let many = stage.show_tar("view", &tar.end()).join("many");
    let names = || fs::read_dir(&many).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let listed = names();
    assert_eq!(listed.len(), NAMES);
    assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), NAMES);
    let counts = stage.session().counts();
    let before = counts.of(Operation::Readdir) + counts.of(Operation::Readdirplus);
    assert_eq!(names(), listed, "the same order again");
    let after = counts.of(Operation::Readdir) + counts.of(Operation::Readdirplus);
    assert_eq!(after, before, "a listing the kernel has is not asked for again");
}

/// As `find -ls` reads a directory: names and attributes come together.
#[test]
fn privileged_a_listing_brings_the_attributes_along() {
    let stage = Stage::new();
    let tar = (0..1000).fold(Tar::new(), |tar, number| tar.file(&format!("some/{number}"), b"x"));
    let some = stage.show_tar("view", &tar.end()).join("some");
    let bytes: u64 = fs::read_dir(&some).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert_eq!(bytes, 1000);
    let counts = stage.session().counts();
    assert!(counts.of(Operation::Readdirplus) > 0);
    assert!(counts.of(Operation::Lookup) < 100, "{counts:?}");
}

#[test]
fn privileged_what_is_not_there_is_asked_for_once() {
    let stage = Stage::new();
    let view = stage.show_tar("view", &Tar::new().file("etc/passwd", b"root").end());
    let missing = view.join("etc/shadow");
    let look = || fs::metadata(&missing).unwrap_err().kind();
    assert_eq!(look(), ErrorKind::NotFound);
    let etc = fs::File::open(view.join("etc")).unwrap();
    let before = stage.session().counts().all();
    for _ in 0..100 {
        let found = rustix::fs::statat(&etc, "shadow", rustix::fs::AtFlags::empty());
        assert_eq!(found.unwrap_err(), rustix::io::Errno::NOENT);
    }
    assert_eq!(stage.session().counts().all(), before);
    let too_long = fs::metadata(view.join("x".repeat(256))).unwrap_err();
    assert_eq!(too_long.raw_os_error(), Some(rustix::io::Errno::NAMETOOLONG.raw_os_error()));
}

#[test]
fn privileged_views_come_and_go() {
    let stage = Stage::new();
    let listed = || {
        let names = fs::read_dir(stage.mountpoint()).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(listed(), [""; 0]);
    let layer = stage.layer(&Tar::new().file("name", b"first").end(), Packing::Plain);
    assert!(!stage.mountpoint().join("one").exists());
    stage.show("one", &[&layer]);
    assert_eq!(listed(), ["one"]);
    let gate = Gate::new(stage.ready(&[&layer]), State::Open);
    let two = stage.show_through("two", &gate);
    assert_eq!(listed(), ["one", "two"]);
    let file = stage.mountpoint().join("two/name");
    assert_eq!(fs::read(&file).unwrap(), b"first");
    stage.shelf.remove(two);
    assert_eq!(listed(), ["one"]);
    assert_eq!(fs::read(&file).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs::read(stage.mountpoint().join("one/name")).unwrap(), b"first");
}

#[test]
fn privileged_the_upper_layer_hides_the_lower_one() {
    let stage = Stage::new();
    let lower = Tar::new().file("a/kept", b"1").file("a/gone", b"2").file("b/old", b"3").file("changed", b"4");
    let upper =
        Tar::new().file("a/.wh.gone", b"").file("b/.wh..wh..opq", b"").file("b/new", b"5").file("changed", b"6!");
    let lower = stage.layer(&lower.end(), Packing::Plain);
    let upper = stage.layer(&upper.end(), Packing::Gzip);
    let view = stage.show("view", &[&lower, &upper]);
    let names = |dir: &str| {
        let names = fs::read_dir(view.join(dir)).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect::<BTreeSet<_>>()
    };
    assert_eq!(names(""), ["a", "b", "changed"].map(String::from).into());
    assert_eq!(names("a"), ["kept"].map(String::from).into());
    assert_eq!(names("b"), ["new"].map(String::from).into());
    assert!(!view.join("a/gone").exists() && !view.join("b/old").exists());
    assert_eq!(fs::read(view.join("changed")).unwrap(), b"6!");
}
