//! What has to wait: bytes that are not here and views that are not loaded. Nobody else is held up by it, and whoever
//! waits can be killed.

use std::fs::{self, File};
use std::io::{Read as _, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use oncefs::fuse::Operation;
use oncefs::store::CacheConfig;
use oncefs::sync::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use super::stage::{Gate, Packing, SOON, Stage, State, drop_all, until};
use super::tars::{Tar, noise};

const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

/// A program that reads, until it is dropped.
struct Reader(Child);

impl Reader {
    fn new(program: &str, arguments: &[&str], path: &Path) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).arg(path).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap_or_else(|error| panic!("this test needs {program}: {error}")))
    }

    fn cat(path: &Path) -> Self {
        Self::new("cat", &[], path)
    }

    /// The state of proc(5): `S` sleeps, `D` sleeps and hears no signal.
    fn state(&self) -> char {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next()).unwrap_or('X')
    }

    /// Of the program that it is by now.
    fn name(&self) -> String {
        fs::read_to_string(format!("/proc/{}/comm", self.0.id())).unwrap_or_default().trim().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn is_gone(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    fn until_it_waits(&self) {
        until("the reader waits", || matches!(self.state(), 'S' | 'D'));
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.try_wait(); // not `wait`: one that cannot be killed is what these tests are to find
    }
}

#[test]
fn privileged_readers_of_one_missing_frame_make_one_request() {
    const READERS: usize = 32;
    let content = noise(5, 600_000);
    let stage = Stage::new();
    let layer = stage.layer(&Tar::new().file("file", &content).end(), Packing::Gzip);
    let path = stage.show("view", &[&layer]).join("file");
    drop_all(&layer);
    assert_eq!(layer.frames().len(), 1);
    let barrier = Barrier::new(READERS);
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let (path, barrier, content) = (&path, &barrier, &content);
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                barrier.wait();
                let mut got = [0; 100];
                file.read_exact_at(&mut got, reader as u64 * 4096).unwrap();
                assert!(got == content[reader * 4096..reader * 4096 + 100]);
            });
        }
    });
    assert_eq!(stage.source.asked(layer.digest()).len(), 1);
}

/// More of them than there are threads (two), by every way a read can come: read ahead, single pages, past the page cache.
#[test]
fn privileged_stalled_readers_hold_up_nobody_and_get_their_bytes_in_the_end() {
    let content = noise(6, 8 << 20);
    let stage = Stage::new();
    let slow = stage.layer(&Tar::new().file("slow", &content).end(), Packing::Gzip);
    let quick = stage.layer(&Tar::new().file("quick", &content).end(), Packing::Plain);
    let view = stage.show("view", &[&slow, &quick]);
    drop_all(&slow);
    stage.source.stall(slow.digest());
    let path = view.join("slow");
    let readers: Vec<_> = (0..24u64)
        .map(|number| {
            let (path, content) = (path.clone(), content.clone());
            std::thread::spawn(move || {
                let file = File::open(path).unwrap();
                if number % 2 == 0 {
                    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
                }
                let mut got = vec![0; 50_000];
                file.read_exact_at(&mut got, number * 300_000).unwrap();
                assert!(got == content[number as usize * 300_000..][..50_000]);
            })
        })
        .collect();
    until("reads are under way", || stage.session().counts().of(Operation::Read) >= 12);
    let reads = stage.session().counts().of(Operation::Read);
    assert!(fs::read(view.join("quick")).unwrap() == content);
    assert!(fs::metadata(view.join("slow")).unwrap().len() == content.len() as u64);
    assert!(stage.session().counts().of(Operation::Read) > reads);
    assert!(readers.iter().all(|reader| !reader.is_finished()));
    stage.source.go_on(slow.digest());
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

/// Touches a file's byte in memory.
const MAPPED: &str = "import mmap, sys
file = open(sys.argv[1])
print(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)[3 << 20])";

