//! `oncefs serve` as a service manager runs it: with a socket to notify, a configuration file, and signals.

use std::io::ErrorKind;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cli::node::{ONCEFS, Ran, Running, clear, run};

/// However slow the machine is: what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

const REGISTRY: &str = "[registry]\nretries = 1\nretry_pause_ms = 10\nretry_deadline_secs = 5\n";

/// A server and all it owns, below one directory.
pub(crate) struct Service {
    dir: tempfile::TempDir,
    notify: UnixDatagram,
    /// What came while something else was waited for.
    heard: Vec<String>,
    child: Option<Running>,
}

/// An answer over HTTP.
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

// === impl Service ===

impl Service {
    /// Nothing of it runs yet.
    pub(crate) fn new(configuration: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists(),
            "this test mounts file systems: it needs root and /dev/fuse"
        );
        let dir = tempfile::Builder::new().prefix("oncefs-svc-").tempdir().unwrap();
        let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let service = Self { dir, notify, heard: Vec::new(), child: None };
        service.configure(configuration);
        service
    }

    /// Runs and is ready.
    pub(crate) fn started(configuration: &str) -> Self {
        let mut service = Self::new(configuration);
        service.start(&[]);
        service.hear("READY=1");
        service
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.run_dir().join(format!("{name}.sock"))
    }

    /// Writes the configuration file. Keys of no section come first.
    pub(crate) fn configure(&self, lines: &str) {
        std::fs::write(self.path("config.toml"), format!("{lines}\n{REGISTRY}")).unwrap();
    }

    /// The program with the places of this service.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let place = |name: &str| self.path(name).to_str().unwrap().to_owned();
        ["--root", &place("root"), "--run", &place("run"), "--config", &place("config.toml")]
            .map(str::to_owned)
            .to_vec()
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.dir.path());
        command.env("NOTIFY_SOCKET", self.path("notify")).current_dir(self.dir.path());
        command
    }

    pub(crate) fn start(&mut self, environment: &[(&str, &str)]) {
        let mut command = self.command(ONCEFS);
        command.args(self.arguments()).arg("serve").envs(environment.iter().copied());
        self.started_by(&mut command);
    }

    pub(crate) fn started_by(&mut self, command: &mut Command) {
        self.child = Some(Running::start(command));
    }

    /// Another command on the same places.
    pub(crate) fn oncefs(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(ONCEFS);
        Running::start(command.args(self.arguments()).args(arguments))
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().pid().as_raw_nonzero().get()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.child.as_ref().unwrap().signal(signal);
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().unwrap().has_ended()
    }

    /// What it said, when it has ended.
    pub(crate) fn end(&mut self) -> Ran {
        self.child.take().unwrap().end()
    }

    /// Waits for a message that has this line; gives the message.
    #[track_caller]
    pub(crate) fn hear(&mut self, line: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.heard.iter().position(|message| message.lines().any(|said| said == line)) {
                return self.heard.remove(at);
            }
            // Before the look at what it has said: afterwards it may say more and end.
            let has_ended = self.child.is_some() && self.has_ended();
            let mut message = [0; 4096];
            match self.notify.recv(&mut message) {
                Ok(length) => self.heard.push(String::from_utf8(message[..length].to_vec()).unwrap()),
                Err(error) => {
                    // Interrupted: these tests were stopped for a moment (signal(7), calls with a time-out).
                    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted), "{error}");
                    assert!(!has_ended, "it ended before it told {line}: {:?}", self.end());
                }
            }
            assert!(Instant::now() < deadline, "the service manager was not told {line}, only {:?}", self.heard);
        }
    }

    /// Whether a message with this line comes in this time.
    pub(crate) fn hears_within(&mut self, patience: Duration, line: &str) -> bool {
        let deadline = Instant::now() + patience;
        let is_it = |message: &String| message.lines().any(|said| said == line);
        while Instant::now() < deadline {
            if let Some(at) = self.heard.iter().position(is_it) {
                self.heard.remove(at);
                return true;
            }
            let mut message = [0; 4096];
            if let Ok(length) = self.notify.recv(&mut message) {
                self.heard.push(String::from_utf8(message[..length].to_vec()).unwrap());
            }
        }
        false
    }

    pub(crate) fn get(&self, path: &str) -> Page {
        let stream = UnixStream::connect(self.socket("control")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        get(stream, path)
    }

    /// The value of a metric with these labels, as it is written.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics");
        let line = page.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{}", page.body)).parse().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.take());
        clear(self.dir.path());
    }
}

/// Asks for a page and reads all of it.
pub(crate) fn get(mut stream: impl std::io::Read + std::io::Write, path: &str) -> Page {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: oncefs\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Page { status, head: head.to_lowercase(), body: body.to_owned() }
}

/// A program that must be there.
pub(crate) fn needed(program: &str) -> String {
    let found = run(Command::new("sh").args(["-c", &format!("command -v {program}")]));
    assert_eq!(found.code, Some(0), "the program {program} is needed (Debian package systemd)");
    found.out.trim().to_owned()
}
