//! Nothing of a test stays: not its containers, not its mounts, not its cgroups, whatever happened to containerd.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::cli::node::{kill_all, processes_naming};

const PATIENCE: Duration = Duration::from_secs(60);
const CGROUPS: &str = "/sys/fs/cgroup";

/// Where shims listen, under names that are in their bundles.
const SHIMS_SOCKETS: &str = "/run/containerd/s/";

/// Kills what runs in the cgroups of this name, and what names this directory in its command line.
pub(crate) fn end_processes(dir: &Path, cgroup: &str) {
    let deadline = Instant::now() + PATIENCE;
    let in_cgroups = || cgroups(cgroup).iter().flat_map(|folder| processes_in(folder)).collect::<Vec<_>>();
    while !kill_all([processes_naming(dir), in_cgroups()].concat()) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Those of the shims that were killed; others took theirs away. The bundle says it in one file or the other, as containerd is 1.x or 2.x.
pub(crate) fn remove_shims_sockets(state: &Path) {
    for bundle in folders(&state.join("io.containerd.runtime.v2.task")).iter().flat_map(|namespace| folders(namespace))
    {
        for file in ["address", "bootstrap.json"] {
            let text = fs::read_to_string(bundle.join(file)).unwrap_or_default();
            let Some((_, name)) = text.split_once(SHIMS_SOCKETS) else { continue };
            let digits = name.split(|letter: char| !letter.is_ascii_hexdigit()).next().unwrap();
            let _gone = fs::remove_file(Path::new(SHIMS_SOCKETS).join(digits));
        }
    }
}

/// The kernel lets go of a cgroup a moment after its last process.
pub(crate) fn remove_cgroups(cgroup: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !cgroups(cgroup).is_empty() && Instant::now() < deadline {
        for folder in cgroups(cgroup).iter().rev() {
            let _gone = fs::remove_dir(folder);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(std::thread::panicking() || cgroups(cgroup).is_empty(), "the cgroup {cgroup} is left");
}

/// The cgroups of this name in each hierarchy, and those in them, which come after.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let hierarchies = folders(Path::new(CGROUPS)).into_iter().chain([PathBuf::from(CGROUPS)]);
    let mut found: Vec<PathBuf> = hierarchies.map(|root| root.join(name)).filter(|folder| folder.is_dir()).collect();
    let mut at = 0;
    while let Some(folder) = found.get(at) {
        let inner = folders(folder);
        found.extend(inner);
        at += 1;
    }
    found
}

fn processes_in(cgroup: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}
