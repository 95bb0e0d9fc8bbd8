//! The bounded cache: what goes, what stays, and what is served without being kept.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use oncefs::digest::LayerDigest;
use oncefs::index::frames::FrameId;
use oncefs::store::{CacheConfig, Layer, Store, Uses};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use tempfile::TempDir;

use super::shelf::{Packing, Sample, Shelf, believing};

const LEN: usize = 4 << 20;

fn open(dir: &TempDir, samples: &[&Sample]) -> Store {
    Store::open(&dir.path().join("store"), believing(), Shelf::with(samples)).unwrap()
}

fn bounded(max_bytes: u64) -> CacheConfig {
    CacheConfig { max_bytes, high: 90, low: 60 }
}

/// Reads one frame in a millisecond that nothing was read in before.
fn touch(sample: &Sample, layer: &Layer, frame: u32) {
    let begun = SystemTime::now();
    while begun.elapsed().unwrap_or_default() < Duration::from_millis(2) {
        std::hint::spin_loop();
    }
    sample.read(layer, layer.frames().data_range(FrameId(frame)).unwrap()).unwrap();
}

/// Which frames are resident, without reading any.
fn kept(layer: &Layer) -> u64 {
    layer.resident_bytes()
}

fn uses(in_use: &[LayerDigest], pinned: &[LayerDigest]) -> Arc<dyn Fn() -> Uses + Send + Sync> {
    let (in_use, pinned) = (in_use.to_vec(), pinned.to_vec());
    Arc::new(move || Uses {
        in_use: in_use.iter().copied().collect::<HashSet<_>>(),
        pinned: pinned.iter().copied().collect(),
    })
}

#[tokio::test]
async fn what_was_not_read_for_longest_goes_first_also_after_a_restart() {
    let (old, new) = (Sample::new(1, LEN, Packing::Plain), Sample::new(3, LEN, Packing::Plain));
    let dir = TempDir::new().unwrap();
    let store = open(&dir, &[&old, &new]);
    let (old_layer, new_layer) = (old.put(&store).await, new.put(&store).await);
    let frames = old_layer.frames().len();
    touch(&old, &old_layer, 0);
    touch(&new, &new_layer, 0);
    touch(&old, &old_layer, frames - 1);
    drop((old_layer, new_layer, store));
    let store = open(&dir, &[&old, &new]);
    let (old_layer, new_layer) =
        (store.layer(&old.digest()).unwrap().unwrap(), store.layer(&new.digest()).unwrap().unwrap());
    store.evict_to(kept(&old_layer)).unwrap();
    assert_eq!(kept(&new_layer), 0, "the other was read last before the restart");
    // Within a layer, by the part that was read.
    for frame in [0, 2] {
        touch(&old, &old_layer, frame);
    }
    let bytes = |frame| old_layer.frames().data_range(FrameId(frame)).map(|range| range.end - range.start).unwrap();
    store.evict_to(bytes(0) + bytes(2)).unwrap();
    assert_eq!(old.resident(&old_layer), BTreeSet::from([0, 2]));
    assert_eq!(store.cache_usage().used_bytes, bytes(0) + bytes(2));
}

#[tokio::test]
async fn layers_in_use_go_after_the_others_and_pinned_ones_do_not() {
    let samples = [1, 3, 5].map(|seed| Sample::new(seed, LEN, Packing::Plain));
    let [used, idle, pinned] = &samples;
    let dir = TempDir::new().unwrap();
    let store = open(&dir, &[used, idle, pinned]);
    let layers = [used.put(&store).await, idle.put(&store).await, pinned.put(&store).await];
    store.set_uses(uses(&[used.digest()], &[pinned.digest()]));
    touch(idle, &layers[1], 0);
    let all: u64 = layers.iter().map(|layer| kept(layer)).sum();
    let gone = store.evict_to(all - 1).unwrap();
    assert!(gone.frames == 1 && gone.bytes > 0, "{gone:?}");
    assert!(layers[0].is_complete() && !layers[1].is_complete(), "used longest ago, but in use");
    store.evict_to(0).unwrap();
    assert_eq!((kept(&layers[0]), kept(&layers[1])), (0, 0));
    pinned.read(&layers[2], 0..pinned.tar.len() as u64).unwrap();
    for (sample, layer) in [(used, &layers[0]), (idle, &layers[1])] {
        layer.fill(0..layer.frames().len()).await.unwrap();
        sample.read(layer, 0..sample.tar.len() as u64).unwrap();
    }
}

