//! An image of many files, overlayfs over it, and readers who ask the server each time.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::image::{Image, Layer, Tar};
use crate::cli::mounting::assert_usual;
use crate::cli::node::{Node, ONCEFS, PATIENCE, processes_naming, until};
use crate::daemon::stage::Service;
use crate::index::made;

/// What a read must give, by path.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// An image of several layers, and what is in it.
pub(super) fn many_files(seed: u64) -> (Image, Files) {
    let (layers, files) = layers_of_files(seed);
    (Image::of(&layers), files)
}

/// About 27 MB in 160 files.
pub(crate) fn layers_of_files(seed: u64) -> (Vec<Layer>, Files) {
    let (mut files, mut layers) = (Files::new(), Vec::new());
    for layer in 0..4u64 {
        let mut tar = Tar::new();
        for number in 0..40u64 {
            let (path, size) = (format!("layer{layer}/file{number}"), 1 + (number * number * 331) as usize);
            let bytes = made::program(seed * 1000 + layer * 100 + number, size);
            tar = tar.file(&path, &bytes);
            files.insert(path, bytes);
        }
        layers.push(Layer::gzip(&tar.done()));
    }
    (layers, files)
}

/// overlayfs, as containers have it.
pub(super) struct Overlay {
    pub(super) at: PathBuf,
}

impl Overlay {
    pub(super) fn over(lower: &Path, node: &Node, name: &str) -> Self {
        let [at, upper, work] = ["merged", "upper", "work"].map(|part| node.place(&format!("{name}-{part}")));
        let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        let options = CString::new(options).unwrap();
        rustix::mount::mount("overlay", &at, "overlay", MountFlags::empty(), options.as_c_str()).unwrap();
        Self { at }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _gone = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
    }
}

/// Threads that read all files again and again.
pub(crate) struct Readers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

struct Shared {
    is_over: AtomicBool,
    reads: AtomicU64,
}

impl Readers {
    pub(crate) fn start(count: usize, below: &Path, files: &Arc<Files>) -> Self {
        let shared = Arc::new(Shared { is_over: AtomicBool::new(false), reads: AtomicU64::new(0) });
        let read = |number: usize| {
            let (below, files, shared) = (below.to_owned(), files.clone(), shared.clone());
            std::thread::spawn(move || read_until_over(number, &below, &files, &shared))
        };
        Self { threads: (0..count).map(read).collect(), shared }
    }

    pub(crate) fn reads(&self) -> u64 {
        self.shared.reads.load(Ordering::Relaxed)
    }

    /// What any of them met.
    pub(crate) fn stop(self) -> Vec<String> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        until("the readers end", || self.threads.iter().all(JoinHandle::is_finished));
        self.threads.into_iter().filter_map(|thread| thread.join().unwrap().err()).collect()
    }
}

