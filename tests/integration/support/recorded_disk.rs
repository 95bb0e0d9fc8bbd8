//! A disk that is recorded: each write and each flush, in their order. From the record a disk is made as a power loss may leave it:
//! all that was written before some flush, and of what came after it whatever part.
//!
//! And it can be made to fail.
//!
//! It is a file that a FUSE file system of the test's own shows, with a loop device over it and ext4 on that: so the kernel's own caches, its
//! journal and the file system's flushes are real. Needs root, FUSE and loop devices.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request, WriteFlags,
};
use oncefs::sync::Mutex;
use rustix::fs::{Advice, fadvise};
use tempfile::TempDir;

/// What an ext4 with a journal and a store with little in it need.
const DISK_BYTES: u64 = 48 << 20;

/// No program that mounts takes longer, and nobody holds longer what is unmounted.
const PATIENCE: Duration = Duration::from_secs(60);

/// Of its file system.
const BLOCK_BYTES: usize = 4096;

const DISK: INodeNo = INodeNo(2);

#[derive(Debug, Clone)]
enum Event {
    Write { at: u64, bytes: Vec<u8> },
    Flush,
}

/// What came to the disk since it was formatted, in its order.
#[derive(Default)]
struct Record(Vec<Event>);

/// A mounted file system on a disk that is recorded. The fields are dropped in this order, after the unmounting.
pub(crate) struct RecordedDisk {
    mount: Mounted,
    _serving: BackgroundSession,
    record: Arc<Mutex<Record>>,
    failing: Arc<Mutex<Failing>>,
    dir: TempDir,
}

/// What fails, with EIO.
struct Failing {
    reads: Box<ByPlace>,
    writes: Box<ByContent>,
}

type ByPlace = dyn Fn(Range<u64>) -> bool + Send;
type ByContent = dyn Fn(&[u8]) -> bool + Send;

/// The one file of the FUSE file system.
struct Shown {
    disk: File,
    record: Arc<Mutex<Record>>,
    failing: Arc<Mutex<Failing>>,
}

/// An image, mounted through a loop device until this is dropped.
pub(crate) struct Mounted {
    at: TempDir,
}

/// Makes disks of a record, from its begin to its end.
pub(crate) struct Replay {
    events: Vec<Event>,
    /// All that was flushed before `cut`.
    flushed: File,
    path: PathBuf,
    done: usize,
    dir: TempDir,
}

// === impl RecordedDisk ===

impl RecordedDisk {
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test mounts disks: it needs root");
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("disk");
        format(&image);
        fs::copy(&image, dir.path().join("formatted")).unwrap();
        let (record, shown) = (Arc::new(Mutex::new(Record::default())), dir.path().join("shown"));
        fs::create_dir(&shown).unwrap();
        let disk = File::options().read(true).write(true).open(&image).unwrap();
        let mut config = fuser::Config::default();
        config.mount_options = vec![fuser::MountOption::FSName("oncefs-test".to_owned())];
        let failing = Arc::new(Mutex::new(Failing::default()));
        let served = Shown { disk, record: record.clone(), failing: failing.clone() };
        let serving = fuser::spawn_mount(served, &shown, &config).expect("this test needs FUSE");
        let mount = Mounted::new(&shown.join("disk"));
        Self { mount, _serving: serving, record, failing, dir }
    }

    /// From now on reads and writes of the disk fail, or not. The kernel forgets what the files below `place` have.
    pub(crate) fn fails(&self, reads: bool, writes: bool, place: &str) {
        self.forgets(place);
        *self.failing.lock() = Failing { reads: Box::new(move |_| reads), writes: Box::new(move |_| writes) };
    }

    /// From now on this file of it cannot be read, and all else can.
    pub(crate) fn loses(&self, file: &str) {
        self.forgets(file);
        let blocks = blocks(&self.path().join(file));
        let reads = move |read: Range<u64>| blocks.iter().any(|lost| lost.start < read.end && read.start < lost.end);
        *self.failing.lock() = Failing { reads: Box::new(reads), ..Failing::default() };
    }

    /// From now on it takes nothing that has such a block of 4096 bytes.
    pub(crate) fn refuses(&self, is_such: impl Fn(&[u8]) -> bool + Send + 'static) {
        let writes = move |bytes: &[u8]| bytes.chunks(BLOCK_BYTES).any(&is_such);
        *self.failing.lock() = Failing { writes: Box::new(writes), ..Failing::default() };
    }

    /// The kernel writes what it has to write, and forgets what the files at `place` or below have.
    pub(crate) fn forgets(&self, place: &str) {
        // Once writes have failed there may be some that never succeed.
        has_ended_well(Command::new("sync").arg("--file-system").arg(self.path()));
        let forget = |path: &Path| fadvise(File::open(path).unwrap(), 0, None, Advice::DontNeed).unwrap();
        files_below(&self.path().join(place)).iter().for_each(|path| forget(path));
        forget(&self.dir.path().join("shown/disk"));
    }

    pub(crate) fn path(&self) -> &Path {
        self.mount.path()
    }

    /// How much has come to the disk.
    pub(crate) fn now(&self) -> usize {
        self.record.lock().0.len()
    }

    /// Unmounts it.
    pub(crate) fn end(self) -> Replay {
        let Self { mount, _serving, record, dir, .. } = self;
        drop(mount);
        drop(_serving);
        let path = dir.path().join("formatted");
        let flushed = File::options().read(true).write(true).open(&path).unwrap();
        let events = std::mem::take(&mut record.lock().0);
        Replay { events, flushed, path, done: 0, dir }
    }
}

impl Default for Failing {
    fn default() -> Self {
        Self { reads: Box::new(|_| false), writes: Box::new(|_| false) }
    }
}