#[test]
fn privileged_a_killed_reader_of_missing_bytes_is_gone_soon() {
    let stage = Stage::new();
    let layer = stage.layer(&Tar::new().file("file", &noise(8, 4 << 20)).end(), Packing::Gzip);
    let path = stage.show("view", &[&layer]).join("file");
    drop_all(&layer);
    stage.source.stall(layer.digest());
    // Read ahead; past the page cache, where the kernel waits for the answer and for no signal; a single page.
    let if_path = |path: &Path| format!("if={}", path.display());
    let direct = Path::new(&if_path(&path)).to_path_buf();
    let mut readers = [
        (Reader::cat(&path), Signal::KILL),
        (Reader::cat(&path), Signal::TERM),
        (Reader::new("dd", &["iflag=direct", "bs=4096", "skip=600", "count=1"], &direct), Signal::KILL),
        (Reader::new("dd", &["iflag=direct", "bs=4096", "skip=700", "count=1"], &direct), Signal::TERM),
        // Whoever starts these tests in the background of a script has it ignored.
        (Reader::new("env", &["--default-signal=QUIT", "tail", "-c", "10"], &path), Signal::QUIT),
        (Reader::new("python3", &["-c", MAPPED], &path), Signal::KILL),
    ];
    readers.iter().for_each(|(reader, _)| reader.until_it_waits());
    until("the signal is not ignored any more", || readers[4].0.name() == "tail");
    until("reads are under way", || stage.session().counts().of(Operation::Read) >= 5);
    for (reader, signal) in &mut readers {
        reader.signal(*signal);
        until(&format!("the reader is gone after {signal:?}, state {}", reader.state()), || reader.is_gone());
    }
    assert!(stage.source.asked(layer.digest()).len() < 20);
    stage.source.go_on(layer.digest());
    assert_eq!(fs::read(path).unwrap().len(), 4 << 20, "and the next one gets everything");
}

#[test]
fn privileged_a_reader_that_catches_a_signal_gets_its_bytes() {
    let stage = Stage::new();
    let layer = stage.layer(&Tar::new().file("file", b"patience").end(), Packing::Gzip);
    let path = stage.show("view", &[&layer]).join("file");
    drop_all(&layer);
    stage.source.stall(layer.digest());
    // O_DIRECT: what is read ahead restarts after a signal in any case.
    let script = "import os, signal, sys, mmap
signal.signal(signal.SIGUSR1, lambda *_: None)
file = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
page = mmap.mmap(-1, 4096)
print(os.preadv(file, [page], 0), flush=True)";
    let mut child = Command::new("python3").args(["-c", script]).arg(&path).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader_output = child.stdout.take().unwrap();
    let reader = Reader(child);
    until("the read is under way", || stage.session().counts().of(Operation::Read) >= 1);
    reader.signal(Signal::USR1);
    std::thread::sleep(Duration::from_millis(600)); // several looks at its signals
    stage.source.go_on(layer.digest());
    let mut said = String::new();
    reader_output.read_to_string(&mut said).unwrap();
    assert_eq!(said, "8\n");
    // Python tries again after EINTR; not all programs do.
    assert_eq!(stage.session().counts().of(Operation::Read), 1, "it was never told EINTR");
}

/// What is logged while a test looks, by all tests of this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn privileged_a_lying_source_is_an_error_with_a_reason_and_never_wrong_bytes() {
    let log = Log::default();
    let writer = log.clone();
    let logging = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).try_init();
    logging.expect("no other test of this program may take the log");
    let content = noise(11, 3 << 20);
    let stage = Stage::new();
    let layer = stage.layer(&Tar::new().file("file", &content).end(), Packing::Plain);
    let path = stage.show("view", &[&layer]).join("file");
    drop_all(&layer);
    stage.source.lie(layer.digest());
    for _ in 0..5 {
        assert_eq!(fs::read(&path).unwrap_err().raw_os_error(), Some(EIO));
    }
    let said = String::from_utf8(log.0.lock().clone()).unwrap();
    let digest = layer.digest().to_string();
    let told: Vec<&str> =
        said.lines().filter(|line| line.contains(&digest) && line.contains("a read failed")).collect();
    assert!(told.iter().all(|line| line.contains("is not what its index says")), "{said}");
    assert!((1..=3).contains(&told.len()), "one line for each frame that lies: {told:#?}");
    stage.source.tell_the_truth();
    assert!(fs::read(&path).unwrap() == content, "an error is not remembered");
}

