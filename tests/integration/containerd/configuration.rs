//! What containerd is told: of oncefs, of the registry, and of the place that is its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Which containerd the tests run. Debian 12's, unless the environment names the folder of another's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    One,
    Two,
}

/// What is particular to a node.
pub(crate) struct Told<'a> {
    pub(crate) snapshotter: &'static str,
    /// Where the snapshotter oncefs listens, and its root.
    pub(crate) oncefs: Option<(&'a Path, &'a Path)>,
    pub(crate) pause_image: &'a str,
}

/// The folder of containerd's programs, where it is not the machine's own that is tested.
const PROGRAMS: &str = "CONTAINERD_PROGRAMS";

// === impl Release ===

impl Release {
    pub(crate) fn tested() -> Self {
        static TESTED: OnceLock<Release> = OnceLock::new();
        *TESTED.get_or_init(|| {
            let mut command = Command::new("containerd");
            let said = command.arg("--version").env("PATH", path()).output();
            let said = said.expect("the program containerd is needed (Debian package containerd)").stdout;
            let said = String::from_utf8_lossy(&said).into_owned();
            if said.contains("containerd/v2") || said.contains(" v2.") { Self::Two } else { Self::One }
        })
    }
}

/// The path to find programs at: containerd looks for its shim there too.
pub(crate) fn path() -> OsString {
    let usual = std::env::var_os("PATH").unwrap();
    let named = std::env::var_os(PROGRAMS).map(PathBuf::from);
    std::env::join_paths(named.into_iter().chain(std::env::split_paths(&usual))).unwrap()
}

/// What of containerd may not be wanted where several run, or where the kernel lacks it, is off.
pub(crate) fn configuration(release: Release, dir: &Path, socket: &Path, told: &Told<'_>) -> String {
    let (at, socket) = (dir.display(), socket.display());
    let version = if release == Release::One { 2 } else { 3 };
    let usual = format!(
        "version = {version}\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
         disabled_plugins = [\"io.containerd.snapshotter.v1.aufs\", \"io.containerd.snapshotter.v1.btrfs\", \
         \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.zfs\"]\n\
         [grpc]\naddress = \"{socket}\"\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{at}/opt\"\n"
    );
    let cri = if release == Release::One { cri_of_one(dir, told) } else { cri_of_two(dir, told) };
    // 1.6 does not know the key.
    let capabilities = if release == Release::One { "" } else { "capabilities = [\"remap-ids\"]\n" };
    let proxy = told.oncefs.map_or(String::new(), |(socket, root)| {
        format!(
            "[proxy_plugins.oncefs]\ntype = \"snapshot\"\naddress = {socket:?}\n{capabilities}\
             [proxy_plugins.oncefs.exports]\nroot = {root:?}\nenable_remote_snapshot_annotations = \"true\"\n"
        )
    });
    usual + &cri + &proxy
}

fn cri_of_one(dir: &Path, told: &Told<'_>) -> String {
    let (at, snapshotter, pause) = (dir.display(), told.snapshotter, told.pause_image);
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    format!(
        "[{cri}]\nsandbox_image = \"{pause}\"\nrestrict_oom_score_adj = true\ndisable_apparmor = true\n\
         stats_collect_period = 1\ndisable_tcp_service = true\nstream_server_address = \"127.0.0.1\"\n\
         [{cri}.cni]\nbin_dir = \"{at}/cni/bin\"\nconf_dir = \"{at}/cni/conf\"\n\
         [{cri}.containerd]\nsnapshotter = \"{snapshotter}\"\ndisable_snapshot_annotations = false\n\
         [{cri}.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [{cri}.containerd.runtimes.runc.options]\nRoot = \"{at}/runc\"\n"
    )
}

/// Images are pulled by the transfer service, which is told by itself which snapshotters to unpack for.
fn cri_of_two(dir: &Path, told: &Told<'_>) -> String {
    let (at, snapshotter, pause) = (dir.display(), told.snapshotter, told.pause_image);
    let (images, runtime) = ("plugins.\"io.containerd.cri.v1.images\"", "plugins.\"io.containerd.cri.v1.runtime\"");
    let platform = format!("linux/{}", crate::cli::image::ARCHITECTURE);
    format!(
        "[{images}]\nsnapshotter = \"{snapshotter}\"\nstats_collect_period = 1\n\
         [{images}.pinned_images]\nsandbox = \"{pause}\"\n\
         [{runtime}]\nrestrict_oom_score_adj = true\ndisable_apparmor = true\n\
         [{runtime}.cni]\nbin_dirs = [\"{at}/cni/bin\"]\nconf_dir = \"{at}/cni/conf\"\n\
         [{runtime}.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [{runtime}.containerd.runtimes.runc.options]\nRoot = \"{at}/runc\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\ndisable_tcp_service = true\nstream_server_address = \"127.0.0.1\"\n\
         [plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n\
         [[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n\
         platform = \"{platform}\"\nsnapshotter = \"{snapshotter}\"\n"
    )
}