/// Without the page cache, and with names that nobody has asked for: each time the server is asked.
fn read_until_over(number: usize, below: &Path, files: &Files, shared: &Shared) -> Result<(), String> {
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let mut buffer = vec![0; 2 << 20];
    let start = buffer.as_ptr().align_offset(4096);
    for round in 0u64.. {
        for (path, bytes) in files.iter().skip(number * 7 % files.len()) {
            if shared.is_over.load(Ordering::Relaxed) {
                return Ok(());
            }
            let at = below.join(path);
            let failed = |error: std::io::Error| format!("{}: {error}", at.display());
            let missing = at.with_file_name(format!("missing-{number}-{round}"));
            match missing.symlink_metadata() {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => return Err(format!("{}: {other:?}", missing.display())),
            }
            let file = std::fs::File::options().read(true).custom_flags(direct).open(&at).map_err(failed)?;
            let aligned = &mut buffer[start..start + (1 << 20)];
            let read = file.read_at(aligned, 0).map_err(failed)?;
            if aligned[..read] != bytes[..] {
                return Err(format!("{}: {read} bytes, and not the right ones", at.display()));
            }
            shared.reads.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// The numbers of all files, as the kernel knows them: node ids.
pub(super) fn numbers(below: &Path, files: &Files) -> Vec<u64> {
    files.keys().map(|path| below.join(path).symlink_metadata().unwrap().ino()).collect()
}

/// The keeper, and the server that it keeps now.
pub(super) fn processes(node: &Node) -> (Option<Pid>, Option<Pid>) {
    keeper_and_server(node.path("").as_path())
}

/// Those of the places below a directory.
pub(crate) fn keeper_and_server(dir: &Path) -> (Option<Pid>, Option<Pid>) {
    let all = processes_naming(dir);
    let with = |word: &str| {
        let is_it = |pid: &&Pid| {
            let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
        };
        all.iter().find(is_it).copied()
    };
    (with("--keeper"), with("--kept"))
}

/// A service under a keeper, and the number of its server.
pub(super) struct Kept {
    pub(super) service: Service,
}

impl Kept {
    pub(super) fn started(configuration: &str) -> Self {
        Self::by(configuration, "exec \"$@\"", Path::new(ONCEFS))
    }

    /// A shell gives the keeper what it begins with.
    pub(super) fn by(configuration: &str, script: &str, program: &Path) -> Self {
        Self::start(Service::new(configuration), script, program)
    }

    /// Its run directory is a file system of its own, of a megabyte.
    pub(super) fn started_on_tmpfs() -> Self {
        let service = Service::new("");
        std::fs::create_dir(service.run_dir()).unwrap();
        let options = c"size=1m,mode=700";
        rustix::mount::mount("tmpfs", service.run_dir(), "tmpfs", MountFlags::empty(), options).unwrap();
        Self::start(service, "exec \"$@\"", Path::new(ONCEFS))
    }

    fn start(mut service: Service, script: &str, program: &Path) -> Self {
        let mut command = service.command("sh");
        command.args(["-c", script, "sh"]).arg(program).args(service.arguments()).args(["serve", "--keeper"]);
        service.started_by(&mut command);
        service.hear("READY=1");
        Self { service }
    }

    /// With the usual image, and where it is mounted.
    pub(super) fn mounted(seed: u64) -> (Self, PathBuf) {
        let kept = Self::started("");
        let at = kept.mount(&kept.layout(&Image::usual(seed)));
        assert_usual(&at, seed);
        (kept, at)
    }

    pub(super) fn mount(&self, image: &str) -> PathBuf {
        let at = self.service.path("mnt");
        std::fs::create_dir(&at).unwrap();
        self.service.oncefs(&["mount", image, at.to_str().unwrap()]).end().well();
        at
    }

    pub(super) fn layout(&self, image: &Image) -> String {
        image.write_layout(&self.service.path("layout"))
    }

    /// Its process. None, if there is just now none that answers.
    pub(super) fn server(&self) -> Option<i64> {
        let said = self.service.oncefs(&["status", "--json"]).end().out;
        serde_json::from_str::<serde_json::Value>(&said).ok()?["server"].as_i64()
    }

    pub(super) fn signal(&self, signal: Signal) -> i64 {
        let server = self.server().unwrap();
        kill_process(Pid::from_raw(server as i32).unwrap(), signal).unwrap();
        server
    }
}

/// So many kills, or as TAKEOVER_KILLS says.
pub(crate) fn kills(usual: u64) -> u64 {
    std::env::var("TAKEOVER_KILLS").ok().map_or(usual, |number| number.parse().unwrap())
}

/// Moments that are alike in no two runs of the loop, and the same in each run of the test.
pub(crate) fn moment(number: u64) -> Duration {
    Duration::from_millis(number * 7919 % 450)
}

pub(crate) fn kill(pid: Option<Pid>) -> Instant {
    kill_process(pid.unwrap(), Signal::KILL).unwrap();
    Instant::now()
}

/// Kills the server after a moment, and waits until another serves.
pub(super) fn kill_after(node: &Node, moment: Duration) {
    std::thread::sleep(moment);
    let server = processes(node).1;
    kill(server);
    until("another server is there", || processes(node).1.is_some_and(|now| Some(now) != server));
}

/// As [`until`], without a pause between one look and the next: for what is soon over.
pub(crate) fn until_at_once(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
    }
}
