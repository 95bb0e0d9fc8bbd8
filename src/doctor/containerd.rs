//! containerd: whether it is here, knows oncefs, and asks it as it should.

mod file;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use futures::future::{BoxFuture, FutureExt as _};

use super::{Machine, Report, is_root, program, text};
use crate::snapshotter::containerd_version;
use file::{Read, Settings};

const CONFIG: &str = "/etc/containerd/config.toml";

/// What oncefs is called in examples, and so by most.
const NAME: &str = "oncefs";

/// From this version on containerd pulls through its transfer service, which can be told to send image names.
const TRANSFERS: (u32, u32) = (2, 1);

pub(super) fn look<'a>(machine: &'a Machine, report: &'a mut Report) -> BoxFuture<'a, ()> {
    async move {
        if !is_root() {
            return report.ok("containerd is not looked at: only root's server has a socket for it");
        }
        let path = machine.containerd_config.clone().unwrap_or_else(|| PathBuf::from(CONFIG));
        let read = Settings::read(&path);
        let socket = match &read {
            Read::Here(settings) => settings.socket(),
            _ => Settings::default().socket(),
        };
        let version = match containerd_version(Path::new(&socket)).await {
            Some(running) => {
                report.ok(format!("containerd {running} runs"));
                numbers(&running)
            }
            None => match tokio::task::spawn_blocking(installed).await.unwrap_or_default() {
                Some(installed) => {
                    report.ok(format!("containerd {installed} is installed, and none answers at {socket}"));
                    numbers(&installed)
                }
                None if machine.containerd_config.is_none() && !path.exists() => {
                    return report.ok("containerd is not here");
                }
                None => None,
            },
        };
        match read {
            Read::Here(settings) => {
                // Another one may be installed than the one that reads this.
                let version = version.filter(|version| settings.version() < 3 || version.0 >= 2);
                Look { machine, settings: &settings, version, path: &path }.tell(report);
            }
            Read::Missing => report.warning(
                format!("there is no {}: containerd does not know oncefs", path.display()),
                format!("containerd config default > {}, and add what docs/containerd.md says", path.display()),
            ),
            Read::Wrong(cause) => report.problem(cause, "mend it: containerd does not start with it either"),
        }
    }
    .boxed()
}

/// What the program says of itself.
fn installed() -> Option<String> {
    let said = Command::new(program("containerd")?).arg("--version").output().ok()?;
    // containerd github.com/containerd/containerd v2.1.4 75cb2b7193e4
    String::from_utf8_lossy(&said.stdout).split_whitespace().nth(2).map(str::to_owned)
}

/// Major and minor version.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches('v').split('.').map(|number| number.parse().ok());
    numbers.next().flatten().zip(numbers.next().flatten())
}

/// A look at one configuration.
struct Look<'a> {
    machine: &'a Machine,
    settings: &'a Settings,
    version: Option<(u32, u32)>,
    path: &'a Path,
}

