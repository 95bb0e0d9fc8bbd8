//! The mounts that were planned, performed by the kernel as containerd performs them.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use oncefs::snapshotter::protocol::types::Mount;
use oncefs::sys::mount;
use tonic::Code;

use super::served::{Served, code};

/// A mount, until this is dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = mount::detach(&self.0);
    }
}

fn perform(mounts: &[Mount], at: &Path) -> Mounted {
    fs::create_dir_all(at).unwrap();
    let [planned] = mounts else { panic!("{mounts:?}") };
    let kind = if planned.r#type == "bind" { "none" } else { &planned.r#type };
    let options = planned.options.join(",");
    let mounting = Command::new("mount").args(["-t", kind, &planned.source, "-o", &options]).arg(at).output().unwrap();
    assert!(mounting.status.success(), "{planned:?}: {}", String::from_utf8_lossy(&mounting.stderr));
    Mounted(at.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_layers_are_unpacked_one_over_the_other_and_a_container_writes() {
    let served = Served::start().await;
    let client = &served.client;
    let at = served.dir.path().join("at");
    for (number, parent) in [(1, ""), (2, "layer 1"), (3, "layer 2")] {
        let mounts = client.prepare("unpack", parent, &[]).await.unwrap();
        let layer = perform(&mounts, &at);
        fs::write(at.join(format!("file {number}")), number.to_string()).unwrap();
        fs::write(at.join("all"), number.to_string()).unwrap();
        drop(layer);
        client.commit(&format!("layer {number}"), "unpack", "", &[]).await.unwrap();
    }
    let view = perform(&client.view("view", "layer 3").await.unwrap(), &at);
    assert_eq!(fs::read_to_string(at.join("all")).unwrap(), "3");
    assert_eq!(fs::read_to_string(at.join("file 1")).unwrap(), "1");
    assert!(fs::write(at.join("new"), b"").is_err(), "a view is only looked at");
    drop(view);
    let view = perform(&client.view("bottom", "layer 1").await.unwrap(), &at);
    assert_eq!(fs::read_dir(&at).unwrap().count(), 2);
    assert!(fs::write(at.join("new"), b"").is_err());
    drop(view);
    let container = perform(&client.prepare("container", "layer 3", &[]).await.unwrap(), &at);
    fs::write(at.join("all"), b"mine").unwrap();
    fs::remove_file(at.join("file 2")).unwrap();
    drop(container);
    let container = perform(&client.mounts("container").await.unwrap(), &at);
    assert_eq!(fs::read_to_string(at.join("all")).unwrap(), "mine");
    assert!(!at.join("file 2").exists());
    drop(container);
    let other = perform(&client.prepare("other", "layer 3", &[]).await.unwrap(), &at);
    assert_eq!(fs::read_to_string(at.join("all")).unwrap(), "3");
    drop(other);
    for name in ["container", "other", "view", "bottom", "layer 3", "layer 2", "layer 1"] {
        client.remove(name).await.unwrap();
    }
    served.has_directories(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_container_over_a_remote_chain_sees_it_and_its_owner() {
    let served = Served::start().await;
    let client = &served.client;
    let one = served.known.know("one");
    let shown = served.known.directory(&one);
    fs::create_dir_all(&shown).unwrap();
    fs::write(shown.join("hello"), b"world").unwrap();
    std::os::unix::fs::chown(&shown, Some(1234), Some(4321)).unwrap();
    fs::set_permissions(&shown, fs::Permissions::from_mode(0o700)).unwrap();
    let told = [("containerd.io/snapshot.ref", &*one.to_string())];
    assert_eq!(code(client.prepare("key", "", &told).await), Code::AlreadyExists);
    let remote = client.names(&[]).await.remove(0);
    let at = served.dir.path().join("at");
    let _container = perform(&client.prepare("container", &remote, &[]).await.unwrap(), &at);
    assert_eq!(fs::read(at.join("hello")).unwrap(), b"world");
    let root = at.metadata().unwrap();
    assert_eq!((root.uid(), root.gid(), root.mode() & 0o7777), (1234, 4321, 0o755), "as containerd's own");
    fs::write(at.join("hello"), b"you").unwrap();
    assert_eq!(fs::read(shown.join("hello")).unwrap(), b"world");
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged_a_user_namespaces_root_owns_its_container() {
    let served = Served::start().await;
    let client = &served.client;
    client.committed("base", "").await;
    let (users, groups) = ("containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping");
    let told = [(users, "0:100000:65536"), (groups, "0:200000:65536")];
    let mounts = client.prepare("container", "base", &told).await.unwrap();
    assert_eq!(mounts[0].options[4..], ["uidmap=0:100000:65536", "gidmap=0:200000:65536"]);
    let upper = mounts[0].options[2].strip_prefix("upperdir=").unwrap();
    let owned = fs::metadata(upper).unwrap();
    assert_eq!((owned.uid(), owned.gid()), (100_000, 200_000));
    let nonsense = [(users, "0:x:1"), (groups, "")];
    let mounts = client.prepare("other", "base", &nonsense).await.unwrap();
    assert_eq!(mounts[0].options.len(), 4);
}
