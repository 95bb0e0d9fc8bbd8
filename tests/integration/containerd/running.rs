//! Containers run from images of a registry, through CRI and through `ctr`.

use super::harness::{Images, Node, Snapshotter, assert_sent_once};
use super::images::{file, layers, layout, noise, with_shell};
use super::snapshots::{Labels, pull_unpacking};
use crate::cli::node::until;
use crate::support::debian_registry::bytes_of_blobs;
use crate::support::ports;

/// The harness itself, without anything of oncefs.
#[test]
fn redis_answers_from_overlayfs() {
    let images = Images::of(&["pause", "redis"]);
    redis_answers(&Node::start(Snapshotter::Overlayfs, &images), &images);
}

#[test]
fn redis_answers_before_anything_is_unpacked() {
    let images = Images::of(&["pause", "redis"]);
    let node = Node::start(Snapshotter::Oncefs, &images);
    redis_answers(&node, &images);
    for (layer, _) in layers(&layout("redis")) {
        assert!(!node.content().contains(&layer), "containerd fetched {layer}");
    }
    until("no snapshot has files of its own", || node.oncefs().snapshot_dirs().is_empty());
}

#[test]
fn redis_answers_when_the_proxy_has_pulled_it() {
    let images = Images::of(&["pause", "redis"]);
    let node = Node::start(Snapshotter::OncefsThroughProxy, &images);
    let redis = images.reference("redis");
    node.cri.pull(&redis).unwrap();
    let mut expected: Vec<String> = layers(&layout("redis")).into_iter().map(|(layer, _)| layer).collect();
    expected.sort();
    assert_eq!(node.oncefs().layers(), expected, "a pull through the proxy means that the layers are here");
    let (answered, stopped) = images.stop();
    for (layer, size) in layers(&layout("redis")) {
        assert_eq!(bytes_of_blobs(&answered).get(&layer), Some(&size), "{layer} was sent once");
    }
    let images = stopped.start();
    redis_answers(&node, &images);
}

fn redis_answers(node: &Node, images: &Images) {
    let redis = images.reference("redis");
    node.cri.pull(&redis).unwrap();
    let pod = node.cri.run_pod("redis");
    let port = ports::unused().port().to_string();
    let server = pod.start("server", &redis, &["redis-server", "--port", &port, "--bind", "127.0.0.1"]);
    until("redis answers", || ping(&port));
    let asked = server.exec(&["redis-cli", "-p", &port, "ping"]).well();
    assert_eq!(asked.trim(), "PONG");
    assert!(server.is_running());
    server.stop();
    until("its log has what it said", || server.said().contains("Ready to accept connections"));
    pod.remove();
}

/// What any client of redis does, over the loopback device.
pub(super) fn ping(port: &str) -> bool {
    use std::io::{Read as _, Write as _};
    let Ok(mut stream) = std::net::TcpStream::connect(format!("127.0.0.1:{port}")) else { return false };
    let mut answer = [0; 7];
    stream.write_all(b"PING\r\n").unwrap();
    stream.read_exact(&mut answer).is_ok() && &answer == b"+PONG\r\n"
}

#[test]
fn a_container_of_overlayfs_has_a_root_of_its_own() {
    has_a_root_of_its_own(Snapshotter::Overlayfs);
}

#[test]
fn a_container_of_oncefs_has_a_root_of_its_own() {
    has_a_root_of_its_own(Snapshotter::Oncefs);
}

/// It is written to, deleted from, and read back; another container of the image sees nothing of it.
fn has_a_root_of_its_own(snapshotter: Snapshotter) {
    let images = Images::of(&["pause"]);
    let image = with_shell(&[file("etc/below", "from below\n"), file("srv/page", "a page\n")]);
    let name = images.add(&image, "own/root:1");
    let node = Node::start(snapshotter, &images);
    node.cri.pull(&name).unwrap();
    let pod = node.cri.run_pod("own-root");
    let changes = "cat /etc/below; echo changed >> /etc/below; rm -r /srv; mkdir /srv; echo new > /srv/new; cat /etc/below; ls /srv";
    assert_eq!(pod.run("writes", &name, &["sh", "-c", changes]), "from below\nfrom below\nchanged\nnew\n");
    assert_eq!(pod.run("reads", &name, &["sh", "-c", "cat /etc/below; ls /srv"]), "from below\npage\n");
    pod.remove();
}

