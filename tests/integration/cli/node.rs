//! One node for one test: a store, a run directory, and the real program on them.
//!
//! Whatever a test does, nothing of it stays mounted or running: see `Drop`.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

pub(crate) const ONCEFS: &str = env!("CARGO_BIN_EXE_oncefs");

/// However slow the machine is: what takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Registries that are away are found out soon.
const CONFIG: &str = "[registry]\nretries = 1\nretry_pause_ms = 10\nretry_deadline_secs = 5\n";

/// Nothing is fetched that nobody asked for, and nobody waits, unless a test says otherwise.
const FETCH: &str = "[fetch]\nbackground = \"off\"\noutage_secs = 0\nread_ahead_bytes_max = 0\n";

/// A place in the file system with a store and a server of its own.
pub(crate) struct Node {
    dir: tempfile::TempDir,
    root: PathBuf,
    run: PathBuf,
}

/// A program that runs; dropped, it is killed.
pub(crate) struct Running {
    what: String,
    child: Option<Child>,
    out: Option<JoinHandle<String>>,
    err: Option<JoinHandle<String>>,
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    what: String,
    /// `None`: a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

// === impl Node ===

impl Node {
    pub(crate) fn new() -> Self {
        assert!(
            rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists(),
            "this test mounts file systems: it needs root and /dev/fuse"
        );
        let dir = tempfile::Builder::new().prefix("oncefs-cli-").tempdir().unwrap();
        let (root, run) = (dir.path().join("root"), dir.path().join("run"));
        std::fs::write(dir.path().join("config.toml"), format!("{CONFIG}{FETCH}")).unwrap();
        Self { dir, root, run }
    }

    /// Its store lies in a tmpfs with these mount options.
    pub(crate) fn on_tmpfs(options: &str) -> Self {
        let node = Self::new();
        std::fs::create_dir(&node.root).unwrap();
        node.mount_tmpfs(rustix::mount::MountFlags::empty(), options);
        node
    }

    pub(crate) fn make_root_read_only(&self) {
        use rustix::mount::MountFlags;
        rustix::mount::mount_remount(&self.root, MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
    }

    fn mount_tmpfs(&self, flags: rustix::mount::MountFlags, options: &str) {
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount("tmpfs", &self.root, "tmpfs", flags, options.as_c_str()).unwrap();
    }

    /// Adds lines to the configuration file, in its section `registry` unless they begin one.
    pub(crate) fn configure(&self, lines: &str) {
        let fetch = if lines.contains("[fetch]") { "" } else { FETCH };
        std::fs::write(self.dir.path().join("config.toml"), format!("{fetch}{CONFIG}{lines}")).unwrap();
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn run(&self) -> &Path {
        &self.run
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new directory to mount at.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        let place = self.path(name);
        std::fs::create_dir_all(&place).unwrap();
        place
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_in(&self.run, arguments)
    }

    fn command_in(&self, run: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(ONCEFS);
        command.arg("--root").arg(&self.root).arg("--run").arg(run);
        command.arg("--config").arg(self.path("config.toml")).args(arguments).current_dir(self.dir.path());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", self.dir.path());
        command
    }

    pub(crate) fn oncefs(&self, arguments: &[&str]) -> Ran {
        self.start(arguments).end()
    }

    /// Runs it on the same store with another run directory.
    pub(crate) fn oncefs_elsewhere(&self, run: &str, arguments: &[&str]) -> Ran {
        Running::start(&mut self.command_in(&self.path(run), arguments)).end()
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(arguments))
    }

    pub(crate) fn mount(&self, image: &str, name: &str) -> PathBuf {
        let at = self.place(name);
        self.oncefs(&["mount", image, at.to_str().unwrap()]).well();
        at
    }

    pub(crate) fn umount(&self, at: &Path) -> Ran {
        self.oncefs(&["umount", at.to_str().unwrap()])
    }

    /// What `oncefs status --json` says.
    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.oncefs(&["status", "--json"]).well().out).unwrap()
    }

    /// Programs of this test, by the paths in their command lines.
    /// The value of a metric with these labels.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let control = std::os::unix::net::UnixStream::connect(self.run.join("control.sock")).unwrap();
        let page = crate::daemon::stage::get(control, "/metrics").body;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{page}")).parse().unwrap()
    }

    pub(crate) fn processes(&self) -> Vec<Pid> {
        processes_naming(self.dir.path())
    }

    /// Waits for the server to end, and sees that it left nothing.
    pub(crate) fn assert_at_rest(&self) {
        until("the server ends", || self.processes().is_empty());
        assert_eq!(mounts_below(&self.run), Vec::<PathBuf>::new());
        assert!(!self.run.join("control.sock").exists(), "the socket is left");
        assert!(!self.run.join("fs").exists(), "the mountpoint is left");
        self.assert_unlocked();
        assert_eq!(names_in(&self.root.join("staging")), Vec::<String>::new());
    }

    pub(crate) fn assert_unlocked(&self) {
        let lock = self.root.join("lock");
        // To its end a process has its files.
        until("the store is unlocked", || {
            run(Command::new("flock").arg("--nonblock").arg(&lock).arg("true")).code == Some(0)
        });
    }

    /// The layers in the store, by the names of their directories.
    pub(crate) fn layers(&self) -> Vec<String> {
        names_in(&self.root.join("layers/sha256"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        clear(self.dir.path());
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.run.join("oncefs.log")).unwrap_or_default();
            eprintln!("the server's log:\n{log}");
        }
    }
}

