//! What every blob promises, whatever is behind it.

use std::fs;

use oncefs::blob::InMemory;

use super::*;
use crate::support::sample::write_layout;
use crate::support::scripted_registry::{Act, registry};

async fn keeps_the_contract(blob: Arc<dyn Blob>, content: &Bytes) {
    let size = content.len() as u64;
    assert_eq!(blob.size(), size);
    assert_eq!(read(&blob).await.unwrap(), content, "the stream is the blob");
    assert_eq!(read(&blob).await.unwrap(), content, "and can be had again");
    for range in [0..size, 0..1, size - 1..size, 1..size - 1, size / 3..size / 2, 5..5, size..size] {
        let want = content.slice(range.start as usize..range.end as usize);
        assert_eq!(blob.range(range.clone()).await.unwrap(), want, "{range:?}");
    }
    for range in [0..size + 1, size..size + 1, size + 1..size + 1, u64::MAX - 1..u64::MAX] {
        assert!(matches!(blob.range(range.clone()).await, Err(BlobError::Size { .. })), "{range:?}");
    }
    let reversed = std::ops::Range { start: 5, end: 3 };
    assert!(blob.range(reversed).await.is_err());
    let many = futures::future::join_all((0..20).map(|at| blob.range(at * 7..at * 7 + 100))).await;
    for (at, got) in many.into_iter().enumerate() {
        assert_eq!(got.unwrap(), content[at * 7..at * 7 + 100], "twenty at once");
    }
    let mut left = blob.stream();
    assert!(left.next().await.unwrap().is_ok(), "a stream may be left in the middle");
}

#[tokio::test]
async fn a_blob_in_memory_keeps_it() {
    let image = Sample::of_sizes(&[300_000]);
    keeps_the_contract(Arc::new(InMemory(image.layers[0].clone())), &image.layers[0]).await;
}

#[tokio::test]
async fn a_blob_of_a_registry_keeps_it() {
    let image = Sample::of_sizes(&[300_000]);
    let server = registry().with("app", "1", &image).run().await;
    let client = client(config());
    keeps_the_contract(open(&client, &image, 0, server.origin("app")).await, &image.layers[0]).await;
}

#[tokio::test]
async fn a_blob_of_a_registry_that_knows_no_ranges_keeps_it() {
    let image = Sample::of_sizes(&[300_000]);
    let server = registry().with("app", "1", &image).always("blobs/", Act::Whole).run().await;
    let client = client(config());
    keeps_the_contract(open(&client, &image, 0, server.origin("app")).await, &image.layers[0]).await;
}

#[tokio::test]
async fn a_blob_that_lives_on_another_host_keeps_it() {
    let image = Sample::of_sizes(&[300_000]);
    let storage = registry().with("app", "1", &image).run().await;
    let target = format!("http://{}/v2/app/blobs/{}?signature=secret", storage.address, image.layer_digest(0));
    let server = registry().always("blobs/", Act::Redirect(target)).run().await;
    let client = client(config());
    keeps_the_contract(open(&client, &image, 0, server.origin("app")).await, &image.layers[0]).await;
}

#[tokio::test]
async fn a_blob_of_a_layout_keeps_it_and_so_does_one_of_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    let image = Sample::of_sizes(&[3_000_000]);
    let layout = dir.path().join("layout");
    write_layout(&layout, &[("1", &image)]);
    let archive = dir.path().join("archive.tar");
    let packed = std::process::Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&layout).arg(".").status();
    assert!(packed.unwrap().success());
    let client = client(config());
    for origin in [format!("oci:{}", layout.display()), format!("oci-archive:{}", archive.display())] {
        keeps_the_contract(open(&client, &image, 0, Origin(origin)).await, &image.layers[0]).await;
    }
    fs::remove_file(&archive).unwrap();
    let gone = client.open(image.layer_digest(0), 1, Origin(format!("oci-archive:{}", archive.display()))).await;
    assert!(gone.map(|_| ()).unwrap_err().to_string().contains("archive.tar"));
}
