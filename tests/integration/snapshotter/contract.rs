//! Each call, and the codes that containerd looks at.

use oncefs::snapshotter::protocol::v1::{CleanupRequest, Kind, UpdateSnapshotRequest};
use tonic::Code;

use super::served::{Served, code, labels};

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_goes_from_active_to_committed_to_removed() {
    let served = Served::start().await;
    let client = &served.client;
    let mounts = client.prepare("key", "", &[("containerd.io/snapshot/a", "b")]).await.unwrap();
    assert_eq!((mounts[0].r#type.as_str(), mounts[0].options.join(",").as_str()), ("bind", "rw,rbind"));
    assert_eq!(client.mounts("key").await.unwrap(), mounts);
    let active = client.stat("key").await.unwrap();
    assert_eq!((active.kind(), active.parent.as_str()), (Kind::Active, ""));
    assert_eq!(active.labels, labels(&[("containerd.io/snapshot/a", "b")]));
    client.commit("name", "key", "", &[("containerd.io/gc.root", "now")]).await.unwrap();
    assert_eq!(code(client.stat("key").await), Code::NotFound);
    let committed = client.stat("name").await.unwrap();
    assert_eq!(committed.kind(), Kind::Committed);
    assert_eq!(committed.labels, labels(&[("containerd.io/gc.root", "now")]), "labels are those of the commit");
    assert_eq!(code(client.mounts("name").await), Code::FailedPrecondition);
    client.remove("name").await.unwrap();
    assert_eq!(client.list(&[]).await.unwrap(), []);
    served.has_directories(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_have_containerds_own_forms() {
    let served = Served::start().await;
    let client = &served.client;
    let root = served.dir.path().join("root/snapshots");
    client.committed("one", "").await;
    client.committed("two", "one").await;
    let of = |number: u32, which: &str| root.join(number.to_string()).join(which).display().to_string();
    let active = client.prepare("active", "two", &[]).await.unwrap();
    let (upper, work) = (of(3, "fs"), of(3, "work"));
    let lower = format!("{}:{}", of(2, "fs"), of(1, "fs"));
    assert_eq!((active[0].r#type.as_str(), active[0].source.as_str()), ("overlay", "overlay"));
    let want = format!("index=off,workdir={work},upperdir={upper},lowerdir={lower}");
    assert_eq!(active[0].options.join(","), want);
    let one = client.view("view of one", "one").await.unwrap();
    assert_eq!((one[0].source.clone(), one[0].options.join(",")), (of(1, "fs"), "ro,rbind".into()));
    let two = client.view("view of two", "two").await.unwrap();
    assert_eq!(two[0].options.join(","), format!("index=off,lowerdir={lower}"));
    let none = client.view("view of none", "").await.unwrap();
    assert_eq!(none[0].options.join(","), "ro,rbind");
    assert_eq!(client.stat("view of none").await.unwrap().kind(), Kind::View);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_prepared_says_why_by_its_code() {
    let served = Served::start().await;
    let client = &served.client;
    client.prepare("active", "", &[]).await.unwrap();
    client.committed("base", "").await;
    assert_eq!(code(client.prepare("key", "nobody", &[]).await), Code::NotFound);
    assert_eq!(code(client.prepare("key", "active", &[]).await), Code::InvalidArgument);
    assert_eq!(code(client.prepare("active", "", &[]).await), Code::AlreadyExists);
    assert_eq!(code(client.prepare("base", "", &[]).await), Code::AlreadyExists);
    assert_eq!(code(client.prepare("", "", &[]).await), Code::InvalidArgument);
    assert_eq!(code(client.view("key", "nobody").await), Code::NotFound);
    assert_eq!(code(client.view("active", "").await), Code::AlreadyExists);
    assert_eq!(client.names(&[]).await, ["active", "base"]);
    served.has_directories(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_committed_says_why_by_its_code() {
    let served = Served::start().await;
    let client = &served.client;
    client.committed("base", "").await;
    client.prepare("active", "base", &[]).await.unwrap();
    client.view("view", "base").await.unwrap();
    assert_eq!(code(client.commit("name", "nobody", "", &[]).await), Code::NotFound);
    assert_eq!(code(client.commit("name", "view", "", &[]).await), Code::FailedPrecondition);
    assert_eq!(code(client.commit("name", "base", "", &[]).await), Code::FailedPrecondition);
    assert_eq!(code(client.commit("base", "active", "", &[]).await), Code::AlreadyExists);
    assert_eq!(code(client.commit("", "active", "", &[]).await), Code::InvalidArgument);
    client.commit("name", "active", "", &[]).await.unwrap();
    // A client that has not heard of its success asks again.
    assert_eq!(code(client.commit("name", "active", "", &[]).await), Code::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_may_name_the_parent_of_what_has_none() {
    let served = Served::start().await;
    let client = &served.client;
    client.committed("base", "").await;
    client.committed("other", "").await;
    for key in ["a", "b", "c"] {
        client.prepare(key, "", &[]).await.unwrap();
    }
    assert_eq!(code(client.commit("top", "a", "nobody", &[]).await), Code::NotFound);
    assert_eq!(code(client.commit("top", "a", "b", &[]).await), Code::FailedPrecondition);
    client.commit("top", "a", "base", &[]).await.unwrap();
    assert_eq!(client.stat("top").await.unwrap().parent, "base");
    assert_eq!(code(client.remove("base").await), Code::FailedPrecondition);
    client.prepare("d", "base", &[]).await.unwrap();
    assert_eq!(code(client.commit("top of d", "d", "other", &[]).await), Code::InvalidArgument);
    client.commit("top of d", "d", "base", &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_goes_last() {
    let served = Served::start().await;
    let client = &served.client;
    client.committed("base", "").await;
    client.committed("middle", "base").await;
    client.view("top", "middle").await.unwrap();
    for parent in ["base", "middle"] {
        assert_eq!(code(client.remove(parent).await), Code::FailedPrecondition);
    }
    for name in ["top", "middle", "base"] {
        client.remove(name).await.unwrap();
        assert_eq!(code(client.remove(name).await), Code::NotFound);
    }
    served.has_directories(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_all_that_an_update_changes() {
    let served = Served::start().await;
    let client = &served.client;
    let before = [("a", "1"), ("b.c/d", "2"), ("gone", "3"), ("empty", "")];
    client.prepare("key", "", &before).await.unwrap();
    let made = client.stat("key").await.unwrap();
    assert_eq!(made.labels, labels(&before[..3]), "a label without a value is none");
    let sent = [("a", "5"), ("b.c/d", "6"), ("not asked for", "7")];
    let changed = client.update("key", &sent, &["labels.b.c/d", "labels.gone"]).await.unwrap();
    assert_eq!(changed.labels, labels(&[("a", "1"), ("b.c/d", "6")]));
    assert_eq!((changed.created_at, changed.kind()), (made.created_at, Kind::Active));
    let after = |time: &Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos)).unwrap();
    assert!(after(&changed.updated_at) >= after(&made.updated_at));
    assert_eq!(client.stat("key").await.unwrap(), changed);
    for paths in [&[][..], &["labels"][..]] {
        assert_eq!(client.update("key", &sent, paths).await.unwrap().labels, labels(&sent));
    }
    for path in ["kind", "parent", "name", "label", "labelsx", "", "Labels"] {
        assert_eq!(code(client.update("key", &[], &[path]).await), Code::InvalidArgument, "{path:?}");
    }
    assert_eq!(client.stat("key").await.unwrap().labels, labels(&sent));
    assert_eq!(code(client.update("nobody", &[], &["labels"]).await), Code::NotFound);
    let nothing = UpdateSnapshotRequest::default();
    assert_eq!(code(client.0.clone().update(nothing).await.map(drop)), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_in_hundreds_and_filtered() {
    let served = Served::start().await;
    let client = &served.client;
    client.committed("base", "").await;
    for number in 0..120 {
        let kind = if number % 2 == 0 { "even" } else { "odd" };
        client.prepare(&format!("key {number}"), "base", &[("kind", kind)]).await.unwrap();
    }
    let (sizes, infos) = client.list_in_messages(&[]).await.unwrap();
    assert_eq!((sizes, infos.len()), (vec![100, 21], 121));
    assert_eq!(client.list_in_messages(&["name==nobody"]).await.unwrap().0, Vec::<usize>::new());
    assert_eq!(client.names(&["kind==active,labels.kind==even"]).await.len(), 60);
    assert_eq!(client.names(&["name==base", r#"name=="key 7""#]).await, ["base", "key 7"]);
    assert_eq!(client.names(&["parent==base,labels.kind~=^e"]).await.len(), 60);
    assert!(client.names(&["name==("]).await.is_empty());
    for wrong in ["name=", "name~=(", "?", "name==x,"] {
        assert_eq!(code(client.list(&["kind==active", wrong]).await), Code::InvalidArgument, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_what_the_snapshot_itself_takes() {
    let served = Served::start().await;
    let client = &served.client;
    let mounts = client.prepare("key", "", &[]).await.unwrap();
    std::fs::write(format!("{}/file", mounts[0].source), vec![1; 100_000]).unwrap();
    let usage = client.usage("key").await.unwrap();
    assert_eq!(usage.inodes, 2);
    assert!((100_000..200_000).contains(&usage.size), "{usage:?}");
    client.commit("name", "key", "", &[]).await.unwrap();
    assert_eq!(client.usage("name").await.unwrap(), usage);
    client.prepare("child", "name", &[]).await.unwrap();
    assert_eq!(client.usage("child").await.unwrap().inodes, 1);
    client.view("view", "name").await.unwrap();
    assert_eq!(client.usage("view").await.unwrap().inodes, 0);
    assert_eq!(code(client.usage("nobody").await), Code::NotFound);
    let cleanup = client.0.clone().cleanup(CleanupRequest::default()).await;
    assert!(cleanup.is_ok());
}
