//! PullImages that are alike share one call of containerd's.

use bytes::Bytes;

use super::calls::field;
use super::*;

const PULL: &str = "/runtime.v1.ImageService/PullImage";
const LOGIN: Option<(&str, &str)> = Some(("me", "hunter2"));

/// For a pod of this name, with these annotations.
fn pull_for_pod(name: &str, annotation: Option<(&str, &str)>) -> Bytes {
    let mut pod = field(1, &field(1, name.as_bytes()));
    if let Some((key, value)) = annotation {
        pod.extend(field(7, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat()));
    }
    [&frame_of_pull("app:1", LOGIN)[..], &field(3, &pod)].concat().into()
}

#[tokio::test]
async fn those_for_different_pods_at_the_same_time_are_forwarded_once() {
    let proxied = Proxied::start();
    let containerd = proxied.containerd();
    containerd.hold_pulls(true);
    let client = proxied.client();
    let pulls: Vec<_> = (0..20)
        .map(|n| {
            // Some over one connection, some each over its own.
            let client = if n < 10 { client.clone() } else { proxied.client() };
            let message = pull_for_pod(&format!("pod-{n}"), None);
            tokio::spawn(async move { client.unary(&Call::to(PULL), message).await })
        })
        .collect();
    proxied.pulls.held(20).await;
    containerd.hanging(1).await;
    containerd.hold_pulls(false);
    let answers: Vec<_> =
        futures::future::join_all(pulls).await.into_iter().map(|pull| pull.unwrap().unwrap()).collect();
    let seen = containerd.seen_of(PULL);
    assert_eq!(seen.len(), 1);
    for answer in answers {
        assert_eq!(answer.get_ref(), &seen[0].messages[0]);
        assert_eq!(answer.metadata().get("x-answer").unwrap(), "with it");
    }
    // What is over is not remembered.
    client.unary(&Call::to(PULL), pull_for_pod("later", None)).await.unwrap();
    assert_eq!(containerd.seen_of(PULL).len(), 2);
}

#[tokio::test]
async fn another_login_another_image_and_another_runtime_are_not_alike() {
    let proxied = Proxied::start();
    let containerd = proxied.containerd();
    containerd.hold_pulls(true);
    let messages = [
        pull_for_pod("pod", None),
        pull_for_pod("pod", Some(("io.containerd.cri.runtime-handler", "kata"))),
        frame_of_pull("app:1", None),
        frame_of_pull("app:1", Some(("me", "another"))),
        frame_of_pull("app:2", LOGIN),
        [&frame_of_pull("app:1", LOGIN)[..], &field(15, b"of a later protocol")].concat().into(),
    ];
    let client = proxied.client();
    let pulls = messages.map(|message| {
        let client = client.clone();
        tokio::spawn(async move { client.unary(&Call::to(PULL), message).await })
    });
    containerd.hanging(6).await;
    containerd.hold_pulls(false);
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    assert_eq!(containerd.seen_of(PULL).len(), 6);
}

#[tokio::test]
async fn who_gives_up_takes_nobody_down_and_the_last_one_takes_the_call_along() {
    let proxied = Proxied::start();
    let containerd = proxied.containerd();
    containerd.hold_pulls(true);
    let pull =
        |client: Caller| tokio::spawn(async move { client.unary(&Call::to(PULL), pull_for_pod("pod", None)).await });
    let first = pull(proxied.client());
    containerd.hanging(1).await;
    let second = pull(proxied.client());
    proxied.pulls.held(2).await;
    first.abort();
    proxied.pulls.held(1).await;
    containerd.hold_pulls(false);
    second.await.unwrap().unwrap();
    assert_eq!(containerd.seen_of(PULL).len(), 1);
    containerd.hold_pulls(true);
    let last = pull(proxied.client());
    containerd.hanging(1).await;
    last.abort();
    containerd.hanging(0).await;
}
