//! Layers made to harm whoever unpacks them, given to a server that then has to go on: each is refused with a reason, soon, and the server's
//! memory and disk stay within what the configuration says a scan may take.

use std::ffi::CString;
use std::path::PathBuf;

use oncefs::digest::Digest;
use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::json;

use super::stage::Service;
use crate::cli::image::{Image, Layer, MANIFEST, Tar, ZSTD};
use crate::cli::node::{names_in, run};
use crate::cli::registry::Registry;
use crate::index::made::{self, program};
use crate::sources::contract::estargz_table;
use crate::sources::made::convert;

const INODES_MAX: u64 = 200_000;
const NAMES_BYTES_MAX: u64 = 16 << 20;
const DATA_BYTES_MAX: u64 = 256 << 20;
const RATIO_FROM_BYTES: u64 = 64 << 20;
/// What else than a layer's data there is: trees, the database, what is kept for a full disk.
const OTHER_DISK_BYTES: u64 = 96 << 20;

/// As the documentation of [scan.limits] has it: what an entry takes, what its names take, and what any scan takes beside.
const ENTRY_BYTES: u64 = 300;
const SCAN_BYTES: u64 = 16 << 20;
/// The largest window of zstd.
const WINDOW_BYTES: u64 = 128 << 20;
/// Of a program that is not optimised and of the C library, which gives little back.
const SLACK_BYTES: u64 = 64 << 20;

/// Some of a tar, and then the same piece again and again: each packed once, however much it unpacks to.
fn endless(tar: &[u8], piece: &[u8], times: usize) -> Layer {
    let [tar, piece] = [tar, piece].map(|bytes| zstd::bulk::compress(bytes, 1).unwrap());
    let blob = [tar, piece.repeat(times)].concat();
    Layer { blob, diff_id: Digest::of(b"nobody gets so far"), media_type: ZSTD }
}

/// One file that goes on and on, of bytes that pack no better than a database may.
fn long() -> Layer {
    let mut header = tar::Header::new_ustar();
    header.set_path("long").unwrap();
    header.set_size(1 << 30);
    header.set_cksum();
    endless(header.as_bytes(), &program(342, 64 << 10).repeat(16), 1024)
}

/// Entries, each with a name of its own.
fn entries(count: usize) -> Vec<u8> {
    let tar = (0..count).fold(Tar::new(), |tar, n| tar.file(&format!("usr/share/things/{n}"), b""));
    without_end(tar.done())
}

/// The same entry so many times.
fn same(count: usize) -> Vec<u8> {
    without_end(Tar::new().file("usr/share/same", b"").done()).repeat(count)
}

/// Entries with an attribute each.
fn attributes(count: usize) -> Vec<u8> {
    let attribute =
        |tar: Tar, n: usize| tar.pax(&format!("SCHILY.xattr.user.{n}"), &[b'x'; 200]).file(&format!("{n}"), b"");
    without_end((0..count).fold(Tar::new(), attribute).done())
}

/// The tar may be followed by more of it.
fn without_end(mut tar: Vec<u8>) -> Vec<u8> {
    tar.truncate(tar.len() - 1024);
    tar
}

/// The header of a zstd frame whose window is 2 GiB, and a block of some bytes.
fn wide_window(tar: &[u8]) -> Layer {
    let block = ((tar.len() as u32) << 3 | 1).to_le_bytes();
    let blob = [&[0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3][..], &block[..3], tar].concat();
    Layer { blob, diff_id: Digest::of(tar), media_type: ZSTD }
}

/// What is wrong with each, in the words that people are told.
fn bombs() -> Vec<(&'static str, Layer, &'static str)> {
    let zeros = Tar::new().file("zeros", &vec![0; 300 << 20]).done();
    // A million on one file: the records of one extended header.
    let records: String = (0..1_000_000).map(|n| format!("30 SCHILY.xattr.user.{n:0>7}=x\n")).collect();
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_size(records.len() as u64);
    header.set_cksum();
    let one_file =
        [header.as_bytes(), records.as_bytes(), &vec![0; records.len().next_multiple_of(512) - records.len()]].concat();
    let deep = vec!["d"; 10_000].join("/");
    vec![
        ("gzip of zeros", Layer::gzip(&zeros), "ratio_max"),
        ("zstd of zeros", Layer::zstd(&zeros), "ratio_max"),
        ("zstd with a window of 2 GiB", wide_window(&Tar::new().file("a", b"a").done()), "128 MiB"),
        ("a gigabyte", long(), "data_bytes_max"),
        ("ten million entries", endless(&entries(250_000), &same(100_000), 98), "more than 200000 inodes"),
        ("a million attributes", endless(&attributes(4_000), &attributes(4_000), 249), "16777216 bytes"),
        ("a million attributes of one file", Layer::zstd(&one_file), "1048576 are the limit"),
        (
            "ten thousand directories deep",
            Layer::gzip(&Tar::new().pax("path", deep.as_bytes()).file("x", b"1").done()),
            "1024 directories",
        ),
    ]
}

/// A file system of so many bytes.
struct Disk(PathBuf);

