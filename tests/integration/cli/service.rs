//! Debian's own registry, filled by skopeo: what nobody of us wrote.

use std::path::Path;
use std::process::Command;

use super::image::Image;
use super::mounting::assert_usual;
use super::node::{Node, run};
use crate::support::ports;

/// Starts docker-registry below the node's directory, whose end it does not survive. Gives its host.
fn start_registry(node: &Node, login: Option<&str>) -> String {
    let port = ports::unused().port().to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/registry.sh");
    // Its output goes to a file: the registry keeps it open for as long as it runs.
    let (dir, login) = (node.path("registry"), login.unwrap_or_default());
    let script = format!("exec {} start {1} {port} {login} >{1}.out 2>&1", script.display(), dir.display());
    run(Command::new("sh").args(["-c", &script])).well();
    format!("127.0.0.1:{port}")
}

fn push(node: &Node, layout: &str, image: &str, login: Option<&str>) {
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--quiet", "--dest-tls-verify=false"]).env("HOME", node.path("home"));
    if let Some(login) = login {
        copy.args(["--dest-creds", login]);
    }
    run(copy.arg(layout).arg(format!("docker://{image}"))).well();
}

#[test]
fn an_image_in_debians_registry_is_mounted_and_read() {
    let node = Node::new();
    let host = start_registry(&node, None);
    let name = format!("{host}/images/usual:1");
    push(&node, &Image::usual(90).write_layout(&node.path("layout")), &name, None);
    let at = node.mount(&name, "mnt");
    assert_usual(&at, 90);
    node.umount(&at).well();
    node.oncefs(&["pull", &format!("{host}/images/usual:2")]).fails(4, &["does not have", "check name and tag"]);
}

#[test]
fn a_login_of_docker_is_used_and_a_wrong_one_is_told() {
    let node = Node::new();
    let login = "ann:a-secret-of-ann";
    let host = start_registry(&node, Some(login));
    let name = format!("{host}/images/usual:1");
    push(&node, &Image::usual(91).write_layout(&node.path("layout")), &name, Some(login));
    let ran = node.oncefs(&["pull", &name]).fails(5, &[&name, "docker login"]);
    assert!(ran.err.contains(&format!("docker login {host}")), "{ran:?}");

    let write_login = |login: &str| {
        std::fs::create_dir_all(node.path(".docker")).unwrap();
        let auth = serde_json::json!({"auths": {&host: {"auth": base64(login)}}});
        std::fs::write(node.path(".docker/config.json"), auth.to_string()).unwrap();
    };
    write_login("ann:not-her-secret");
    let ran = node.oncefs(&["pull", &name]).fails(5, &[&name, "was not accepted", "docker login"]);
    assert!(!ran.err.contains("secret"), "no message shows a password: {ran:?}");
    write_login(login);
    let at = node.mount(&name, "mnt");
    assert_usual(&at, 91);
    let log = std::fs::read_to_string(node.run().join("oncefs.log")).unwrap();
    assert!(!log.contains("secret") && !log.contains(&base64(login)), "no log shows a password: {log}");
}

fn base64(text: &str) -> String {
    let encoded = crate::index::made::through("base64", &["-w0"], text.as_bytes());
    String::from_utf8(encoded).unwrap()
}
