//! Debian's docker-registry, filled by skopeo: what other people's programs write is read here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::*;
use crate::support::debian_registry::{Account, DebianRegistry};
use crate::support::sample::write_layout;

async fn reads_it_all(registry: &Registry, image: &Reference, sample: &Sample) {
    let got = resolve(registry, image).await.unwrap();
    assert_eq!(got.layers.len(), sample.layers.len());
    assert_eq!(got.config, sample.config);
    for (n, layer) in got.layers.iter().enumerate() {
        assert_eq!(layer.diff_id, sample.diff_ids[n]);
        let blob = registry.open(layer.digest, layer.size, got.origin.clone()).await.unwrap();
        let content = &sample.layers[n];
        assert_eq!(read(&blob).await.unwrap(), content);
        let (from, to) = (content.len() / 3, content.len() / 2);
        assert_eq!(blob.range(from as u64..to as u64).await.unwrap(), content[from..to]);
    }
}

#[tokio::test]
async fn an_image_that_skopeo_pushed_is_read_in_both_manifest_forms() {
    let dir = tempfile::tempdir().unwrap();
    let image = Sample::of_sizes(&[5_000_000, 1000]);
    write_layout(dir.path(), &[("one", &image)]);
    let server = DebianRegistry::start(None);
    server.push(dir.path(), "one", "images/app:oci", None, &[]);
    server.push(dir.path(), "one", "images/app:docker", None, &["--format", "v2s2"]);
    let client = client(config());
    let oci = resolve(&client, &server.image("images/app:oci")).await.unwrap();
    let docker = resolve(&client, &server.image("images/app:docker")).await.unwrap();
    assert_eq!(oci.media_type, "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(docker.media_type, "application/vnd.docker.distribution.manifest.v2+json");
    let digests = |resolved: &Resolved| resolved.layers.iter().map(|layer| layer.digest).collect::<Vec<_>>();
    assert_eq!(digests(&oci), digests(&docker));
    reads_it_all(&client, &server.image("images/app:oci"), &image).await;
    reads_it_all(&client, &server.image(&format!("images/app@{}", oci.manifest_digest)), &image).await;
    let said = refused(&client, &server.image("images/app:other")).await;
    assert!(said.contains("images/app:other (MANIFEST_UNKNOWN); check name and tag"), "{said}");
}

#[tokio::test]
async fn a_registry_with_passwords_is_read_with_the_right_one_only() {
    let dir = tempfile::tempdir().unwrap();
    let image = Sample::of_sizes(&[100_000]);
    write_layout(dir.path(), &[("one", &image)]);
    let account = Account { user: "someone", password: "hunter2" };
    let server = DebianRegistry::start(Some(&account));
    server.push(dir.path(), "one", "images/app:1", Some(&account), &[]);
    let file = dir.path().join("config.json");
    let log_in = |password: &str| {
        let auth = STANDARD.encode(format!("someone:{password}"));
        std::fs::write(&file, json!({"auths": {server.address.to_string(): {"auth": auth}}}).to_string()).unwrap();
    };
    let client = client(Config { docker_config: vec![file.clone()], ..config() });
    let name = server.image("images/app:1");
    let said = refused(&client, &name).await;
    assert!(said.contains("try 'docker login") && said.contains("config.json"), "{said}");
    log_in("wrong");
    let said = refused(&client, &name).await;
    assert!(said.contains("was not accepted"), "{said}");
    log_in("hunter2");
    reads_it_all(&client, &name, &image).await;
}

#[tokio::test]
async fn a_registry_that_dies_in_the_middle_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let image = Sample::of_sizes(&[64 << 20]);
    write_layout(dir.path(), &[("one", &image)]);
    let server = DebianRegistry::start(None);
    server.push(dir.path(), "one", "images/app:1", None, &[]);
    let client = client(Config { retries: 2, ..config() });
    let got = resolve(&client, &server.image("images/app:1")).await.unwrap();
    let blob = client.open(got.layers[0].digest, got.layers[0].size, got.origin).await.unwrap();
    let mut stream = blob.stream();
    assert!(stream.next().await.unwrap().is_ok());
    drop(server);
    let ended = async { while stream.next().await.unwrap().is_ok() {} };
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("it ends with an error");
    let said = blob.range(0..10).await.unwrap_err().to_string();
    assert!(said.contains("cannot reach registry 127.0.0.1:"), "{said}");
}
