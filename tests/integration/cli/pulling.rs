//! `oncefs pull`, `oncefs config`, and the usage of all commands.

use super::image::Image;
use super::node::{Node, ONCEFS, Running, run};
use super::registry::Registry;

#[test]
fn pulling_twice_fetches_once() {
    let (node, image) = (Node::new(), Image::usual(30));
    let registry = Registry::with(&image);
    for _ in 0..2 {
        let ran = node.oncefs(&["pull", &registry.image()]).well();
        assert_eq!(ran.out.trim(), format!("{}@{}", registry.image(), image.manifest_digest()));
        node.assert_at_rest();
    }
    for layer in &image.layers {
        assert_eq!(registry.count(layer.digest()).bytes, layer.blob.len());
    }
    assert_eq!(registry.layer_requests(&image), 3);
    assert_eq!(node.layers().len(), 3);
}

#[test]
fn ten_pulls_at_once_fetch_once() {
    let (node, image) = (Node::new(), Image::usual(31));
    let registry = Registry::with(&image);
    let pulls: Vec<_> = (0..10).map(|_| node.start(&["pull", &registry.image()])).collect();
    pulls.into_iter().map(Running::end).for_each(|ran| drop(ran.well()));
    assert_eq!(registry.layer_requests(&image), 3);
    node.assert_at_rest();
}

#[test]
fn pull_in_process_needs_no_server_and_refuses_a_store_in_use() {
    let (node, image) = (Node::new(), Image::usual(32));
    let registry = Registry::with(&image);
    node.oncefs(&["pull", "--in-process", &registry.image()]).well();
    assert!(!node.run().exists(), "it needs no run directory");
    assert_eq!(node.layers().len(), 3);
    let at = node.mount(&registry.image(), "mnt");
    let server = node.status()["server"].to_string();
    let ran = node.oncefs(&["pull", "--in-process", &registry.image()]);
    ran.fails(7, &["in use by process", &server, node.root().to_str().unwrap(), "--root"]);
    node.umount(&at).well();
    node.assert_at_rest();
}

#[test]
fn a_configuration_with_a_relative_name_is_the_started_servers_too() {
    let (node, image) = (Node::new(), Image::usual(34));
    let registry = Registry::with(&image);
    let mut pull = std::process::Command::new(ONCEFS);
    pull.arg("--root").arg(node.root()).arg("--run").arg(node.run()).args(["--config", "config.toml", "pull"]);
    run(pull.arg(registry.image()).current_dir(node.path(""))).well();
    assert_eq!(node.layers().len(), 3);
    node.assert_at_rest();
}

#[test]
fn a_check_of_a_configuration_finds_what_would_fail_later() {
    let node = Node::new();
    let wrong = [
        ("log = \"inof\"\n", "inof"),
        ("[registry]\nca_files = [\"/nowhere.pem\"]\n", "/nowhere.pem"),
        ("[registry]\nkubelet_credential_providers = \"/etc/providers.yaml\"\n", "kubelet_credential_provider_bin_dir"),
        ("[server]\ngroup = \"no-such-group\"\n", "no-such-group"),
        ("[index]\nsigning_key = \"/nowhere/key.pem\"\n", "index.signing_key = /nowhere/key.pem"),
        ("[cache]\nhigh = 200\n", "cache.high = 200"),
    ];
    for (text, says) in wrong {
        std::fs::write(node.path("wrong.toml"), text).unwrap();
        node.oncefs(&["config", "check", "wrong.toml"]).fails(2, &[says]);
    }
}

#[test]
fn an_answer_that_cannot_be_written_is_no_success() {
    let node = Node::new();
    for arguments in [&["config", "show"][..], &["status"], &["check"]] {
        let mut command = std::process::Command::new(ONCEFS);
        command.arg("--root").arg(node.root()).arg("--run").arg(node.run()).args(arguments);
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ended = command.stdout(full).stderr(std::process::Stdio::null()).status().unwrap();
        assert_eq!(ended.code(), Some(1), "{arguments:?}");
    }
}

#[test]
fn a_platform_can_be_chosen() {
    let node = Node::new();
    let image = Image::for_architecture(&Image::usual(33).layers, "s390x");
    let registry = Registry::with(&image);
    registry.put("all", super::image::INDEX, &image.index_for("linux", "s390x"));
    let name = format!("{}/images/usual:all", registry.host());
    node.oncefs(&["pull", "--platform", "linux/s390x", &name]).well();
    assert_eq!(node.layers().len(), 3);
    node.oncefs(&["pull", "--platform", "nonsense", &name]).fails(2, &["nonsense"]);
}

#[test]
fn config_shows_what_is_in_force_and_checks_it() {
    let node = Node::new();
    node.configure("[scan]\nconcurrent_layers = 3\n");
    let text = node.oncefs(&["config", "show"]).well().out;
    assert!(text.contains("concurrent_layers = 3") && text.contains(node.root().to_str().unwrap()), "{text}");
    assert!(node.oncefs(&["config", "check"]).well().out.contains("the configuration is right"));
}

#[test]
fn an_unknown_key_is_told_with_its_file_and_the_nearest_right_one() {
    let node = Node::new();
    node.configure("[scan]\nconcurent_layers = 3\n");
    for arguments in [&["config", "check"][..], &["status"], &["pull", "redis:7"]] {
        let ran = node.oncefs(arguments).fails(2, &["config.toml"]);
        assert!(ran.err.contains("unknown field `concurent_layers`"), "{ran:?}");
        assert!(ran.err.contains("did you mean `concurrent_layers`?"), "{ran:?}");
    }
    assert!(!node.root().exists(), "nothing is begun with a wrong configuration");
}

#[test]
fn wrong_usage_is_told_and_ends_with_2() {
    let node = Node::new();
    for arguments in [&["mount", "redis:7"][..], &["umount"], &["frobnicate"], &["status", "--xml"], &[]] {
        let ran = node.oncefs(arguments);
        assert!(ran.code == Some(2) && ran.err.contains("Usage"), "{ran:?}");
    }
    let at = node.place("mnt");
    node.oncefs(&["mount", "Redis:7", at.to_str().unwrap()]).fails(2, &["Redis:7", "capital letters"]);
    node.oncefs(&["pull", "oci:"]).fails(2, &["the path is missing after oci:"]);
    node.assert_at_rest();
}

#[test]
fn help_teaches_with_examples_and_exit_codes() {
    let node = Node::new();
    let help = node.oncefs(&["--help"]).well().out;
    assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
    for command in ["mount", "umount", "pull", "status", "inspect", "check"] {
        assert!(help.contains(&format!("  {command} ")), "{command}: {help}");
        assert!(node.oncefs(&[command, "--help"]).well().out.contains(&format!("  oncefs {command}")), "{command}");
    }
    assert!(node.oncefs(&["--version"]).well().out.starts_with("oncefs 0."));
}
