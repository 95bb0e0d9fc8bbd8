//! Disks that are full or may not be written. Needs root, for mounting tmpfs.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use oncefs::blob::{InMemory, Origin};
use oncefs::digest::Digest;
use oncefs::flight::Failed;
use oncefs::index::scan::{self, Limits, Progress};
use oncefs::store::{Config, FillError, ImageRecord, Store, StoreError};

use super::shelf::{Packing, Sample, Shelf, believing, origin};

/// A small file system of its own.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn new(mib: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "oncefs-test"], dir.path());
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The kernel refuses as long as anybody has a file open for writing, and a child that another test just forked has
    /// until it executes its program.
    fn make_read_only(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let remount = || Command::new("mount").args(["-o", "remount,ro"]).arg(self.path()).output().unwrap();
        let mut done = remount();
        while !done.status.success() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            done = remount();
        }
        assert!(done.status.success(), "cannot make it read-only: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Takes all free space until [`Disk::free`].
    fn fill(&self) {
        let mut ballast = fs::File::create(self.path().join("ballast")).unwrap();
        let full = std::io::copy(&mut std::io::repeat(7), &mut ballast).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn free(&self) {
        fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status(); // the test is over either way
    }
}

fn run(program: &str, arguments: &[&str], at: &Path) {
    let status = Command::new(program).args(arguments).arg(at).status();
    let done = status.is_ok_and(|status| status.success());
    assert!(done, "this test needs root and the program {program}: {program} {arguments:?} failed");
}

fn open(disk: &Disk, sample: &Sample) -> Store {
    Store::open(&disk.path().join("store"), believing(), Shelf::with(&[sample])).unwrap()
}

fn image(bytes: usize) -> ImageRecord {
    ImageRecord {
        reference: "docker.io/library/redis:7".into(),
        platform: "linux/amd64".into(),
        manifest_digest: Digest::of(b"manifest"),
        manifest: vec![b'm'; bytes],
        config: b"{}".to_vec(),
        origin: Origin("docker://docker.io/library/redis".into()),
        seen_at_secs: 1,
        kept: true,
    }
}

#[test]
fn a_read_only_root_is_refused_with_its_reason() {
    let sample = Sample::new(1, 1000, Packing::Plain);
    let disk = Disk::new(16);
    drop(open(&disk, &sample));
    disk.make_read_only();
    for root in ["store", "new"] {
        let refused = Store::open(&disk.path().join(root), Config::default(), Shelf::with(&[])).unwrap_err();
        assert!(matches!(refused, StoreError::ReadOnly { .. }), "{root}: {refused}");
        assert!(refused.to_string().contains("mounted read-only"), "{refused}");
    }
}

#[tokio::test]
async fn frames_are_served_and_not_kept_on_a_full_disk() {
    let sample = Sample::new(1, 3 << 20, Packing::Gzip);
    let disk = Disk::new(48);
    let store = open(&disk, &sample);
    let layer = sample.put(&store).await;
    let frames = layer.frames().len();
    layer.drop_frames(0..frames).unwrap();
    disk.fill();
    layer.fill(0..frames).await.unwrap();
    sample.read(&layer, 0..sample.tar.len() as u64).unwrap();
    let unkept = store.cache_usage().unkept_frames;
    assert!(unkept > 0 && !layer.is_complete(), "{unkept} of {frames}");
}

#[tokio::test]
async fn a_frame_too_large_for_memory_cannot_be_filled_on_a_full_disk_until_there_is_space() {
    {
        let sample = Sample::new(1, 12 << 20, Packing::Zstd);
        let disk = Disk::new(48);
        let store = open(&disk, &sample);
        let layer = sample.put(&store).await;
        let frames = layer.frames().len();
        layer.drop_frames(0..frames).unwrap();
        disk.fill();
        let failed = layer.fill(0..frames).await.unwrap_err();
        assert!(matches!(&failed, Failed::Work(error) if matches!(**error, FillError::Full { .. })), "{failed}");
        assert!(failed.to_string().contains("the disk is full"), "{failed}");
        assert!(sample.resident(&layer).len() < frames as usize);
        disk.free();
        layer.fill(0..frames).await.unwrap();
        assert_eq!(sample.resident(&layer).len(), frames as usize);
    }
}

#[tokio::test]
async fn a_layer_for_which_the_disk_has_no_space_leaves_the_store_as_it_was() {
    let sample = Sample::new(1, 3 << 20, Packing::Gzip);
    let disk = Disk::new(32);
    let store = open(&disk, &sample);
    let receiving = store.receive(&sample.digest()).unwrap();
    let (blob, progress) = (InMemory(sample.blob.clone()), std::sync::Arc::default());
    let _: &std::sync::Arc<Progress> = &progress;
    let scanned = scan::scan(&sample.layered, &blob, receiving.parts(), &Limits::default(), &progress).await.unwrap();
    disk.fill();
    let full = receiving.finish(scanned, origin()).unwrap_err();
    assert!(matches!(full, StoreError::Full { .. }), "{full}");
    assert!(!store.has(&sample.digest()));
    assert_eq!(fs::read_dir(disk.path().join("store/staging")).unwrap().count(), 0);
    disk.free();
    sample.put(&store).await;
    drop(store);
    assert!(open(&disk, &sample).has(&sample.digest()));
}

#[test]
fn a_database_on_a_full_disk_works_again_when_there_is_space() {
    let sample = Sample::new(1, 1000, Packing::Plain);
    let disk = Disk::new(32);
    let store = open(&disk, &sample);
    store.remember_image(&image(10)).unwrap();
    disk.fill();
    let full = store.remember_image(&image(3 << 20)).unwrap_err();
    assert!(matches!(full, StoreError::Full { .. }), "{full}");
    disk.free();
    assert_eq!(store.image("docker.io/library/redis:7", "linux/amd64").unwrap(), Some(image(10)));
    store.remember_image(&image(3 << 20)).unwrap();
    drop(store);
    assert_eq!(open(&disk, &sample).images().unwrap(), [image(3 << 20)]);
}

#[tokio::test]
async fn a_store_on_a_full_disk_opens_and_reads() {
    let sample = Sample::new(1, 3 << 20, Packing::Gzip);
    let disk = Disk::new(32);
    let store = open(&disk, &sample);
    store.remember_image(&image(10)).unwrap();
    sample.put(&store).await;
    drop(store);
    disk.fill();
    for _ in 0..3 {
        let store = open(&disk, &sample);
        let layer = store.layer(&sample.digest()).unwrap().unwrap();
        assert_eq!(sample.resident(&layer).len(), layer.frames().len() as usize);
        assert_eq!(store.images().unwrap(), [image(10)]);
    }
}

#[test]
fn a_broken_database_on_a_full_disk_stays_in_its_place_until_there_is_space_for_another() {
    let sample = Sample::new(1, 1000, Packing::Plain);
    let disk = Disk::new(32);
    let store = open(&disk, &sample);
    store.remember_image(&image(10)).unwrap();
    drop(store);
    let root = disk.path().join("store");
    fs::File::options().write(true).open(root.join("db/db")).unwrap().write_all_at(&[0x5a; 64 << 10], 0).unwrap();
    disk.fill();
    for _ in 0..3 {
        let full = Store::open(&root, Config::default(), Shelf::with(&[&sample])).unwrap_err();
        assert!(matches!(full, StoreError::Full { .. }), "{full}");
        assert!(root.join("db").exists() && !root.join("db.broken-0").exists());
    }
    disk.free();
    assert_eq!(open(&disk, &sample).images().unwrap(), [image(10)]);
    assert!(root.join("db.broken-0").exists() && !root.join("db.broken-1").exists() && !root.join("db.new").exists());
}