#[test]
fn privileged_looking_at_a_view_loads_it_once_and_stat_alone_does_not() {
    let stage = Stage::new();
    let layer = stage.layer(&Tar::new().file("dir/file", b"content").end(), Packing::Plain);
    let gate = Gate::new(stage.ready(&[&layer]), State::Open);
    stage.show_through("view", &gate);
    let view = stage.mountpoint().join("view");
    assert!(fs::metadata(&view).unwrap().is_dir());
    rustix::fs::statvfs(&view).unwrap();
    assert_eq!(fs::read_dir(stage.mountpoint()).unwrap().count(), 1);
    assert_eq!(gate.asked(), 0, "nobody has looked into it");
    assert_eq!(fs::read(view.join("dir/file")).unwrap(), b"content");
    assert_eq!(fs::read_dir(&view).unwrap().count(), 1);
    assert_eq!(gate.asked(), 1);
}

/// Eight lookers at names of their own, which is more than there are threads.
#[test]
fn privileged_a_view_that_does_not_come_holds_up_nobody_and_lets_itself_be_killed() {
    let stage = Stage::new();
    let tar = (0..4).fold(Tar::new(), |tar, number| tar.file(&format!("dir-{number}/file"), b"content"));
    let layer = stage.layer(&tar.end(), Packing::Plain);
    let other = stage.show("other", &[&layer]).join("dir-0/file");
    let gate = Gate::new(stage.ready(&[&layer]), State::Shut);
    stage.show_through("view", &gate);
    let view = stage.mountpoint().join("view");
    let mut lookers: Vec<Reader> = (0..4).map(|number| Reader::cat(&view.join(format!("dir-{number}/file")))).collect();
    lookers.extend((0..4).map(|_| Reader::new("ls", &["-l"], &view)));
    until("they have asked", || gate.asked() >= 8);
    assert!(fs::metadata(&view).unwrap().is_dir(), "stat does not wait");
    assert_eq!(fs::read(&other).unwrap(), b"content");
    assert!(lookers.iter_mut().all(|looker| !looker.is_gone()));
    for looker in &mut lookers[1..7] {
        looker.signal(Signal::KILL);
        until("the killed looker is gone", || looker.is_gone());
    }
    gate.set(State::Open);
    for looker in [0, 7] {
        until("who waited is served", || lookers[looker].is_gone());
        assert!(lookers[looker].0.wait().unwrap().success());
    }
}

/// The kernel lets one of them ask and the others wait for that one (fs/dcache.c, `d_wait_lookup`), which no signal
/// ends. But a container that is killed is killed whole.
#[test]
fn privileged_lookers_at_one_name_that_are_killed_together_are_gone_soon() {
    let stage = Stage::new();
    let layer = stage.layer(&Tar::new().file("dir/file", b"content").end(), Packing::Plain);
    let gate = Gate::new(stage.ready(&[&layer]), State::Shut);
    stage.show_through("view", &gate);
    let file = stage.mountpoint().join("view/dir/file");
    let mut lookers: Vec<Reader> = (0..6).map(|_| Reader::cat(&file)).collect();
    until("one has asked", || gate.asked() >= 1);
    lookers.iter().for_each(|looker| until("all wait", || looker.state() == 'D' || looker.state() == 'S'));
    lookers.iter().for_each(|looker| looker.signal(Signal::KILL));
    for looker in &mut lookers {
        until("the killed looker is gone", || looker.is_gone());
    }
    gate.set(State::Open);
    assert_eq!(fs::read(file).unwrap(), b"content");
}

