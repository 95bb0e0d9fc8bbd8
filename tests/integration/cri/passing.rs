//! What is passed on: everything, unchanged, in both directions.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Code;

use super::*;

#[tokio::test]
async fn a_call_comes_to_containerd_as_it_would_without_the_proxy() {
    let proxied = Proxied::start();
    let containerd = proxied.containerd();
    let message = Bytes::from_static(b"\x0a\x03any\xff\xfe\x00 bytes at all");
    let methods = [
        "/runtime.v1.ImageService/ListImages",
        "/runtime.v1.RuntimeService/Version",
        "/runtime.v1alpha2.RuntimeService/Status",
        "/nobody.knows.v9.Service/Method",
    ];
    for path in methods {
        let call = || Call::to(path).with("containerd-namespace", "k8s.io").with("grpc-timeout", "77S");
        let direct = Caller::at(&containerd.socket).unary(&call(), message.clone()).await.unwrap();
        let passed = proxied.client().unary(&call(), message.clone()).await.unwrap();
        assert_eq!(passed.get_ref(), &message);
        let without_date = |response: &tonic::Response<Bytes>| {
            let mut headers = response.metadata().clone().into_headers();
            headers.remove("date");
            headers
        };
        assert_eq!(without_date(&passed), without_date(&direct), "what came back of {path}");
        let seen = containerd.seen_of(path);
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0], seen[1], "what containerd saw of {path}");
        assert!(seen[1].metadata.contains(&("grpc-timeout".into(), b"77S".to_vec())), "{:?}", seen[1]);
    }
}

#[tokio::test]
async fn streams_go_both_ways_message_by_message() {
    let proxied = Proxied::start();
    let _containerd = proxied.containerd();
    let (say, hear) = tokio::sync::mpsc::channel(1);
    let said = stream::unfold(hear, async |mut hear| hear.recv().await.map(|message| (message, hear)));
    let mut answers = proxied.client().streams(&Call::to("/a.Service/Echo"), said).await.unwrap().into_inner();
    for n in 0..100u8 {
        let message = Bytes::from(vec![n; usize::from(n) * 100]);
        say.send(message.clone()).await.unwrap();
        assert_eq!(answers.next().await.unwrap().unwrap(), message);
    }
    drop(say);
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn the_largest_messages_of_containerd_go_through() {
    let proxied = Proxied::start();
    let _containerd = proxied.containerd();
    let message = Bytes::from(vec![b'x'; (16 << 20) + 1]);
    for path in ["/runtime.v1.ImageService/ListImages", "/runtime.v1.ImageService/PullImage"] {
        let answer = proxied.client().unary(&Call::to(path), message.clone()).await.unwrap();
        assert_eq!(answer.get_ref().len(), message.len());
        assert_eq!(answer.metadata().get("x-answer").unwrap(), "with it");
    }
}

#[tokio::test]
async fn an_error_keeps_code_message_details_and_trailers() {
    let proxied = Proxied::start();
    let containerd = proxied.containerd();
    let call = Call::to("/a.Service/Fail");
    let direct = Caller::at(&containerd.socket).unary(&call, "x").await.unwrap_err();
    let passed = proxied.client().unary(&call, "x").await.unwrap_err();
    assert_eq!((passed.code(), passed.message()), (Code::Aborted, "100 % said, \"so\"\n"));
    assert_eq!(passed.details(), b"\x08\x05\x12\x04what\xff\x00");
    assert_eq!(passed.metadata().get("x-trailer").unwrap(), "after it");
    assert_eq!(format!("{:?}", passed.code()), format!("{:?}", direct.code()));
    assert_eq!(passed.details(), direct.details());
}

#[tokio::test]
async fn a_call_that_is_given_up_is_given_up_at_containerd_too() {
    let proxied = Proxied::start();
    let containerd = proxied.containerd();
    let client = proxied.client();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.unary(&Call::to("/a.Service/Hang"), "x").await }
    });
    containerd.hanging(1).await;
    call.abort();
    containerd.hanging(0).await;
    // And the connection is as good as before.
    client.unary(&Call::to("/a.Service/Any"), "y").await.unwrap();
}

