//! A node under load, whose server is killed again and again in the middle of all that it does: scans, fills, evictions, calls of
//! containerd's, flushes of the database, and the takeover of what the server before left.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use oncefs::digest::Digest;
use rustix::process::Pid;

use super::harness::{CRI_NAMESPACE, Images, Node, Snapshotter};
use super::images::{Image, shell, with_shell};
use super::killed::Ending;
use super::snapshots::Snapshots;
use crate::cli::image::{Layer, Tar};
use crate::cli::node::{mounts_below, names_in, until};
use crate::support::sample;
use crate::takeover::stage::{Readers, kill, kills, layers_of_files, moment, until_at_once};

/// A third of what is read: whoever reads drives out what others read.
const CACHE: &str = "[cache]\nmax_bytes = 9000000\n";

/// Namespace of the snapshots that no image is of.
const LOAD: &str = "load";

/// A container ends so whose image has not the bytes that it should have.
const WRONG: i32 = 77;

/// Those who use the node while its server dies, and what they got done.
struct Load<'a> {
    node: &'a Node,
    lease: String,
    is_over: AtomicBool,
    calls: AtomicUsize,
    pulls: AtomicUsize,
    whole: AtomicUsize,
    prunes: AtomicUsize,
}

/// Snapshots that were said to be there, and to be gone.
#[derive(Default)]
struct Said {
    there: Vec<String>,
    gone: Vec<String>,
}

/// What a server and its keeper hold.
#[derive(Debug, PartialEq, Eq)]
struct Holds {
    mounts: Vec<PathBuf>,
    run: Vec<String>,
    keeper: Vec<String>,
    connections: usize,
}

