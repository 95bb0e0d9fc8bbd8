//! The kernel: what of it oncefs needs, and what it makes use of.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use futures::future::{BoxFuture, FutureExt as _};

use super::{Machine, Report, is_root, program, text};

/// From which version on a kernel has something, and what is so without it.
const FEATURES: [((u32, u32), &str, &str); 3] = [
    (
        (6, 9),
        "FUSE requests survive a server that dies",
        "reads that are under way when a server dies get an error; a kernel from 6.9 on gives them to the next server",
    ),
    (
        (6, 12),
        "idmapped FUSE mounts",
        "containers in user namespaces cannot share files with others; a kernel from 6.12 on maps their owners",
    ),
    (
        (6, 12),
        "EROFS from a file",
        "layers that are complete are served by FUSE still; a kernel from 6.12 on can serve them alone",
    ),
];

pub(super) fn look<'a>(_machine: &'a Machine, report: &'a mut Report) -> BoxFuture<'a, ()> {
    async move {
        features(report);
        file_systems(report);
        device(report);
        users(report);
    }
    .boxed()
}

fn features(report: &mut Report) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let Some(version) = version(&release) else {
        return report
            .warning(format!("Linux {release}: a version that cannot be read"), "nothing, if it is from 6.12 on");
    };
    report.ok(format!("Linux {release}"));
    for (since, feature, without) in FEATURES {
        let (major, minor) = since;
        if version >= since {
            report.ok(format!("{feature} (from Linux {major}.{minor} on)"));
        } else {
            report.warning(format!("no {feature}: Linux {release}"), without);
        }
    }
}

/// Major and minor of `6.12.3-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn file_systems(report: &mut Report) {
    let known = text(Path::new("/proc/filesystems")).unwrap_or_default();
    let has = |name: &str| known.lines().any(|line| line.split_whitespace().next_back() == Some(name));
    // What is a module comes when it is first wanted, if whoever wants it may have modules loaded.
    let load =
        |name: &str| format!("modprobe {name}; for every boot: echo {name} > /etc/modules-load.d/oncefs-{name}.conf");
    match has("fuse") {
        true => report.ok("the kernel knows FUSE"),
        false => report.problem("the kernel does not know FUSE, without which there is no mount", load("fuse")),
    }
    if is_root() {
        match has("overlay") {
            true => report.ok("the kernel knows overlayfs"),
            false => {
                report.problem("the kernel does not know overlayfs, which containers write through", load("overlay"))
            }
        }
        match has("erofs") {
            true => report.ok("the kernel knows EROFS"),
            false => report
                .warning("the kernel does not know EROFS: complete layers are served by FUSE still", load("erofs")),
        }
    }
}

fn device(report: &mut Report) {
    let path = Path::new("/dev/fuse");
    match File::options().read(true).write(true).open(path) {
        Ok(_) => report.ok("/dev/fuse can be opened"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => report.problem(
            "there is no /dev/fuse",
            "modprobe fuse; in a container, run it with --device /dev/fuse and the capability SYS_ADMIN",
        ),
        Err(error) => report.problem(
            format!("/dev/fuse cannot be opened: {error}"),
            "chmod 666 /dev/fuse, as distributions have it; in a container, allow the device 10:229",
        ),
    }
}

/// What ordinary users need.
fn users(report: &mut Report) {
    const SET_USER_ID: u32 = 0o4000;
    let install = "install the package fuse3 (apt install fuse3, dnf install fuse3)";
    match program("fusermount3") {
        None if is_root() => report.ok("no fusermount3: ordinary users cannot mount, root needs none"),
        None => report.problem("there is no fusermount3, by which ordinary users mount", install),
        Some(path) => match path.metadata() {
            Ok(metadata) if metadata.uid() == 0 && metadata.mode() & SET_USER_ID != 0 => {
                report.ok(format!("{}: ordinary users can mount", path.display()));
            }
            _ => report.warning(
                format!("{} is not set-user-id root: ordinary users cannot mount", path.display()),
                format!("chown root {0}; chmod u+s {0}", path.display()),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions_are_read_whatever_comes_after_them() {
        for (release, is) in
            [("6.12.3-amd64", Some((6, 12))), ("5.10", Some((5, 10))), ("6.9-rc1", Some((6, 9))), ("new", None)]
        {
            assert_eq!(super::version(release), is, "{release}");
        }
    }
}
