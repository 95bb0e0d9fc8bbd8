//! What is there after a restart, and what is not.

use std::fs;

use oncefs::snapshotter::Snapshots;
use tonic::Code;

use super::served::{Served, code};

const CHAIN: &str = "containerd.io/snapshot.ref";

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_come_back_as_they_were_with_their_claims() {
    let served = Served::start().await;
    let one = served.known.know("one");
    assert_eq!(code(served.client.prepare("key", "", &[(CHAIN, &one.to_string())]).await), Code::AlreadyExists);
    let remote = served.client.names(&[]).await.remove(0);
    let mounts = served.client.prepare("container", &remote, &[("a", "b")]).await.unwrap();
    served.client.committed("base", &remote).await;
    served.client.update("base", &[("c", "d")], &[]).await.unwrap();
    let before = served.client.list(&[]).await.unwrap();
    let served = served.restart().await;
    assert_eq!(served.client.list(&[]).await.unwrap(), before);
    assert_eq!((served.known.claims(), served.known.settled()), ([(one, 1)].into(), 1));
    assert_eq!(served.client.mounts("container").await.unwrap(), mounts);
    assert_eq!(code(served.client.prepare("key", "", &[(CHAIN, &one.to_string())]).await), Code::AlreadyExists);
    assert_eq!(served.known.claims(), [(one, 1)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_that_no_snapshot_has_are_deleted_and_no_number_is_used_twice() {
    let served = Served::start().await;
    served.client.committed("kept", "").await;
    let root = served.dir.path().join("root/snapshots");
    fs::create_dir_all(root.join("70/fs/deep/er")).unwrap();
    fs::write(root.join("70/fs/file"), b"left over").unwrap();
    let served = served.restart().await;
    served.has_directories(1).await;
    served.client.prepare("new", "", &[]).await.unwrap();
    assert_eq!(served.directories(), [1, 71]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_is_kept() {
    let served = Served::start().await;
    let mounts = served.client.prepare("key", "", &[]).await.unwrap();
    let file = format!("{}/file", mounts[0].source);
    fs::write(&file, vec![1; 50_000]).unwrap();
    served.client.commit("name", "key", "", &[]).await.unwrap();
    let usage = served.client.usage("name").await.unwrap();
    // Until the count is written down: then the files are not looked at any more.
    fs::remove_file(&file).unwrap();
    let served = served.restart().await;
    assert_eq!(served.client.usage("name").await.unwrap(), usage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_database_loses_nothing_that_containers_wrote() {
    let mut served = Served::start().await;
    let mounts = served.client.prepare("container", "", &[]).await.unwrap();
    fs::write(format!("{}/written", mounts[0].source), b"precious").unwrap();
    served.stop();
    served.stopped().await;
    let Served { dir, known, snapshots, .. } = served;
    drop(snapshots);
    let root = dir.path().join("root");
    // The store lets go of its files when the last of its work ends.
    drop(super::served::open_store(&root));
    let mapped = dir.path().join("run/mapped");
    let break_and_open = || {
        for file in ["db/db", "db/conf"] {
            fs::write(root.join(file), vec![0x5a; 100_000]).unwrap();
        }
        Snapshots::open(super::served::open_store(&root), std::sync::Arc::new(known.clone()), mapped.clone()).unwrap()
    };
    assert_eq!(break_and_open().stat("container").unwrap().id, 1);
    assert_eq!(fs::read(root.join("snapshots/1/fs/written")).unwrap(), b"precious");
    drop(super::served::open_store(&root));
    // And when nothing knows the snapshot any more.
    fs::remove_dir_all(root.join("notes")).unwrap();
    assert_eq!(break_and_open().count(), 0);
    assert_eq!(fs::read(root.join("snapshots.lost-0/1/fs/written")).unwrap(), b"precious");
}
