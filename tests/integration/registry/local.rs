//! Images with no registry at all: from a layout, from an archive, as skopeo writes them.

use std::process::Command;

use super::*;
use crate::support::sample::write_layout;

#[tokio::test]
async fn an_image_of_a_layout_is_resolved_and_read_without_a_network() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Sample::of_sizes(&[1000, 2000]), Sample::of_sizes(&[3000]));
    let layout = dir.path().join("layout");
    write_layout(&layout, &[("one", &one), ("two", &two)]);
    let archive = dir.path().join("two.tar");
    let copied = Command::new("skopeo")
        .args([
            "copy",
            "--quiet",
            &format!("oci:{}:two", layout.display()),
            &format!("oci-archive:{}:x", archive.display()),
        ])
        .status();
    assert!(copied.expect("the program skopeo is needed (Debian package skopeo)").success());
    let client = client(config());
    for (name, sample) in [
        (format!("oci:{}:one", layout.display()), &one),
        (format!("oci:{}:two", layout.display()), &two),
        (format!("oci-archive:{}", archive.display()), &two),
        (format!("oci-archive:{}:x", archive.display()), &two),
    ] {
        let got = resolve(&client, &name.parse().unwrap()).await.unwrap();
        assert_eq!(got.config, sample.config, "{name}");
        for (n, layer) in got.layers.iter().enumerate() {
            let blob = client.open(layer.digest, layer.size, got.origin.clone()).await.unwrap();
            assert_eq!(read(&blob).await.unwrap(), sample.layers[n]);
        }
    }
    assert_eq!(counts(&client), Default::default());
    let said = refused(&client, &format!("oci:{}", layout.display()).parse().unwrap()).await;
    assert!(said.contains("holds several images") && said.contains("one, two"), "{said}");
}

#[tokio::test]
async fn a_document_of_a_layout_that_is_not_what_its_digest_says_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = Sample::of_sizes(&[1000]);
    write_layout(dir.path(), &[("one", &image)]);
    let manifest = dir.path().join("blobs/sha256").join(image.manifest_digest().hex());
    let name = format!("oci:{}", dir.path().display()).parse().unwrap();
    let mut changed = image.manifest.to_vec();
    changed[5] ^= 1;
    std::fs::write(&manifest, &changed).unwrap();
    assert!(refused(&client(config()), &name).await.contains("is not what its digest says"));
    changed.push(b' ');
    std::fs::write(&manifest, &changed).unwrap();
    assert!(refused(&client(config()), &name).await.contains("were promised"));
    std::fs::remove_file(&manifest).unwrap();
    assert!(refused(&client(config()), &name).await.contains("is missing"));
}

#[tokio::test]
async fn a_layer_of_a_layout_has_the_size_of_its_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let image = Sample::of_sizes(&[1000]);
    write_layout(dir.path(), &[("one", &image)]);
    let origin = Origin(format!("oci:{}", dir.path().display()));
    let opened = client(config()).open(image.layer_digest(0), 7, origin).await.map(|_| ());
    assert!(matches!(opened, Err(BlobError::Size { want: 7, .. })), "{opened:?}");
}