#[test]
fn ctr_runs_an_image_of_which_it_says_nothing_to_the_snapshotter() {
    let images = Images::of(&["pause"]);
    let name = images.add(&with_shell(&[noise("opt/noise", 41, 100_000), file("etc/said", "said\n")]), "ctr/silent:1");
    let node = Node::start(Snapshotter::Oncefs, &images);
    node.pull_silently(&name);
    assert_eq!(node.run(&name, "silent", &["sh", "-c", "cat /etc/said; wc -c < /opt/noise"]), "said\n100000\n");
    let changes = "echo more > /etc/said; rm /opt/noise; cat /etc/said; ls /opt";
    assert_eq!(node.run(&name, "writes", &["sh", "-c", changes]), "more\n");
    assert_eq!(node.oncefs().layers(), Vec::<String>::new(), "without labels there is nothing to scan from");
}

#[test]
fn what_oncefs_pulled_before_is_served_by_its_chain_alone() {
    let images = Images::of(&["pause"]);
    let image = with_shell(&[noise("opt/noise", 42, 100_000), file("etc/said", "said\n")]);
    let name = images.add(&image, "known/before:1");
    let node = Node::start(Snapshotter::Oncefs, &images);
    assert!(!pull_unpacking(&node, "default", &name, &image, Labels::Chain), "nothing is known of it yet");
    node.oncefs().oncefs(&["pull", &name]).well();
    assert!(pull_unpacking(&node, "default", &name, &image, Labels::Chain));
    assert_eq!(node.run(&name, "known", &["sh", "-c", "cat /etc/said; wc -c < /opt/noise"]), "said\n100000\n");
    until("no snapshot has files of its own", || node.oncefs().snapshot_dirs().is_empty());
    assert_sent_once(&images.stop().0, &image.layers, 1);
}

#[test]
fn labels_given_by_any_client_make_an_image_remote() {
    let images = Images::of(&["pause"]);
    let image = with_shell(&[noise("opt/noise", 44, 100_000), file("etc/said", "said\n")]);
    let name = images.add(&image, "any/client:1");
    let node = Node::start(Snapshotter::Oncefs, &images);
    assert!(pull_unpacking(&node, "default", &name, &image, Labels::Image));
    assert_eq!(node.run(&name, "remote", &["sh", "-c", "cat /etc/said; wc -c < /opt/noise"]), "said\n100000\n");
    assert_sent_once(&images.stop().0, &image.layers, 1);
}

#[test]
fn a_second_namespace_fetches_no_layer() {
    let images = Images::of(&["pause"]);
    let image = with_shell(&[noise("opt/noise", 43, 100_000)]);
    let name = images.add(&image, "two/namespaces:1");
    let node = Node::start(Snapshotter::Oncefs, &images);
    node.cri.pull(&name).unwrap();
    assert!(pull_unpacking(&node, "second", &name, &image, Labels::Image));
    let look = ["sh", "-c", "wc -c < /opt/noise"];
    assert_eq!(node.containerd.say("second", &["--rm"], &name, "second", &look), "100000\n");
    until("the layers are here", || node.oncefs().layers().len() == image.layers.len());
    assert!(pull_unpacking(&node, "third", &name, &image, Labels::Chain), "by now its chain is enough");
    assert_eq!(node.containerd.say("third", &["--rm"], &name, "third", &look), "100000\n");
    assert_sent_once(&images.stop().0, &image.layers, 1);
}