#[test]
fn privileged_a_view_that_cannot_be_had_is_an_error_that_is_not_remembered() {
    let stage = Stage::new();
    let layer = stage.layer(&Tar::new().file("file", b"content").end(), Packing::Plain);
    let gate = Gate::new(stage.ready(&[&layer]), State::Broken);
    stage.show_through("view", &gate);
    let view = stage.mountpoint().join("view");
    assert_eq!(fs::read(view.join("file")).unwrap_err().raw_os_error(), Some(EIO));
    assert_eq!(fs::read_dir(&view).unwrap().next().unwrap().unwrap_err().raw_os_error(), Some(EIO));
    gate.set(State::Open);
    assert_eq!(fs::read(view.join("file")).unwrap(), b"content");
    assert_eq!(fs::read_dir(&view).unwrap().count(), 1);
}

/// A cache that holds a small part of what eight readers read at once: nothing is lost, nothing is wrong, the bound holds.
#[test]
fn privileged_eviction_under_eight_readers_of_a_tight_cache_loses_nothing() {
    const READERS: usize = 8;
    let (content, part) = (noise(13, 12 << 20), 256 << 10);
    let stage = Stage::new();
    let layer = stage.layer(&Tar::new().file("file", &content).end(), Packing::Plain);
    let max = content.len() as u64 / 3;
    stage.store.set_cache(CacheConfig { max_bytes: max, ..CacheConfig::default() });
    stage.store.evict_to(max / 2).unwrap();
    let path = stage.show("view", &[&layer]).join("file");
    let enough = 3 * u64::from(layer.frames().len());
    std::thread::scope(|scope| {
        let (path, content, stage) = (&path, &content, &stage);
        let read = |reader: usize| {
            move || {
                let direct = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::RDONLY;
                let file = File::from(rustix::fs::open(path, direct, rustix::fs::Mode::empty()).unwrap());
                let (mut state, mut got, begun) = (reader as u64 + 1, vec![0; part], Instant::now());
                while stage.store.cache_usage().evicted.frames < enough && begun.elapsed() < SOON {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let at = (state >> 33) as usize % (content.len() / part) * part;
                    file.read_exact_at(&mut got, at as u64).unwrap();
                    assert!(got == content[at..at + part], "wrong bytes at {at}");
                    let used = stage.store.cache_usage().used_bytes;
                    assert!(used <= max, "{used} of {max}");
                }
            }
        };
        let readers: Vec<_> = (0..READERS).map(|reader| scope.spawn(read(reader))).collect();
        // What was just read is spared by the bound, and not by who prunes.
        while readers.iter().any(|reader| !reader.is_finished()) {
            stage.store.evict_to(max / 4).unwrap();
            std::thread::sleep(Duration::from_millis(3));
        }
    });
    assert!(stage.store.cache_usage().evicted.frames >= enough, "{:?}", stage.store.cache_usage());
}

/// Frames that are dropped while readers read: fetched again each time, never zeros.
#[test]
fn privileged_eviction_under_readers_is_never_seen() {
    let content = noise(12, 4 << 20);
    let stage = Stage::new();
    let layer = stage.layer(&Tar::new().file("file", &content).end(), Packing::Gzip);
    let path = stage.show("view", &[&layer]).join("file");
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let direct = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::RDONLY;
                    for round in 0..40 {
                        let file = rustix::fs::open(&path, direct, rustix::fs::Mode::empty()).unwrap();
                        let (at, mut got) = (round % 4 * (1 << 20), vec![0; 1 << 20]);
                        File::from(file).read_exact_at(&mut got, at as u64).unwrap();
                        assert!(got == content[at..at + (1 << 20)]);
                    }
                })
            })
            .collect();
        // As fast as can be: a reader is never there first.
        while readers.iter().any(|reader| !reader.is_finished()) {
            drop_all(&layer);
        }
    });
}
