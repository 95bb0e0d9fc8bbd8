//! File contents: at any offset, of any length, with holes, mapped, executed, and shared between views.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::process::Command;

use oncefs::fuse::Operation;
use oncefs::sys::mmap::Map;
use proptest::prelude::*;
use rustix::fs::SeekFrom;

use super::stage::{Packing, Stage, drop_all, output};
use super::tars::{Tar, noise, of_directory};

const LEN: usize = (5 << 20) + 777;

#[test]
fn privileged_reads_at_any_offset_give_the_files_bytes() {
    let content = noise(7, LEN);
    let stage = Stage::new();
    let layer = stage.layer(&Tar::new().file("first", b"odd").file("file", &content).end(), Packing::Gzip);
    let path = stage.show("view", &[&layer]).join("file");
    let buffered = File::open(&path).unwrap();
    let direct = File::options().read(true).custom_flags(libc_o_direct()).open(&path).unwrap();
    let offsets = prop_oneof![0..LEN as u64 + 5000, Just(LEN as u64), Just(LEN as u64 - 1)];
    let cases = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) };
    proptest!(cases, |(at in offsets, len in 0usize..2_000_000, dropped in 0u32..20)| {
        if dropped == 0 {
            drop_all(&layer); // some of it is still in the page cache, the rest must be fetched
        }
        let start = content.len().min(at as usize);
        let want = &content[start..content.len().min(start + len)];
        for file in [&buffered, &direct] {
            let mut got = vec![0xaa; len];
            let read = read_whole(file, &mut got, at);
            prop_assert_eq!(read, want.len());
            prop_assert!(&got[..read] == want);
        }
    });
}

/// O_DIRECT (include/uapi/asm-generic/fcntl.h).
fn libc_o_direct() -> i32 {
    rustix::fs::OFlags::DIRECT.bits() as i32
}

fn read_whole(file: &File, out: &mut [u8], at: u64) -> usize {
    let mut done = 0;
    while done < out.len() {
        match file.read_at(&mut out[done..], at + done as u64).unwrap() {
            0 => break,
            read => done += read,
        }
    }
    done
}

#[test]
fn privileged_holes_are_zeros_and_can_be_found() {
    let stage = Stage::new();
    let original = stage.directory("original");
    let file = File::create(original.join("sparse")).unwrap();
    file.set_len(20 << 20).unwrap();
    file.write_all_at(&noise(3, 100_000), 5 << 20).unwrap();
    file.write_all_at(b"the end", (20 << 20) - 7).unwrap();
    drop(file);
    let layer = stage.layer(&of_directory(&original), Packing::Plain);
    assert!(layer.data_bytes() < 1 << 20, "the tar is sparse");
    let shown = stage.show("view", &[&layer]).join("sparse");
    assert!(fs::read(&shown).unwrap() == fs::read(original.join("sparse")).unwrap());
    let [ours, theirs] = [shown, original.join("sparse")].map(|path| File::open(path).unwrap());
    for at in [0, 1, 5 << 20, (5 << 20) + 99_999, (5 << 20) + 200_000, (20 << 20) - 7, (20 << 20) - 1] {
        let seek = |file: &File, from| rustix::fs::seek(file, from);
        assert_eq!(seek(&ours, SeekFrom::Data(at)), seek(&theirs, SeekFrom::Data(at)), "data from {at}");
        assert_eq!(seek(&ours, SeekFrom::Hole(at)), seek(&theirs, SeekFrom::Hole(at)), "hole from {at}");
    }
    let beyond = rustix::fs::seek(&ours, SeekFrom::Data(20 << 20));
    assert_eq!(beyond, Err(rustix::io::Errno::NXIO));
}

#[test]
fn privileged_a_program_runs_from_the_view_and_a_mapping_reads_right() {
    let stage = Stage::new();
    let program = fs::read("/usr/bin/sort").unwrap();
    let layer = stage.layer(&Tar::new().program("bin/sort", &program).end(), Packing::Gzip);
    let shown = stage.show("view", &[&layer]).join("bin/sort");
    drop_all(&layer);
    let input = stage.directory("input").join("lines");
    fs::write(&input, "b\na\n").unwrap();
    assert_eq!(output(Command::new(&shown).arg(input)), "a\nb\n");
    let map = Map::open(&File::open(&shown).unwrap()).unwrap();
    assert!(*map == *program);
}

#[test]
fn privileged_views_that_share_a_layer_share_numbers_and_pages() {
    let content = noise(9, 3 << 20);
    let stage = Stage::new();
    let shared = stage.layer(&Tar::new().file("lib/shared", &content).end(), Packing::Plain);
    let other = stage.layer(&Tar::new().file("lib/own", b"own").end(), Packing::Plain);
    let one = stage.show("one", &[&shared]).join("lib/shared");
    let two = stage.show("two", &[&shared, &other]).join("lib/shared");
    let number = |path| fs::metadata(path).unwrap().ino();
    assert_eq!(number(&one), number(&two));
    assert!(fs::read(&one).unwrap() == content);
    let reads = stage.session().counts().of(Operation::Read);
    assert!(fs::read(&two).unwrap() == content);
    assert_eq!(stage.session().counts().of(Operation::Read), reads, "its pages are there already");
    assert_ne!(number(&one.parent().unwrap().into()), number(&two.parent().unwrap().into()), "directories differ");
}

#[test]
fn privileged_the_kernel_asks_for_a_megabyte_at_a_time() {
    let stage = Stage::new();
    let file = stage.show_tar("view", &Tar::new().file("large", &noise(4, 32 << 20)).end()).join("large");
    assert_eq!(fs::read(file).unwrap().len(), 32 << 20);
    let reads = stage.session().counts().of(Operation::Read);
    assert!((32..=40).contains(&reads), "{reads} requests for 32 MiB");
}

#[test]
fn privileged_nothing_can_be_written() {
    let stage = Stage::new();
    let view = stage.show_tar("view", &Tar::new().file("dir/file", b"as it was").symlink("dir/link", "file").end());
    let refused = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    let read_only = Some(rustix::io::Errno::ROFS.raw_os_error());
    let (file, dir) = (view.join("dir/file"), view.join("dir"));
    assert_eq!(refused(fs::write(&file, b"x")), read_only);
    assert_eq!(refused(fs::write(dir.join("new"), b"x")), read_only);
    assert_eq!(refused(fs::create_dir(dir.join("new"))), read_only);
    assert_eq!(refused(fs::remove_file(&file)), read_only);
    assert_eq!(refused(fs::remove_dir(&dir)), read_only);
    assert_eq!(refused(fs::rename(&file, dir.join("new"))), read_only);
    assert_eq!(refused(fs::hard_link(&file, dir.join("new"))), read_only);
    assert_eq!(refused(std::os::unix::fs::symlink("x", dir.join("new"))), read_only);
    assert_eq!(refused(std::os::unix::fs::chown(&file, Some(1), None)), read_only);
    assert_eq!(refused(fs::set_permissions(&file, fs::Permissions::from_mode(0o777))), read_only);
    assert_eq!(refused(File::open(&file).and_then(|open| open.set_modified(std::time::UNIX_EPOCH))), read_only);
    assert_eq!(fs::read(&file).unwrap(), b"as it was");
    // What writes nothing is no error on any file system.
    File::open(&file).unwrap().sync_all().unwrap();
    File::open(&dir).unwrap().sync_all().unwrap();
}
