//! Mirrors in trouble: the next place is used, and nobody waits.

use super::ending::TROUBLES;
use super::proxy::Proxy;
use super::stage::{Hub, Mounted, assert_read};

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