impl Disk {
    fn of(at: PathBuf, bytes: u64) -> Self {
        std::fs::create_dir(&at).unwrap();
        let options = CString::new(format!("size={bytes}")).unwrap();
        rustix::mount::mount("tmpfs", &at, "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
        Self(at)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _gone = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn peak_bytes(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn no_layer_takes_more_memory_or_disk_than_is_set_and_each_is_refused_with_the_reason() {
    let mut service = Service::new(&format!(
        "[scan.limits]\ninodes_max = {INODES_MAX}\nnames_bytes_max = {NAMES_BYTES_MAX}\ndata_bytes_max = {DATA_BYTES_MAX}\n\
         ratio_from_bytes = {RATIO_FROM_BYTES}\n"
    ));
    // What takes more is refused for another reason: the disk is full.
    let _disk = Disk::of(service.path("root"), DATA_BYTES_MAX + OTHER_DISK_BYTES);
    service.start(&[]);
    service.hear("READY=1");
    let registry = Registry::empty();
    let before = peak_bytes(service.pid());
    let layouts = tempfile::tempdir().unwrap();
    for (n, (what, layer, reason)) in bombs().into_iter().enumerate() {
        let image = Image::of(&[layer]).write_layout(&layouts.path().join(format!("{n}")));
        let ran = service.oncefs(&["pull", &image]).end().fails(3, &[&image]);
        assert!(ran.err.contains(reason), "{what}: {reason:?} is missing: {}", ran.err);
    }
    assert_deep_json_is_refused(&service, &registry);
    let grown = peak_bytes(service.pid()).saturating_sub(before);
    let bound = INODES_MAX * ENTRY_BYTES + 2 * NAMES_BYTES_MAX + SCAN_BYTES + WINDOW_BYTES + SLACK_BYTES;
    assert!(grown <= bound, "{grown} bytes of memory, {bound} are the bound");
    // Nothing of them is left, and the next image is as good as ever.
    assert_eq!(names_in(&service.path("root/staging")), Vec::<String>::new());
    let good = Registry::with(&Image::usual(340));
    service.oncefs(&["pull", &good.image()]).end().well();
}

/// A manifest whose arrays nest a hundred thousand deep.
fn assert_deep_json_is_refused(service: &Service, registry: &Registry) {
    let deep = 100_000;
    let manifest = format!("{{\"schemaVersion\":2,\"more\":{}{}}}", "[".repeat(deep), "]".repeat(deep));
    registry.put("1", MANIFEST, manifest.as_bytes());
    service.oncefs(&["pull", &registry.image()]).end().fails(3, &["manifest is not valid"]);
}

/// An index that the manifest binds, and whose numbers are of another world: it is not used, and the layer is what it is.
#[test]
fn an_index_with_absurd_numbers_is_declined_and_the_layer_scanned() {
    let original = Image::of(&[Layer::gzip(&Tar::new().file("a", &program(341, 20_000)).file("b", b"b").done())]);
    let indexed = convert(&original, &["--estargz"]);
    type Spoil = fn(&mut serde_json::Value);
    let cases: [(&str, Spoil); 4] = [
        ("a file of 2^62 bytes", |entry| entry["size"] = json!(1u64 << 62)),
        ("a chunk at 2^63", |entry| entry["offset"] = json!(1u64 << 63)),
        ("a chunk that is larger than its file", |entry| entry["chunkSize"] = json!(1u64 << 40)),
        ("a directory nested too deep", |entry| entry["name"] = json!(vec!["d"; 10_000].join("/"))),
    ];
    for (what, spoil) in cases {
        let (mut image, service) = (indexed.clone(), Service::started("[fetch]\nbackground = \"off\"\n"));
        rebind(&mut image, spoil);
        let (registry, at) = (image.registry(), service.path("mnt"));
        std::fs::create_dir(&at).unwrap();
        service.oncefs(&["mount", &registry.image(), at.to_str().unwrap()]).end().well();
        let read = run(std::process::Command::new("sha256sum").arg(at.join("a"))).well();
        assert!(read.out.starts_with(&Digest::of(&program(341, 20_000)).hex()), "{what}: {read:?}");
        let status = service.oncefs(&["status"]).end().well().out;
        assert!(status.contains("scan of gzip"), "{what}: {status}");
        service.oncefs(&["umount", at.to_str().unwrap()]).end().well();
    }
}

/// Spoils the entry of the file `a` in the only layer's table, and binds the image to that table as its maker would.
fn rebind(image: &mut crate::sources::made::Indexed, spoil: fn(&mut serde_json::Value)) {
    let blob = image.layer(0).to_vec();
    let (table, start) = estargz_table(&blob);
    let mut table: serde_json::Value = serde_json::from_slice(&table).unwrap();
    let entries = table["entries"].as_array_mut().unwrap();
    spoil(entries.iter_mut().find(|entry| entry["name"] == "a").unwrap());
    let json = table.to_string().into_bytes();
    let tar = Tar::new().file("stargz.index.json", &json).done();
    let footer = blob.last_chunk::<51>().unwrap();
    let made = [&blob[..start], &made::gzip(&tar, 6), footer].concat();
    let whole = ungzipped(&made);
    let old = image.layer_digest(0);
    let descriptor = &mut image.manifest["layers"][0];
    descriptor["digest"] = Digest::of(&made).to_string().into();
    descriptor["size"] = made.len().into();
    descriptor["annotations"]["containerd.io/snapshot/stargz/toc.digest"] = Digest::of(&json).to_string().into();
    image.blobs.remove(&old);
    image.blobs.insert(Digest::of(&made).to_string(), made);
    let config = image.manifest["config"]["digest"].as_str().unwrap().to_owned();
    let mut text: serde_json::Value = serde_json::from_slice(&image.blobs[&config]).unwrap();
    text["rootfs"]["diff_ids"][0] = Digest::of(&whole).to_string().into();
    let text = text.to_string().into_bytes();
    image.manifest["config"]["digest"] = Digest::of(&text).to_string().into();
    image.manifest["config"]["size"] = text.len().into();
    image.blobs.insert(Digest::of(&text).to_string(), text);
}

fn ungzipped(blob: &[u8]) -> Vec<u8> {
    use std::io::Read as _;
    let mut tar = Vec::new();
    flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut tar).unwrap();
    tar
}
