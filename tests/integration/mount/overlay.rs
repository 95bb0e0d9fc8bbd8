//! overlayfs over a view, as containers have it: one lower directory however many layers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use oncefs::sys::mount;

use super::stage::{Packing, Stage, drop_all, output};
use super::tars::{Tar, noise};

/// An overlay mount, until this is dropped.
struct Overlay(PathBuf);

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = mount::detach(&self.0);
    }
}

#[test]
fn privileged_a_container_writes_over_a_view() {
    let stage = Stage::new();
    let content = noise(3, 2 << 20);
    let base = Tar::new().directory("etc").file("etc/hosts", b"localhost").file("big", &content).file("gone", b"");
    let base = stage.layer(&base.end(), Packing::Gzip);
    let top = Tar::new()
        .file("etc/motd", b"welcome")
        .file(".wh.gone", b"")
        .program("bin/sort", &fs::read("/usr/bin/sort").unwrap());
    let top = stage.layer(&top.end(), Packing::Gzip);
    let view = stage.show("view", &[&base, &top]);
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| stage.directory(name));
    let options = format!("lowerdir={},upperdir={},workdir={}", view.display(), upper.display(), work.display());
    drop_all(&base);
    output(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&merged));
    let _overlay = Overlay(merged.clone());
    assert!(fs::read(merged.join("big")).unwrap() == content);
    assert_eq!(fs::read(merged.join("etc/motd")).unwrap(), b"welcome");
    assert!(!merged.join("gone").exists());
    fs::write(merged.join("etc/hosts"), b"elsewhere").unwrap();
    fs::remove_file(merged.join("etc/motd")).unwrap();
    fs::set_permissions(merged.join("big"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(merged.join("new"), b"new").unwrap();
    assert_eq!(fs::read(merged.join("etc/hosts")).unwrap(), b"elsewhere");
    assert!(!merged.join("etc/motd").exists());
    assert!(fs::read(merged.join("big")).unwrap() == content, "copied up");
    assert_eq!(fs::read(view.join("etc/hosts")).unwrap(), b"localhost");
    assert_eq!(fs::read(view.join("etc/motd")).unwrap(), b"welcome");
    let lines = stage.directory("lines").join("lines");
    fs::write(&lines, "2\n1\n").unwrap();
    assert_eq!(output(Command::new(merged.join("bin/sort")).arg(lines)), "1\n2\n");
    assert_eq!(fs::read_dir(merged.join("etc")).unwrap().count(), 1);
}
