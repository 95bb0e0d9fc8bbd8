//! Debian's docker-registry as a test's own server, filled by skopeo from an OCI layout, its log the witness of what was asked.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::ports;

/// A registry on a port of its own; ends and deletes itself when dropped.
pub(crate) struct DebianRegistry {
    pub(crate) address: SocketAddr,
    child: Child,
    log: Option<JoinHandle<Vec<Answered>>>,
    dir: TempDir,
}

/// A request that the registry has answered, as its log tells.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) status: u64,
    /// Bytes of the answer's body that were written.
    pub(crate) written: u64,
}

/// A registry that was stopped: its images are still there.
pub(crate) struct Stopped {
    address: SocketAddr,
    dir: TempDir,
}

/// Who may in.
pub(crate) struct Account {
    pub(crate) user: &'static str,
    pub(crate) password: &'static str,
}

impl DebianRegistry {
    /// Starts one that asks for `account` if there is one.
    pub(crate) fn start(account: Option<&Account>) -> Self {
        // Nobody gets it between a stop and the next start.
        Self::start_in(tempfile::tempdir().unwrap(), ports::unused(), account)
    }

    fn start_in(dir: TempDir, address: SocketAddr, account: Option<&Account>) -> Self {
        let auth = account.map(|account| htpasswd(dir.path(), account)).unwrap_or_default();
        let root = dir.path().join("data");
        let config = format!(
            "version: 0.1\nlog:\n  level: info\n  formatter: json\n  accesslog:\n    disabled: true\n\
             storage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {address}\n  draintimeout: 20s\n{auth}",
            root.display()
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child =
            command.spawn().expect("the program docker-registry is needed (Debian package docker-registry)");
        let (address, log) = read_log(&mut child);
        Self { address, child, log: Some(log), dir }
    }

    /// Ends it when the requests at work are answered. Gives all that it has answered, and what a new one can start from.
    pub(crate) fn stop(mut self) -> (Vec<Answered>, Stopped) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let answered = self.log.take().unwrap().join().unwrap();
        let _ended = self.child.wait();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        (answered, Stopped { address: self.address, dir })
    }

    /// Copies an image of a layout into it.
    pub(crate) fn push(&self, layout: &Path, tag: &str, to: &str, account: Option<&Account>, options: &[&str]) {
        self.copy(&format!("oci:{}:{tag}", layout.display()), to, account, options);
    }

    /// Copies the only image of a layout into it.
    pub(crate) fn push_only(&self, layout: &Path, to: &str) {
        self.copy(&format!("oci:{}", layout.display()), to, None, &[]);
    }

    /// Where it keeps everything.
    pub(crate) fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    fn copy(&self, from: &str, to: &str, account: Option<&Account>, options: &[&str]) {
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--dest-tls-verify=false"]).args(options);
        if let Some(Account { user, password }) = account {
            command.arg(format!("--dest-creds={user}:{password}"));
        }
        command.arg(from).arg(format!("docker://{}/{to}", self.address));
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

/// It takes a free port and says in its log which. The log is read for as long as the registry lives, or it would fill up
/// and stop it.
fn read_log(child: &mut Child) -> (SocketAddr, JoinHandle<Vec<Answered>>) {
    let log = BufReader::new(child.stderr.take().unwrap());
    let (say, hear) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut answered = Vec::new();
        for line in log.lines().map_while(Result::ok) {
            if let Some(at) = line.split("listening on ").nth(1) {
                let _ = say.send(at.split('"').next().unwrap_or_default().to_owned());
            }
            answered.extend(serde_json::from_str(&line).ok().and_then(|line| Answered::from_line(&line)));
        }
        answered
    });
    let said = hear.recv_timeout(Duration::from_secs(60)).expect("docker-registry does not listen within a minute");
    (said.parse().unwrap(), reader)
}

// === impl Answered ===

impl Answered {
    fn from_line(line: &Value) -> Option<Self> {
        let text = |key: &str| line[key].as_str().map(str::to_owned);
        (line["msg"] == "response completed").then_some(())?;
        Some(Self {
            method: text("http.request.method")?,
            uri: text("http.request.uri")?,
            status: line["http.response.status"].as_u64()?,
            written: line["http.response.written"].as_u64()?,
        })
    }
}

/// Bytes that were sent of each blob, by the hexadecimal digits of its digest.
pub(crate) fn bytes_of_blobs(answered: &[Answered]) -> BTreeMap<String, u64> {
    let mut bytes = BTreeMap::new();
    for answer in answered.iter().filter(|answer| answer.method == "GET" && answer.status < 300) {
        if let Some((_, digest)) = answer.uri.split_once("/blobs/sha256:") {
            *bytes.entry(digest.to_owned()).or_default() += answer.written;
        }
    }
    bytes
}

// === impl Stopped ===

impl Stopped {
    pub(crate) fn start(self) -> DebianRegistry {
        DebianRegistry::start_in(self.dir, self.address, None)
    }
}