// === impl Replay ===

impl Replay {
    /// The last flush before `cut`, and what was written between both.
    fn since_flush(&self, cut: usize) -> (usize, Vec<usize>) {
        let flush = self.events[..cut].iter().rposition(|event| matches!(event, Event::Flush));
        let since = flush.map_or(0, |flush| flush + 1);
        (since, (since..cut).collect())
    }

    /// How many writes a power loss may take at this point.
    pub(crate) fn unflushed(&self, cut: usize) -> usize {
        self.since_flush(cut).1.len()
    }

    /// The disk after a power loss at `cut`: of what was not flushed it has what `keeps` says, by number. For ever later points.
    pub(crate) fn disk(&mut self, cut: usize, keeps: impl Fn(usize) -> bool) -> Mounted {
        let (since, unflushed) = self.since_flush(cut);
        for event in self.events.get(self.done..since).unwrap_or_default() {
            event.replay(&self.flushed);
        }
        self.done = self.done.max(since);
        let path = self.dir.path().join("state");
        run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).args([&self.path, &path]));
        let state = File::options().write(true).open(&path).unwrap();
        let kept = unflushed.iter().enumerate().filter(|(number, _)| keeps(*number));
        kept.for_each(|(_, event)| self.events[*event].replay(&state));
        Mounted::new(&path)
    }
}

impl Event {
    fn replay(&self, to: &File) {
        if let Self::Write { at, bytes } = self {
            to.write_all_at(bytes, *at).unwrap();
        }
    }
}

// === impl Mounted ===

impl Mounted {
    /// As after a power loss the kernel replays the journal.
    fn new(image: &Path) -> Self {
        let at = tempfile::Builder::new().prefix("oncefs-disk-").tempdir().unwrap();
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop,errors=continue"]).arg(image).arg(at.path()));
        Self { at }
    }

    pub(crate) fn path(&self) -> &Path {
        self.at.path()
    }
}

impl Drop for Mounted {
    /// Threads of a store that was closed may hold it for a moment longer.
    fn drop(&mut self) {
        let until = Instant::now() + PATIENCE;
        while !has_ended_well(Command::new("umount").arg(self.path())) {
            if Instant::now() > until {
                has_ended_well(Command::new("umount").arg("--lazy").arg(self.path()));
                assert!(std::thread::panicking(), "{} stays busy", self.path().display());
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn files_below(place: &Path) -> Vec<PathBuf> {
    match place.symlink_metadata().unwrap().file_type() {
        kind if kind.is_dir() => {
            fs::read_dir(place).unwrap().flat_map(|entry| files_below(&entry.unwrap().path())).collect()
        }
        kind if kind.is_file() => vec![place.to_path_buf()],
        _ => Vec::new(),
    }
}

/// Where on the disk a file's bytes are.
fn blocks(file: &Path) -> Vec<Range<u64>> {
    let listed = bounded(Command::new("filefrag").arg("-v").arg(file)).output().unwrap();
    let block = |number: &str| number.trim().parse::<u64>().ok().map(|number| number * BLOCK_BYTES as u64);
    // "0: 0.. 7: 5120.. 5127: 8: last,eof"
    let extent = |line: &str| {
        let (first, _) = line.split(':').nth(2)?.split_once("..")?;
        let (first, length) = (block(first)?, block(line.split(':').nth(3)?)?);
        Some(first..first + length)
    };
    let extents: Vec<Range<u64>> = String::from_utf8_lossy(&listed.stdout).lines().filter_map(extent).collect();
    assert!(!extents.is_empty(), "{}: {listed:?}", file.display());
    extents
}

fn format(image: &Path) {
    File::create(image).unwrap().set_len(DISK_BYTES).unwrap();
    // Nothing is left for the kernel to write later by itself.
    let options = ["-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"];
    run(Command::new("mkfs.ext4").args(options).arg(image));
}

fn run(command: &mut Command) {
    let ran = bounded(command).output().unwrap();
    assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

fn has_ended_well(command: &mut Command) -> bool {
    bounded(command).output().is_ok_and(|ran| ran.status.success())
}

/// The command, ended with force when it takes too long.
fn bounded(command: &Command) -> Command {
    let mut bounded = Command::new("timeout");
    bounded.args(["--signal=KILL", &PATIENCE.as_secs().to_string()]).arg(command.get_program());
    bounded.args(command.get_args());
    bounded
}

// === impl Shown ===

impl Shown {
    fn attributes(node: INodeNo) -> FileAttr {
        let is_disk = node == DISK;
        FileAttr {
            ino: node,
            size: if is_disk { DISK_BYTES } else { 0 },
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_disk { FileType::RegularFile } else { FileType::Directory },
            perm: if is_disk { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Shown {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "disk" {
            reply.entry(&PATIENCE, &Self::attributes(DISK), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&PATIENCE, &Self::attributes(node));
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<fuser::TimeOrNow>,
        _: Option<fuser::TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&PATIENCE, &Self::attributes(node)); // times, which nobody reads
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        at: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; size as usize];
        match self.disk.read_at(&mut bytes, at) {
            Ok(read) if !(self.failing.lock().reads)(at..at + read as u64) => reply.data(&bytes[..read]),
            _ => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        at: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // In the order in which they are answered.
        let mut record = self.record.lock();
        if (self.failing.lock().writes)(bytes) {
            return reply.error(Errno::EIO);
        }
        match self.disk.write_all_at(bytes, at) {
            Ok(()) => {
                record.0.push(Event::Write { at, bytes: bytes.to_vec() });
                reply.written(bytes.len() as u32);
            }
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.record.lock().0.push(Event::Flush);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok(); // somebody closes it
    }
}
