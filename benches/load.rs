//! Many containers of many images, read on and on: the client of `benches/load.py`. Prints a line of JSON every few seconds.
//!
//!     load IMAGE-SOCKET CONTAINERD-SOCKET DIR CGROUP TASKS SERVER-PID CONTROL-SOCKET FILES CONTAINERS READERS SECONDS
//!
//! FILES has the list of the images, one a line, in `images`, and in a folder for each (`0`, `1`, ...) what the image has in /opt. TASKS is where
//! containerd has its containers' roots. Each reader reads 32 KiB somewhere, compares, and waits a moment; some images are more wanted than
//! others. Beside them one container after the other is made, run and removed.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a measurement that panics has said what it had to say
#![allow(clippy::disallowed_types)] // no model checker looks at it

#[allow(dead_code)] // the tests ask for more
#[path = "../tests/integration/containerd/cri/mod.rs"]
mod cri;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cri::{Cri, Pod};
use serde_json::json;

/// Between two lines.
const INTERVAL: Duration = Duration::from_secs(10);
/// Between two reads of a reader: a closed loop without it would measure how many readers there are.
const THINKING: Duration = Duration::from_millis(10);
const READ_BYTES: usize = 32 << 10;
const PAGE: usize = 4096;
const PREPARES: &str = "oncefs_snapshotter_call_seconds_count{method=\"Prepare\"}";
const PREPARE_SECONDS: &str = "oncefs_snapshotter_call_seconds_sum{method=\"Prepare\"}";
/// Pods that are started at the same time.
const STARTERS: usize = 4;

/// The content of one image's /opt: names and bytes.
type Content = Vec<(String, Vec<u8>)>;

/// The server, as others see it.
struct Server {
    process: PathBuf,
    control: PathBuf,
}

struct Load {
    images: Vec<(String, Content)>,
    /// The roots of each image's containers.
    roots: Vec<Vec<PathBuf>>,
    is_over: AtomicBool,
    /// Microseconds each, since the last line.
    reads: Mutex<Vec<u32>>,
    /// Milliseconds from the call that makes a container to its being removed.
    lives: Mutex<Vec<u32>>,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [images, containerd, dir, cgroup, tasks, server, control, files, containers, readers, seconds] =
        words.as_slice()
    else {
        // `cargo bench` runs every program here with nothing but a flag.
        println!("{}", json!({"usage": "see benches/load.rs"}));
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cri = Cri::new(Arc::new(runtime), images.into(), containerd.into(), dir.into(), cgroup);
    let images = images_of(Path::new(files));
    let server = Server { process: Path::new("/proc").join(server), control: control.into() };
    let began = Instant::now();
    said(&server, "before", json!({}));
    let (pods, roots) = start(&cri, &images, Path::new(tasks), containers.parse().unwrap());
    said(&server, "started", json!({"seconds": began.elapsed().as_secs_f64()}));
    let load = Load { images, roots, is_over: false.into(), reads: Mutex::default(), lives: Mutex::default() };
    load.run(&server, &pods, readers.parse().unwrap(), Duration::from_secs(seconds.parse().unwrap()));
    drop(load);
    at_once(pods, |(_, pod)| pod.remove());
    said(&server, "removed", json!({}));
}

fn images_of(files: &Path) -> Vec<(String, Content)> {
    let names = fs::read_to_string(files.join("images")).unwrap();
    let content = |number: usize| {
        let entries = fs::read_dir(files.join(number.to_string())).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
    };
    names.lines().enumerate().map(|(number, name)| (name.to_owned(), content(number))).collect()
}

/// A pod for each image, and its containers' roots.
fn start(
    cri: &Cri,
    images: &[(String, Content)],
    tasks: &Path,
    containers: usize,
) -> (Vec<(usize, Pod)>, Vec<Vec<PathBuf>>) {
    let started = at_once((0..images.len()).collect(), |number| {
        let image = &images[number].0;
        cri.pull(image).unwrap();
        let pod = cri.run_pod(&format!("load-{number}"));
        let container = |name: usize| pod.start(&name.to_string(), image, &["sh", "-c", "exec sleep 100000"]);
        let roots = (0..containers).map(|name| tasks.join(container(name).id).join("rootfs")).collect();
        (number, pod, roots)
    });
    let mut roots = vec![Vec::new(); images.len()];
    let pods = started.into_iter().map(|(number, pod, of_pod)| {
        roots[number] = of_pod;
        (number, pod)
    });
    let pods = pods.collect();
    (pods, roots)
}

/// Does this to all of them, a few at the same time.
fn at_once<T: Send, R: Send>(what: Vec<T>, act: impl Fn(T) -> R + Sync) -> Vec<R> {
    let (left, done) = (Mutex::new(what), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..STARTERS {
            scope.spawn(|| {
                loop {
                    let Some(next) = left.lock().unwrap().pop() else { break };
                    let result = act(next);
                    done.lock().unwrap().push(result);
                }
            });
        }
    });
    done.into_inner().unwrap()
}

