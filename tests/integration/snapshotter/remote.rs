//! Layers that containerd need not unpack: its contract with remote snapshotters, step by step.

use oncefs::digest::Digest;
use oncefs::snapshotter::protocol::v1::Kind;
use tonic::Code;

use super::known::chain;
use super::served::{Client, Served, code, labels};

const CHAIN: &str = "containerd.io/snapshot.ref";

/// What containerd sends for a layer of this chain.
fn sent(chain: &str) -> Vec<(String, String)> {
    let digest = |text: &str| Digest::of(text.as_bytes()).to_string();
    [
        (CHAIN, chain.to_owned()),
        ("containerd.io/snapshot/cri.image-ref", "docker.io/library/redis:7".to_owned()),
        ("containerd.io/snapshot/cri.layer-digest", digest("layer")),
        ("containerd.io/snapshot/cri.manifest-digest", digest("manifest")),
        ("containerd.io/snapshot/anything", "else".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

fn borrowed(labels: &[(String, String)]) -> Vec<(&str, &str)> {
    labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// As containerd looks for what it was told is there.
async fn find(client: &Client, chain: &str, parent: &str) -> Vec<String> {
    client.names(&[&format!(r#"labels."{CHAIN}"=={chain},parent=="{parent}""#)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_known_is_there_before_containerd_unpacks_it() {
    let served = Served::start().await;
    let client = &served.client;
    let (one, two) = (served.known.know("one"), served.known.know("two"));
    let first = sent(&one.to_string());
    assert_eq!(code(client.prepare("k8s.io/1/extract-1 a", "", &borrowed(&first)).await), Code::AlreadyExists);
    let found = find(client, &one.to_string(), "").await;
    assert_eq!(found.len(), 1);
    let bottom = client.stat(&found[0]).await.unwrap();
    assert_eq!((bottom.kind(), bottom.parent.as_str()), (Kind::Committed, ""));
    assert_eq!(bottom.labels, labels(&borrowed(&first)), "the labels just as they were sent");
    let second = sent(&two.to_string());
    assert_eq!(code(client.prepare("k8s.io/2/extract-2 b", &found[0], &borrowed(&second)).await), Code::AlreadyExists);
    let top = find(client, &two.to_string(), &found[0]).await;
    assert_eq!(top.len(), 1);
    assert_eq!(find(client, &two.to_string(), "").await, Vec::<String>::new());
    let wanted = served.known.wanted();
    assert_eq!((wanted[0].chain, wanted[0].parent), (one, None));
    assert_eq!((wanted[1].chain, wanted[1].parent), (two, Some(one)));
    let source = wanted[1].source.clone().unwrap();
    assert_eq!((source.image.as_str(), source.manifest), ("docker.io/library/redis:7", Some(Digest::of(b"manifest"))));
    // A container sees one directory below its own, whatever the number of layers.
    let mounts = client.prepare("container", &top[0], &[]).await.unwrap();
    let lower = format!("lowerdir={}", served.known.directory(&two).display());
    assert_eq!(mounts[0].options.last(), Some(&lower));
    let view = client.view("look", &top[0]).await.unwrap();
    assert_eq!((view[0].r#type.as_str(), view[0].options.join(",")), ("bind", "ro,rbind".to_owned()));
    assert_eq!(view[0].source, served.known.directory(&two).display().to_string());
    assert_eq!(client.usage(&top[0]).await.unwrap().size, 12_345);
    assert_eq!(served.directories().len(), 2, "only the container and the view have directories");
}

#[tokio::test(flavor = "multi_thread")]
async fn local_layers_lie_over_a_remote_chain() {
    let served = Served::start().await;
    let client = &served.client;
    let one = served.known.know("one");
    let first = sent(&one.to_string());
    assert_eq!(code(client.prepare("key", "", &borrowed(&first)).await), Code::AlreadyExists);
    let bottom = find(client, &one.to_string(), "").await.remove(0);
    let unknown = sent(&chain("unknown").to_string());
    client.prepare("unpacking", &bottom, &borrowed(&unknown)).await.unwrap();
    client.commit("unpacked", "unpacking", "", &borrowed(&unknown)).await.unwrap();
    // Over a layer that was unpacked nothing is served, even if it could be.
    let two = served.known.know("two");
    let asked = served.known.wanted().len();
    let mounts = client.prepare("above", "unpacked", &borrowed(&sent(&two.to_string()))).await.unwrap();
    assert_eq!(served.known.wanted().len(), asked);
    let lower = mounts[0].options.last().unwrap();
    assert!(lower.ends_with(&format!("/fs:{}", served.known.directory(&one).display())), "{lower}");
    // Who has the same image again, in another namespace, finds the unpacked layer too.
    assert_eq!(code(client.prepare("again", &bottom, &borrowed(&unknown)).await), Code::AlreadyExists);
    assert_eq!(find(client, &chain("unknown").to_string(), &bottom).await, ["unpacked"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_is_answered_from_memory() {
    let served = Served::start().await;
    let client = &served.client;
    let one = served.known.know("one");
    let sent = sent(&one.to_string());
    for key in ["a", "b", "c"] {
        assert_eq!(code(client.prepare(key, "", &borrowed(&sent)).await), Code::AlreadyExists);
    }
    assert_eq!(served.known.wanted().len(), 1);
    assert_eq!(find(client, &one.to_string(), "").await.len(), 1);
    assert_eq!(served.known.claims().get(&one), Some(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_lie_are_unpacked_as_usual() {
    let served = Served::start().await;
    let client = &served.client;
    let (long, zeros) = ("x".repeat(4096), format!("sha256:{}", "0".repeat(64)));
    let lies = ["", "sha256:", "sha256:short", "md5:00", "no digest at all", "\n", &long, &zeros];
    for (number, lie) in lies.iter().enumerate() {
        let mounts = client.prepare(&format!("key {number}"), "", &borrowed(&sent(lie))).await.unwrap();
        assert_eq!(mounts[0].r#type, "bind", "{lie:?}");
    }
    // A chain that is known, and a layer or manifest that is none: the chain alone decides.
    let one = served.known.know("one").to_string();
    let lying = [(CHAIN, one.as_str()), ("containerd.io/snapshot/cri.layer-digest", long.as_str())];
    assert_eq!(code(client.prepare("key", "", &lying).await), Code::AlreadyExists);
    assert_eq!(served.known.wanted().last().unwrap().source, None);
    assert_eq!(served.known.claims().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_given_back_when_its_snapshot_is_removed() {
    let served = Served::start().await;
    let client = &served.client;
    let one = served.known.know("one");
    let sent = sent(&one.to_string());
    assert_eq!(code(client.prepare("key", "", &borrowed(&sent)).await), Code::AlreadyExists);
    let name = find(client, &one.to_string(), "").await.remove(0);
    client.view("look", &name).await.unwrap();
    assert_eq!(code(client.remove(&name).await), Code::FailedPrecondition);
    assert_eq!(served.known.claims().get(&one), Some(&1));
    client.remove("look").await.unwrap();
    client.remove(&name).await.unwrap();
    assert!(served.known.claims().is_empty());
    assert_eq!(code(client.prepare("key", "", &borrowed(&sent)).await), Code::AlreadyExists);
    assert_eq!(served.known.claims().get(&one), Some(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_ask_at_once_one_commits() {
    let served = Served::start().await;
    let one = served.known.know("one");
    served.known.hold();
    let asking: Vec<_> = (0..16)
        .map(|number| {
            let (client, sent) = (served.client.clone(), sent(&one.to_string()));
            tokio::spawn(async move { code(client.prepare(&format!("key {number}"), "", &borrowed(&sent)).await) })
        })
        .collect();
    served.known.asked().await;
    served.known.answer(1000);
    for asked in asking {
        assert_eq!(asked.await.unwrap(), Code::AlreadyExists);
    }
    assert_eq!(find(&served.client, &one.to_string(), "").await.len(), 1);
    assert_eq!(served.known.claims().get(&one), Some(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_waits_for_a_search() {
    let served = Served::start().await;
    let client = &served.client;
    let one = served.known.know("one");
    served.known.hold();
    let searching = {
        let (client, sent) = (client.clone(), sent(&one.to_string()));
        tokio::spawn(async move { code(client.prepare("key", "", &borrowed(&sent)).await) })
    };
    served.known.asked().await;
    client.committed("base", "").await;
    client.prepare("other", "base", &[]).await.unwrap();
    client.remove("other").await.unwrap();
    assert_eq!(client.names(&[]).await, ["base"]);
    served.known.answer(1);
    assert_eq!(searching.await.unwrap(), Code::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_while_it_is_searched_leaves_nothing_half() {
    let served = Served::start().await;
    let one = served.known.know("one");
    served.known.hold();
    let leaving = {
        let (socket, sent) = (served.socket(), sent(&one.to_string()));
        tokio::spawn(async move { Client::connect(&socket).await.prepare("key", "", &borrowed(&sent)).await })
    };
    served.known.asked().await;
    leaving.abort();
    let _was_ended = leaving.await;
    served.known.answer(1000);
    // The search goes on: who asks next has what it found.
    let sent = sent(&one.to_string());
    assert_eq!(code(served.client.prepare("key", "", &borrowed(&sent)).await), Code::AlreadyExists);
    served.known.settles(&one, 1).await;
    assert_eq!(find(&served.client, &one.to_string(), "").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_lost_can_be_removed_and_is_served_again_when_it_is_found() {
    let served = Served::start().await;
    let (one, two) = (served.known.know("one"), served.known.know("two"));
    for chain in [one, two] {
        let sent = sent(&chain.to_string());
        assert_eq!(code(served.client.prepare("key", "", &borrowed(&sent)).await), Code::AlreadyExists);
        let name = find(&served.client, &chain.to_string(), "").await.remove(0);
        served.client.prepare(&format!("over {chain}"), &name, &[]).await.unwrap();
    }
    served.known.forget("one");
    served.known.forget("two");
    let served = served.restart().await;
    let client = &served.client;
    assert!(served.known.claims().is_empty());
    let refused = client.mounts(&format!("over {one}")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("pull the image again"), "{refused}");
    // One is removed: it had no claim to give back.
    let name = find(client, &one.to_string(), "").await.remove(0);
    client.remove(&format!("over {one}")).await.unwrap();
    client.remove(&name).await.unwrap();
    // The other is pulled again, when it is still unknown and when it is known.
    let sent = sent(&two.to_string());
    assert_eq!(client.prepare("unpacking", "", &borrowed(&sent)).await.unwrap()[0].r#type, "bind");
    served.known.know("two");
    assert_eq!(code(client.prepare("key", "", &borrowed(&sent)).await), Code::AlreadyExists);
    assert_eq!(served.known.claims(), [(two, 1)].into());
    client.mounts(&format!("over {two}")).await.unwrap();
    client.remove(&format!("over {two}")).await.unwrap();
    client.remove(&find(client, &two.to_string(), "").await.remove(0)).await.unwrap();
    assert!(served.known.claims().is_empty());
}
