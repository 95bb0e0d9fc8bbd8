//! Views through idmapped mounts: other owners, for containers in user namespaces.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use oncefs::sys::idmap;
use serde_json::json;

use super::stage::{Bound, Packing, Stage, drop_all, output};
use super::tars::Tar;

/// Where the user namespace's 0 is outside.
const SHIFT: u32 = 100_000;

/// A user namespace, alive as long as a process is in it.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--user", "--", "sh", "-c", "echo in && read line"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("this test needs unshare");
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "in\n");
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{map}", child.id()), format!("0 {SHIFT} 65536")).unwrap();
        }
        Self(child)
    }

    fn show(&self, from: &Path, to: &Path) -> Bound {
        let namespace = File::open(format!("/proc/{}/ns/user", self.0.id())).unwrap();
        idmap::bind(from, to, namespace.as_fd())
            .expect("this test needs a kernel with idmapped FUSE mounts (6.12 or newer)");
        Bound(to.to_owned())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = path.symlink_metadata().unwrap();
    (metadata.uid(), metadata.gid())
}

/// A view with files of several owners and little permission.
fn view(stage: &Stage) -> PathBuf {
    let layer = Tar::new()
        .directory("etc")
        .owned("etc/shadow", b"secret", 0o600, (0, 0))
        .owned("etc/page", b"served", 0o640, (33, 4))
        .owned("etc/far", b"away", 0o644, (70_000, 70_000))
        .directory("proc")
        .directory("usr")
        .directory("lib64")
        .directory("lib")
        .directory("bin");
    let layer = stage.layer(&layer.end(), Packing::Gzip);
    drop_all(&layer);
    stage.show("view", &[&layer])
}

#[test]
fn privileged_an_idmapped_view_shows_shifted_owners() {
    let (stage, namespace) = (Stage::new(), Namespace::new());
    let view = view(&stage);
    let mapped = namespace.show(&view, &stage.directory("mapped"));
    assert_eq!(owner(&mapped.0.join("etc")), (SHIFT, SHIFT));
    assert_eq!(owner(&mapped.0.join("etc/shadow")), (SHIFT, SHIFT));
    assert_eq!(owner(&mapped.0.join("etc/page")), (SHIFT + 33, SHIFT + 4));
    // Whom the namespace does not know is nobody, as on a disk.
    assert_eq!(owner(&mapped.0.join("etc/far")), (65_534, 65_534));
    assert_eq!(fs::read(mapped.0.join("etc/shadow")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(mapped.0.join("etc")).unwrap().count(), 3);
    // The view itself is as it was, for those who come by the other way.
    assert_eq!(owner(&view.join("etc/page")), (33, 4));
    assert_eq!(fs::read(view.join("etc/far")).unwrap(), b"away");
    assert!(fs::write(mapped.0.join("etc/new"), b"").is_err());
}

#[test]
fn privileged_permissions_follow_the_shifted_owners() {
    let (stage, namespace) = (Stage::new(), Namespace::new());
    let mapped = namespace.show(&view(&stage), &stage.directory("mapped"));
    fs::set_permissions(stage.mountpoint().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let reads = |user: u32, group: u32, path: &str| {
        let mut cat = Command::new("setpriv");
        cat.args([&format!("--reuid={user}"), &format!("--regid={group}"), "--clear-groups", "--inh-caps=-all"]);
        let done = cat.arg("cat").arg(mapped.0.join(path)).output().unwrap();
        done.status.success().then(|| String::from_utf8(done.stdout).unwrap())
    };
    assert_eq!(reads(SHIFT, SHIFT, "etc/shadow").as_deref(), Some("secret"));
    assert_eq!(reads(SHIFT + 33, SHIFT + 33, "etc/page").as_deref(), Some("served"));
    assert_eq!(reads(SHIFT + 9, SHIFT + 4, "etc/page").as_deref(), Some("served"), "by its group");
    assert_eq!(reads(33, 4, "etc/page"), None);
    assert_eq!(reads(SHIFT + 9, SHIFT + 9, "etc/shadow"), None);
}

#[test]
fn privileged_overlayfs_goes_over_an_idmapped_view() {
    let (stage, namespace) = (Stage::new(), Namespace::new());
    let mapped = namespace.show(&view(&stage), &stage.directory("mapped"));
    let merged = overlay(&stage, &mapped.0);
    assert_eq!(owner(&merged.0.join("etc/page")), (SHIFT + 33, SHIFT + 4));
    assert_eq!(fs::read(merged.0.join("etc/shadow")).unwrap(), b"secret");
    // Copied up with the owner that it has in the container.
    let mut page = fs::OpenOptions::new().append(true).open(merged.0.join("etc/page")).unwrap();
    page.write_all(b" twice").unwrap();
    drop(page);
    assert_eq!(fs::read(merged.0.join("etc/page")).unwrap(), b"served twice");
    assert_eq!(owner(&merged.0.join("etc/page")), (SHIFT + 33, SHIFT + 4));
}

/// overlayfs with a writable layer of the container's root.
fn overlay(stage: &Stage, lower: &Path) -> Bound {
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| stage.directory(name));
    for directory in [&upper, &work] {
        std::os::unix::fs::chown(directory, Some(SHIFT), Some(SHIFT)).unwrap();
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    output(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&merged));
    Bound(merged)
}

#[test]
fn privileged_a_container_in_a_user_namespace_sees_its_own_files() {
    let (stage, namespace) = (Stage::new(), Namespace::new());
    let mapped = namespace.show(&view(&stage), &stage.directory("mapped"));
    let merged = overlay(&stage, &mapped.0);
    let bundle = stage.directory("bundle");
    fs::set_permissions(stage.mountpoint().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let script = "id -u; stat -c '%u:%g %a' /etc/shadow /etc/page /etc/far; cat /etc/shadow; \
                  chown 5:6 /etc/page && echo more >> /etc/page && stat -c '%u:%g' /etc/page";
    fs::write(bundle.join("config.json"), container(&merged.0, script).to_string()).unwrap();
    let state = stage.directory("runc");
    let name = format!("idmapped-{}", std::process::id());
    let mut runc = Command::new("runc");
    runc.arg("--root").arg(state).arg("run").arg("--bundle").arg(bundle).arg(name).stdin(Stdio::null());
    let said = output(&mut runc);
    assert_eq!(said, "0\n0:0 600\n33:4 640\n65534:65534 644\nsecret5:6\n");
    assert_eq!(owner(&merged.0.join("etc/page")), (SHIFT + 5, SHIFT + 6));
}

/// What runc is told: the programs are this machine's, the files the view's.
fn container(root: &Path, script: &str) -> serde_json::Value {
    let ids = json!([{"containerID": 0, "hostID": SHIFT, "size": 65536}]);
    let own = |path: &str| json!({"destination": path, "source": path, "type": "bind", "options": ["bind", "ro"]});
    let mut mounts: Vec<_> = ["/usr", "/lib", "/lib64", "/bin"].into_iter().map(own).collect();
    mounts.insert(0, json!({"destination": "/proc", "type": "proc", "source": "proc"}));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": {"bounding": ["CAP_CHOWN", "CAP_DAC_OVERRIDE"], "effective": ["CAP_CHOWN", "CAP_DAC_OVERRIDE"],
                "permitted": ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]},
        },
        "root": {"path": root},
        "mounts": mounts,
        "linux": {
            "uidMappings": ids, "gidMappings": ids,
            "namespaces": [{"type": "user"}, {"type": "mount"}, {"type": "pid"}, {"type": "ipc"}],
        },
    })
}
