//! `oncefs doctor`: what is really wrong is found, and what to change is said.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use super::image::Image;
use super::node::{Node, kill_wholly, run, until};
use super::registry::{Fault, Registry};
use crate::takeover::stage::keeper_and_server;

/// The findings. The exit code is theirs. Other tests' mounts, alive and dead, are on this machine too, and are left out.
fn findings(node: &Node, arguments: &[&str]) -> Vec<Value> {
    let ran = node.oncefs(&[&["doctor", "--json"], arguments].concat());
    assert!(ran.err.is_empty(), "{ran:?}");
    let mut all: Vec<Value> = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(ran.code, Some(i32::from(all.iter().any(is_problem))), "{ran:?}");
    let ours = node.path("").display().to_string();
    all.retain(|one| one["group"] != "mounts" || one["found"].as_str().unwrap().contains(&ours));
    all
}

fn is_problem(one: &Value) -> bool {
    one["level"] == "problem"
}

/// The one finding of a group that is no better than this and has these words; the change that is proposed has the others.
#[track_caller]
fn finds(all: &[Value], group: &str, level: &str, found: &str, change: &str) {
    let is_meant = |one: &&Value| {
        let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
        text("group") == group
            && text("level") == level
            && text("found").contains(found)
            && text("change").contains(change)
    };
    assert_eq!(all.iter().filter(is_meant).count(), 1, "{level} {found:?}, to do {change:?}: {all:#?}");
}

fn of_group<'a>(all: &'a [Value], group: &str) -> Vec<&'a Value> {
    all.iter().filter(|one| one["group"] == group).collect()
}

fn write(node: &Node, name: &str, text: &str) -> PathBuf {
    std::fs::write(node.path(name), text).unwrap();
    node.path(name)
}

/// What docs/containerd.md says, for containerd 1.x, for this node.
fn right(node: &Node) -> String {
    format!(
        "version = 2\n[proxy_plugins.oncefs]\ntype = \"snapshot\"\naddress = \"{}\"\n[proxy_plugins.oncefs.exports]\nroot = \"{}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\nrestrict_oom_score_adj = true\ndisable_apparmor = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"oncefs\"\ndisable_snapshot_annotations = false\n",
        node.run().join("snapshotter.sock").display(),
        node.root().display()
    )
}

#[test]
fn a_machine_that_is_well_has_no_problem_and_each_mistake_in_containerds_configuration_is_one() {
    let node = Node::new();
    let mut server = node.start(&["serve"]);
    until("the server listens", || node.run().join("snapshotter.sock").exists());
    let good = right(&node);
    let look = |text: &str| {
        let path = write(&node, "containerd.toml", text);
        findings(&node, &["--containerd-config", path.to_str().unwrap()])
    };
    let all = look(&good);
    assert!(!all.iter().any(is_problem), "{all:#?}");
    assert!(of_group(&all, "containerd").iter().all(|one| one["level"] == "ok"), "{all:#?}");
    finds(&all, "server", "ok", "a server runs and answers", "");
    finds(&all, "kernel", "ok", "/dev/fuse can be opened", "");
    finds(&all, "disk", "ok", "holes can be punched", "");

    let socket = node.run().join("snapshotter.sock").display().to_string();
    let wrong_socket = good.replace(&socket, "/run/elsewhere.sock");
    let all = look(&wrong_socket);
    finds(&all, "containerd", "problem", "/run/elsewhere.sock", &format!("address = {socket:?}"));
    let all = look(&good.replace("disable_snapshot_annotations = false", ""));
    finds(&all, "containerd", "problem", "not told which image", "disable_snapshot_annotations = false");
    let all = look(&good.replace("type = \"snapshot\"", "type = \"snapshot\"\ncapabilities = [\"rebase\"]"));
    finds(&all, "containerd", "problem", "rebase", "take \"rebase\" out of capabilities");
    let all = look(&good.replace("snapshotter = \"oncefs\"", "snapshotter = \"overlayfs\""));
    assert!(!all.iter().any(is_problem), "a warning is no problem: {all:#?}");
    finds(
        &all,
        "containerd",
        "warning",
        "\"overlayfs\", not to oncefs",
        "snapshotter = \"oncefs\" in [plugins.\"io.containerd.grpc.v1.cri\".containerd]",
    );
    let all = look(&good.replace("root = ", "other = "));
    finds(&all, "containerd", "warning", "does not know whose disk", "root = ");
    let all = look("version = 2\n[proxy_plugins.oncefs\n");
    finds(&all, "containerd", "problem", "containerd.toml cannot be used", "mend it");
    let all = look("version = 2\n");
    finds(&all, "containerd", "warning", "does not know oncefs", "[proxy_plugins.oncefs]");

    server.signal(Signal::TERM);
    until("the server has ended", || server.has_ended());
    let all = look(&good);
    finds(&all, "containerd", "problem", "nobody listens at", "systemctl enable --now oncefs.socket");
}

