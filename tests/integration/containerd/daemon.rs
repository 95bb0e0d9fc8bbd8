//! The real containerd, with root, state and sockets of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::leaving;
use crate::cli::node::{Ran, Running};

/// A containerd and all it started; nothing of it is left when it is dropped.
pub(crate) struct Containerd {
    dir: PathBuf,
    /// The name of the cgroups of its containers.
    cgroup: String,
    snapshotter: &'static str,
    child: Option<Child>,
}

/// What containerd is told of oncefs and of the registry.
pub(crate) struct Told<'a> {
    pub(crate) snapshotter: &'static str,
    /// Where the snapshotter oncefs listens, and its root.
    pub(crate) oncefs: Option<(&'a Path, &'a Path)>,
    pub(crate) pause_image: &'a str,
}

impl Containerd {
    pub(crate) fn start(dir: PathBuf, cgroup: &str, told: &Told<'_>) -> Self {
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("config.toml"), configuration(&dir, told)).unwrap();
        let mut containerd = Self { dir, cgroup: cgroup.to_owned(), snapshotter: told.snapshotter, child: None };
        containerd.start_again();
        containerd
    }

    pub(crate) fn start_again(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.join("log")).unwrap();
        let mut command = Command::new("containerd");
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

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
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
        leaving::unmount_below(&self.dir);
        leaving::remove_cgroups(&self.cgroup);
        if std::thread::panicking() {
            eprintln!("the log of containerd:\n{}", self.log());
        }
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("c.sock")
}

/// What of containerd may not be wanted where several run, or where the kernel lacks it, is off.
fn configuration(dir: &Path, told: &Told<'_>) -> String {
    let (at, socket) = (dir.display(), socket(dir));
    let (socket, snapshotter, pause) = (socket.display(), told.snapshotter, told.pause_image);
    let proxy = told.oncefs.map_or(String::new(), |(socket, root)| {
        format!(
            "[proxy_plugins.oncefs]\ntype = \"snapshot\"\naddress = {socket:?}\n\
             [proxy_plugins.oncefs.exports]\nroot = {root:?}\n"
        )
    });
    let mut text = format!(
        "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
         disabled_plugins = [\"io.containerd.snapshotter.v1.aufs\", \"io.containerd.snapshotter.v1.btrfs\", \
         \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.zfs\"]\n\
         [grpc]\naddress = \"{socket}\"\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{at}/opt\"\n"
    );
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    text.push_str(&format!(
        "[{cri}]\nsandbox_image = \"{pause}\"\nrestrict_oom_score_adj = true\ndisable_apparmor = true\n\
         stats_collect_period = 1\ndisable_tcp_service = true\nstream_server_address = \"127.0.0.1\"\n\
         [{cri}.cni]\nbin_dir = \"{at}/cni/bin\"\nconf_dir = \"{at}/cni/conf\"\n\
         [{cri}.containerd]\nsnapshotter = \"{snapshotter}\"\ndisable_snapshot_annotations = false\n\
         [{cri}.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [{cri}.containerd.runtimes.runc.options]\nRoot = \"{at}/runc\"\n{proxy}"
    ));
    text
}
