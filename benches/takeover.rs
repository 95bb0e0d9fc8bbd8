//! How long a reader waits when the server dies: from the kill to the next byte. And how long a server takes to start that has much to
//! remember. Prints tables. Root.
//!
//!     cargo bench --bench takeover [LAYOUT]
//!
//! LAYOUT is an image in an OCI layout (default: target/images/redis). The reader asks the server for every byte (O_DIRECT).
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a measurement that panics has said what it had to say
#![allow(clippy::disallowed_methods)]

#[allow(dead_code)] // the tests ask for more
#[path = "../tests/integration/snapshotter/known.rs"]
mod known;
#[allow(dead_code)] // the tests ask for more
#[path = "../tests/integration/snapshotter/served.rs"]
mod served;

use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use known::Known; // `served` looks for it here
use served::Served;

const ONCEFS: &str = env!("CARGO_BIN_EXE_oncefs");
const KILLS: usize = 100;
const STARTS: usize = 10;
const SNAPSHOTS: usize = 10_000;
const LAYERS: usize = 1000;
const LAYERS_OF_IMAGE: usize = 100;

fn main() {
    let layout = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let layout = layout.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/target/images/redis").to_owned());
    pauses(&format!("oci:{layout}"));
    starts();
}

// === the pause ===

fn pauses(image: &str) {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("mnt");
    std::fs::create_dir(&at).unwrap();
    let said = oncefs(dir.path(), &["mount", "--wait", image, at.to_str().unwrap()]).status().unwrap();
    assert!(said.success());
    let file = largest(&at);
    // Microseconds since the start at which the last read came back, and the longest since it was asked for.
    let (began, last, longest) = (Instant::now(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let is_over = Arc::new(AtomicBool::new(false));
    let reader = {
        let (last, longest, is_over) = (last.clone(), longest.clone(), is_over.clone());
        std::thread::spawn(move || {
            read_on(&file, || {
                let now = micros(began);
                longest.fetch_max(now - last.swap(now, Ordering::Relaxed).min(now), Ordering::Relaxed);
                is_over.load(Ordering::Relaxed)
            })
        })
    };
    let mut pauses = Vec::new();
    for number in 0..KILLS as u64 {
        std::thread::sleep(Duration::from_millis(300 + number * 37 % 100));
        let server = server(dir.path());
        longest.store(0, Ordering::Relaxed);
        let killed = micros(began);
        kill(server);
        // The gap in which the kill lies has ended when a read came back that was not under way then.
        while longest.load(Ordering::Relaxed) < 5_000 || last.load(Ordering::Relaxed) < killed + 5_000 {
            std::thread::sleep(Duration::from_millis(1));
            assert!(micros(began) < killed + 60_000_000, "the reader does not go on");
        }
        pauses.push(longest.load(Ordering::Relaxed) as f64 / 1000.0);
    }
    is_over.store(true, Ordering::Relaxed);
    reader.join().unwrap();
    assert!(oncefs(dir.path(), &["umount", "--all"]).status().unwrap().success());
    println!("| from the kill to the next byte, {KILLS} kills | ms |\n| --- | --- |");
    table(&mut pauses, "(reach: 150)");
}

/// Reads a file again and again; ends when it is told to after a read.
fn read_on(file: &Path, came: impl Fn() -> bool) {
    let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let file = std::fs::File::options().read(true).custom_flags(direct).open(file).unwrap();
    let mut buffer = vec![0; 64 << 10];
    let start = buffer.as_ptr().align_offset(4096);
    for turn in 0u64.. {
        let read = file.read_at(&mut buffer[start..start + (32 << 10)], turn % 4 * 4096).unwrap();
        assert!(read > 0);
        if came() {
            return;
        }
    }
}

fn largest(below: &Path) -> PathBuf {
    let mut folders = vec![below.to_owned()];
    let mut found = (0, PathBuf::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let metadata = entry.path().symlink_metadata().unwrap();
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.is_file() {
                found = found.max((metadata.len(), entry.path()));
            }
        }
    }
    found.1
}

fn server(dir: &Path) -> rustix::process::Pid {
    let said = oncefs(dir, &["status", "--json"]).stdout(Stdio::piped()).output().unwrap().stdout;
    let status: serde_json::Value = serde_json::from_slice(&said).unwrap();
    rustix::process::Pid::from_raw(status["server"].as_i64().unwrap() as i32).unwrap()
}

fn kill(server: rustix::process::Pid) {
    rustix::process::kill_process(server, rustix::process::Signal::KILL).unwrap();
}

// === the start ===

fn starts() {
    let dir = tempfile::tempdir().unwrap();
    for image in 0..LAYERS / LAYERS_OF_IMAGE {
        let layout = dir.path().join(format!("layout{image}"));
        layers(&layout, image);
        let pulled = oncefs(dir.path(), &["pull", "--in-process", &format!("oci:{}", layout.display())]).status();
        assert!(pulled.unwrap().success());
    }
    let dir = snapshots(dir);
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let began = Instant::now();
        let mut server = serve(dir.path());
        times.push(micros(began) as f64 / 1000.0);
        kill(rustix::process::Pid::from_child(&server));
        server.wait().unwrap();
    }
    oncefs(dir.path(), &["umount", "--all"]).status().unwrap();
    println!("\n| start with {SNAPSHOTS} snapshots and {LAYERS} layers, until it is ready | ms |\n| --- | --- |");
    table(&mut times, "(reach: 300)");
}

