//! kubelet's calls, timed: the client of `benches/containerd.py`. Prints one line of JSON.
//!
//!     cri pull IMAGE-SOCKET IMAGE...
//!     cri first IMAGE-SOCKET CONTAINERD-SOCKET DIR CGROUP IMAGE PAUSE-IMAGE PORT [WORD...]
//!
//! `pull` pulls all these at the same time. `first` starts a pod, as kubelet does before it pulls, and then measures from the start
//! of the pull to the first line of the container's output or, where PORT is not 0, to the first PONG from there.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a measurement that panics has said what it had to say

#[allow(dead_code)] // the tests ask for more
#[path = "../tests/integration/containerd/cri/mod.rs"]
mod cri;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cri::{Container, Cri};
use serde_json::json;

/// What takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["pull", socket, images @ ..] if !images.is_empty() => pull(socket, images),
        ["first", images, containerd, dir, cgroup, image, pause, port, command @ ..] => {
            let cri = client(images, containerd, dir, cgroup);
            first(&cri, image, pause, port.parse().unwrap(), command);
        }
        // `cargo bench` runs every program here with nothing but a flag.
        _ => println!("{}", json!({"usage": "cri pull|first ..., see benches/cri.rs"})),
    }
}

fn client(images: &str, containerd: &str, dir: &str, cgroup: &str) -> Cri {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    Cri::new(Arc::new(runtime), images.into(), containerd.into(), PathBuf::from(dir), cgroup)
}

fn pull(socket: &str, images: &[&str]) {
    let cri = client(socket, socket, "", "");
    let images: Vec<String> = images.iter().map(|&image| image.to_owned()).collect();
    let start = Instant::now();
    let pulled = cri.pull_at_once(&images);
    let seconds = start.elapsed().as_secs_f64();
    for (image, pulled) in images.iter().zip(pulled) {
        pulled.unwrap_or_else(|status| panic!("{image}: {status}"));
    }
    println!("{}", json!({"seconds": seconds}));
}

fn first(cri: &Cri, image: &str, pause: &str, port: u16, command: &[&str]) {
    cri.pull(pause).unwrap();
    let pod = cri.run_pod("bench");
    let start = Instant::now();
    cri.pull(image).unwrap();
    let pulled = start.elapsed().as_secs_f64();
    let container = pod.start("bench", image, command);
    let started = start.elapsed().as_secs_f64();
    while !(if port == 0 { !container.said().is_empty() } else { pongs(port) }) {
        assert!(start.elapsed() < PATIENCE, "nothing is heard of it: {}", told(&container));
        std::thread::sleep(Duration::from_millis(1));
    }
    let first = start.elapsed().as_secs_f64();
    println!("{}", json!({"pulled": pulled, "started": started, "first": first, "said": container.said()}));
    pod.remove();
}

fn pongs(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut answer = [0; 7];
    stream.write_all(b"PING\r\n").is_ok() && stream.read_exact(&mut answer).is_ok() && &answer == b"+PONG\r\n"
}

fn told(container: &Container) -> String {
    format!("running: {}, it said: {}", container.is_running(), container.said())
}
