//! Layers on their way: ranges, breaks, stalls, lies about length, storage on other hosts.

use std::time::Instant;

use super::*;
use crate::support::ports;
use crate::support::scripted_registry::{Act, Running, Script, registry};

const SIZE: usize = 3 << 20;

async fn blob_of(script: Script, config: Config) -> (Running, Registry, Arc<dyn Blob>, Sample) {
    let image = Sample::of_sizes(&[SIZE]);
    let server = script.with("app", "1", &image).run().await;
    let client = client(config);
    let blob = open(&client, &image, 0, server.origin("app")).await;
    (server, client, blob, image)
}

#[tokio::test]
async fn nothing_is_asked_for_before_somebody_reads() {
    let (server, client, blob, image) = blob_of(registry(), config()).await;
    assert_eq!(server.seen("").len(), 0);
    assert_eq!(blob.range(10..10).await.unwrap(), Bytes::new());
    assert_eq!(server.seen("").len(), 0);
    assert_eq!(blob.range(10..110).await.unwrap(), image.layers[0][10..110]);
    let counts = counts(&client);
    assert_eq!((counts.blob_requests, counts.blob_bytes), (1, 100));
    assert_eq!(server.seen("")[0].headers["range"], "bytes=10-109");
}

#[tokio::test]
async fn a_whole_layer_is_one_request_and_its_bytes_once() {
    let (server, client, blob, image) = blob_of(registry(), config()).await;
    assert_eq!(read(&blob).await.unwrap(), image.layers[0]);
    assert_eq!(server.seen("").len(), 1);
    assert!(!server.seen("")[0].headers.contains_key("range"));
    assert_eq!(counts(&client).blob_bytes, image.layers[0].len() as u64);
}

#[tokio::test]
async fn a_download_that_breaks_goes_on_from_there() {
    let script = registry().once("blobs/", Act::CutAfter(1_000_000)).once("blobs/", Act::CutAfter(500_000));
    let (server, client, blob, image) = blob_of(script, config()).await;
    assert_eq!(read(&blob).await.unwrap(), image.layers[0]);
    let ranges: Vec<_> = server.seen("").iter().map(|seen| seen.headers.get("range").cloned()).collect();
    let last = image.layers[0].len() - 1;
    let want = [None, Some(format!("bytes=1000000-{last}")), Some(format!("bytes=1500000-{last}"))];
    assert_eq!(ranges, want);
    let counts = counts(&client);
    assert_eq!((counts.resumed, counts.blob_bytes), (2, image.layers[0].len() as u64));
}

#[tokio::test]
async fn a_range_that_breaks_goes_on_from_there() {
    let (server, _, blob, image) = blob_of(registry().once("blobs/", Act::CutAfter(1000)), config()).await;
    assert_eq!(blob.range(5000..9000).await.unwrap(), image.layers[0][5000..9000]);
    let ranges: Vec<_> = server.seen("").iter().map(|seen| seen.headers["range"].clone()).collect();
    assert_eq!(ranges, ["bytes=5000-8999", "bytes=6000-8999"]);
}

#[tokio::test]
async fn a_download_that_breaks_goes_on_where_no_ranges_are_known() {
    let script = registry().once("blobs/", Act::CutAfter(1_000_000)).always("blobs/", Act::Whole);
    let (_, client, blob, image) = blob_of(script, config()).await;
    assert_eq!(read(&blob).await.unwrap(), image.layers[0]);
    assert_eq!(counts(&client).blob_bytes, image.layers[0].len() as u64 + 1_000_000);
}

#[tokio::test]
async fn a_download_that_never_gets_on_is_given_up() {
    let (server, _, blob, _) = blob_of(registry().always("blobs/", Act::CutAfter(100)), config()).await;
    let said = read(&blob).await.unwrap_err().to_string();
    assert!(said.contains("broke while it sent layer sha256:"), "{said}");
    assert_eq!(server.seen("").len(), 4, "once and three retries");
}

#[tokio::test]
async fn a_download_that_gets_on_may_break_often() {
    let (_, client, blob, image) =
        blob_of(registry().times(2, "blobs/", Act::CutAfter(1 << 20)), Config { retries: 1, ..config() }).await;
    assert_eq!(read(&blob).await.unwrap(), image.layers[0]);
    assert_eq!(counts(&client).resumed, 2, "a mebibyte further, the retries count anew");
}