#[tokio::test]
async fn the_bound_holds_while_layers_come_and_frames_are_filled() {
    let samples: Vec<Sample> = (1..5).map(|n| 2 * n + 1).map(|seed| Sample::new(seed, LEN, Packing::Plain)).collect();
    let dir = TempDir::new().unwrap();
    let store = open(&dir, &samples.iter().collect::<Vec<_>>());
    let max = 2 * LEN as u64;
    store.set_cache(bounded(max));
    let mut layers = Vec::new();
    for sample in &samples {
        layers.push(sample.put(&store).await);
        assert!(store.cache_usage().used_bytes <= max, "{:?}", store.cache_usage());
    }
    assert!(store.cache_usage().evicted.frames > 0);
    for (sample, layer) in samples.iter().zip(&layers) {
        for frame in 0..layer.frames().len() {
            layer.fill(frame..frame + 1).await.unwrap();
            assert!(store.cache_usage().used_bytes <= max, "{:?}", store.cache_usage());
            sample.read(layer, layer.frames().data_range(FrameId(frame)).unwrap()).unwrap();
        }
    }
}

/// A file that the kernel lets nobody change. Needs root.
struct Immutable(File);

impl Immutable {
    fn make(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let flags = ioctl_getflags(&file).unwrap();
        ioctl_setflags(&file, flags | IFlags::IMMUTABLE).unwrap();
        Self(file)
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let flags = ioctl_getflags(&self.0).unwrap();
        ioctl_setflags(&self.0, flags - IFlags::IMMUTABLE).unwrap();
    }
}

#[tokio::test]
async fn a_layer_that_cannot_let_go_of_its_frames_keeps_no_other_from_it() {
    let mut samples = [1, 3, 5].map(|seed| Sample::new(seed, LEN, Packing::Plain));
    samples.sort_by_key(Sample::digest);
    let [stuck, one, other] = &samples;
    let dir = TempDir::new().unwrap();
    let store = open(&dir, &[stuck, one, other]);
    stuck.put(&store).await;
    let layers = [one.put(&store).await, other.put(&store).await];
    let data = format!("store/layers/sha256/{}/data", stuck.digest().0.hex());
    let _until_the_end = Immutable::make(&dir.path().join(data));
    let failed = store.evict_to(0).unwrap_err();
    assert!(failed.to_string().contains(&stuck.digest().0.hex()), "{failed}");
    assert!(layers.iter().all(|layer| kept(layer) == 0));
    assert!(store.cache_usage().evicted.frames >= layers.iter().map(|layer| u64::from(layer.frames().len())).sum());
}

#[tokio::test]
async fn what_finds_no_room_beside_pinned_layers_is_served_and_not_kept() {
    let (pinned, other) = (Sample::new(1, LEN, Packing::Plain), Sample::new(3, LEN, Packing::Plain));
    let dir = TempDir::new().unwrap();
    let store = open(&dir, &[&pinned, &other]);
    let (pinned_layer, layer) = (pinned.put(&store).await, other.put(&store).await);
    store.set_uses(uses(&[], &[pinned.digest()]));
    store.set_cache(bounded(kept(&pinned_layer)));
    store.evict_to(0).unwrap();
    layer.fill(0..layer.frames().len()).await.unwrap();
    other.read(&layer, 0..other.tar.len() as u64).unwrap();
    other.read(&layer, 1000..LEN as u64 - 1000).unwrap();
    assert_eq!((kept(&layer), store.cache_usage().unkept_frames), (0, layer.frames().len().into()));
    assert!(pinned_layer.is_complete());
}
