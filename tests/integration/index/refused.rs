//! Layers that must not become layers: each gives an error that says what is wrong, and leaves no frames file
//! that anybody would take for one.

use std::fs::File;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use oncefs::blob::{Blob, BlobError, Fault, Faulty, Layered};
use oncefs::digest::{DiffId, Digest};
use oncefs::index::frames::Frames;
use oncefs::index::scan::{Limits, Part, Parts, Progress, ScanError, scan};

use super::made;

/// Scans what must be refused.
fn refused(layer: &Layered, blob: &dyn Blob, limits: &Limits) -> ScanError {
    let parts = made::parts();
    let error = made::scan_into(layer, blob, &parts, limits).expect_err("this is no layer");
    assert!(error.to_string().contains(&layer.digest.to_string()), "which layer? {error}");
    error
}

fn gzipped(len: usize) -> (Vec<u8>, Vec<u8>) {
    let tar = made::tar_of(len);
    (made::gzip(&tar, 6), tar)
}

/// The errors of an error, outermost first.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[test]
fn a_blob_that_ends_early_is_refused() {
    let (blob, tar) = gzipped(3_000_000);
    for keep in [0, 1, 100, blob.len() as u64 / 2, blob.len() as u64 - 1] {
        let cut = Faulty { inner: made::in_memory(&blob), fault: Fault::EndsAfter(keep) };
        let error = refused(&made::layered(&blob, &tar), &cut, &Limits::default());
        assert!(matches!(error, ScanError::TooShort { got, .. } if got == keep), "{error}");
    }
}

#[test]
fn a_blob_that_goes_on_beyond_its_size_is_refused() {
    let (blob, tar) = gzipped(300_000);
    let mut layer = made::layered(&blob, &tar);
    layer.size -= 1;
    assert!(matches!(refused(&layer, &made::in_memory(&blob), &Limits::default()), ScanError::TooLong { .. }));
}

#[test]
fn a_broken_connection_is_reported_as_that() {
    let (blob, tar) = gzipped(3_000_000);
    let broken = Faulty { inner: made::in_memory(&blob), fault: Fault::BreaksAfter(200_000) };
    let error = refused(&made::layered(&blob, &tar), &broken, &Limits::default());
    assert!(matches!(error, ScanError::Blob { .. }), "{error}");
    assert!(chain(&error).contains("connection closed"), "{}", chain(&error));
}

#[test]
fn a_flipped_bit_anywhere_is_the_networks_fault_and_not_the_images() {
    let (gzip, tar) = gzipped(3_000_000);
    let zstd = zstd::bulk::compress(&tar, 3).unwrap();
    for blob in [gzip, zstd, tar.clone()] {
        let len = blob.len() as u64;
        for at in [0, 3, 700, len / 3, len / 2, len - 9, len - 1] {
            let flipped = Faulty { inner: made::in_memory(&blob), fault: Fault::FlippedAt(at) };
            let error = refused(&made::layered(&blob, &tar), &flipped, &Limits::default());
            assert!(matches!(error, ScanError::BlobDigest { .. }), "byte {at}: {error}");
        }
    }
}

#[test]
fn garbage_that_is_what_its_digest_says_is_named_with_its_first_bytes() {
    let blob = b"<html>not a layer</html>".repeat(100);
    let error = refused(&made::layered(&blob, &blob), &made::in_memory(&blob), &Limits::default());
    let text = chain(&error);
    assert!(matches!(error, ScanError::Decode { .. }), "{text}");
    assert!(text.contains("3c 68 74 6d 6c") && text.contains(made::GZIP), "{text}");
}

#[test]
fn a_damaged_gzip_with_the_right_digest_is_the_images_fault() {
    let (mut blob, tar) = gzipped(3_000_000);
    let middle = blob.len() / 2;
    blob[middle..middle + 4].copy_from_slice(b"oops");
    let error = refused(&made::layered(&blob, &tar), &made::in_memory(&blob), &Limits::default());
    assert!(matches!(error, ScanError::Decode { .. }), "{error}");

    let (blob, tar) = gzipped(3_000_000);
    let error = refused(
        &made::layered(&blob[..blob.len() / 2], &tar),
        &made::in_memory(&blob[..blob.len() / 2]),
        &Limits::default(),
    );
    assert!(chain(&error).contains("ends early"), "{}", chain(&error));
}

#[test]
fn a_wrong_diff_id_is_refused_with_both() {
    let (blob, tar) = gzipped(300_000);
    for blob in [blob, tar.clone()] {
        let mut layer = made::layered(&blob, &tar);
        layer.diff_id = DiffId(Digest::of(b"something else"));
        let error = refused(&layer, &made::in_memory(&blob), &Limits::default());
        assert!(matches!(error, ScanError::DiffId { want, .. } if want == layer.diff_id), "{error}");
        assert!(error.to_string().contains(&Digest::of(&tar).to_string()), "{error}");
    }
}

