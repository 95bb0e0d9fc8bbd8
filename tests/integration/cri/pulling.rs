//! What the proxy makes of a PullImage.

use bytes::Bytes;
use oncefs::cri::{Asked, Auth, PullCause};
use tonic::Code;

use super::calls::field;
use super::*;

const PULL: &str = "/runtime.v1.ImageService/PullImage";
const PULL_ALPHA: &str = "/runtime.v1alpha2.ImageService/PullImage";

#[tokio::test]
async fn a_pull_is_learned_of_made_local_and_then_forwarded_as_it_came() {
    let proxied = Proxied::start();
    let containerd = proxied.containerd();
    let message = frame_of_pull("app:1", Some(("me", "hunter2")));
    for path in [PULL, PULL_ALPHA] {
        let answer = proxied.client().unary(&Call::to(path), message.clone()).await.unwrap();
        assert_eq!(answer.get_ref(), &message);
        let seen = containerd.seen_of(path);
        assert_eq!((seen.len(), &seen[0].messages), (1, &vec![message.clone()]));
    }
    let auth = Auth { username: "me".into(), password: "hunter2".into(), ..Auth::default() };
    let asked = Asked { image: "app:1".into(), auth: Some(auth) };
    assert_eq!(proxied.pulls.learned(), [asked.clone(), asked]);
    proxied.pulls.held(0).await;
    let metrics = proxied.metrics();
    assert!(metrics.contains("cri_pulls_total{outcome=\"verified\"} 2"), "{metrics}");
    assert!(metrics.contains("cri_pull_seconds_count 2") && metrics.contains("cri_pulls_active 0"), "{metrics}");
    assert!(!metrics.contains("hunter2"));
}

#[tokio::test]
async fn the_layers_are_held_until_containerd_has_answered() {
    let proxied = Proxied::start();
    let away = proxied.client().pull("app:1", None).await.unwrap_err();
    assert_eq!(away.code(), Code::Unavailable);
    proxied.pulls.held(0).await;
    // One who takes the call and keeps it.
    let silent = tokio::net::UnixListener::bind(proxied.socket.with_file_name("containerd.sock")).unwrap();
    let client = proxied.client();
    let pull = tokio::spawn(async move { client.pull("app:1", None).await });
    let (connection, _) = silent.accept().await.unwrap();
    proxied.pulls.held(1).await;
    drop(connection);
    pull.await.unwrap().unwrap_err();
    proxied.pulls.held(0).await;
}

#[tokio::test]
async fn a_failure_that_containerd_would_meet_too_is_the_pulls_and_others_are_left_to_it() {
    let proxied = Proxied::start();
    let containerd = proxied.containerd();
    let ends = [
        (PullCause::NotFound, Some(Code::NotFound)),
        (PullCause::Denied, Some(Code::PermissionDenied)),
        (PullCause::Unavailable, Some(Code::Unavailable)),
        (PullCause::Corrupt, Some(Code::DataLoss)),
        (PullCause::Stopping, Some(Code::Unavailable)),
        (PullCause::OursAlone, None),
    ];
    for (cause, code) in ends {
        proxied.pulls.fail("app:1", cause, "layer sha256:0b of app:1 is \u{201c}wrong\u{201d}, 100 %");
        let before = containerd.seen_of(PULL).len();
        let pulled = proxied.client().pull("app:1", None).await;
        let forwarded = containerd.seen_of(PULL).len() - before;
        match code {
            None => assert_eq!((pulled.is_ok(), forwarded), (true, 1), "{cause:?}"),
            Some(code) => {
                let failed = pulled.unwrap_err();
                assert_eq!((failed.code(), forwarded), (code, 0), "{cause:?}");
                assert_eq!(failed.message(), "layer sha256:0b of app:1 is \u{201c}wrong\u{201d}, 100 %");
            }
        }
    }
    let metrics = proxied.metrics();
    assert!(metrics.contains("outcome=\"failed\"} 5") && metrics.contains("outcome=\"forwarded\"} 1"), "{metrics}");
}