#[tokio::test]
async fn a_client_that_disconnects_takes_its_calls_along() {
    let proxied = Proxied::start();
    let containerd = proxied.containerd();
    let mut stream = raw_connection(&proxied).await;
    containerd.hanging(1).await;
    tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
    drop(stream);
    containerd.hanging(0).await;
}

/// A connection of bytes alone, with a call of `Hang` under way: the preface, settings, headers, and a message.
async fn raw_connection(proxied: &Proxied) -> tokio::net::UnixStream {
    let mut stream = tokio::net::UnixStream::connect(&proxied.socket).await.unwrap();
    let literal = |name: &str, value: &str| {
        [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    // HPACK's static table: 0x83 is :method POST, 0x86 :scheme http.
    let mut block = vec![0x83, 0x86];
    block.extend(literal(":path", "/a.Service/Hang"));
    block.extend(literal(":authority", "localhost"));
    block.extend(literal("content-type", "application/grpc"));
    block.extend(literal("te", "trailers"));
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 4, 1, &block));
    bytes.extend(frame(0, 1, 1, &[0, 0, 0, 0, 1, b'x']));
    tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await.unwrap();
    stream
}

#[tokio::test]
async fn who_reads_slowly_holds_up_nobody() {
    let proxied = Proxied::start();
    let containerd = proxied.containerd();
    let mut floods = Vec::new();
    let slow = proxied.client();
    for _ in 0..8 {
        let flood = slow.streams(&Call::to("/a.Service/Flood"), stream::iter(["x".into()])).await.unwrap().into_inner();
        floods.push(flood);
    }
    containerd.hanging(8).await;
    for client in [proxied.client(), slow] {
        client.unary(&Call::to("/a.Service/Any"), vec![1; 1 << 20]).await.unwrap();
    }
    drop(floods);
    containerd.hanging(0).await;
}

#[tokio::test]
async fn containerd_may_come_late_and_go_and_come_again() {
    let proxied = Proxied::start();
    let (client, call) = (proxied.client(), Call::to("/a.Service/Any"));
    let away = client.unary(&call, "x").await.unwrap_err();
    assert_eq!(away.code(), Code::Unavailable);
    assert!(away.message().starts_with("containerd cannot be reached at /"), "{away}");
    assert!(away.message().contains("containerd.sock: No such file or directory"), "{away}");
    for _ in 0..3 {
        let containerd = proxied.containerd();
        client.unary(&call, "x").await.unwrap();
        let hanging = tokio::spawn({
            let client = client.clone();
            async move { client.unary(&Call::to("/a.Service/Hang"), "x").await }
        });
        containerd.hanging(1).await;
        containerd.stop().await;
        assert_eq!(hanging.await.unwrap().unwrap_err().code(), Code::Unavailable);
        assert_eq!(client.unary(&call, "x").await.unwrap_err().code(), Code::Unavailable);
    }
    assert!(proxied.metrics().contains("cri_unanswered_total 7"), "{}", proxied.metrics());
}

#[tokio::test]
async fn a_containerd_that_takes_connections_and_says_nothing_holds_up_only_its_callers() {
    let proxied = Proxied::start();
    let silent = tokio::net::UnixListener::bind(proxied.socket.with_file_name("containerd.sock")).unwrap();
    let client = proxied.client();
    let waiting = tokio::spawn(async move { client.unary(&Call::to("/a.Service/Any"), "x").await });
    let mut taken = UnixListenerStream::new(silent);
    let connection = taken.next().await.unwrap().unwrap();
    assert!(!waiting.is_finished());
    drop(connection);
    drop(taken);
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn calls_under_way_end_when_the_daemon_does() {
    let mut proxied = Proxied::start();
    let containerd = proxied.containerd();
    let client = proxied.client();
    let hanging = tokio::spawn(async move { client.unary(&Call::to("/a.Service/Hang"), "x").await });
    containerd.hanging(1).await;
    // A bound against hanging, not a measure.
    tokio::time::timeout(Duration::from_secs(60), proxied.stop()).await.unwrap();
    hanging.await.unwrap().unwrap_err();
    containerd.hanging(0).await;
}