#[test]
fn a_tar_that_ends_early_is_refused() {
    let tar = made::tar_of(300_000);
    for keep in [700, tar.len() / 2] {
        let tar = &tar[..keep];
        for blob in [made::gzip(tar, 6), tar.to_vec()] {
            let error = refused(&made::layered(&blob, tar), &made::in_memory(&blob), &Limits::default());
            assert!(matches!(error, ScanError::Tar { .. }), "{keep}: {error}");
        }
    }
}

#[test]
fn a_huge_size_field_in_a_small_layer_is_refused_and_costs_nothing() {
    let mut header = tar::Header::new_gnu();
    header.set_path("large").unwrap();
    header.set_size(10 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    let tar = [header.as_bytes().as_slice(), &[0; 512]].concat();
    let blob = made::gzip(&tar, 6);
    let parts = made::parts();
    let layer = made::layered(&blob, &tar);
    let error = made::scan_into(&layer, &made::in_memory(&blob), &parts, &Limits::default()).unwrap_err();
    assert!(matches!(error, ScanError::Tar { .. }), "{error}");
    assert!(parts.data.metadata().unwrap().len() <= 1024);
}

/// A file of zeros in a tar in a gzip: a thousand to one.
fn bomb(len: usize) -> (Vec<u8>, Vec<u8>) {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(len as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, "zeros", std::io::repeat(0).take(len as u64)).unwrap();
    let tar = builder.into_inner().unwrap();
    (made::gzip(&tar, 9), tar)
}

#[test]
fn a_bomb_beyond_the_ratio_is_refused_while_it_unpacks() {
    let (blob, tar) = bomb(30_000_000);
    let limits = Limits { ratio_max: 100, ratio_from_bytes: 1 << 20, ..Limits::default() };
    let parts = made::parts();
    let layer = made::layered(&blob, &tar);
    let error = made::scan_into(&layer, &made::in_memory(&blob), &parts, &limits).unwrap_err();
    assert!(matches!(error, ScanError::Ratio { ratio_max: 100, .. }), "{error}");
    let written = parts.data.metadata().unwrap().len();
    assert!(written < 4 << 20, "{written} bytes were written of a blob of {}", blob.len());
    // Below the size from which ratios count, the same is a layer like any other.
    let limits = Limits { ratio_max: 100, ratio_from_bytes: 64 << 20, ..Limits::default() };
    made::scan_into(&layer, &made::in_memory(&blob), &made::parts(), &limits).unwrap();
}

#[test]
fn a_layer_beyond_the_largest_size_is_refused_while_it_unpacks() {
    let (blob, tar) = gzipped(8_000_000);
    let limits = Limits { data_bytes_max: 2 << 20, ..Limits::default() };
    let parts = made::parts();
    let error = made::scan_into(&made::layered(&blob, &tar), &made::in_memory(&blob), &parts, &limits).unwrap_err();
    assert!(matches!(error, ScanError::TooLarge { max: 0x20_0000, .. }), "{error}");
    assert!(parts.data.metadata().unwrap().len() <= 2 << 20);
}

#[test]
fn a_layer_with_more_names_than_allowed_is_refused() {
    let (blob, tar) = gzipped(3_000_000);
    let limits = Limits { inodes_max: 5, ..Limits::default() };
    let error = refused(&made::layered(&blob, &tar), &made::in_memory(&blob), &limits);
    assert!(matches!(error, ScanError::Limit { setting: "inodes_max", .. }), "{error}");
}

#[test]
fn refused_layers_leave_no_frames_file() {
    let (blob, tar) = gzipped(3_000_000);
    let parts = made::parts();
    let flipped = Faulty { inner: made::in_memory(&blob), fault: Fault::FlippedAt(2_000) };
    made::scan_into(&made::layered(&blob, &tar), &flipped, &parts, &Limits::default()).unwrap_err();
    assert!(Frames::open(&parts.frames).is_err());
    let parts = made::parts();
    let cut = Faulty { inner: made::in_memory(&blob), fault: Fault::EndsAfter(blob.len() as u64 - 1) };
    made::scan_into(&made::layered(&blob, &tar), &cut, &parts, &Limits::default()).unwrap_err();
    assert!(Frames::open(&parts.frames).is_err());
}

/// A file system of one size, for as long as this lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", rustix::mount::MountFlags::empty(), options.as_c_str())
            .expect("this test mounts a tmpfs and needs root");
        Self(dir)
    }

    fn file(&self) -> File {
        let path = self.0.path().join("part");
        File::options().read(true).write(true).create_new(true).open(path).unwrap()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_is_named_with_what_was_being_written_and_what_to_do() {
    let (blob, tar) = gzipped(8_000_000);
    let layer = made::layered(&blob, &tar);
    let disk = SmallDisk::new(1 << 20);
    let parts = Parts { data: disk.file(), ..made::parts() };
    let error = made::scan_into(&layer, &made::in_memory(&blob), &parts, &Limits::default()).unwrap_err();
    assert!(matches!(error, ScanError::Disk { part: Part::Data, .. }), "{error}");
    assert!(error.to_string().contains("free space"), "{error}");

    let disk = SmallDisk::new(4 << 10);
    let parts = Parts { frames: disk.file(), ..made::parts() };
    let error = made::scan_into(&layer, &made::in_memory(&blob), &parts, &Limits::default()).unwrap_err();
    assert!(matches!(error, ScanError::Disk { part: Part::Frames, .. }), "{error}");

    let disk = SmallDisk::new(4 << 10);
    let parts = Parts { tree: disk.file(), ..made::parts() };
    let error = made::scan_into(&layer, &made::in_memory(&blob), &parts, &Limits::default()).unwrap_err();
    assert!(matches!(error, ScanError::Disk { part: Part::Tree, .. }), "{error}");
}

/// Gives its first bytes and then nothing more, ever.
struct Stalling {
    first: Bytes,
    size: u64,
}

impl Blob for Stalling {
    fn size(&self) -> u64 {
        self.size
    }

    fn range(&self, _: std::ops::Range<u64>) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        Box::pin(std::future::pending())
    }

    fn stream(&self) -> BoxStream<'static, Result<Bytes, BlobError>> {
        let first = self.first.clone();
        let pieces =
            (0..first.len()).step_by(64 << 10).map(move |at| Ok(first.slice(at..first.len().min(at + (64 << 10)))));
        stream::iter(pieces).chain(stream::pending()).boxed()
    }
}

