//! `mount -t oncefs`: the real mount(8), with the helper where it looks for it, in a mount namespace of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::built;
use crate::cli::image::Image;
use crate::cli::node::{Node, Ran, copy_program, run};

/// A node, and a folder that lies over /usr/sbin for the scripts that are run on it.
struct Machine {
    node: Node,
    sbin: PathBuf,
}

/// What every script begins with. `$mount IMAGE DIR -o OPTIONS` mounts on this node.
const PRELUDE: &str = "
    set -eu
    mount -t overlay -o \"lowerdir=$SBIN:/usr/sbin\" overlay /usr/sbin
    here() { echo \"root=$ROOT,run=$RUN,config=$CONFIG\"; }
    flags() { findmnt -n -o VFS-OPTIONS \"$1\"; }
    cd \"$DIR\"
";

impl Machine {
    fn new() -> Self {
        let node = Node::new();
        let sbin = node.place("sbin");
        copy_program(built().join("mount-oncefs"), &sbin.join("mount.oncefs"));
        // Beside the helper, where it looks first.
        std::os::unix::fs::symlink(built().join("oncefs"), sbin.join("oncefs")).unwrap();
        Self { node, sbin }
    }

    /// Writes an image into a layout.
    fn image(&self, seed: u64) -> String {
        Image::usual(seed).write_layout(&self.node.path("layout"))
    }

    /// Runs a script where mount(8) finds the helper. What it mounts goes with its namespace.
    fn script(&self, image: &str, script: &str) -> Ran {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c"]).arg(format!("{PRELUDE}{script}"));
        command.env("SBIN", &self.sbin).env("ROOT", self.node.root()).env("RUN", self.node.run());
        command.env("CONFIG", self.node.path("config.toml")).env("DIR", self.node.place("mnt")).env("IMAGE", image);
        run(&mut command)
    }

    /// Calls the helper itself.
    fn helper(&self, arguments: &[&str]) -> Ran {
        run(Command::new(self.sbin.join("mount.oncefs")).args(arguments))
    }
}

#[test]
fn mount_and_umount_do_what_they_do_for_any_file_system() {
    let machine = Machine::new();
    let ran = machine.script(
        &machine.image(1),
        "mkdir at; mount -t oncefs -o \"$(here)\" \"$IMAGE\" at; cat at/srv/page; findmnt -n -o FSTYPE at; flags at; umount at; ls -A at",
    );
    let ran = ran.well();
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!((lines[0], lines[1], lines.len()), ("page 1", "fuse.oncefs", 3), "{ran:?}");
    assert!(lines[2].starts_with("ro,") && !lines[2].contains("no"), "{ran:?}");
    machine.node.assert_at_rest();
}

#[test]
fn nodev_nosuid_and_noexec_have_effect() {
    let machine = Machine::new();
    let script = "
        mkdir one own
        mount -t oncefs -o \"$(here),nodev,nosuid,noexec\" \"$IMAGE\" one
        mount -t oncefs -o \"$(here),nodev,nosuid,noexec,uid=1000,gid=1001\" \"$IMAGE\" own
        flags one; flags own; stat -c %u:%g one/srv/page own/srv/page; umount one own";
    let ran = machine.script(&machine.image(2), script).well();
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[..2].iter().all(|flags| flags.starts_with("ro,nosuid,nodev,noexec")), "{ran:?}");
    assert_eq!(lines[2..], ["0:0", "1000:1001"], "{ran:?}");
    machine.node.assert_at_rest();
}

#[test]
fn a_line_of_fstab_is_mounted_by_its_directory_alone() {
    let machine = Machine::new();
    let image = Image::usual(3).write_layout(&machine.node.path("lay out"));
    let script = "
        mkdir 'a b'
        layout=$(printf %s \"$IMAGE\" | sed 's/ /\\\\040/g')
        options=noauto,_netdev,nofail,x-systemd.automount,comment=mine,noatime,wait,$(here)
        printf '%s %s oncefs %s 0 0\\n' \"$layout\" \"$DIR/a\\\\040b\" \"$options\" > fstab
        mount -T fstab \"$DIR/a b\"; cat 'a b/srv/page'; umount 'a b'";
    let ran = machine.script(&image, script).well();
    assert_eq!(ran.out, "page 3\n");
    machine.node.assert_at_rest();
}

/// umount(8) takes away one line, and both mount(8) and its helper write one.
#[test]
fn notes_do_not_grow_with_each_mount_at_one_place() {
    let machine = Machine::new();
    let script = "
        mkdir at
        for n in 1 2 3 4; do mount -t oncefs -o \"$(here),_netdev\" \"$IMAGE\" at; umount at; done
        grep -c \"TARGET=$DIR/at \" /run/mount/utab
        umount --fake at 2>&1; ! grep -q \"TARGET=$DIR/at \" /run/mount/utab";
    let ran = machine.script(&machine.image(6), script).well();
    assert_eq!(ran.out, "1\n", "{ran:?}");
    machine.node.assert_at_rest();
}

/// What mount(8) has noted of a mount, and the kernel does not keep, goes with it whoever takes it away.
#[test]
fn umount_of_oncefs_leaves_no_note_of_a_mount_either() {
    let machine = Machine::new();
    let script = "
        oncefs() { \"$SBIN/oncefs\" --root \"$ROOT\" --run \"$RUN\" --config \"$CONFIG\" \"$@\"; }
        noted() { if grep -q \"TARGET=$DIR/one \" /run/mount/utab; then echo yes; else echo no; fi; }
        mkdir one two; mount -t oncefs -o \"$(here)\" \"$IMAGE\" two
        for how in \"$DIR/one\" --all; do
            mount -t oncefs -o \"$(here),_netdev\" \"$IMAGE\" one; noted; oncefs umount $how; noted
        done";
    let ran = machine.script(&machine.image(5), script).well();
    assert_eq!(ran.out, "yes\nno\nyes\nno\n", "{ran:?}");
    machine.node.assert_at_rest();
}

#[test]
fn a_second_image_at_the_same_place_is_refused_with_the_code_of_a_failed_mount() {
    let machine = Machine::new();
    let script = "
        mkdir at; mount -t oncefs -o \"$(here)\" \"$IMAGE\" at
        code=0; mount -t oncefs -o \"$(here)\" \"$IMAGE\" at || code=$?; echo $code; umount at";
    let ran = machine.script(&machine.image(4), script).well();
    assert_eq!(ran.out, "1\n", "{ran:?}");
    assert!(ran.err.contains("an image is mounted at") && ran.err.contains("already"), "{ran:?}");
    machine.node.assert_at_rest();
}

#[test]
fn what_fails_says_why_with_the_codes_of_mount() {
    let machine = Machine::new();
    let at = machine.node.place("at");
    let at = at.to_str().unwrap();
    let node = |more: &str| {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let config = machine.node.path("config.toml");
        format!("root={},run={},config={}{more}", path(machine.node.root()), path(machine.node.run()), path(&config))
    };
    let layout = format!("oci:{}", machine.node.path("nowhere").display());
    for (arguments, code, words) in [
        (vec!["image"], 1, "give an image and a directory"),
        (vec!["image", at, "-o", "ro,foo=bar"], 1, "unknown mount option \"foo=bar\""),
        (vec!["image", at, "-o", "remount,ro"], 1, "unmount it and mount it again"),
        (vec!["image", at, "-o", "uid=7"], 1, "uid= and gid= belong together"),
        (vec!["image", at, "-N", "/proc/1/ns/mnt"], 1, "nsenter"),
        (vec!["image", at, "-t", "fuse.other"], 1, "not fuse.other"),
        (vec!["Image", at, "-o", &node("")], 1, "capital letters"),
        (vec![&layout, at, "-o", &node("")], 32, "nowhere"),
    ] {
        let ran = machine.helper(&arguments);
        assert!(ran.code == Some(code) && ran.err.contains(words), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn without_the_program_it_says_where_it_looked() {
    let machine = Machine::new();
    // A device is no program: this hides one that is installed on this machine.
    let script = "
        rm \"$SBIN/oncefs\"
        for place in /usr/local/bin /usr/bin; do [ ! -e $place/oncefs ] || mount --bind /dev/null $place/oncefs; done
        code=0; mount -t oncefs \"$IMAGE\" /mnt || code=$?; echo $code";
    let ran = machine.script("redis:7", script).well();
    assert!(ran.out == "2\n" && ran.err.contains("/usr/local/bin and /usr/bin"), "{ran:?}");
}

#[test]
fn fake_mounts_nothing_verbose_says_what_it_would_and_sloppy_lets_pass() {
    let machine = Machine::new();
    let at = machine.node.place("at");
    let at = at.to_str().unwrap();
    let ran =
        machine.helper(&["redis:7", at, "-s", "-f", "-v", "-n", "-o", "rw,what,wait,platform=linux/arm64"]).well();
    let expected = format!("mount --wait --platform=linux/arm64 -- redis:7 {at}\n");
    assert!(
        ran.out.ends_with(&expected) && ran.out.contains("rw is taken as ro") && ran.out.contains("\"what\""),
        "{ran:?}"
    );
    assert!(ran.err.is_empty() && !machine.node.run().exists(), "{ran:?}");
    machine.helper(&["redis:7", at, "-f", "-o", "what"]).fails(1, &[]);
}