#[test]
fn a_node_under_load_loses_nothing_and_reads_nothing_wrong_when_its_server_is_killed_in_the_middle_of_everything() {
    let images = Images::of(&["pause"]);
    let (layers, files) = layers_of_files(5);
    let (shown, (comes, digest)) = (with_shell(&layers), comes());
    let (shown, comes) = (images.add(&shown, "load/shown:1"), images.add(&comes, "load/comes:1"));
    let node = Node::configured(Snapshotter::OncefsKept, &images.reference("pause"), CACHE);
    node.cri.pull(&shown).unwrap();
    let pod = node.cri.run_pod("load");
    let reads = "while [ $(cat /layer3/file39 | wc -c) = 503452 ]; do :; done";
    let (container, quiet) = (pod.start("reads", &shown, &["sh", "-c", reads]), ["sh", "-c", "exec sleep 100000"]);
    let quiet = pod.start("quiet", &shown, &quiet);
    let tasks = node.containerd.dir().join("state/io.containerd.runtime.v2.task").join(CRI_NAMESPACE);
    let (files, below) = (Arc::new(files), tasks.join(&quiet.id).join("rootfs"));
    let before = Holds::now(&node);
    let readers = Readers::start(8, &below, &files);
    let load = Load::on(&node);
    let said: Vec<Said> = std::thread::scope(|scope| {
        let load = &load;
        let callers: Vec<_> = (0..3).map(|thread| scope.spawn(move || load.call(thread))).collect();
        let others = [scope.spawn(|| load.pull(&comes, &digest)), scope.spawn(|| load.prune())];
        let ending = Ending(&load.is_over);
        (0..kills(12)).for_each(|number| kill_one(&node, number, &readers, load));
        until("all of them did something", || load.has_done_all());
        drop(ending);
        others.into_iter().for_each(|other| other.join().unwrap());
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(readers.stop(), Vec::<String>::new());
    assert!(container.is_running() && quiet.is_running(), "{}", container.said());
    load.assert_is_so(&said);
    load.collect();
    load.assert_alike();
    until("what was held is held, and nothing else", || Holds::now(&node) == before);
    eprintln!(
        "{} calls, {} pulls, {} of them run, {} prunes",
        load.count(&load.calls),
        load.count(&load.pulls),
        load.count(&load.whole),
        load.count(&load.prunes)
    );
    pod.remove();
    for image in [&shown, &comes, &images.reference("pause")] {
        node.cri.remove_image(image);
    }
    load.leave(&said);
    until("the layers are gone from the disk", || node.oncefs().layers().is_empty());
    until("the snapshots are gone from the disk", || node.oncefs().snapshot_dirs().is_empty());
    assert_eq!(names_in(&node.oncefs().root().join("staging")), Vec::<String>::new());
    // No kill may look like a broken database.
    assert!(!node.oncefs().root().join("db.broken-0").exists(), "{}", node.oncefs().log());
    load.assert_alike();
}

/// An image, and the digest of the file in it.
fn comes() -> (Image, String) {
    let content = sample::noise(5_000_000, 82);
    let layer = Layer::gzip(&Tar::new().file("opt/noise", &content).done());
    (Image::of(&[shell(), layer]), Digest::of(&content).hex())
}

/// At its moment; every third one while it takes over, when the last one has just died.
fn kill_one(node: &Node, number: u64, readers: &Readers, load: &Load<'_>) {
    let service = node.oncefs();
    let server = || service.keeper_and_server().1;
    let (reads, calls) = (readers.reads(), load.calls.load(Ordering::Relaxed));
    if number % 3 == 2 {
        let last = server();
        kill(last);
        until_at_once("the next server begins", || server().is_some_and(|now| Some(now) != last));
        std::thread::sleep(moment(number) / 3);
    } else {
        std::thread::sleep(moment(number));
    }
    let last = server();
    kill(last);
    until("another server answers", || service.server().is_some_and(|now| Some(now) != last));
    until("the readers and the callers go on", || {
        readers.reads() > reads + 20 && load.calls.load(Ordering::Relaxed) > calls
    });
}

/// What containerd says when its snapshotter goes away in the middle of a call.
const AWAY: [&str; 3] = ["unavailable", "error reading from server", "connection re"];

// === impl Load ===

impl<'a> Load<'a> {
    fn on(node: &'a Node) -> Self {
        let lease = node.containerd.ctr(LOAD, &["leases", "create"]).end().well().out.trim().to_owned();
        let (calls, pulls, whole, prunes) = Default::default();
        Self { node, lease, is_over: AtomicBool::new(false), calls, pulls, whole, prunes }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn count(&self, what: &AtomicUsize) -> usize {
        what.load(Ordering::Relaxed)
    }

    fn has_done_all(&self) -> bool {
        let all = [&self.calls, &self.pulls, &self.whole, &self.prunes];
        all.iter().all(|what| self.count(what) > 2)
    }

    fn snapshots(&self) -> Snapshots<'a> {
        Snapshots::at(&self.node.runtime, &self.node.containerd.socket(), LOAD).under(&self.lease)
    }

    /// Prepares, commits and removes, through containerd. A call that fails in the middle is undone as its clients do.
    fn call(&self, thread: usize) -> Said {
        let (mut calls, mut said) = (self.snapshots(), Said::default());
        for number in (0..).take_while(|_| !self.is_over()) {
            let (key, name) = (format!("key-{thread}-{number}"), format!("name-{thread}-{number}"));
            if calls.prepare(&key, "", &[]).is_err() {
                continue;
            }
            self.calls.fetch_add(1, Ordering::Relaxed);
            match number % 3 {
                0 => said.there.push(key),
                1 if calls.commit(&name, &key).is_ok() => {
                    said.there.push(name);
                    said.gone.push(key);
                }
                _ => {
                    calls.remove(&key).unwrap();
                    said.gone.extend([key, name]);
                }
            }
        }
        said
    }

    /// Pulls an image, which scans its layers, runs it, and removes it with all that is its own.
    fn pull(&self, image: &str, digest: &str) {
        let node = self.node;
        let look = format!("[ \"$(sha256sum /opt/noise)\" = '{digest}  /opt/noise' ] || exit {WRONG}");
        for number in (0..).take_while(|_| !self.is_over()) {
            if node.cri.pull(image).is_ok() {
                self.pulls.fetch_add(1, Ordering::Relaxed);
                let name = format!("comes-{number}");
                let ran = node.containerd.run(CRI_NAMESPACE, &["--rm"], image, &name, &["sh", "-c", &look]).end();
                assert_ne!(ran.code, Some(WRONG), "wrong bytes: {ran:?}");
                if ran.code == Some(0) {
                    self.whole.fetch_add(1, Ordering::Relaxed);
                } else {
                    // It was not even made, as whoever should make its snapshot was away. Any other end is one that it noticed.
                    let was_away = |said| ran.err.to_lowercase().contains(said);
                    let is_known = ran.code == Some(1) && AWAY.into_iter().any(was_away);
                    assert!(is_known, "{name} ended otherwise: {ran:?}");
                    node.containerd.ctr(CRI_NAMESPACE, &["containers", "rm", &name]).end();
                }
            }
            let _collected_later = node.cri.try_to_remove_image(image);
        }
    }

    /// Drives out all that was read.
    fn prune(&self) {
        while !self.is_over() {
            self.node.oncefs().oncefs(&["prune", "--all"]).well();
            self.prunes.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What was answered is so. containerd leaves out of its list what its snapshotter has lost.
    fn assert_is_so(&self, said: &[Said]) {
        let names: Vec<String> = self.snapshots().list().into_iter().map(|info| info.name).collect();
        for Said { there, gone } in said {
            assert!(there.iter().all(|name| names.contains(name)), "{there:?} are not all in {names:?}");
            assert!(gone.iter().all(|name| !names.contains(name)), "some of {gone:?} are still in {names:?}");
        }
    }

    /// Has containerd look for what it does not know, as it does after something was removed.
    fn collect(&self) {
        let mut snapshots = self.snapshots();
        snapshots.prepare("collect", "", &[]).unwrap();
        snapshots.remove("collect").unwrap();
        self.node.collect_garbage();
    }

    /// containerd and oncefs know the same, and all that is here is as it should be.
    fn assert_alike(&self) {
        let socket = format!("--containerd={}", self.node.containerd.socket().display());
        let said = self.node.oncefs().oncefs(&["check", &socket]).well().out;
        assert!(said.contains("all is well") && said.contains("neither has others"), "{said}");
    }

    fn leave(&self, said: &[Said]) {
        let mut snapshots = self.snapshots();
        said.iter().flat_map(|said| &said.there).for_each(|name| snapshots.remove(name).unwrap());
        self.collect();
    }
}

// === impl Holds ===

impl Holds {
    fn now(node: &Node) -> Self {
        let (keeper, server) = node.oncefs().keeper_and_server();
        let (mut run, mut kept) = (names_in(&node.oncefs().run_dir()), descriptors(keeper));
        run.sort();
        kept.sort();
        let connections = descriptors(server).iter().filter(|name| *name == "/dev/fuse").count();
        Self { mounts: mounts_below(&node.path("")), run, keeper: kept, connections }
    }
}

/// What a process has open, without numbers.
fn descriptors(pid: Option<Pid>) -> Vec<String> {
    let dir = format!("/proc/{}/fd", pid.unwrap().as_raw_nonzero());
    let open = names_in(dir.as_ref()).into_iter().filter_map(|name| std::fs::read_link(format!("{dir}/{name}")).ok());
    open.map(|target| target.display().to_string().split(':').next().unwrap_or_default().to_owned()).collect()
}
