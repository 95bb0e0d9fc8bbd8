//! Disks that give back nothing, or take nothing, of one file at a time. Needs root, for mounting.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use oncefs::blob::InMemory;
use oncefs::index::scan::{self, Limits, Progress};
use oncefs::store::{Config, Layer, Store, StoreError};

use super::shelf::{Packing, Sample, Shelf, origin};
use crate::support::recorded_disk::RecordedDisk;

fn open(disk: &RecordedDisk, sample: &Sample) -> Store {
    // What the bitmap says is looked at, and not whether it is true.
    let config = Config { recheck: false, ..Config::default() };
    Store::open(&disk.path().join("store"), config, Shelf::with(&[sample])).unwrap()
}

/// A file of the sample's layer, below the disk.
fn file(sample: &Sample, name: &str) -> String {
    format!("store/layers/sha256/{}/{name}", sample.digest().0.hex())
}

/// Whether a block is one of this kind of file of the sample's layer.
fn is_of(sample: &Sample, name: &str) -> impl Fn(&[u8]) -> bool + Send + 'static {
    let begin = match name {
        "frames" => &b"1cFRAMES"[..],
        "resident" => b"oncefsR1",
        _ => b"",
    };
    let data: HashSet<Vec<u8>> = match name {
        "data" => sample.tar.chunks(4096).map(<[u8]>::to_vec).collect(),
        _ => HashSet::new(),
    };
    let is_tree = name == "tree"; // an EROFS, known by its superblock
    move |block| {
        !begin.is_empty() && block.starts_with(begin)
            || data.contains(block)
            || is_tree && block.get(1024..1028) == Some(&[0xe2, 0xe1, 0xf5, 0xe0])
    }
}

fn open_layer(store: &Store, sample: &Sample) -> Arc<Layer> {
    store.layer(&sample.digest()).unwrap().unwrap()
}

/// Reads all of it as a reader does: what is found not to be there is filled, and read again.
async fn assert_whole(layer: &Arc<Layer>, sample: &Sample) {
    for _ in 0..4 {
        layer.fill(0..layer.frames().len()).await.unwrap();
        if sample.read(layer, 0..sample.tar.len() as u64).is_some() {
            return;
        }
    }
    panic!("it does not come to be there");
}

/// The kernel tells of it once, and takes the pages for written then.
#[tokio::test]
async fn frames_that_never_came_to_the_disk_are_fetched_again() {
    let sample = Sample::new(1, 5 << 20, Packing::Plain);
    let disk = RecordedDisk::new();
    let store = open(&disk, &sample);
    let layer = sample.put(&store).await;
    layer.drop_frames(0..layer.frames().len()).unwrap();
    layer.fill(0..1).await.unwrap();
    store.sync().unwrap();

    disk.refuses(is_of(&sample, "data"));
    layer.fill(1..3).await.unwrap();
    store.sync().unwrap_err();
    disk.fails(false, false, "store/layers");
    layer.fill(3..4).await.unwrap();
    store.sync().unwrap();
    disk.forgets("store/layers");
    assert_eq!(sample.resident(&layer), [0, 3].into());
    drop((layer, store));

    disk.forgets("store/layers");
    let store = open(&disk, &sample);
    let layer = open_layer(&store, &sample);
    assert_eq!(sample.resident(&layer), [0, 3].into());
    assert_whole(&layer, &sample).await;
    store.sync().unwrap();
    disk.forgets("store/layers");
    assert!(layer.is_complete());
    sample.read(&layer, 0..sample.tar.len() as u64).unwrap();
}

#[tokio::test]
async fn a_layer_of_which_the_disk_does_not_take_a_file_leaves_the_store_as_it_was() {
    let sample = Sample::new(1, 1 << 20, Packing::Gzip);
    for name in ["data", "tree", "frames", "resident"] {
        let disk = RecordedDisk::new();
        let store = open(&disk, &sample);
        let receiving = store.receive(&sample.digest()).unwrap();
        let (blob, progress) = (InMemory(sample.blob.clone()), Arc::new(Progress::default()));
        let scanned = scan::scan(&sample.layered, &blob, receiving.parts(), &Limits::default(), &progress).await;
        disk.refuses(is_of(&sample, name));
        let failed = receiving.finish(scanned.unwrap(), origin()).unwrap_err();
        assert!(matches!(&failed, StoreError::Io { path, .. } if path.ends_with(name)), "{name}: {failed}");
        assert!(!store.has(&sample.digest()));
        assert_eq!(fs::read_dir(disk.path().join("store/staging")).unwrap().count(), 0);
        disk.fails(false, false, "store");
        assert_whole(&sample.put(&store).await, &sample).await;
    }
}

#[tokio::test]
async fn a_bitmap_that_the_disk_does_not_take_is_written_later() {
    let sample = Sample::new(1, 5 << 20, Packing::Plain);
    let disk = RecordedDisk::new();
    let store = open(&disk, &sample);
    let layer = sample.put(&store).await;
    disk.refuses(is_of(&sample, "resident"));
    layer.drop_frames(1..3).unwrap_err();
    assert_eq!(sample.resident(&layer), (0..layer.frames().len()).filter(|frame| !(1..3).contains(frame)).collect());
    layer.fill(1..2).await.unwrap();
    store.sync().unwrap_err();
    assert!(sample.resident(&layer).contains(&1), "its bytes are on the disk");
    disk.fails(false, false, "store/layers");
    store.sync().unwrap();
    layer.drop_frames(0..1).unwrap();
    drop((layer, store));
    disk.forgets("store/layers");
    let store = open(&disk, &sample);
    let layer = open_layer(&store, &sample);
    assert_eq!(sample.resident(&layer), (1..layer.frames().len()).filter(|frame| *frame != 2).collect());
    assert_whole(&layer, &sample).await;
}

#[tokio::test]
async fn a_file_that_the_disk_does_not_give_back_costs_what_only_it_knows() {
    let sample = Sample::new(1, 3 << 20, Packing::Gzip);
    for name in ["data", "tree", "frames", "resident"] {
        let disk = RecordedDisk::new();
        let store = open(&disk, &sample);
        sample.put(&store).await;
        drop(store);
        disk.loses(&file(&sample, name));
        let store = open(&disk, &sample);
        match store.layer(&sample.digest()).unwrap() {
            // What it has there is had again.
            Some(layer) => {
                assert!(["data", "resident"].contains(&name), "{name} was read");
                assert_whole(&layer, &sample).await;
            }
            None => {
                assert!(["tree", "frames"].contains(&name), "{name} has cost the layer");
                assert_whole(&sample.put(&store).await, &sample).await;
            }
        }
        drop(store);
        disk.fails(false, false, "store/layers");
        let store = open(&disk, &sample);
        let layer = open_layer(&store, &sample);
        sample.resident(&layer);
        assert!(Path::new(&disk.path().join(file(&sample, name))).exists());
        assert_whole(&layer, &sample).await;
    }
}
