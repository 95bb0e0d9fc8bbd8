//! Power loss: whatever part of the unflushed writes a disk has kept, the store opens, is whole, and has what was answered.
//!
//! `POWER_LOSSES` says how many are tried; they are spread over all that came to the disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use oncefs::digest::LayerDigest;
use oncefs::snapshotter::{Content, Filters, Snapshot, Snapshots};

use super::Known;
use super::served::{Client, Served, open_store};
use crate::store::shelf::{Packing, Sample};
use crate::support::recorded_disk::RecordedDisk;

const CHAIN: &str = "containerd.io/snapshot.ref";

/// In `make test`.
const LOSSES: usize = 24;

/// Snapshots by name: what they are, and their label.
type There = BTreeMap<String, String>;

/// The calls, and how much had come to the disk when each began and when it was answered.
#[derive(Default)]
struct Calls {
    begun: Vec<usize>,
    answered: Vec<usize>,
    /// What is there before the first, and after each.
    after: Vec<There>,
    /// When the scanned layer was in the store, and all done.
    scanned: usize,
    end: usize,
}

struct Caller<'a> {
    disk: &'a RecordedDisk,
    client: Client,
    there: There,
    calls: Calls,
}

impl Caller<'_> {
    /// Makes a call that has this effect.
    async fn call<T>(&mut self, call: impl Future<Output = T>, effect: impl FnOnce(&mut There)) -> T {
        self.calls.begun.push(self.disk.now());
        let answer = call.await;
        self.calls.answered.push(self.disk.now());
        effect(&mut self.there);
        self.calls.after.push(self.there.clone());
        answer
    }

    async fn prepare(&mut self, key: &str, parent: &str) {
        let client = self.client.clone();
        let made = |there: &mut There| drop(there.insert(key.to_owned(), "Active".to_owned()));
        self.call(client.prepare(key, parent, &[]), made).await.unwrap();
    }

    async fn commit(&mut self, name: &str, key: &str) {
        let client = self.client.clone();
        let made = |there: &mut There| {
            there.remove(key);
            there.insert(name.to_owned(), "Committed".to_owned());
        };
        self.call(client.commit(name, key, "", &[]), made).await.unwrap();
    }

    async fn label(&mut self, key: &str, kind: &str, value: &str) {
        let client = self.client.clone();
        let labelled = |there: &mut There| drop(there.insert(key.to_owned(), format!("{kind} {value}")));
        self.call(client.update(key, &[("x", value)], &["labels.x"]), labelled).await.unwrap();
    }

    async fn remove(&mut self, key: &str) {
        let client = self.client.clone();
        self.call(client.remove(key), |there| drop(there.remove(key))).await.unwrap();
    }

    async fn serve(&mut self, known: &Known, name: &str) {
        let (client, chain) = (self.client.clone(), known.know(name).to_string());
        let served = |there: &mut There| drop(there.insert(format!("remote {chain}"), "Committed".to_owned()));
        self.call(client.prepare("extract", "", &[(CHAIN, &chain)]), served).await.unwrap_err();
    }
}

/// All kinds of calls, and a scan before them.
async fn work(disk: &RecordedDisk, sample: &Sample) -> (Calls, PathBuf) {
    let dir = tempfile::tempdir_in(disk.path()).unwrap();
    let root = Path::new(dir.path().file_name().unwrap()).join("root");
    let store = open_store(&disk.path().join(&root));
    sample.put(&store).await;
    let calls = Calls { scanned: disk.now(), after: vec![There::new()], ..Calls::default() };
    drop(store);
    let mut served = Served::start_in(dir).await;
    let mut caller = Caller { disk, client: served.client.clone(), there: There::new(), calls };
    for round in 0..6 {
        let (key, name) = (format!("key {round}"), format!("name {round}"));
        caller.prepare(&key, "").await;
        caller.commit(&name, &key).await;
        caller.serve(&served.known, &format!("chain {round}")).await;
        caller.prepare(&key, &name).await;
        caller.label(&key, "Active", "one").await;
        if round % 2 == 0 {
            caller.remove(&key).await;
            caller.remove(&name).await;
        }
    }
    let Caller { mut calls, client, .. } = caller;
    calls.end = disk.now();
    drop(client);
    served.stop();
    served.stopped().await;
    (calls, root)
}

