//! containerd's calls of the snapshots service, timed: over a Unix socket, on a real store, with few and with many snapshots.
//! Prints a table.
//!
//!     cargo bench --bench snapshots [DIRECTORY]
//!
//! The store is made in DIRECTORY (default: where temporary files are): a change waits for that disk.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a measurement that panics has said what it had to say
#![allow(clippy::disallowed_methods)]

#[allow(dead_code)] // the tests ask for more
#[path = "../tests/integration/snapshotter/known.rs"]
mod known;
#[allow(dead_code)] // the tests ask for more
#[path = "../tests/integration/snapshotter/served.rs"]
mod served;

use std::time::{Duration, Instant};

use known::{Known, chain};
use served::{Client, Served};

const CHAIN: &str = "containerd.io/snapshot.ref";
/// As many layers as images have.
const LAYERS: usize = 10;
const ROUNDS: usize = 500;

fn main() {
    let directory = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let directory = directory.map_or_else(std::env::temp_dir, Into::into);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure(&directory));
}

async fn measure(directory: &std::path::Path) {
    let served = Served::start_in(tempfile::tempdir_in(directory).unwrap()).await;
    println!("{:>9}  {:34}  {:>9}  {:>9}", "snapshots", "call", "p50 ms", "p99 ms");
    let mut image = 0;
    for count in [10, 1000, 10_000] {
        while served.snapshots.count() < count {
            pull(&served, image).await;
            image += 1;
        }
        calls(&served, image).await;
        println!("{count:>9}  memory {} MiB", resident_mib());
    }
}

/// What a pull and a container leave: the layers, each over the one before, and a container.
async fn pull(served: &Served, image: usize) -> String {
    let mut parent = String::new();
    for layer in 0..LAYERS - 1 {
        parent = serve(served, &format!("{image} {layer}"), &parent).await;
    }
    served.client.prepare(&format!("k8s.io/{image}/container"), &parent, &[]).await.unwrap();
    parent
}

async fn serve(served: &Served, name: &str, parent: &str) -> String {
    let of = served.known.know(name).to_string();
    let (layer, image) = (chain("layer").to_string(), "registry.example/team/project/application:v1.2.3");
    let labels = [
        (CHAIN, of.as_str()),
        ("containerd.io/snapshot/cri.image-ref", image),
        ("containerd.io/snapshot/cri.layer-digest", &layer),
        ("containerd.io/snapshot/cri.manifest-digest", &layer),
        ("containerd.io/snapshot/cri.image-layers", &[layer.as_str(); LAYERS].join(",")),
    ];
    assert!(served.client.prepare(&format!("k8s.io/extract {of}"), parent, &labels).await.is_err());
    find(&served.client, &of, parent).await
}

/// As containerd looks for a layer that needs no unpacking.
async fn find(client: &Client, chain: &str, parent: &str) -> String {
    let filter = format!(r#"labels."{CHAIN}"=={chain},parent=="{parent}""#);
    client.list(&[&filter]).await.unwrap().remove(0).name
}

async fn calls(served: &Served, images: usize) {
    let (client, count) = (&served.client, served.snapshots.count());
    let top = chain(&format!("0 {}", LAYERS - 2)).to_string();
    let found = client.list(&[&format!(r#"labels."{CHAIN}"=={top}"#)]).await.unwrap().remove(0);
    let mut prepare = Vec::new();
    let mut remove = Vec::new();
    let mut serving = Vec::new();
    for round in 0..ROUNDS {
        let key = format!("k8s.io/measured/{round}");
        prepare.push(timed(client.prepare(&key, &found.name, &[])).await);
        remove.push(timed(client.remove(&key)).await);
        let name = format!("measured {images} {round}");
        let of = served.known.know(&name).to_string();
        serving.push(timed(client.prepare("k8s.io/extract", "", &[(CHAIN, &of)])).await);
        client.remove(&find(client, &of, "").await).await.unwrap();
    }
    row(count, "Prepare (a container)", prepare);
    row(count, "Prepare (a layer, AlreadyExists)", serving);
    row(count, "Remove", remove);
    let mut stat = Vec::new();
    let mut filtered = Vec::new();
    let filter = format!(r#"labels."{CHAIN}"=={top},parent=="{}""#, found.parent);
    for _ in 0..4 * ROUNDS {
        stat.push(timed(client.stat(&found.name)).await);
        filtered.push(timed(client.list(&[&filter])).await);
    }
    row(count, "Stat", stat);
    row(count, "List (a layer's)", filtered);
    let mut all = Vec::new();
    for _ in 0..50 {
        all.push(timed(client.list(&[])).await);
    }
    row(count, "List (all)", all);
    crowded(client, count, &found.name).await;
}

/// Sixteen callers at a time, as when a node starts its pods; and who only looks meanwhile.
async fn crowded(client: &Client, count: usize, parent: &str) {
    let callers = (0..16).map(|caller| {
        let (client, parent) = (client.clone(), parent.to_owned());
        tokio::spawn(async move {
            let mut prepare = Vec::new();
            for round in 0..ROUNDS / 10 {
                let key = format!("k8s.io/crowd/{caller}/{round}");
                prepare.push(timed(client.prepare(&key, &parent, &[])).await);
                client.remove(&key).await.unwrap();
            }
            prepare
        })
    });
    let callers: Vec<_> = callers.collect();
    let mut stat = Vec::new();
    while callers.iter().any(|caller| !caller.is_finished()) {
        stat.push(timed(client.stat(parent)).await);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut prepare = Vec::new();
    for caller in callers {
        prepare.extend(caller.await.unwrap());
    }
    row(count, "Prepare (16 callers)", prepare);
    row(count, "Stat (beside 16 callers)", stat);
}

async fn timed(call: impl Future) -> Duration {
    let start = Instant::now();
    call.await;
    start.elapsed()
}

fn row(count: usize, call: &str, mut took: Vec<Duration>) {
    took.sort();
    let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)].as_secs_f64() * 1000.0;
    println!("{count:>9}  {call:34}  {:>9.3}  {:>9.3}", at(50), at(99));
}

/// Of this process: the service, its client and what the test knows of the chains.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