#[test]
fn a_full_disk_is_reported_while_the_network_says_nothing() {
    let (blob, tar) = gzipped(8_000_000);
    let (layer, disk) = (made::layered(&blob, &tar), SmallDisk::new(1 << 20));
    let stalling = Stalling { first: Bytes::copy_from_slice(&blob[..blob.len() / 4 * 3]), size: layer.size };
    let parts = Parts { data: disk.file(), ..made::parts() };
    let error = made::scan_into(&layer, &stalling, &parts, &Limits::default()).unwrap_err();
    assert!(matches!(error, ScanError::Disk { part: Part::Data, .. }), "{error}");
}

/// Starts a scan, drops it once `data` bytes of tar have come, and waits until its threads are gone: they hold the
/// progress as long as they live. Nor do they first unpack what was already fetched.
fn assert_dropping_ends_the_threads(layer: &Layered, blob: &dyn Blob, limits: &Limits, data: u64) {
    let (parts, progress) = (made::parts(), Arc::new(Progress::default()));
    let deadline = Instant::now() + Duration::from_secs(60);
    let unpacked = || progress.data.load(Ordering::Relaxed);
    made::block_on(async {
        let come = async {
            while unpacked() < data {
                assert!(Instant::now() < deadline, "nothing comes");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            outcome = scan(layer, blob, &parts, limits, &progress) => panic!("over already: {outcome:?}"),
            () = come => assert!(Arc::strong_count(&progress) > 1, "no thread holds the progress: this test tests nothing"),
        }
        let dropped_at = unpacked();
        while Arc::strong_count(&progress) > 1 {
            assert!(Instant::now() < deadline, "a thread is left over");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let after = unpacked() - dropped_at;
        assert!(after < 64 << 20, "{after} bytes were unpacked that nobody wants");
    });
    assert!(Frames::open(&parts.frames).is_err());
}

#[test]
fn a_dropped_scan_leaves_no_thread_while_it_waits_for_the_network() {
    let (blob, tar) = gzipped(8_000_000);
    let layer = made::layered(&blob, &tar);
    let stalling = Stalling { first: Bytes::copy_from_slice(&blob[..blob.len() / 2]), size: layer.size };
    assert_dropping_ends_the_threads(&layer, &stalling, &Limits::default(), 1 << 20);
}

#[test]
fn a_dropped_scan_leaves_no_thread_while_it_unpacks() {
    let (one, _) = bomb(64 << 20);
    let blob = one.repeat(100); // 6 GiB of tar, minutes of work
    let layer = made::layered(&blob, b"");
    let limits = Limits { ratio_max: 10_000, ..Limits::default() };
    assert_dropping_ends_the_threads(&layer, &made::in_memory(&blob), &limits, 4 << 20);
}
