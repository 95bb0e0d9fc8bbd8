//! The disk under the root: room, and what its file system can do.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use futures::future::{BoxFuture, FutureExt as _};

use super::{Machine, Report};
use crate::sys::file;

/// Less than this is of no use, less than that soon full.
const FREE_BYTES_MIN: u64 = 256 << 20;
const FREE_BYTES_FEW: u64 = 4 << 30;

/// Inodes for some hundred layers of six files each, and for their snapshots.
const FREE_INODES_MIN: u64 = 1000;
const FREE_INODES_FEW: u64 = 20_000;

/// What is written to see what the file system can do.
const PROBE_BYTES: u64 = 1 << 20;

pub(super) fn look<'a>(machine: &'a Machine, report: &'a mut Report) -> BoxFuture<'a, ()> {
    async move {
        let root = machine.config.root.clone();
        let probed = tokio::task::spawn_blocking(move || Probed::of(&root)).await;
        match probed {
            Ok(Ok(probed)) => probed.tell(&machine.config.root, report),
            Ok(Err(error)) => report.problem(
                format!("the root {} cannot be looked at: {error}", machine.config.root.display()),
                "run this as the user who runs oncefs, or choose another root with --root or root in the configuration",
            ),
            Err(_stopping) => {}
        }
    }
    .boxed()
}

/// What was seen of the disk.
struct Probed {
    kind: &'static str,
    is_writable: Result<(), io::Error>,
    available: u64,
    total: u64,
    inodes: Option<(u64, u64)>,
    /// None where nothing could be written to see.
    punches: Option<bool>,
    clones: Option<bool>,
}

// === impl Probed ===

impl Probed {
    fn of(root: &Path) -> io::Result<Self> {
        let place = existing(root);
        let directory = File::open(&place)?;
        let space = file::space(&directory)?;
        let stat = rustix::fs::fstatvfs(&directory)?;
        let mut probed = Self {
            kind: kind(&directory)?,
            is_writable: Ok(()),
            available: space.available,
            total: space.total,
            // Those that make inodes as they go say none.
            inodes: (stat.f_files > 0).then_some((stat.f_favail, stat.f_files)),
            punches: None,
            clones: None,
        };
        match probe(&place) {
            Ok((punches, clones)) => (probed.punches, probed.clones) = (Some(punches), Some(clones)),
            Err(error) => probed.is_writable = Err(error),
        }
        Ok(probed)
    }

    fn tell(self, root: &Path, report: &mut Report) {
        let root = root.display();
        self.tell_room(&root, report);
        match (self.kind, &self.is_writable) {
            (_, Err(error)) if error.kind() == io::ErrorKind::StorageFull => {} // as was said
            (_, Err(error)) => report.problem(
                format!("nothing can be written below {root}: {error}"),
                "mount it read-write, or choose another root with --root or root in the configuration",
            ),
            ("overlayfs", _) => report.warning(
                format!("{root} lies on overlayfs: containers' upper directories cannot be made there"),
                "give the root a disk of its own, in a container a volume",
            ),
            ("tmpfs", _) => report.warning(
                format!("{root} lies on tmpfs: it takes memory, and is empty after a boot"),
                "choose a root on a disk with --root or root in the configuration",
            ),
            (kind @ ("NFS" | "CIFS" | "FUSE" | "9p"), _) => report.warning(
                format!("{root} lies on {kind}: slow, and locks and holes may not work as on a disk"),
                "choose a root on a local disk with --root or root in the configuration",
            ),
            (kind, Ok(())) => report.ok(format!("{root} lies on {kind}")),
        }
        match self.punches {
            Some(true) => report.ok("files are sparse, and holes can be punched into them"),
            Some(false) => report.problem(
                "the file system punches no holes: what the cache lets go of would stay on disk",
                "choose a root on ext4, xfs or btrfs",
            ),
            None => {}
        }
        match self.clones {
            Some(true) => report.ok("files can share content (reflinks)"),
            Some(false) => report.ok("files cannot share content (no reflinks): what layers have in common is copied"),
            None => {}
        }
    }

    fn tell_room(&self, root: &dyn std::fmt::Display, report: &mut Report) {
        let change = "free some space, let the cache be smaller (max_bytes in [cache], oncefs prune --to), or choose another root";
        let mib = |bytes: u64| bytes >> 20;
        let found = format!("{} MiB of {} MiB are free below {root}", mib(self.available), mib(self.total));
        match self.available {
            _ if self.total < FREE_BYTES_MIN => report.problem(format!("the disk is too small: {found}"), change),
            0..FREE_BYTES_MIN => report.problem(format!("the disk is full: {found}"), change),
            FREE_BYTES_MIN..FREE_BYTES_FEW => report.warning(format!("the disk is nearly full: {found}"), change),
            _ => report.ok(found),
        }
        let Some((available, all)) = self.inodes else { return };
        let found = format!("{available} of {all} inodes are free below {root}");
        let change = "delete many small files there, or give the root a file system with more inodes (mkfs.ext4 -N)";
        match available {
            0..FREE_INODES_MIN => report.problem(format!("no inodes are left: {found}"), change),
            FREE_INODES_MIN..FREE_INODES_FEW => report.warning(format!("few inodes are left: {found}"), change),
            _ => report.ok(found),
        }
    }
}

/// The root, or the directory that it would be made in.
fn existing(root: &Path) -> PathBuf {
    root.ancestors().find(|place| place.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// What file systems are called; those that matter, by their magic numbers (statfs(2)).
fn kind(directory: &File) -> io::Result<&'static str> {
    let magic = rustix::fs::fstatfs(directory)?.f_type as u64 & 0xffff_ffff;
    Ok(match magic {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0xca45_1a4e => "bcachefs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x6969 => "NFS",
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => "CIFS",
        0x6573_5546 => "FUSE",
        0x0102_1997 => "9p",
        _ => "another file system",
    })
}

/// Whether holes can be punched there, and whether files can share content.
fn probe(place: &Path) -> io::Result<(bool, bool)> {
    const BLOCK_BYTES: u64 = 512; // stat(2)
    let probe = file::unnamed(place)?;
    probe.write_all_at(&vec![1; PROBE_BYTES as usize], PROBE_BYTES)?;
    let punched = file::punch(&probe, PROBE_BYTES..2 * PROBE_BYTES);
    // The first megabyte was never written, the second was taken away.
    let punches = punched.is_ok() && probe.metadata()?.blocks() * BLOCK_BYTES < PROBE_BYTES;
    let clones = file::unnamed(place).is_ok_and(|copy| rustix::fs::ioctl_ficlone(&copy, &probe).is_ok());
    Ok((punches, clones))
}
