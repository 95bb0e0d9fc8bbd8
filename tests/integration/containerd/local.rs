//! Images that come from no registry: imported, committed, put together of a container's changes.

use super::harness::{Images, Node, Snapshotter, assert_says};
use super::images::{archive, file, noise, with_shell};
use super::snapshots::{Labels, pull_unpacking};
use crate::cli::node::{mounts_below, run};
use std::process::Command;

#[test]
fn an_image_imported_into_overlayfs_runs_and_is_exported_again() {
    imports_runs_and_exports(Snapshotter::Overlayfs);
}

#[test]
fn an_image_imported_into_oncefs_runs_and_is_exported_again() {
    imports_runs_and_exports(Snapshotter::Oncefs);
}

fn imports_runs_and_exports(snapshotter: Snapshotter) {
    let images = Images::of(&["pause"]);
    let node = Node::start(snapshotter, &images);
    let image = with_shell(&[noise("opt/noise", 51, 100_000), file("etc/made", "made here\n")]);
    let made = archive(&image, &node.path("."), "made.here/image:1");
    node.ctr(&["images", "import", made.to_str().unwrap()]).well();
    assert_eq!(node.run("made.here/image:1", "imported", &["cat", "/etc/made"]), "made here\n");
    let exported = node.path("exported.tar");
    node.ctr(&["images", "export", exported.to_str().unwrap(), "made.here/image:1"]).well();
    let source = format!("oci-archive:{}", exported.display());
    let digest = run(Command::new("skopeo").args(["inspect", "--format", "{{.Digest}}", &source])).well().out;
    assert_eq!(digest.trim(), image.manifest_digest().to_string());
}

#[test]
fn what_a_container_changed_over_overlayfs_is_committed_and_run() {
    commits_and_runs(Snapshotter::Overlayfs);
}

#[test]
fn what_a_container_changed_over_oncefs_is_committed_and_run() {
    commits_and_runs(Snapshotter::Oncefs);
}

/// The image's own layers are remote for oncefs; the commit lies over them.
fn commits_and_runs(snapshotter: Snapshotter) {
    let images = Images::of(&["pause"]);
    let image = with_shell(&[file("etc/below", "from below\n"), file("srv/page", "a page\n")]);
    let name = images.add(&image, "to/commit:1");
    let node = Node::start(snapshotter, &images);
    if snapshotter == Snapshotter::Oncefs {
        assert!(pull_unpacking(&node, "default", &name, &image, Labels::Image));
    } else {
        node.pull_silently(&name);
    }
    let changes = ["sh", "-c", "echo made > /etc/made; rm /srv/page"];
    node.containerd.run("default", &[], &name, "changes", &changes).end().well();

    let diff = node.path("diff.tar.gz");
    let show = format!("ctr snapshots diff changes > {}", diff.display());
    node.containerd.shell(&show).well();
    let listed = run(Command::new("tar").arg("tzf").arg(&diff)).well().out;
    assert_says(&listed, "etc/made");
    assert_says(&listed, "srv/.wh.page");

    node.ctr(&["tasks", "rm", "changes"]);
    node.ctr(&["snapshots", "commit", "committed", "changes"]).well();
    node.ctr(&["snapshots", "prepare", "over-committed", "committed"]).well();
    let root = node.path("committed-root");
    std::fs::create_dir(&root).unwrap();
    let mount = node.ctr(&["snapshots", "mounts", root.to_str().unwrap(), "over-committed"]).well().out;
    node.containerd.shell(&mount).well();
    let words = ["sh", "-c", "cat /etc/made /etc/below; ls /srv; echo on > /etc/made; cat /etc/made"];
    let options = ["--rm", "--env", "PATH=/bin", "--rootfs"];
    let said = node.containerd.say("default", &options, root.to_str().unwrap(), "again", &words);
    assert_eq!(said, "made\nfrom below\non\n");
    assert_eq!(mounts_below(&root).len(), 1);
    rustix::mount::unmount(&root, rustix::mount::UnmountFlags::empty()).unwrap();
    node.ctr(&["snapshots", "rm", "over-committed"]).well();
    node.ctr(&["snapshots", "rm", "committed"]).well();
}