#[tokio::test]
async fn a_body_that_stalls_hits_the_idle_deadline_and_goes_on() {
    let (_, client, blob, image) = blob_of(registry().once("blobs/", Act::StallAfter(10_000)), impatient()).await;
    let began = Instant::now();
    assert_eq!(read(&blob).await.unwrap(), image.layers[0]);
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(counts(&client).resumed >= 1);
}

#[tokio::test]
async fn a_body_that_always_stalls_is_given_up() {
    let stalls = registry().always("blobs/", Act::StallAfter(0));
    let (_, _, blob, _) = blob_of(stalls, Config { retries: 1, ..impatient() }).await;
    let said = read(&blob).await.unwrap_err().to_string();
    assert!(said.contains("stopped sending layer") && said.contains("nothing came in 1 s"), "{said}");
}

#[tokio::test]
async fn a_registry_that_is_away_for_a_moment_is_waited_for() {
    let image = Sample::of_sizes(&[SIZE]);
    let server = registry().with("app", "1", &image).once("blobs/", Act::CutAfter(1000)).run().await;
    // A relay in front of it is what goes away: nobody listens there for a while.
    let at = ports::unused();
    let relay = tokio::net::TcpListener::bind(at).await.unwrap();
    let client = client(Config { retries: 20, retry_pause_ms: 100, ..config() });
    let blob = open(&client, &image, 0, Origin(format!("docker://{at}/app"))).await;
    let (reading, relaying) = (tokio::time::timeout(Duration::from_secs(60), read(&blob)), async {
        let (mut near, _) = relay.accept().await.unwrap();
        drop(relay);
        let mut far = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        drop(near);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let relay = tokio::net::TcpListener::bind(at).await.unwrap();
        let (mut near, _) = relay.accept().await.unwrap();
        let mut far = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    let read = tokio::select! { read = reading => read.unwrap(), () = async { relaying.await; std::future::pending().await } => unreachable!() };
    assert_eq!(read.unwrap(), image.layers[0]);
}

#[tokio::test]
async fn another_range_than_the_one_asked_for_is_refused() {
    let (_, _, blob, _) = blob_of(registry().always("blobs/", Act::OtherRange), config()).await;
    let said = blob.range(100..200).await.unwrap_err().to_string();
    assert!(said.contains("asked for bytes 100-199 of") && said.contains("it sent bytes 101-200 of"), "{said}");
    let (_, _, blob, _) = blob_of(registry().always("blobs/", Act::NoRange), config()).await;
    let said = blob.range(100..200).await.unwrap_err().to_string();
    assert!(said.contains("it does not say what it sent"), "{said}");
}

#[tokio::test]
async fn a_blob_shorter_than_its_manifest_says_is_refused() {
    let image = Sample::of_sizes(&[SIZE]);
    let short = image.layers[0].slice(..1000);
    let server = registry().with("app", "1", &image).always("blobs/", Act::Bytes(short)).run().await;
    let client = client(config());
    let blob = open(&client, &image, 0, server.origin("app")).await;
    let want = image.layers[0].len() as u64;
    assert!(matches!(read(&blob).await, Err(BlobError::Size { has: 1000, want: w }) if w == want));
    let said = blob.range(5000..6000).await.unwrap_err().to_string();
    assert!(said.contains("fewer than the") && said.contains("(416)"), "{said}");
}

#[tokio::test]
async fn a_blob_that_ends_early_without_saying_so_beforehand_is_refused() {
    let (_, _, blob, _) = blob_of(registry().always("blobs/", Act::Chunked(1000, vec![])), config()).await;
    assert!(matches!(read(&blob).await, Err(BlobError::Size { has: 1000, .. })));
}

#[tokio::test]
async fn a_blob_longer_than_its_manifest_says_is_refused() {
    let image = Sample::of_sizes(&[SIZE]);
    let (len, longer) = (image.layers[0].len(), [&image.layers[0][..], b"more"].concat());
    for act in [Act::Bytes(longer.into()), Act::Chunked(len, b"more".to_vec())] {
        let server = registry().with("app", "1", &image).always("blobs/", act).run().await;
        let client = client(config());
        let blob = open(&client, &image, 0, server.origin("app")).await;
        let (has, want) = (len as u64 + 4, len as u64);
        let got = read(&blob).await;
        assert!(matches!(got, Err(BlobError::Size { has: h, want: w }) if (h, w) == (has, want)), "{got:?}");
    }
}

#[tokio::test]
async fn another_host_gets_no_login_and_is_remembered_until_it_refuses() {
    let image = Sample::of_sizes(&[SIZE]);
    let storage = registry().with("app", "1", &image).run().await;
    let target = format!("http://{}/v2/app/blobs/{}?signature=secret", storage.address, image.layer_digest(0));
    let server = registry().wants_token().always("blobs/", Act::Redirect(target)).run().await;
    let client = client(config());
    let blob = open(&client, &image, 0, server.origin("app")).await;
    for _ in 0..3 {
        assert_eq!(blob.range(100..200).await.unwrap(), image.layers[0][100..200]);
    }
    assert_eq!(server.seen("blobs/").len(), 2, "once without and once with a token");
    assert_eq!(storage.seen("blobs/").len(), 3);
    assert!(storage.seen("").iter().all(|seen| !seen.headers.contains_key("authorization")));
    assert!(server.seen("blobs/")[1].headers.contains_key("authorization"));
    // The signature runs out: the registry is asked again where the blob is.
    storage.add_rule(1, "blobs/", Act::Status(403, vec![]));
    assert_eq!(blob.range(100..200).await.unwrap(), image.layers[0][100..200]);
    assert_eq!(server.seen("blobs/").len(), 3);
    storage.add_rule(usize::MAX, "blobs/", Act::Status(403, vec![]));
    let said = blob.range(100..200).await.unwrap_err().to_string();
    assert!(!said.contains("signature") && said.contains(&storage.address.to_string()), "{said}");
}

#[tokio::test]
async fn a_host_is_not_talked_to_by_more_than_may_at_once() {
    let image = Sample::of_sizes(&[1000; 12]);
    let server = registry().with("app", "1", &image).in_company(4).run().await;
    let client = client(Config { connections_per_host: 4, ..config() });
    let mut blobs = Vec::new();
    for n in 0..12 {
        blobs.push(open(&client, &image, n, server.origin("app")).await);
    }
    let parts = futures::future::join_all(blobs.iter().map(|blob| blob.range(1..500))).await;
    assert!(parts.iter().all(Result::is_ok));
    assert_eq!(server.busiest(), 4);
}

#[tokio::test]
async fn downloads_of_whole_layers_leave_room_for_small_requests() {
    let image = Sample::of_sizes(&[SIZE; 8]);
    let stalls = (0..8).map(|n| image.layer_digest(n).to_string());
    let script = registry().with("app", "1", &image);
    let server = stalls.fold(script, |script, digest| script.once(&digest, Act::StallAfter(100))).run().await;
    let client = client(config());
    let mut streams = Vec::new();
    for n in 0..8 {
        streams.push(open(&client, &image, n, server.origin("app")).await.stream());
    }
    // Six get a place and then wait for more bytes; two wait for a place.
    let mut first: futures::stream::FuturesUnordered<_> = streams.iter_mut().map(|stream| stream.next()).collect();
    for _ in 0..6 {
        assert!(first.next().await.unwrap().unwrap().is_ok());
    }
    let small = tokio::time::timeout(Duration::from_secs(60), resolve(&client, &server.image("app:1"))).await;
    assert!(small.expect("a manifest does not wait for layers").is_ok());
    assert_eq!(server.seen("blobs/").len(), 7, "six layers and the config");
}

#[tokio::test]
async fn a_stream_that_is_dropped_gives_its_place_back() {
    let (_, _, blob, image) = blob_of(registry(), Config { connections_per_host: 1, ..config() }).await;
    for _ in 0..5 {
        let mut stream = blob.stream();
        assert!(stream.next().await.unwrap().is_ok());
        drop(stream);
    }
    let part = tokio::time::timeout(Duration::from_secs(60), blob.range(0..100)).await;
    assert_eq!(part.expect("no place is lost").unwrap(), image.layers[0][..100]);
}

#[tokio::test]
async fn an_origin_that_says_nothing_is_refused() {
    let (_, client, _, image) = blob_of(registry(), config()).await;
    for text in
        ["", "http://h/x", "docker://", "docker://UPPER.example/A", "oci:/nonexistent", "oci-archive:/nonexistent"]
    {
        let opened = client.open(image.layer_digest(0), 1, Origin(text.to_owned())).await;
        assert!(opened.is_err(), "{text}");
    }
}
