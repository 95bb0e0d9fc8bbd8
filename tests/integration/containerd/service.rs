//! The real `oncefs serve`, with a store and sockets of its own.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::cli::node::{ONCEFS, Ran, clear, names_in, run, until};
use crate::takeover::stage::keeper_and_server;

/// A server and all it owns, below one directory; killed when dropped.
pub(crate) struct Service {
    dir: PathBuf,
    /// `serve`, and its flags.
    words: &'static [&'static str],
    child: Option<Child>,
}

impl Service {
    /// Starts it, its CRI proxy before a containerd's socket if one is named.
    pub(crate) fn start(dir: PathBuf, containerd: &Path, configuration: &str, words: &'static [&str]) -> Self {
        fs::create_dir_all(&dir).unwrap();
        let cri = format!("[cri]\nenabled = true\ncontainerd = {:?}\n", containerd.display().to_string());
        let registry = "[registry]\nretries = 1\nretry_pause_ms = 10\nretry_deadline_secs = 5\n";
        // A busy machine is no reason to let containerd unpack.
        let patient =
            if configuration.contains("[snapshotter]") { "" } else { "[snapshotter]\ncheck_timeout_secs = 60\n" };
        fs::write(dir.join("config.toml"), format!("{registry}{cri}{patient}{configuration}")).unwrap();
        let mut service = Self { dir, words, child: None };
        service.start_again();
        service
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir().join("snapshotter.sock")
    }

    pub(crate) fn cri_socket(&self) -> PathBuf {
        self.run_dir().join("cri.sock")
    }

    /// Starts it on what an earlier one left.
    pub(crate) fn start_again(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = self.command(self.words);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        until("oncefs listens", || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert_eq!(ended, None, "oncefs serve ended:\n{}", self.log());
            [self.socket(), self.cri_socket()].iter().all(|socket| UnixStream::connect(socket).is_ok())
        });
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(ONCEFS);
        command.arg("--root").arg(self.root()).arg("--run").arg(self.run_dir());
        command.arg("--config").arg(self.dir.join("config.toml")).args(arguments).current_dir(&self.dir);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", &self.dir);
        command
    }

    /// Runs a command line on the same store.
    pub(crate) fn oncefs(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let mut child = self.child.take().unwrap();
        until("oncefs ends", || child.try_wait().unwrap().is_some());
    }

    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _killed = self.child.take().unwrap().wait();
    }

    /// Kills the keeper, which was started as this service. Its server goes on.
    pub(crate) fn kill_keeper(&mut self) {
        self.kill();
    }

    /// Kills the server that the keeper keeps, and waits until another answers.
    pub(crate) fn kill_kept(&self) {
        let killed = self.server().unwrap();
        kill_process(killed, Signal::KILL).unwrap();
        until("another server answers", || self.server().is_some_and(|now| now != killed));
    }

    /// The server that answers.
    pub(crate) fn server(&self) -> Option<Pid> {
        let said = self.oncefs(&["status", "--json"]).out;
        let status: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        status["server"].as_i64().and_then(|pid| Pid::from_raw(pid as i32))
    }

    /// The keeper, and the server that it keeps now, which may not answer yet.
    pub(crate) fn keeper_and_server(&self) -> (Option<Pid>, Option<Pid>) {
        keeper_and_server(&self.dir)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// The layers on its disk, by the hexadecimal digits of their digests.
    pub(crate) fn layers(&self) -> Vec<String> {
        let mut layers = names_in(&self.root().join("layers/sha256"));
        layers.sort();
        layers
    }

    /// The directories of snapshots that are not served remotely.
    pub(crate) fn snapshot_dirs(&self) -> Vec<String> {
        names_in(&self.root().join("snapshots"))
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("serve.log")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // A server outlives its keeper, and a keeper starts the next server: until none of both is left.
        clear(&self.dir);
        let _reaped = self.child.take().map(|mut child| child.wait());
        if std::thread::panicking() {
            eprintln!("the log of oncefs:\n{}", self.log());
        }
    }
}
