//! Containers whose server is killed under them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::harness::{Images, Node, Snapshotter};
use super::images::{file, noise, with_shell};
use super::running::ping;
use super::snapshots::Snapshots;
use crate::cli::node::{mounts_below, until};
use crate::support::ports;
use crate::takeover::stage::kill;

/// One runs through every kill, and reads at last what nobody has read before; others begin between the kills.
#[test]
fn containers_run_on_when_the_server_is_killed_under_them() {
    let images = Images::of(&["pause", "redis"]);
    let image = with_shell(&[noise("opt/unread", 71, 2_000_000), file("srv/page", "a page\n")]);
    let (redis, own) = (images.reference("redis"), images.add(&image, "kill/own:1"));
    let node = Node::start(Snapshotter::OncefsKept, &images);
    for name in [&redis, &own] {
        node.cri.pull(name).unwrap();
    }
    let pod = node.cri.run_pod("killed");
    let port = ports::unused().port().to_string();
    let server = pod.start("server", &redis, &["redis-server", "--port", &port, "--bind", "127.0.0.1"]);
    let quiet = pod.start("quiet", &own, &["sh", "-c", "sleep 1000"]);
    until("redis answers", || ping(&port));
    for round in 0..4 {
        node.oncefs().kill_kept();
        // containerd tries its connection again after a while; containers need none.
        assert!(ping(&port), "redis does not answer after kill {round}");
        assert_eq!(server.exec(&["redis-cli", "-p", &port, "ping"]).well().trim(), "PONG");
        until("containerd has found oncefs again", || node.ctr(&["snapshots", "ls"]).code == Some(0));
        assert_eq!(pod.run(&format!("new{round}"), &own, &["sh", "-c", "cat /srv/page"]), "a page\n");
    }
    assert_eq!(quiet.exec(&["sh", "-c", "wc -c < /opt/unread; cat /srv/page"]).well(), "2000000\na page\n");
    assert!(server.is_running() && quiet.is_running());
    pod.remove();
    for name in [&redis, &own] {
        node.cri.remove_image(name);
    }
}

/// Whatever was answered is there after the kill, and what was removed is not; containerd says the same as the server.
#[test]
fn answered_calls_are_there_when_the_server_is_killed_in_the_middle_of_others() {
    let images = Images::of(&["pause"]);
    let node = Node::start(Snapshotter::OncefsKept, &images);
    let (is_over, prepared) = (AtomicBool::new(false), AtomicUsize::new(0));
    let calling = |thread: usize| {
        let (mut there, mut gone) = (Vec::new(), Vec::new());
        let socket = node.oncefs().socket();
        for number in 0.. {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            // A connection that broke is made anew, and what was not answered may be so or not.
            let mut calls = Snapshots::at(&node.runtime, &socket, "killed");
            let (key, name) = (format!("key-{thread}-{number}"), format!("name-{thread}-{number}"));
            if calls.prepare(&key, "", &[]).is_err() {
                continue;
            }
            prepared.fetch_add(1, Ordering::Relaxed);
            if number % 3 == 0 {
                there.push(key);
            } else if number % 3 == 1 && calls.commit(&name, &key).is_ok() {
                there.push(name);
                gone.push(key);
            } else if calls.remove(&key).is_ok() {
                gone.push(key);
            }
        }
        (there, gone)
    };
    let answered: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || calling(thread))).collect();
        let ending = Ending(&is_over);
        for kill in 1..=4 {
            until("calls were answered since the last kill", || prepared.load(Ordering::Relaxed) >= 10 * kill);
            node.oncefs().kill_kept();
        }
        drop(ending);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut calls = Snapshots::at(&node.runtime, &node.oncefs().socket(), "killed");
    let names: Vec<String> = calls.list().into_iter().map(|info| info.name).collect();
    let all = answered.iter().map(|(there, gone)| there.len() + gone.len()).sum::<usize>();
    assert!(all > 20, "only {all} calls were answered");
    for (there, gone) in answered {
        assert!(there.iter().all(|name| names.contains(name)), "{there:?} are not all in {names:?}");
        assert!(gone.iter().all(|name| !names.contains(name)), "some of {gone:?} are still in {names:?}");
    }
    node.oncefs().oncefs(&["check"]).well();
}

/// Nobody has the connection to the kernel then: what runs over it has lost its files, and is started again.
#[test]
fn containers_are_started_again_after_the_keeper_and_then_the_server_were_killed() {
    let images = Images::of(&["pause"]);
    let image = with_shell(&[file("srv/page", "a page\n")]);
    let own = images.add(&image, "kill/both:1");
    let mut node = Node::start(Snapshotter::OncefsKept, &images);
    node.cri.pull(&own).unwrap();
    let pod = node.cri.run_pod("killed");
    let old = pod.start("old", &own, &["sleep", "1000"]);
    node.oncefs_mut().kill_keeper();
    assert_eq!(old.exec(&["cat", "/srv/page"]).well(), "a page\n");
    assert_eq!(pod.run("meanwhile", &own, &["cat", "/srv/page"]), "a page\n");
    let (keeper, server) = node.oncefs().keeper_and_server();
    assert_eq!(keeper, None);
    kill(server);
    until("the server is gone", || node.oncefs().keeper_and_server().1.is_none());
    let fs = node.oncefs().run_dir().join("fs");
    assert!(fs.symlink_metadata().is_err(), "the mount of a server without a keeper lives on");
    // Nobody clears anything.
    node.oncefs_mut().start_again();
    until("the next server answers", || node.oncefs().server().is_some());
    assert_eq!(mounts_below(&fs), std::slice::from_ref(&fs));
    assert!(fs.read_dir().is_ok(), "the dead mount is left");
    until("containerd has found oncefs again", || node.ctr(&["snapshots", "ls"]).code == Some(0));
    old.stop();
    old.remove();
    let new = pod.start("new", &own, &["sleep", "1000"]);
    assert_eq!(new.exec(&["cat", "/srv/page"]).well(), "a page\n");
    // And the new one outlives its server.
    node.oncefs().kill_kept();
    assert_eq!(new.exec(&["cat", "/srv/page"]).well(), "a page\n");
    pod.remove();
    let socket = format!("--containerd={}", node.containerd.socket().display());
    node.oncefs().oncefs(&["check", &socket]).well();
}

/// Tells those who call that it is over, also when the test fails meanwhile.
pub(super) struct Ending<'a>(pub(super) &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
