//! Mirrors in trouble: the next place is used, and nobody waits. And a name that is not found.

use super::ending::TROUBLES;
use super::proxy::Proxy;
use super::stage::{Hub, Mounted, assert_read, needed};
use crate::cli::node::{ONCEFS, Running, run, until};
use crate::daemon::stage::Service;

#[test]
fn what_a_mirror_does_not_give_rightly_is_had_from_the_registry_at_once() {
    const SEED: u64 = 5_600;
    let hub = Hub::with_layers(TROUBLES.len(), SEED);
    let mut mirror = Proxy::before(hub.address());
    let hosts = tempfile::tempdir().unwrap();
    let folder = hosts.path().join(hub.address().to_string().replace(':', "_") + "_");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("hosts.toml"), format!("[host.\"http://{}\"]\n", mirror.address())).unwrap();
    let lines = format!("config_path = [\"{}\"]\n", hosts.path().display());
    let mounted = Mounted::of(&hub.address().to_string(), 100, &lines);
    let before: Vec<usize> = (0..TROUBLES.len()).map(|n| mirror.asked(&hub.layer(n))).collect();
    assert!(before.iter().all(|asked| *asked > 0), "the mirror is asked first");
    for (n, trouble) in TROUBLES.into_iter().enumerate() {
        mirror.troubles(&hub.layer(n), trouble);
    }
    let readers: Vec<_> = (0..TROUBLES.len()).map(|n| mounted.starts_reading(n, 0)).collect();
    for (n, reader) in readers.into_iter().enumerate() {
        assert_read(reader.end(), SEED, n, 0);
    }
    let asked = |n: usize| mirror.asked(&hub.layer(n)) - before[n];
    assert!(
        (0..TROUBLES.len()).all(|n| (1..=6).contains(&asked(n))),
        "{:?}",
        (0..TROUBLES.len()).map(asked).collect::<Vec<_>>()
    );
    assert_eq!(mounted.metric("oncefs_fetch_outages_total"), 0.0);
    mirror.closes();
    for n in 0..TROUBLES.len() {
        assert_read(mounted.reads(n, 1), SEED, n, 1);
    }
    assert_eq!(mounted.metric("oncefs_fetch_outages_total"), 0.0);
}

/// The server has a table of hosts of its own, in a mount namespace of its own; and no name server.
#[test]
fn readers_wait_for_a_name_that_is_not_found() {
    const SEED: u64 = 5_700;
    let hub = Hub::with_layers(1, SEED);
    // Its connections are not kept open: each request looks for the name.
    let proxy = Proxy::before(hub.address());
    let mut service = Service::new("");
    let lines = "[registry]\ninsecure_hosts = [\"hub.oncefs.test\"]\nretries = 1\nretry_pause_ms = 10\n[profile]\nrecord_secs = 0\n\
         [fetch]\nbackground = \"off\"\nread_ahead_bytes_max = 0\noutage_secs = 100\n";
    std::fs::write(service.path("config.toml"), lines).unwrap();
    let (hosts, servers) = (service.path("hosts"), service.path("resolv.conf"));
    let known = "127.0.0.1 localhost hub.oncefs.test\n";
    std::fs::write(&hosts, known).unwrap();
    std::fs::write(&servers, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
    let line = "mount --bind hosts /etc/hosts && mount --bind resolv.conf /etc/resolv.conf && exec \"$@\"";
    let mut command = service.command(&needed("unshare"));
    command.args(["--mount", "sh", "-ec", line, "sh", ONCEFS]).args(service.arguments()).arg("serve");
    service.started_by(&mut command);
    service.hear("READY=1");
    let at = service.path("mnt");
    std::fs::create_dir(&at).unwrap();
    let server = service.pid();
    let inside = |program: &str| {
        let mut command = service.command(&needed("nsenter"));
        command.arg(format!("--mount=/proc/{server}/ns/mnt")).arg(program);
        command
    };
    let image = format!("hub.oncefs.test:{}/image:1", proxy.address().port());
    let oncefs = |arguments: &[&str]| run(inside(ONCEFS).args(service.arguments()).args(arguments));
    oncefs(&["mount", &image, at.to_str().unwrap()]).well();
    run(inside("ls").arg(at.join("layer-0"))).well();
    std::fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    let reader = Running::start(inside("sha256sum").arg(at.join("layer-0/file-0")));
    until("the name is looked for again", || service.metric("oncefs_fetch_outage_tries_total") >= 1.0);
    std::fs::write(&hosts, known).unwrap();
    assert_read(reader.end(), SEED, 0, 0);
    oncefs(&["umount", at.to_str().unwrap()]).well();
}
