//! A host that need not prove who it is: what is said of it, and how often.

use serde_json::Value;

use super::ending::{certificate, server};
use super::proxy::Proxy;
use super::stage::{Hub, Mounted, assert_read};
use crate::cli::node::until;

#[test]
fn a_host_whose_certificate_is_not_checked_is_told_of_once_for_each_change_of_its_file() {
    const SEED: u64 = 6_100;
    let hub = Hub::with_layers(1, SEED);
    let proxy = Proxy::over_tls(hub.address(), server(&certificate()));
    let hosts = tempfile::tempdir().unwrap();
    let folder = hosts.path().join("hub.example");
    std::fs::create_dir(&folder).unwrap();
    let (file, text) =
        (folder.join("hosts.toml"), format!("server = \"https://{}\"\nskip_verify = true\n", proxy.address()));
    std::fs::write(&file, &text).unwrap();
    let mounted = Mounted::of("hub.example", 100, &format!("config_path = [\"{}\"]\n", hosts.path().display()));
    assert_read(mounted.reads(0, 0), SEED, 0, 0);
    let is_meant = |said: &str| {
        let words = [file.to_str().unwrap(), &proxy.address().to_string(), "is not verified", "skip_verify"];
        words.iter().all(|word| said.contains(word))
    };
    let told = || mounted.log().lines().filter(|line| is_meant(line)).count();
    assert_eq!(told(), 1);
    std::fs::write(&file, format!("# changed\n{text}")).unwrap();
    until("the change is told of", || {
        mounted.node.oncefs(&["inspect", "hub.example/image:1"]).well();
        told() == 2
    });
    assert_read(mounted.reads(0, 1), SEED, 0, 1);
    assert_eq!(told(), 2);

    let ran = mounted.node.oncefs(&["doctor", "--json"]);
    let findings: Vec<Value> = serde_json::from_str(&ran.out).unwrap();
    let is_warning = |one: &&Value| one["level"] == "warning" && is_meant(one["found"].as_str().unwrap());
    assert_eq!(findings.iter().filter(is_warning).count(), 1, "{}", ran.out);
    let status = mounted.node.oncefs(&["status"]).well();
    assert_eq!(status.out.lines().filter(|line| is_meant(line)).count(), 1, "{status:?}");
}
