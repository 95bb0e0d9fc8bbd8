//! Debian's docker-registry as a test's own server, filled by skopeo from an OCI layout.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

/// A registry on a port of its own; ends and deletes itself when dropped.
pub(crate) struct DebianRegistry {
    pub(crate) address: SocketAddr,
    child: Child,
    _dir: TempDir,
}

/// Who may in.
pub(crate) struct Account {
    pub(crate) user: &'static str,
    pub(crate) password: &'static str,
}

impl DebianRegistry {
    /// Starts one that asks for `account` if there is one.
    pub(crate) fn start(account: Option<&Account>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let auth = account.map(|account| htpasswd(dir.path(), account)).unwrap_or_default();
        let root = dir.path().join("data");
        let config = format!(
            "version: 0.1\nlog:\n  level: info\n  formatter: json\n  accesslog:\n    disabled: true\n\
             storage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n{auth}",
            root.display()
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child =
            command.spawn().expect("the program docker-registry is needed (Debian package docker-registry)");
        let address = listening_at(&mut child);
        Self { address, child, _dir: dir }
    }

    /// Copies an image of a layout into it.
    pub(crate) fn push(&self, layout: &Path, tag: &str, to: &str, account: Option<&Account>, options: &[&str]) {
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--dest-tls-verify=false"]).args(options);
        if let Some(Account { user, password }) = account {
            command.arg(format!("--dest-creds={user}:{password}"));
        }
        command.arg(format!("oci:{}:{tag}", layout.display())).arg(format!("docker://{}/{to}", self.address));
        let done = command.output().expect("the program skopeo is needed (Debian package skopeo)");
        assert!(done.status.success(), "skopeo: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// How an image here is called.
    pub(crate) fn image(&self, name: &str) -> oncefs::registry::Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }
}

impl Drop for DebianRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn htpasswd(dir: &Path, account: &Account) -> String {
    let done = Command::new("htpasswd").args(["-Bbn", account.user, account.password]).output();
    let done = done.expect("the program htpasswd is needed (Debian package apache2-utils)");
    let file = dir.join("htpasswd");
    fs::write(&file, done.stdout).unwrap();
    format!("auth:\n  htpasswd:\n    realm: images\n    path: {}\n", file.display())
}

/// It takes a free port and says in its log which.
fn listening_at(child: &mut Child) -> SocketAddr {
    let log = BufReader::new(child.stderr.take().unwrap());
    let (say, hear) = mpsc::channel();
    // Reads on for as long as the registry lives, or its log would fill up and stop it.
    std::thread::spawn(move || {
        for line in log.lines().map_while(Result::ok) {
            if let Some(at) = line.split("listening on ").nth(1) {
                let _ = say.send(at.split('"').next().unwrap_or_default().to_owned());
            }
        }
    });
    let said = hear.recv_timeout(Duration::from_secs(20)).expect("docker-registry does not listen within 20 s");
    said.parse().unwrap()
}
