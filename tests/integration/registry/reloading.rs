//! Another configuration while the client is at work, and what is counted meanwhile.

use oncefs::metrics;
use oncefs::registry::{Login, Repository};

use super::*;
use crate::support::scripted_registry::{Act, Running, registry};

/// A folder of containerd's that sends the images of one to the other.
fn mirrored(from: &Running, to: &Running) -> (tempfile::TempDir, Config) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(format!("{}_{}_", from.address.ip(), from.address.port()));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("hosts.toml"), format!("[host.\"http://{}\"]\n", to.address)).unwrap();
    let config = Config { config_path: vec![dir.path().to_owned()], ..config() };
    (dir, config)
}

#[tokio::test]
async fn a_new_configuration_counts_for_blobs_that_are_open_and_leaves_what_is_under_way() {
    let image = Sample::of_sizes(&[1 << 20]);
    let old = registry().with("app", "1", &image).run().await;
    let new = registry().with("app", "1", &image).run().await;
    let client = client(config());
    let blob = open(&client, &image, 0, old.origin("app")).await;
    let mut under_way = blob.stream();
    let first = under_way.next().await.unwrap().unwrap();
    let (_dir, config) = mirrored(&old, &new);
    client.reload(&config).unwrap();
    assert_eq!(blob.range(0..10).await.unwrap(), image.layers[0][..10]);
    assert_eq!((old.seen("blobs/").len(), new.seen("blobs/").len()), (1, 1));
    let mut bytes = first.to_vec();
    while let Some(piece) = under_way.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    assert_eq!(bytes, image.layers[0]);
    assert_eq!(old.seen("blobs/").len(), 1, "it was not asked for again");
}

#[tokio::test]
async fn what_was_learned_and_counted_stays_and_a_bad_configuration_changes_nothing() {
    let image = Sample::of_sizes(&[1000]);
    let server = registry().with("app", "1", &image).wants_basic("Basic dTpw").run().await; // u:p
    let client = client(config());
    let repository: Repository = format!("{}/app", server.address).parse().unwrap();
    client.learn(&repository, Login { auth: "dTpw".into(), ..Login::default() });
    resolve(&client, &server.image("app:1")).await.unwrap();
    let before = counts(&client);
    let bad = Config { ca_files: vec!["/nonexistent.pem".into()], ..config() };
    assert!(client.reload(&bad).unwrap_err().to_string().contains("/nonexistent.pem"));
    client.reload(&Config { retries: 1, ..config() }).unwrap();
    assert_eq!(counts(&client), before);
    resolve(&client, &server.image("app:1")).await.unwrap();
    assert!(counts(&client).requests > before.requests);
}

#[tokio::test]
async fn every_request_and_failure_is_counted_by_how_it_ended() {
    let image = Sample::of_sizes(&[1000]);
    let elsewhere = registry().with("app", "1", &image).run().await;
    let layer = image.layer_digest(0);
    let server = registry()
        .with("app", "1", &image)
        .wants_token()
        .always(&format!("blobs/{layer}"), Act::Redirect(format!("http://{}/v2/app/blobs/{layer}", elsewhere.address)))
        .run()
        .await;
    let client = client(config());
    let mut shown = metrics::Registry::default();
    client.counters().register(&mut shown);
    let count = |series: &str| {
        let text = metrics::encode(&shown);
        let line = text.lines().find(|line| line.split(' ').next() == Some(series));
        line.unwrap_or_else(|| panic!("{series} is missing in\n{text}")).rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(count("registry_outcomes_total{outcome=\"server_error\"}"), "0");
    resolve(&client, &server.image("app:1")).await.unwrap();
    let blob = open(&client, &image, 0, server.origin("app")).await;
    read(&blob).await.unwrap();
    refused(&client, &server.image("app:none")).await;
    server.add_rule(2, "manifests/", Act::Status(503, vec![]));
    resolve(&client, &server.image("app:1")).await.unwrap();
    let want = [("success", "6"), ("moved", "1"), ("denied", "1"), ("not_found", "1"), ("server_error", "2")];
    for (outcome, want) in want {
        assert_eq!(count(&format!("registry_outcomes_total{{outcome=\"{outcome}\"}}")), want, "{outcome}");
    }
    assert_eq!(count("registry_failures_total{cause=\"not_found\"}"), "1");
    assert_eq!(count("registry_failures_total{cause=\"status\"}"), "0", "it was asked again and answered");
    assert_eq!(count("registry_retries_total"), "2");
}