#[tokio::test]
async fn who_gives_up_drops_the_claim_and_the_others_go_on() {
    let proxied = Proxied::start();
    let containerd = proxied.containerd();
    proxied.pulls.stick("slow:1");
    let client = proxied.client();
    let pull = |client: Caller| tokio::spawn(async move { client.pull("slow:1", None).await });
    let (first, second) = (pull(client.clone()), pull(client.clone()));
    proxied.pulls.under_way(2).await;
    // Nothing waits behind them, on the same connection or another.
    client.pull("fast:1", None).await.unwrap();
    client.unary(&Call::to("/runtime.v1.ImageService/ImageStatus"), "x").await.unwrap();
    proxied.client().unary(&Call::to("/runtime.v1.RuntimeService/Version"), "x").await.unwrap();
    first.abort();
    proxied.pulls.under_way(1).await;
    second.abort();
    proxied.pulls.under_way(0).await;
    assert_eq!(containerd.seen_of(PULL).len(), 1, "what was given up is not forwarded");
    let metrics = proxied.metrics();
    assert!(metrics.contains("outcome=\"given_up\"} 2") && metrics.contains("cri_pulls_active 0"), "{metrics}");
}

#[tokio::test]
async fn more_pulls_than_http_usually_allows_wait_side_by_side() {
    let proxied = Proxied::start();
    let _containerd = proxied.containerd();
    proxied.pulls.stick("slow:1");
    let client = proxied.client();
    let pulls: Vec<_> = (0..500)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.pull("slow:1", None).await })
        })
        .collect();
    proxied.pulls.under_way(500).await;
    client.unary(&Call::to("/runtime.v1.ImageService/ListImages"), "x").await.unwrap();
    pulls.iter().for_each(tokio::task::JoinHandle::abort);
    proxied.pulls.under_way(0).await;
}

#[tokio::test]
async fn a_deadline_is_the_clients_own() {
    let proxied = Proxied::start();
    let _containerd = proxied.containerd();
    proxied.pulls.stick("slow:1");
    let call = Call::to(PULL).with("grpc-timeout", "50m");
    let ended = proxied.client().unary(&call, frame_of_pull("slow:1", None)).await.unwrap_err();
    assert!(matches!(ended.code(), Code::Cancelled | Code::DeadlineExceeded), "{ended}");
    proxied.pulls.under_way(0).await;
}

#[tokio::test]
async fn pulls_end_at_once_when_the_daemon_does() {
    let mut proxied = Proxied::start();
    let containerd = proxied.containerd();
    proxied.pulls.stick("slow:1");
    let client = proxied.client();
    let pull = tokio::spawn(async move { client.pull("slow:1", None).await });
    proxied.pulls.under_way(1).await;
    proxied.stop().await;
    let ended = pull.await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(ended.message().contains("the pull of slow:1 was stopped: oncefs is ending; try again"), "{ended}");
    proxied.pulls.under_way(0).await;
    assert!(containerd.seen().is_empty());
}

#[tokio::test]
async fn lazy_pulls_are_learned_of_and_forwarded() {
    let proxied = Proxied::with(|config| config.verify = false);
    let containerd = proxied.containerd();
    proxied.pulls.stick("slow:1");
    proxied.client().pull("slow:1", Some(("me", "hunter2"))).await.unwrap();
    assert_eq!((containerd.seen_of(PULL).len(), proxied.pulls.learned().len()), (1, 1));
}

#[tokio::test]
async fn a_pull_that_is_not_understood_is_containerds() {
    let proxied = Proxied::start();
    let containerd = proxied.containerd();
    let not_understood = [
        Bytes::from_static(b"\x0a\xff\xff\xff\x0f"),
        Bytes::new(),
        field(2, &field(1, b"me")).into(),
        vec![0; 2 << 20].into(),
        frame_of_pull(&"x".repeat(5000), None),
    ];
    for (count, message) in not_understood.into_iter().enumerate() {
        proxied.client().unary(&Call::to(PULL), message.clone()).await.unwrap();
        let seen = containerd.seen_of(PULL);
        assert_eq!((seen.len(), &seen[count].messages), (count + 1, &vec![message]));
    }
    assert!(proxied.pulls.learned().is_empty());
}

#[tokio::test]
async fn a_login_of_empty_words_is_none() {
    let proxied = Proxied::start();
    let _containerd = proxied.containerd();
    proxied.client().pull("app:1", Some(("", ""))).await.unwrap();
    assert_eq!(proxied.pulls.learned(), [Asked { image: "app:1".into(), auth: None }]);
}
