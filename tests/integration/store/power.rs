//! Power loss while frames come and go: whatever part of the unflushed writes a disk has kept, each frame that is said to be there has its
//! bytes, and what was answered is there.
//!
//! `POWER_LOSSES` says how many are tried; they are spread over all that came to the disk.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use oncefs::digest::Digest;
use oncefs::store::{Config, ImageRecord, Layer, Store};

use super::shelf::{Packing, Sample, Shelf, origin};
use crate::support::recorded_disk::RecordedDisk;

/// In `make test`.
const LOSSES: usize = 15;

const ROUNDS: u32 = 6;
const PLATFORM: &str = "linux/amd64";

/// What is there once that much has come to the disk.
struct Answered {
    by: usize,
    what: What,
}

#[derive(Clone)]
enum What {
    Layer,
    Image(String),
    Pin(String),
    Quarantine,
}

fn open(root: &Path, samples: &[&Sample]) -> Store {
    // What the bitmap says is looked at, and not whether it is true.
    let config = Config { recheck: false, ..Config::default() };
    Store::open(root, config, Shelf::with(samples)).unwrap()
}

fn image(reference: &str) -> ImageRecord {
    ImageRecord {
        reference: reference.to_owned(),
        platform: PLATFORM.to_owned(),
        manifest_digest: Digest::of(reference.as_bytes()),
        manifest: vec![b'm'; 10_000],
        config: b"{}".to_vec(),
        origin: origin(),
        seen_at_secs: 1,
        kept: true,
    }
}

/// Frames are filled and evicted, with and without a sync between both, and all kinds of records written meanwhile.
async fn work(disk: &RecordedDisk, store: &Store, sample: &Sample, bad: &Sample) -> Vec<Answered> {
    let mut answered = Vec::new();
    let mut note = |what| answered.push(Answered { by: disk.now(), what });
    let layer = sample.put(store).await;
    note(What::Layer);
    let suspect = bad.put(store).await;
    let frames = layer.frames().len();
    for round in 0..ROUNDS {
        let reference = format!("image {round}");
        layer.drop_frames(round..round + 1).unwrap();
        store.remember_image(&image(&reference)).unwrap();
        note(What::Image(reference.clone()));
        layer.fill(0..frames).await.unwrap();
        if round % 2 == 0 {
            store.sync().unwrap();
        }
        store.put_pin(&reference, PLATFORM).unwrap();
        note(What::Pin(reference));
        store.evict_to(layer.data_bytes() / u64::from(round + 2)).unwrap();
        layer.fill(0..frames / 2).await.unwrap();
        if round % 3 == 0 {
            store.sync().unwrap();
        }
        if round == ROUNDS / 2 {
            store.quarantine(&suspect, "it lies").unwrap();
            note(What::Quarantine);
        }
    }
    answered
}

/// Opens the store as it is after a power loss, and compares what it says is there. Gives how many frames those are.
fn look(root: &Path, samples: [&Sample; 2], answered: &[What], what: &str) -> usize {
    let boot = root.join("notes/boot");
    if boot.exists() {
        // The machine has started again since.
        fs::write(boot, "the boot before").unwrap();
    }
    let store = open(root, &samples);
    // Who found it bad may have had no time to remove it: whoever asks for it does.
    store.layer(&samples[1].digest()).unwrap();
    let checked = store.check(false, &|_| {}).unwrap();
    assert!(checked.problems.is_empty(), "{what}: {:?}", checked.problems);
    let [sample, bad] = samples;
    let (images, pins) = (store.images().unwrap(), store.pins().unwrap());
    for answered in answered {
        let is_there = match answered {
            What::Layer => store.has(&sample.digest()),
            What::Image(reference) => images.contains(&image(reference)),
            What::Pin(reference) => pins.contains(&(reference.clone(), PLATFORM.to_owned())),
            What::Quarantine => store.quarantined(&bad.digest()).is_some(),
        };
        assert!(is_there, "{what}: something that was answered is gone");
    }
    let layer: Option<Arc<Layer>> = store.layer(&sample.digest()).unwrap();
    layer.map_or(0, |layer| sample.resident(&layer).len())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_power_loss_leaves_every_frame_that_is_there_has_its_bytes() {
    let disk = RecordedDisk::new();
    let root = disk.path().join("store");
    let (sample, bad) = (Sample::new(7, 9 << 20, Packing::Plain), Sample::new(9, 100_000, Packing::Gzip));
    let store = open(&root, &[&sample, &bad]);
    let begin = disk.now();
    let answered = work(&disk, &store, &sample, &bad).await;
    let end = disk.now();
    drop(store);
    let mut replay = tokio::task::spawn_blocking(|| disk.end()).await.unwrap();
    let losses = std::env::var("POWER_LOSSES").map_or(LOSSES, |losses| losses.parse().unwrap());
    let (began, mut partly) = (Instant::now(), 0);
    for loss in 0..losses {
        let cut = begin + (end - begin) * (loss + 1) / losses;
        // Nothing, all, or some of what was not flushed is kept.
        let keeps = move |number: usize| match loss % 3 {
            0 => false,
            1 => true,
            _ => (number * 7919 + loss * 104_729) % 5 < 3,
        };
        let what = format!("loss {loss}, at {cut} of {end}, {} unflushed", replay.unflushed(cut));
        let after = replay.disk(cut, keeps);
        let there = answered.iter().take_while(|answered| answered.by <= cut).map(|answered| &answered.what);
        let there = there.cloned().collect::<Vec<_>>();
        let frames = look(&after.path().join("store"), [&sample, &bad], &there, &what);
        partly += usize::from(frames > 0 && frames < 9);
    }
    assert!(partly > losses / 4, "frames neither came nor went: {partly} of {losses}");
    println!("{losses} power losses within {} writes and flushes: {:?}", end - begin, began.elapsed());
}