// === impl Load ===

impl Load {
    fn run(&self, server: &Server, pods: &[(usize, Pod)], readers: u64, lasts: Duration) {
        let began = Instant::now();
        std::thread::scope(|scope| {
            (0..readers).for_each(|number| drop(scope.spawn(move || self.read(number + 1))));
            scope.spawn(|| self.come_and_go(pods));
            while began.elapsed() < lasts {
                std::thread::sleep(INTERVAL);
                let (reads, lives) = (
                    std::mem::take(&mut *self.reads.lock().unwrap()),
                    std::mem::take(&mut *self.lives.lock().unwrap()),
                );
                let line = json!({"at": began.elapsed().as_secs(), "reads": spread(reads), "lives": spread(lives)});
                said(server, "load", line);
            }
            self.is_over.store(true, Ordering::Relaxed);
        });
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Without the page cache: each read asks the server.
    fn read(&self, seed: u64) {
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut buffer = vec![0; READ_BYTES + PAGE];
        let start = buffer.as_ptr().align_offset(PAGE);
        while !self.is_over() {
            // The square makes the first images far more wanted than the last.
            let number = (self.images.len() as f64 * dice.fraction().powi(2)) as usize;
            let roots = &self.roots[number];
            let (name, bytes) = &self.images[number].1[dice.below(self.images[number].1.len())];
            let at = roots[dice.below(roots.len())].join("opt").join(name);
            let offset = dice.below(bytes.len() / PAGE) * PAGE;
            let asked = Instant::now();
            let file = File::options().read(true).custom_flags(direct).open(&at).unwrap();
            let read = file.read_at(&mut buffer[start..start + READ_BYTES], offset as u64).unwrap();
            let took = asked.elapsed();
            let wanted = &bytes[offset..bytes.len().min(offset + READ_BYTES)];
            assert!(buffer[start..start + read] == *wanted, "{}: wrong bytes at {offset}", at.display());
            self.reads.lock().unwrap().push(u32::try_from(took.as_micros()).unwrap());
            std::thread::sleep(THINKING);
        }
    }

    fn come_and_go(&self, pods: &[(usize, Pod)]) {
        let mut dice = Dice(7);
        for turn in (0..).take_while(|_| !self.is_over()) {
            let (number, pod) = &pods[dice.below(pods.len())];
            let asked = Instant::now();
            pod.run(&format!("guest-{turn}"), &self.images[*number].0, &["true"]);
            self.lives.lock().unwrap().push(u32::try_from(asked.elapsed().as_millis()).unwrap());
        }
    }
}

fn spread(mut values: Vec<u32>) -> serde_json::Value {
    values.sort_unstable();
    let at = |share: f64| values.get((values.len() as f64 * share) as usize).or(values.last());
    json!({"count": values.len(), "p50": at(0.5), "p99": at(0.99), "max": values.last()})
}

/// A line, with what the server holds now, and what it has spent in containerd's calls so far.
fn said(server: &Server, when: &str, mut line: serde_json::Value) {
    let status = fs::read_to_string(server.process.join("status")).unwrap();
    let of =
        |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().split_whitespace().next().unwrap();
    let number = |key: &str| of(key).parse::<u64>().unwrap();
    let metrics = server.metrics();
    let metric = |name: &str| {
        metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap_or(0.0)
    };
    line["prepare"] = json!({"count": metric(PREPARES), "seconds": metric(PREPARE_SECONDS)});
    line["when"] = json!(when);
    line["server"] = json!({
        "resident_kib": number("VmRSS:"), "own_kib": number("RssAnon:"), "threads": number("Threads:"),
        "descriptors": fs::read_dir(server.process.join("fd")).unwrap().count(),
    });
    println!("{line}");
}

impl Server {
    fn metrics(&self) -> String {
        let mut connection = UnixStream::connect(&self.control).unwrap();
        connection.write_all(b"GET /metrics HTTP/1.1\r\nhost: oncefs\r\nconnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        connection.read_to_string(&mut page).unwrap();
        page
    }
}

/// xorshift64: the same throws in every run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.throw() % end.max(1) as u64) as usize
    }

    fn fraction(&mut self) -> f64 {
        (self.throw() >> 11) as f64 / (1u64 << 53) as f64
    }
}