/// Ends what names this directory in its command line, unmounts all below it, and sees that nothing is left of either.
pub(crate) fn clear(dir: &Path) {
    let deadline = Instant::now() + PATIENCE;
    // A mount that is made meanwhile, or a server that a keeper starts, is found by the next turn. Two must find nothing: a process that is
    // just being executed has no command line.
    let mut found_nothing = 0;
    while found_nothing < 2 && Instant::now() < deadline {
        found_nothing = if kill_all(processes_naming(dir)) && unmount_below(dir) { found_nothing + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(5));
    }
    if !std::thread::panicking() {
        let left = || (processes_naming(dir), mounts_below(dir));
        assert_eq!(found_nothing, 2, "of {} there are always processes or mounts, now {:?}", dir.display(), left());
    }
}

/// Kills these in this order, and waits until they have ended: a process that has no command line any more may still have its files open.
pub(crate) fn kill_wholly(pids: &[Pid]) {
    let opened: Vec<_> = pids.iter().filter_map(|pid| pidfd_open(*pid, PidfdFlags::empty()).ok()).collect();
    for pid in pids {
        let _gone = kill_process(*pid, Signal::KILL);
    }
    for process in opened {
        until("a killed process has ended", || {
            poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&Timespec::default())) == Ok(1)
        });
    }
}

/// Whether there were none.
pub(crate) fn kill_all(pids: Vec<Pid>) -> bool {
    for pid in &pids {
        let _gone = kill_process(*pid, Signal::KILL);
    }
    pids.is_empty()
}

/// The topmost of each place first. Whether there were none.
pub(crate) fn unmount_below(dir: &Path) -> bool {
    let mounts = mounts_below(dir);
    for at in mounts.iter().rev() {
        let _gone = rustix::mount::unmount(at, UnmountFlags::DETACH);
    }
    mounts.is_empty()
}

pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => panic!("{}: {error}", dir.display()),
    };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Mounts at or below a directory, in the order they were made.
pub(crate) fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = oncefs::sys::mount::table().unwrap();
    table.into_iter().map(|mount| mount.at).filter(|at| at.starts_with(dir)).collect()
}

pub(crate) fn processes_naming(dir: &Path) -> Vec<Pid> {
    let (name, here) = (dir.to_str().unwrap().as_bytes(), std::process::id());
    let numbers = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
    let named = numbers.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid as u32 != here && line.windows(name.len()).any(|part| part == name)
    });
    named.filter_map(Pid::from_raw).collect()
}

// === impl Running ===

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let what = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Self { what, child: Some(child), out: Some(drain(out)), err: Some(drain(err)) }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    pub(crate) fn end(self) -> Ran {
        self.end_within(PATIENCE)
    }

    pub(crate) fn end_within(mut self, patience: Duration) -> Ran {
        let deadline = Instant::now() + patience;
        while !self.has_ended() {
            assert!(Instant::now() < deadline, "does not end within {patience:?}: {}", self.what);
            std::thread::sleep(Duration::from_millis(2));
        }
        let Output { status, .. } = self.child.take().unwrap().wait_with_output().unwrap();
        let (out, err) = (self.out.take().unwrap().join().unwrap(), self.err.take().unwrap().join().unwrap());
        assert!(status.code().is_some() || status.signal().is_some());
        Ran { what: std::mem::take(&mut self.what), code: status.code(), out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

fn drain(mut pipe: impl std::io::Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _what_came_counts = pipe.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// Runs a program to its end. What looks into a mount is always another process: should it hang, it can be killed.
pub(crate) fn run(command: &mut Command) -> Ran {
    Running::start(command).end()
}

// === impl Ran ===

impl Ran {
    /// It ended well.
    #[track_caller]
    pub(crate) fn well(self) -> Self {
        assert_eq!(self.code, Some(0), "{}: {self:#?}", self.what);
        self
    }

    /// It failed with this code, and its message, which is one line, has all these words.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}: {self:#?}", self.what);
        let message = self.err.lines().filter(|line| line.starts_with("oncefs: ")).collect::<Vec<_>>().join("\n");
        for word in words {
            assert!(message.contains(word), "{word:?} is missing in: {message}\n{self:#?}");
        }
        self
    }
}

// === looking into mounts ===

/// By another process: what other tests start meanwhile would inherit a descriptor of ours, and no program runs that somebody has open for writing.
pub(crate) fn copy_program(from: impl AsRef<Path>, to: &Path) {
    run(Command::new("cp").arg(from.as_ref()).arg(to)).well();
}

/// A program of the shell's, for the same reason.
pub(crate) fn write_script(to: &Path, script: &str) {
    let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod 755 \"$0\"";
    run(Command::new("sh").args(["-c", write]).arg(to).arg(script)).well();
}

pub(crate) fn cat(path: &Path) -> String {
    run(Command::new("cat").arg(path)).well().out
}

/// The names in a directory, as `ls` sorts them.
pub(crate) fn ls(dir: &Path) -> Vec<String> {
    let listed = run(Command::new("ls").arg("-A").arg(dir).env("LC_ALL", "C")).well();
    listed.out.lines().map(str::to_owned).collect()
}

pub(crate) fn sha256sum(path: &Path) -> String {
    run(Command::new("sha256sum").arg(path)).well().out.split(' ').next().unwrap().to_owned()
}

/// Polls until it is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
