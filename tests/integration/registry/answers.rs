//! Answers that come late, wrong, or not at all: what is tried again, what is said.

use std::time::Instant;

use super::*;
use crate::support::ports;
use crate::support::scripted_registry::{Act, registry};

/// Well below the minute that a registry is tried for, and more than a busy machine takes.
const SOON: Duration = Duration::from_secs(40);

#[tokio::test]
async fn an_image_is_resolved_and_every_request_counted() {
    let image = Sample::of_sizes(&[1000, 2000]);
    let server = registry().with("app", "1", &image).run().await;
    let client = client(config());
    let got = resolve(&client, &server.image("app:1")).await.unwrap();
    assert_eq!((&got.manifest, &got.config), (&image.manifest, &image.config));
    assert_eq!(got.manifest_digest, image.manifest_digest());
    assert_eq!(got.origin, server.origin("app"));
    let layers: Vec<_> = got.layers.iter().map(|layer| (layer.digest, layer.diff_id, layer.size)).collect();
    let want = [0, 1].map(|n| (image.layer_digest(n), image.diff_ids[n], image.layers[n].len() as u64));
    assert_eq!(layers, want);
    let counts = counts(&client);
    assert_eq!((counts.requests, counts.blob_requests, counts.retries), (2, 0, 0));
    assert_eq!(counts.bytes, (image.manifest.len() + image.config.len()) as u64);
    assert!(server.seen("").iter().all(|seen| seen.headers["user-agent"].starts_with("oncefs/")));
}

#[tokio::test]
async fn a_registry_that_asks_for_a_pause_gets_it() {
    let image = Sample::of_sizes(&[1000]);
    let busy = Act::Status(429, vec![("Retry-After", "1".to_owned())]);
    let server = registry().with("app", "1", &image).once("manifests/1", busy).run().await;
    let (client, began) = (client(config()), Instant::now());
    resolve(&client, &server.image("app:1")).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(counts(&client).retries, 1);
}

#[tokio::test]
async fn a_registry_that_asks_for_too_long_a_pause_is_quoted() {
    let busy = Act::Status(429, vec![("Retry-After", "3600".to_owned())]);
    let server = registry().always("", busy).run().await;
    let said = refused(&client(config()), &server.image("app:1")).await;
    assert!(said.contains("asks to slow down") && said.contains("try again in 3600 s"), "{said}");
    assert_eq!(server.seen("").len(), 1);
}

#[tokio::test]
async fn a_registry_in_trouble_is_asked_again_but_not_for_ever() {
    let image = Sample::of_sizes(&[1000]);
    let trouble = || Act::Status(503, vec![]);
    let server = registry().with("app", "1", &image).times(2, "manifests/1", trouble()).run().await;
    resolve(&client(config()), &server.image("app:1")).await.unwrap();
    server.add_rule(usize::MAX, "manifests/1", trouble());
    let before = server.seen("").len();
    let said = refused(&client(config()), &server.image("app:1")).await;
    assert!(said.contains("answered 503"), "{said}");
    assert_eq!(server.seen("").len() - before, 4, "once and three retries");
}

#[tokio::test]
async fn a_connection_that_ends_in_the_manifest_is_tried_again() {
    let image = Sample::of_sizes(&[1000]);
    let server = registry().with("app", "1", &image).times(2, "manifests/1", Act::CutAfter(20)).run().await;
    resolve(&client(config()), &server.image("app:1")).await.unwrap();
    assert_eq!(server.seen("manifests/1").len(), 3);
}

#[tokio::test]
async fn an_image_that_is_not_there_is_named() {
    let server = registry().run().await;
    let said = refused(&client(config()), &server.image("some/app:7")).await;
    let name = format!("{}/some/app:7", server.address);
    assert!(said.contains(&format!("does not have {name} (MANIFEST_UNKNOWN); check name and tag")), "{said}");
    assert_eq!(server.seen("").len(), 1);
}

#[tokio::test]
async fn a_registry_that_says_nothing_hits_the_deadline() {
    let server = registry().always("", Act::Silence).run().await;
    let client = client(Config { retries: 0, response_timeout_secs: 1, ..config() });
    let said = refused(&client, &server.image("app:1")).await;
    assert!(said.contains("did not answer within 1 s when asked for"), "{said}");
}

#[tokio::test]
async fn where_nobody_listens_is_said_within_seconds() {
    let (address, began) = (ports::unused(), Instant::now());
    let image = format!("{address}/app:1").parse().unwrap();
    let said = refused(&client(Config { retries: 5, ..Config::default() }), &image).await;
    assert!(said.starts_with(&format!("cannot reach registry {address}: Connection refused")), "{said}");
    assert!(said.ends_with("check the name or the network"), "{said}");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_unknown_host_is_said_within_seconds() {
    let began = Instant::now();
    // RFC 6761: no such name ever exists.
    let said = refused(&client(Config::default()), &"registry.invalid/app:1".parse().unwrap()).await;
    assert!(said.starts_with("cannot reach registry registry.invalid:443: "), "{said}");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let server = registry().always("", Act::Redirect("/v2/app/manifests/1".to_owned())).run().await;
    let said = refused(&client(config()), &server.image("app:1")).await;
    assert!(said.contains("redirects"), "{said}");
    assert_eq!(server.seen("").len(), 1);
}

#[tokio::test]
async fn a_redirect_to_where_tls_is_missing_is_not_followed() {
    for (to, why) in [
        ("http://cdn.invalid/x?sig=hidden", "cdn.invalid:80, where it may not"),
        ("file:///etc/passwd", "where it may not"),
    ] {
        let server = registry().always("", Act::Redirect(to.to_owned())).run().await;
        let said = refused(&client(config()), &server.image("app:1")).await;
        assert!(said.contains(why) && !said.contains("hidden"), "{said}");
    }
}

#[tokio::test]
async fn what_is_no_registry_is_said() {
    let page = Act::Bytes(Bytes::from_static(b"<html>welcome</html>"));
    let image = Sample::of_sizes(&[10]);
    let server = registry().with("app", "1", &image).always("", page).run().await;
    let said = refused(&client(config()), &server.image("app:1")).await;
    assert!(said.contains("is no image that oncefs can use: manifest is not valid at line 1"), "{said}");
}
