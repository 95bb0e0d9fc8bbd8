//! The real containerd, with root, state and sockets of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(crate) use super::configuration::Told;
use super::configuration::{Release, configuration};
use super::leaving;
use crate::cli::node::{Ran, Running, unmount_below};

/// A containerd and all it started; nothing of it is left when it is dropped.
pub(crate) struct Containerd {
    dir: PathBuf,
    /// The name of the cgroups of its containers.
    cgroup: String,
    snapshotter: &'static str,
    pub(crate) release: Release,
    child: Option<Child>,
}

impl Containerd {
    pub(crate) fn start(dir: PathBuf, cgroup: &str, told: &Told<'_>) -> Self {
        let release = Release::tested();
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("config.toml"), configuration(release, &dir, &socket(&dir), told)).unwrap();
        let snapshotter = told.snapshotter;
        let mut containerd = Self { dir, cgroup: cgroup.to_owned(), snapshotter, release, child: None };
        containerd.start_again();
        containerd
    }

    pub(crate) fn start_again(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut command = self.command("containerd");
        command.arg("--config").arg(self.dir.join("config.toml"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().expect("the program containerd is needed (Debian package containerd)"));
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket(&self.dir)
    }

    /// Runs ctr in a namespace.
    pub(crate) fn ctr(&self, namespace: &str, arguments: &[&str]) -> Running {
        let mut command = self.command("ctr");
        Running::start(command.args(["--namespace", namespace]).args(arguments))
    }

    /// Runs a line of shell in which `ctr` speaks to this containerd.
    pub(crate) fn shell(&self, line: &str) -> Ran {
        Running::start(self.command("sh").args(["-ec", line])).end()
    }

    /// With the programs of the release that is tested before all others.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("PATH", super::configuration::path());
        command.env("CONTAINERD_ADDRESS", self.socket()).env("CONTAINERD_SNAPSHOTTER", self.snapshotter);
        command.current_dir(&self.dir);
        command
    }

    /// `ctr run` with everything of the container below our directory. `options` come before the image.
    pub(crate) fn run(&self, namespace: &str, options: &[&str], image: &str, name: &str, words: &[&str]) -> Running {
        let (runc, fifo) = (self.dir.join("runc"), self.dir.join("fifo"));
        let cgroup = format!("{}/{name}", self.cgroup);
        let mut arguments = vec!["run", "--runc-root", runc.to_str().unwrap(), "--fifo-dir", fifo.to_str().unwrap()];
        arguments.extend(["--cgroup", &cgroup]);
        arguments.extend(options);
        arguments.extend([image, name]);
        arguments.extend(words);
        self.ctr(namespace, &arguments)
    }

    /// [`Self::run`] to the container's end, and what it said. To a file, since `ctr` has been seen to end before it had read a short saying.
    pub(crate) fn say(&self, namespace: &str, options: &[&str], image: &str, name: &str, words: &[&str]) -> String {
        let said = self.dir.join(format!("said-{namespace}-{name}"));
        let to = format!("file://{}", said.display());
        let options = [&["--log-uri", &to], options].concat();
        self.run(namespace, &options, image, name, words).end().well();
        fs::read_to_string(said).unwrap_or_default()
    }

    pub(crate) fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let _killed = child.kill();
        let _reaped = child.wait();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.stop();
        }
        leaving::end_processes(&self.dir, &self.cgroup);
        leaving::remove_shims_sockets(&self.dir.join("state"));
        unmount_below(&self.dir);
        leaving::remove_cgroups(&self.cgroup);
        if std::thread::panicking() {
            eprintln!("the log of containerd:\n{}", self.log());
        }
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("c.sock")
}
