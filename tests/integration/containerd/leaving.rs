//! Nothing of a test stays: not its containers, not its mounts, not its cgroups, whatever happened to containerd.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::node::{mounts_below, processes_naming};

const PATIENCE: Duration = Duration::from_secs(60);
const CGROUPS: &str = "/sys/fs/cgroup";

/// Kills what runs in the cgroups of this name, and what names this directory in its command line.
pub(crate) fn end_processes(dir: &Path, cgroup: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut left = processes_naming(dir);
        left.extend(cgroups(cgroup).iter().flat_map(|folder| processes_in(folder)));
        if left.is_empty() || Instant::now() > deadline {
            return;
        }
        for pid in left {
            let _gone = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Shims listen in a directory of the machine's, under names that are in their bundles.
pub(crate) fn remove_shims_sockets(state: &Path) {
    for namespace in folders(&state.join("io.containerd.runtime.v2.task")) {
        for bundle in folders(&namespace) {
            let address = fs::read_to_string(bundle.join("address")).unwrap_or_default();
            if let Some(socket) = address.strip_prefix("unix:///run/containerd/s/") {
                let _gone = fs::remove_file(Path::new("/run/containerd/s").join(socket));
            }
        }
    }
}

/// Unmounts all below a directory; the topmost of each place first.
pub(crate) fn unmount_below(dir: &Path) {
    for at in mounts_below(dir).iter().rev() {
        let _gone = rustix::mount::unmount(at, UnmountFlags::DETACH);
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