impl Look<'_> {
    fn tell(&self, report: &mut Report) {
        let Some(name) = self.plugin(report) else { return };
        self.socket(report);
        self.chosen(&name, report);
        self.annotations(&name, report);
        self.unpacking(&name, report);
        self.cri_socket(report);
        self.privileges(report);
    }

    /// Where oncefs listens for containerd.
    fn address(&self) -> PathBuf {
        let config = &self.machine.config;
        match config.server.address.as_os_str().is_empty() {
            true => config.run.join("snapshotter.sock"),
            false => config.server.address.clone(),
        }
    }

    fn is_of_2(&self) -> bool {
        self.settings.version() >= 3
            || (self.settings.version() == 0 && self.version.is_some_and(|version| version.0 >= 2))
    }

    /// The name by which containerd knows oncefs, and what is wrong with that entry.
    fn plugin(&self, report: &mut Report) -> Option<String> {
        let (address, path) = (self.address(), self.path.display());
        let address = address.display().to_string();
        let plugins = self.settings.proxy_plugins();
        let ours = plugins.iter().find(|plugin| plugin.address == address);
        let Some(plugin) = ours.or_else(|| plugins.iter().find(|plugin| plugin.name == NAME)) else {
            report.warning(
                format!("containerd does not know oncefs: {path} has no proxy_plugins entry with its address"),
                format!("add to {path}: [proxy_plugins.{NAME}] type = \"snapshot\" address = {address:?}, and restart containerd"),
            );
            return None;
        };
        let name = &plugin.name;
        if plugin.address == address {
            report.ok(format!("containerd knows oncefs as {name:?}, at {address}"));
        } else {
            report.problem(
                format!("containerd looks for oncefs at {:?}, and it listens at {address}", plugin.address),
                format!("address = {address:?} in [proxy_plugins.{name}] of {path}, or address in [server] of oncefs"),
            );
        }
        if plugin.kind != "snapshot" {
            report.problem(
                format!("[proxy_plugins.{name}] has the type {:?}", plugin.kind),
                format!("type = \"snapshot\" in [proxy_plugins.{name}] of {path}"),
            );
        }
        if plugin.capabilities.iter().any(|capability| capability == "rebase") {
            report.problem(
                "containerd takes oncefs for one that can rebase: it names no parents, and no layer can be served",
                format!("take \"rebase\" out of capabilities in [proxy_plugins.{name}] of {path}"),
            );
        }
        let root = self.machine.config.root.display().to_string();
        match &plugin.root {
            Some(theirs) if *theirs == root => report.ok(format!("kubelet measures the disk of {root}")),
            Some(theirs) => report.warning(
                format!("kubelet measures the disk of {theirs}, and oncefs's root is {root}"),
                format!("root = {root:?} in [proxy_plugins.{name}.exports] of {path}"),
            ),
            None => report.warning(
                "kubelet does not know whose disk to measure",
                format!("root = {root:?} in [proxy_plugins.{name}.exports] of {path}"),
            ),
        }
        Some(name.clone())
    }

    fn socket(&self, report: &mut Report) {
        let address = self.address();
        match UnixStream::connect(&address) {
            Ok(_) => report.ok(format!("somebody listens at {}", address.display())),
            Err(error) => report.problem(
                format!("nobody listens at {}, where containerd asks: {error}", address.display()),
                "systemctl enable --now oncefs.socket oncefs.service",
            ),
        }
    }

    fn chosen(&self, name: &str, report: &mut Report) {
        let (section, keys) = self.settings.images_section(self.is_of_2());
        let change = format!("snapshotter = {name:?} in {section} of {}", self.path.display());
        match self.settings.text(&keys, "snapshotter").as_deref() {
            Some(chosen) if chosen == name => report.ok(format!("CRI's images go to {name}")),
            Some(chosen) => report.warning(format!("CRI's images go to {chosen:?}, not to oncefs"), change),
            None => report.warning("CRI's images go to overlayfs, containerd's default, not to oncefs", change),
        }
    }

    /// Whether oncefs is told which image a layer is of. Without that nothing can be served.
    fn annotations(&self, name: &str, report: &mut Report) {
        let (section, keys) = self.settings.images_section(self.is_of_2());
        let (path, disabled) = (self.path.display(), self.settings.boolean(&keys, "disable_snapshot_annotations"));
        let exported = self.settings.exports_annotations(name);
        let transfers = self.is_of_2() && self.version.is_none_or(|version| version >= TRANSFERS);
        let export =
            format!("enable_remote_snapshot_annotations = \"true\" in [proxy_plugins.{name}.exports] of {path}");
        match (transfers, exported, disabled) {
            (true, true, Some(false)) => report.warning(
                "disable_snapshot_annotations = false turns containerd's transfer service off, and is not needed",
                format!("take disable_snapshot_annotations out of {section} of {path}"),
            ),
            (true, true, _) | (_, _, Some(false)) => report.ok("oncefs is told which image a layer is of"),
            (true, false, _) => {
                report.problem("oncefs is not told which image a layer is of: containerd unpacks all of them", export)
            }
            (false, ..) => report.problem(
                "oncefs is not told which image a layer is of: containerd unpacks all of them",
                format!("disable_snapshot_annotations = false in {section} of {path}"),
            ),
        }
    }

    /// The transfer service unpacks to whom its own list names.
    fn unpacking(&self, name: &str, report: &mut Report) {
        if !self.is_of_2() {
            return;
        }
        let unpackers = self.settings.unpackers();
        if unpackers.iter().any(|unpacker| unpacker == name) {
            return report.ok("containerd's transfer service gives images to oncefs");
        }
        let add =
            "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]] platform = \"linux/amd64\" snapshotter =";
        report.problem(
            "containerd's transfer service does not give images to oncefs",
            format!(
                "add to {}: {add} {name:?}, and another for \"overlayfs\" (docs/containerd.md)",
                self.path.display()
            ),
        );
    }

    /// Where the CRI proxy looks for containerd.
    fn cri_socket(&self, report: &mut Report) {
        let cri = &self.machine.config.cri;
        let theirs = self.settings.socket();
        if cri.enabled && Path::new(&theirs) != cri.containerd {
            report.warning(
                format!("containerd listens at {theirs}, and the CRI proxy asks it at {}", cri.containerd.display()),
                format!("containerd = {theirs:?} in [cri] of oncefs's configuration"),
            );
        }
    }

    /// What containerd lacks in many containers and test machines; oncefs itself needs neither.
    fn privileges(&self, report: &mut Report) {
        let (section, keys) = self.settings.runtime_section(self.is_of_2());
        let is_set = |key: &str| self.settings.boolean(&keys, key) == Some(true);
        let set = |key: &str| format!("{key} = true in {section} of {}", self.path.display());
        if !may_set_oom_scores() && !is_set("restrict_oom_score_adj") {
            report.warning(
                "CAP_SYS_RESOURCE is missing here; if containerd lacks it, too, it starts no pod",
                set("restrict_oom_score_adj"),
            );
        }
        let apparmor = text(Path::new("/sys/module/apparmor/parameters/enabled")).unwrap_or_default();
        if apparmor.starts_with('Y') && program("apparmor_parser").is_none() && !is_set("disable_apparmor") {
            report.warning(
                "the kernel has AppArmor, and apparmor_parser is not here: containerd may fail to start pods",
                format!("install the package apparmor, or {}", set("disable_apparmor")),
            );
        }
    }
}

/// Whether this process, and so perhaps containerd, has CAP_SYS_RESOURCE (capabilities(7)).
fn may_set_oom_scores() -> bool {
    const SYS_RESOURCE: u32 = 24;
    let status = text(Path::new("/proc/self/status")).unwrap_or_default();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bounding = bounding.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bounding.is_none_or(|bounding| bounding & (1 << SYS_RESOURCE) != 0)
}
