//! Manifests, indexes and configs that are not what they should be.

use oncefs::digest::Digest;
use serde_json::{Value, json};

use super::*;
use crate::support::sample::{INDEX, MANIFEST, descriptor, index};
use crate::support::scripted_registry::{Act, registry};

fn changed(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let last = bytes.len() - 1;
    bytes[last] = b'\n';
    bytes.into()
}

#[tokio::test]
async fn a_manifest_that_is_not_what_its_digest_says_is_refused() {
    let image = Sample::of_sizes(&[1000]);
    let by_digest = format!("app@{}", image.manifest_digest());
    let lie = Act::Bytes(changed(&image.manifest));
    let server = registry().with("app", "1", &image).always("manifests/", lie).run().await;
    let said = refused(&client(config()), &server.image(&by_digest)).await;
    assert!(said.contains("the manifest of") && said.contains("is not what its digest says"), "{said}");
    assert!(said.contains(&format!("expected {}", image.manifest_digest())), "{said}");
    assert_eq!(server.seen("").len(), 1, "a lie is not asked for twice");
}

#[tokio::test]
async fn a_manifest_whose_header_names_another_digest_is_refused() {
    let image = Sample::of_sizes(&[1000]);
    let lie = Act::Header("Docker-Content-Digest", Digest::of(b"other").to_string());
    let server = registry().with("app", "1", &image).always("manifests/", lie).run().await;
    let said = refused(&client(config()), &server.image("app:1")).await;
    assert!(said.contains("is not what its digest says"), "{said}");
}

#[tokio::test]
async fn a_config_that_is_not_what_its_digest_says_is_refused() {
    let image = Sample::of_sizes(&[1000]);
    let lie = Act::Bytes(changed(&image.config));
    let server = registry().with("app", "1", &image).always("blobs/", lie).run().await;
    let said = refused(&client(config()), &server.image("app:1")).await;
    assert!(said.contains("the config of") && said.contains("is not what its digest says"), "{said}");
}

#[tokio::test]
async fn a_config_longer_or_shorter_than_promised_is_refused() {
    let image = Sample::of_sizes(&[1000]);
    for other in [image.config.slice(1..), [&image.config[..], b" "].concat().into()] {
        let server = registry().with("app", "1", &image).always("blobs/", Act::Bytes(other)).run().await;
        let said = refused(&client(config()), &server.image("app:1")).await;
        assert!(said.contains("the config of") && said.contains("were promised"), "{said}");
    }
}

#[tokio::test]
async fn a_manifest_too_large_is_not_read_to_its_end() {
    let image = Sample::of_sizes(&[1000]);
    let large = Bytes::from(vec![b' '; (4 << 20) + 1]);
    let server = registry().with("app", "1", &image).always("manifests/1", Act::Bytes(large.clone())).run().await;
    let said = refused(&client(config()), &server.image("app:1")).await;
    assert!(said.contains("has more bytes than the 4194304 that are allowed"), "{said}");
    // Without a length it is noticed on the way.
    let flood = Act::Chunked(0, large.to_vec());
    let server = registry().with("app", "1", &image).always("manifests/1", flood).run().await;
    let said = refused(&client(config()), &server.image("app:1")).await;
    assert!(said.contains("has more bytes than the 4194304 that are allowed"), "{said}");
}

#[tokio::test]
async fn a_config_that_promises_to_be_too_large_is_not_asked_for() {
    let image = Sample::of_sizes(&[1000]);
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["config"]["size"] = json!((8 << 20) + 1);
    let manifest = Bytes::from(manifest.to_string());
    let server = registry().with_manifest("app", "1", MANIFEST, &manifest).run().await;
    let said = refused(&client(config()), &server.image("app:1")).await;
    assert!(said.contains("the config of") && said.contains("8388608"), "{said}");
    assert_eq!(server.seen("blobs/").len(), 0);
}

#[tokio::test]
async fn the_platforms_own_manifest_is_found_in_an_index() {
    let (amd64, arm64) = (Sample::of_sizes(&[100]), Sample::on("arm64", &[200]));
    let index = index(&[arm64.entry("arm64"), amd64.entry("amd64")]);
    let server =
        registry().with("app", "amd64", &amd64).with("app", "arm64", &arm64).with_index("app", "1", &index).run().await;
    let client = client(config());
    for (platform, sample) in [("linux/amd64", &amd64), ("linux/arm64/v8", &arm64)] {
        let got = client.resolve(&server.image("app:1"), &platform.parse().unwrap()).await.unwrap();
        assert_eq!(got.manifest_digest, sample.manifest_digest(), "{platform}");
        assert_eq!(got.layers[0].digest, sample.layer_digest(0));
    }
    let by_digest = server.image(&format!("app@{}", Digest::of(&index)));
    assert_eq!(resolve(&client, &by_digest).await.unwrap().config, amd64.config);
    let missing = client.resolve(&server.image("app:1"), &"linux/s390x".parse().unwrap()).await.unwrap_err();
    let said = missing.to_string();
    assert!(said.ends_with("is not there for linux/s390x; there are: linux/amd64, linux/arm64"), "{said}");
}

#[tokio::test]
async fn an_image_for_another_machine_is_refused_where_no_index_says_so() {
    let image = Sample::on("arm64", &[100]);
    let server = registry().with("app", "1", &image).run().await;
    let said = refused(&client(config()), &server.image("app:1")).await;
    assert!(said.ends_with("is not there for linux/amd64; there are: linux/arm64"), "{said}");
}

#[tokio::test]
async fn indexes_within_indexes_end() {
    let image = Sample::of_sizes(&[100]);
    let mut script = registry().with("app", "image", &image);
    let mut below = image.entry("amd64");
    for depth in 1..=5 {
        let next = index(&[below]);
        below = descriptor(INDEX, &next);
        script = script.with_index("app", &format!("deep-{depth}"), &next);
    }
    let server = script.run().await;
    let client = client(config());
    assert!(resolve(&client, &server.image("app:deep-4")).await.is_ok());
    let said = refused(&client, &server.image("app:deep-5")).await;
    assert!(said.contains("more than 4 deep"), "{said}");
}

#[tokio::test]
async fn a_manifest_of_an_index_must_have_its_digest() {
    let image = Sample::of_sizes(&[100]);
    let digest = image.manifest_digest().to_string();
    let script = registry().with("app", "image", &image).with_index("app", "1", &index(&[image.entry("amd64")]));
    let server = script.always(&digest, Act::Bytes(changed(&image.manifest))).run().await;
    let said = refused(&client(config()), &server.image("app:1")).await;
    assert!(said.contains(&format!("the manifest {digest} of")) && said.contains("digest says"), "{said}");
}