/// Starts a server, and waits until it says that it is ready.
fn serve(dir: &Path) -> Child {
    let socket = dir.join("notify");
    let _left = std::fs::remove_file(&socket);
    let notify = UnixDatagram::bind(&socket).unwrap();
    let server = oncefs(dir, &["serve"]).env("NOTIFY_SOCKET", &socket).stderr(Stdio::null()).spawn().unwrap();
    let mut message = [0; 4096];
    while !message.starts_with(b"READY=1") {
        let _length = notify.recv(&mut message).unwrap();
    }
    server
}

/// An image of many small layers, none of which another has.
fn layers(layout: &Path, image: usize) {
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = oncefs::digest::Digest::of(bytes);
        std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        (digest.to_string(), bytes.len())
    };
    let (mut diff_ids, mut descriptors) = (Vec::new(), Vec::new());
    for layer in 0..LAYERS_OF_IMAGE {
        let mut tar = tar::Builder::new(Vec::new());
        let content = format!("{image} {layer}");
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, format!("file{image}-{layer}"), content.as_bytes()).unwrap();
        let (digest, size) = put(&tar.into_inner().unwrap());
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        descriptors.push(serde_json::json!({"mediaType": media_type, "digest": digest, "size": size}));
        diff_ids.push(digest);
    }
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let (digest, size) = put(config.to_string().as_bytes());
    let config = serde_json::json!({
        "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": size,
    });
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors});
    let (digest, size) = put(manifest.to_string().as_bytes());
    let entry = serde_json::json!({"mediaType": media_type, "digest": digest, "size": size});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
}

/// Active ones, as containers have them.
fn snapshots(dir: tempfile::TempDir) -> tempfile::TempDir {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut served = Served::start_in(dir).await;
        for number in 0..SNAPSHOTS {
            served.client.prepare(&format!("k8s.io/{number}/key"), "", &[]).await.unwrap();
        }
        served.stop();
        served.stopped().await;
        let Served { dir, .. } = served;
        dir
    })
}

// === both ===

fn oncefs(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(ONCEFS);
    command.arg("--root").arg(dir.join("root")).arg("--run").arg(dir.join("run")).args(words);
    command.stdin(Stdio::null()).stdout(Stdio::null()).env("HOME", dir);
    command
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap()
}

fn table(times: &mut [f64], reach: &str) {
    times.sort_by(f64::total_cmp);
    println!("| median {reach} | {:.0} |\n| longest | {:.0} |", times[times.len() / 2], times[times.len() - 1]);
}
