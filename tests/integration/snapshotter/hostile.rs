//! Calls that nobody should make, and callers that go away.

use tonic::Code;

use super::served::{Client, Served, code};

/// As a filter says it.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n").replace('\0', r"\x00");
    format!("\"{escaped}\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_be_any_text_and_never_is_a_path() {
    let served = Served::start().await;
    let client = &served.client;
    let long = "k".repeat(4096);
    let keys = [
        "default/3/extract-1-Ab+/ sha256:00",
        "../../../../etc/passwd",
        "/",
        ".",
        "..",
        " ",
        "two\nlines",
        "a\0b",
        "\u{202e}\u{1f980}",
        "--help",
        "%s%n",
        &long,
    ];
    for key in keys {
        client.prepare(key, "", &[("key", key)]).await.unwrap();
        assert_eq!(client.stat(key).await.unwrap().name, key);
        let name = format!("committed {key}");
        client.commit(&name, key, "", &[]).await.unwrap();
        client.view(key, &name).await.unwrap();
        assert_eq!(client.names(&[&format!("kind==view,parent=={}", quoted(&name))]).await, [key]);
    }
    let count = 2 * keys.len();
    assert_eq!(served.directories(), (1..=count as u64).collect::<Vec<_>>());
    let served = served.restart().await;
    assert_eq!(served.client.names(&[]).await.len(), count);
    for key in keys {
        served.client.remove(key).await.unwrap();
        served.client.remove(&format!("committed {key}")).await.unwrap();
    }
    served.has_directories(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_and_the_rest_goes_on() {
    let served = Served::start().await;
    let client = &served.client;
    let huge = "x".repeat(17 << 20);
    assert_eq!(code(client.prepare("key", "", &[("label", &huge)]).await), Code::OutOfRange);
    let large = "x".repeat(1 << 20);
    client.prepare("key", "", &[("label", &large)]).await.unwrap();
    let many = vec!["kind==active"; 5000];
    assert_eq!(code(client.list(&many).await), Code::InvalidArgument);
    assert_eq!(code(client.list(&[&format!("name=={large}")]).await), Code::InvalidArgument);
    assert_eq!(code(client.list(&[r"name~=(a{1000}){1000}"]).await), Code::InvalidArgument);
    let served = served.restart().await;
    assert_eq!(served.client.stat("key").await.unwrap().labels["label"].len(), 1 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_socket_disturbs_nobody() {
    use tokio::io::AsyncWriteExt as _;
    let served = Served::start().await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 10_000], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0"] {
        let mut stream = tokio::net::UnixStream::connect(served.socket()).await.unwrap();
        let _may_be_cut_off = stream.write_all(garbage).await;
    }
    served.client.committed("base", "").await;
    assert_eq!(Client::connect(&served.socket()).await.names(&[]).await, ["base"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_caller_leaves_is_done_whole_or_not_at_all() {
    let mut served = Served::start().await;
    served.client.committed("base", "").await;
    for number in 0..40 {
        let socket = served.socket();
        let leaving = tokio::spawn(async move {
            let client = Client::connect(&socket).await;
            let key = format!("key {number}");
            let _ = client.prepare(&key, "base", &[]).await;
            let _ = client.commit(&format!("name {number}"), &key, "", &[]).await;
        });
        // At a different moment each time.
        for _ in 0..number * 5 {
            tokio::task::yield_now().await;
        }
        leaving.abort();
        let _was_ended = leaving.await;
    }
    served.client.prepare("last", "base", &[]).await.unwrap();
    // What they sent may still be on its way; a service that is told to stop has answered it when it is gone.
    served.stop();
    served.stopped().await;
    let names = served.settled().await;
    let served = served.again().await;
    for info in served.client.list(&[]).await.unwrap() {
        assert_eq!(served.client.stat(&info.name).await.unwrap(), info);
    }
    assert_eq!(served.client.names(&[]).await, names);
    served.has_directories(names.len()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_during_a_shutdown_are_answered_or_refused_and_what_was_answered_lasts() {
    let mut served = Served::start().await;
    served.client.committed("base", "").await;
    let calling: Vec<_> = (0..8)
        .map(|caller| {
            let client = served.client.clone();
            tokio::spawn(async move {
                let mut done = Vec::new();
                for number in 0..1000 {
                    let key = format!("key {caller} {number}");
                    match client.prepare(&key, "base", &[]).await {
                        Ok(_) => done.push(key),
                        Err(_stopped) => break,
                    }
                }
                done
            })
        })
        .collect();
    // When the first calls have been answered.
    while served.snapshots.count() < 20 {
        tokio::task::yield_now().await;
    }
    served.stop();
    served.stopped().await;
    let mut done = Vec::new();
    for calling in calling {
        done.extend(calling.await.unwrap());
    }
    let served = served.again().await;
    for key in done {
        served.client.stat(&key).await.unwrap();
    }
}