#[test]
fn the_form_of_containerd_2_is_looked_at_in_its_own_places() {
    let node = Node::new();
    let _server = node.start(&["serve"]);
    until("the server listens", || node.run().join("snapshotter.sock").exists());
    let plugin = format!(
        "version = 3\n[proxy_plugins.oncefs]\ntype = \"snapshot\"\naddress = \"{}\"\n[proxy_plugins.oncefs.exports]\nroot = \"{}\"\n",
        node.run().join("snapshotter.sock").display(),
        node.root().display()
    );
    let path = write(&node, "containerd.toml", &plugin);
    let all = findings(&node, &["--containerd-config", path.to_str().unwrap()]);
    finds(
        &all,
        "containerd",
        "warning",
        "overlayfs, containerd's default",
        "[plugins.\"io.containerd.cri.v1.images\"]",
    );
    finds(&all, "containerd", "problem", "transfer service does not give images", "unpack_config");
    finds(&all, "containerd", "problem", "not told which image", "enable_remote_snapshot_annotations");

    // What docs/containerd.md says. An older containerd that happens to be installed is not the one that reads it.
    let unpack = "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\nplatform = \"linux/amd64\"\nsnapshotter = \"oncefs\"\n";
    let images = "[plugins.\"io.containerd.cri.v1.images\"]\nsnapshotter = \"oncefs\"\n";
    let runtime =
        "[plugins.\"io.containerd.cri.v1.runtime\"]\nrestrict_oom_score_adj = true\ndisable_apparmor = true\n";
    let right = format!("{plugin}enable_remote_snapshot_annotations = \"true\"\n{images}{runtime}{unpack}");
    write(&node, "containerd.toml", &right);
    let all = findings(&node, &["--containerd-config", path.to_str().unwrap()]);
    assert!(of_group(&all, "containerd").iter().all(|one| one["level"] == "ok"), "{all:#?}");
}

#[test]
fn the_configuration_a_full_disk_and_a_dead_mount() {
    let node = Node::on_tmpfs("size=1m");
    node.configure("[scan]\nconcurent_layers = 3\n");
    std::fs::write(node.root().join("full"), vec![1; 2 << 20]).unwrap_err();
    let all = findings(&node, &[]);
    finds(&all, "configuration", "problem", "concurent_layers", "config check");
    finds(&all, "disk", "problem", "the disk is too small: 0 MiB of 1 MiB", "choose another root");

    let (node, image) = (Node::new(), Image::usual(31));
    let registry = Registry::with(&image);
    let at = node.mount(&registry.image(), "mnt");
    run(Command::new("ls").arg(&at)).well();
    let all = findings(&node, &[]);
    assert!(!all.iter().any(is_problem) && of_group(&all, "server").iter().all(|one| one["level"] == "ok"), "{all:#?}");
    kill_wholly(&[keeper_and_server(&node.path("")).0.unwrap()]);
    finds(&findings(&node, &[]), "server", "warning", "the keeper of this server is no more", "oncefs umount --all");
    kill_wholly(&node.processes());
    let all = findings(&node, &[]);
    // Also where the image was wanted, whose attributes the kernel knows still.
    for dead in [node.run().join("fs"), at] {
        let told = format!("{}: the server of this mount has died", dead.display());
        finds(&all, "mounts", "problem", &told, "oncefs umount");
    }
    finds(&all, "server", "warning", "has left that was killed", "nothing");
}

#[test]
fn a_registry_that_has_the_image_refuses_it_or_is_away() {
    let (node, image) = (Node::new(), Image::usual(32));
    let mut registry = Registry::with(&image);
    let name = registry.image();
    let all = findings(&node, &[&name]);
    assert!(!all.iter().any(is_problem), "{all:#?}");
    finds(&all, "registry", "ok", &image.manifest_digest().to_string(), "");
    finds(&all, "registry", "ok", "also in parts", "");
    registry.fault("1", Fault::Unauthorized);
    let all = findings(&node, &[&name]);
    finds(&all, "registry", "problem", "refuses", &format!("docker login {}", registry.host()));
    registry.heal();
    registry.fault(image.layers[0].digest(), Fault::Status(403));
    let all = findings(&node, &[&name]);
    finds(&all, "registry", "problem", "a layer of", "may pull");
    registry.go_away();
    let all = findings(&node, &[&name]);
    finds(&all, "registry", "problem", "cannot reach", "HTTPS_PROXY");
    let all = findings(&node, &[]);
    finds(&all, "registry", "ok", "name an image", "");
}

#[test]
fn kubelet_and_the_text_for_people() {
    let node = Node::new();
    let path =
        write(&node, "kubelet.yaml", "kind: KubeletConfiguration\nimageServiceEndpoint: unix:///run/other.sock\n");
    let all = findings(&node, &["--kubelet-config", path.to_str().unwrap()]);
    let ours = format!("imageServiceEndpoint: unix://{}", node.run().join("cri.sock").display());
    finds(&all, "kubelet", "warning", "unix:///run/other.sock", &ours);
    std::fs::write(&path, ours).unwrap();
    let ran = node.oncefs(&["doctor", "--kubelet-config", path.to_str().unwrap()]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.out.contains("PROBLEM") && ran.out.contains("to do: systemctl enable --now oncefs.socket"),
        "{}",
        ran.out
    );
    let count = ran.out.matches("\n  PROBLEM").count();
    let problems = format!("\n{count} problem{}, ", if count == 1 { "" } else { "s" });
    assert!(ran.out.contains(&problems), "{}", ran.out);
    // What stands in a file that cannot be read may be a login.
    std::fs::write(&path, "staticPodURLHeader:\n  Authorization: [\"Basic s3cret\"\nx: y\n").unwrap();
    let ran = node.oncefs(&["doctor", "--kubelet-config", path.to_str().unwrap()]);
    assert!(ran.out.contains("kubelet.yaml cannot be read: line ") && !ran.out.contains("s3cret"), "{}", ran.out);
}