/// Opens the store as it is after a power loss: it is whole. Gives the snapshots.
fn look(root: &Path, layer: Option<LayerDigest>, what: &str) -> There {
    let boot = root.join("notes/boot");
    if boot.exists() {
        // The machine has started again since.
        std::fs::write(boot, "the boot before").unwrap();
    }
    let store = open_store(root);
    let checked = store.check(false, &|_| {}).unwrap();
    assert!(checked.problems.is_empty(), "{what}: {:?}", checked.problems);
    if let Some(layer) = layer {
        assert!(store.layer(&layer).unwrap().is_some_and(|layer| layer.is_complete()), "{what}: no layer");
    }
    let run = tempfile::tempdir().unwrap();
    let known = Arc::new(Known::new(run.path().join("fs")));
    let snapshots = Snapshots::open(store, known, run.path().join("mapped")).unwrap();
    let there = snapshots.list(&Filters::parse::<&str>(&[]).unwrap());
    let named = |snapshot: &Snapshot| {
        let label = snapshot.labels.get("x").map_or(String::new(), |value| format!(" {value}"));
        let name = match snapshot.content {
            Content::Remote(chain) => format!("remote {chain}"),
            Content::Directory => {
                let directory = root.join(format!("snapshots/{}/fs", snapshot.id));
                assert!(directory.is_dir(), "{what}: {} has no directory", snapshot.name);
                snapshot.name.to_string()
            }
        };
        (name, format!("{:?}{label}", snapshot.kind))
    };
    there.iter().map(|snapshot| named(snapshot)).collect()
}

impl Calls {
    /// What was answered before the loss is there; of the call that was under way, all or nothing.
    #[track_caller]
    fn judge(&self, cut: usize, there: &There, what: &str) {
        let answered = self.answered.iter().take_while(|answered| **answered <= cut).count();
        let is_under_way = self.begun.get(answered).is_some_and(|begun| *begun <= cut);
        let after = &self.after[answered];
        let is_right = there == after || is_under_way && there == &self.after[answered + 1];
        assert!(is_right, "{what}, {answered} calls answered: {there:#?} is there, not {after:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_power_loss_leaves_has_all_that_was_answered() {
    let disk = RecordedDisk::new();
    let sample = Sample::new(7, 1_000_000, Packing::Gzip);
    let (calls, root) = work(&disk, &sample).await;
    let mut replay = tokio::task::spawn_blocking(|| disk.end()).await.unwrap();
    let losses = std::env::var("POWER_LOSSES").map_or(LOSSES, |losses| losses.parse().unwrap());
    let begin = Instant::now();
    for loss in 0..losses {
        let cut = calls.end * (loss + 1) / losses;
        // Nothing, all, or some of what was not flushed is kept.
        let keeps = move |number: usize| match loss % 3 {
            0 => false,
            1 => true,
            _ => (number * 7919 + loss * 104_729) % 5 < 3,
        };
        let what = format!("loss {loss}, at {cut} of {}, {} unflushed", calls.end, replay.unflushed(cut));
        let layer = (calls.scanned <= cut).then_some(sample.digest());
        let after = replay.disk(cut, keeps);
        let looking = (after.path().join(&root), what.clone());
        let there = tokio::task::spawn_blocking(move || look(&looking.0, layer, &looking.1)).await.unwrap();
        calls.judge(cut, &there, &what);
        assert!(!after.path().join(&root).join("db.broken-0").exists(), "{what}: a broken database");
    }
    println!("{losses} power losses within {} writes and flushes: {:?}", calls.end, begin.elapsed());
}
