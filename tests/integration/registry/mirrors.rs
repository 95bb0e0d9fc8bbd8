//! Mirrors as a `hosts.toml` names them: asked first, with what is theirs, and passed over when they fail or lie.

use std::path::Path;

use base64::Engine as _;
use tempfile::TempDir;

use super::*;
use crate::support::scripted_registry::{Act, Running, registry};

/// A configuration whose images of `upstream` have this `hosts.toml`.
fn hosts(upstream: &Running, text: &str) -> (TempDir, Config) {
    let dir = tempfile::tempdir().unwrap();
    write_hosts(dir.path(), upstream, text);
    let config = Config { config_path: vec![dir.path().to_owned()], ..config() };
    (dir, config)
}

fn write_hosts(dir: &Path, upstream: &Running, text: &str) {
    let folder = dir.join(format!("{}_{}_", upstream.address.ip(), upstream.address.port()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("hosts.toml"), text).unwrap();
}

fn named(mirror: &Running) -> String {
    format!("[host.\"http://{}\"]\n", mirror.address)
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_told_whose_images_it_stands_in_for() {
    let image = Sample::of_sizes(&[1 << 20]);
    let (mirror, upstream) = (registry().with("team/app", "1", &image), registry().with("team/app", "1", &image));
    let (mirror, upstream) = (mirror.run().await, upstream.run().await);
    let text = format!("{}[host.\"http://{}\".header]\nx-cluster = \"blue\"\n", named(&mirror), mirror.address);
    let (_dir, config) = hosts(&upstream, &text);
    let client = client(config);
    resolve(&client, &upstream.image("team/app:1")).await.unwrap();
    let blob = open(&client, &image, 0, upstream.origin("team/app")).await;
    assert_eq!(read(&blob).await.unwrap(), image.layers[0]);
    assert_eq!(upstream.seen("").len(), 0);
    let seen = mirror.seen("/v2/team/app/");
    assert_eq!(seen.len(), 3, "{seen:?}");
    for request in seen {
        let want = format!("ns=127.0.0.1%3A{}", upstream.address.port());
        assert!(request.target.ends_with(&want), "{}", request.target);
        assert_eq!(request.headers.get("x-cluster").map(String::as_str), Some("blue"));
    }
}

#[tokio::test]
async fn a_mirror_below_a_path_is_asked_there() {
    let image = Sample::of_sizes(&[1000]);
    let mirror = registry().with("cache/team/app", "1", &image).run().await;
    let upstream = registry().run().await;
    let text = format!("[host.\"http://{}/v2/cache\"]\noverride_path = true\n", mirror.address);
    let (_dir, config) = hosts(&upstream, &text);
    resolve(&client(config), &upstream.image("team/app:1")).await.unwrap();
    assert_eq!((mirror.seen("/v2/cache/team/app/").len(), upstream.seen("").len()), (2, 0));
}

#[tokio::test]
async fn what_a_mirror_does_not_have_or_breaks_over_is_had_from_the_upstream() {
    let image = Sample::of_sizes(&[1000]);
    for fault in [Act::Status(404, vec![]), Act::Status(503, vec![]), Act::Status(403, vec![]), Act::Silence] {
        let mirror = registry().always("", fault).run().await;
        let upstream = registry().with("app", "1", &image).run().await;
        let (_dir, config) = hosts(&upstream, &named(&mirror));
        let client = client(Config { response_timeout_secs: 2, ..config });
        resolve(&client, &upstream.image("app:1")).await.unwrap();
        assert!(!mirror.seen("manifests/1").is_empty() && !upstream.seen("manifests/1").is_empty());
    }
}

#[tokio::test]
async fn a_mirror_that_is_down_is_not_asked_again_for_a_while() {
    let image = Sample::of_sizes(&[1000]);
    let upstream = registry().with("app", "1", &image).run().await;
    let (down, other) =
        (registry().always("", Act::Silence).run().await, registry().with("app", "1", &image).run().await);
    let (_dir, config) = hosts(&upstream, &(named(&down) + &named(&other)));
    let client = client(Config { response_timeout_secs: 2, ..config });
    for _ in 0..3 {
        resolve(&client, &upstream.image("app:1")).await.unwrap();
    }
    assert_eq!(down.seen("").len(), 1);
    assert_eq!((other.seen("manifests/1").len(), upstream.seen("").len()), (3, 0));
}

#[tokio::test]
async fn a_mirror_that_lies_of_what_a_digest_names_is_found_out_and_passed_over() {
    let image = Sample::of_sizes(&[1000]);
    let name = format!("app@{}", image.manifest_digest());
    let mirror =
        registry().with("app", "1", &image).always("manifests/", Act::Bytes(Bytes::from_static(b"{}"))).run().await;
    let upstream = registry().with("app", "1", &image).run().await;
    let (_dir, config) = hosts(&upstream, &named(&mirror));
    let client = client(config);
    for _ in 0..2 {
        resolve(&client, &upstream.image(&name)).await.unwrap();
    }
    let seen = mirror.seen("manifests/");
    assert_eq!(seen.len(), 1, "it is not asked for the same again: {seen:?}");
}

#[tokio::test]
async fn a_blob_that_a_mirror_gave_wrongly_is_had_from_the_upstream_the_next_time() {
    let image = Sample::of_sizes(&[1000]);
    let mirror = registry()
        .with("app", "1", &image)
        .always("blobs/", Act::Bytes(vec![0; image.layers[0].len()].into()))
        .run()
        .await;
    let upstream = registry().with("app", "1", &image).run().await;
    let (_dir, config) = hosts(&upstream, &named(&mirror));
    let client = client(config);
    let blob = open(&client, &image, 0, upstream.origin("app")).await;
    assert_ne!(read(&blob).await.unwrap(), image.layers[0]);
    assert!(blob.was_wrong(), "there is another place");
    assert_eq!(read(&blob).await.unwrap(), image.layers[0]);
    assert!(!blob.was_wrong(), "the upstream is the last one");
}

#[tokio::test]
async fn a_mirror_is_asked_only_for_what_it_may_be_asked() {
    let image = Sample::of_sizes(&[1000]);
    let mirror = registry().with("app", "1", &image).run().await;
    let upstream = registry().with("app", "1", &image).run().await;
    let (_dir, config) = hosts(&upstream, &(named(&mirror) + "capabilities = [\"pull\"]\n"));
    resolve(&client(config), &upstream.image("app:1")).await.unwrap();
    let asked = |server: &Running, part: &str| server.seen(part).len();
    assert_eq!((asked(&mirror, "manifests/1"), asked(&upstream, "manifests/1")), (0, 1));
    assert_eq!((asked(&mirror, "blobs/"), asked(&upstream, "blobs/")), (1, 0));
}

#[tokio::test]
async fn each_host_gets_its_own_login_and_no_other() {
    let image = Sample::of_sizes(&[1000]);
    let header = |login: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(login));
    let mirror = registry().with("app", "1", &image).wants_basic(&header("mirror:m1")).run().await;
    let upstream = registry().with("app", "1", &image).wants_basic(&header("up:u1")).run().await;
    let (dir, config) = hosts(&upstream, &named(&mirror));
    let file = dir.path().join("config.json");
    let auth = |login: &str| base64::engine::general_purpose::STANDARD.encode(login);
    let text = serde_json::json!({"auths": {
        mirror.address.to_string(): {"auth": auth("mirror:m1")},
        upstream.address.to_string(): {"auth": auth("up:u1")},
    }});
    std::fs::write(&file, text.to_string()).unwrap();
    let client = client(Config { docker_config: vec![file], ..config });
    resolve(&client, &upstream.image("app:1")).await.unwrap();
    assert_eq!(upstream.seen("").len(), 0);
    mirror.add_rule(100, "", Act::Status(500, vec![]));
    resolve(&client, &upstream.image("app:1")).await.unwrap();
    let sent = |server: &Running| {
        let seen = server.seen("").into_iter();
        seen.filter_map(|request| request.headers.get("authorization").cloned()).collect::<Vec<_>>()
    };
    assert!(sent(&mirror).iter().all(|sent| *sent == header("mirror:m1")), "{:?}", sent(&mirror));
    assert!(sent(&upstream).iter().all(|sent| *sent == header("up:u1")), "{:?}", sent(&upstream));
}

#[tokio::test]
async fn a_file_that_changed_is_read_again_and_a_broken_one_is_named() {
    let image = Sample::of_sizes(&[1000]);
    let upstream = registry().with("app", "1", &image).run().await;
    let (_dir, config) = hosts(&upstream, "[host");
    let said = refused(&client(config.clone()), &upstream.image("app:1")).await;
    assert!(said.contains("hosts.toml") && said.contains("line 1"), "{said}");
    let mirror = registry().with("app", "1", &image).run().await;
    let client = client(config.clone());
    refused(&client, &upstream.image("app:1")).await;
    write_hosts(&config.config_path[0], &upstream, &named(&mirror));
    let used = async {
        while resolve(&client, &upstream.image("app:1")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), used).await.expect("the new file is used");
    assert!(!mirror.seen("manifests/1").is_empty());
}
