//! oncefs installed in a Debian 12 that is booted: systemd, its units, fstab, automounts, reload, restart, SIGKILL.
//!
//! systemd-nspawn boots a copy of the tree that `tests/boot/root.sh` makes; `tests/boot/inside.sh` does in there what an administrator
//! does, and writes down what went well.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::installing::make;
use crate::cli::image::Image;
use crate::cli::node::{Running, run};
use crate::cli::registry::Registry;

/// A boot with all its steps takes some seconds.
const PATIENCE: Duration = Duration::from_secs(240);
/// Debian's archive may be far away, and is asked once.
const MAKING_PATIENCE: Duration = Duration::from_secs(900);

const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

const STEPS: &str = "\
ok: the units are right
ok: the service is enabled and starts
ok: mounts are the service's
ok: an automount of fstab mounts when looked at
ok: a mount unit mounts and unmounts
ok: a reload keeps what is mounted
ok: a restart is not noticed
ok: a kill is not noticed
ok: a watchdog is not noticed
ok: a stop takes mounts away
ok: operators use systemd's socket
ok: the socket starts the service
ok: the journal tells of it
ok: no unit failed
end of boot 1
ok: after a boot all is there
ok: no unit failed after the boot
end of boot 2
";

const UNIT: &str = "\
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/result/inside.sh
[Install]
WantedBy=default.target
";

/// An installed system, and the folder that it and the test both see.
struct Machine {
    _folder: tempfile::TempDir,
    root: PathBuf,
    result: PathBuf,
}

impl Machine {
    fn install() -> Self {
        let cached = Path::new(PACKAGE).join("target/boot/root");
        let mut making = Command::new(Path::new(PACKAGE).join("tests/boot/root.sh"));
        Running::start(making.arg(&cached)).end_within(MAKING_PATIENCE).well();
        let folder = tempfile::Builder::new().prefix("machine-").tempdir_in(cached.parent().unwrap()).unwrap();
        let (root, result) = (folder.path().join("root"), folder.path().join("result"));
        std::fs::create_dir(&result).unwrap();
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(&cached).arg(&root)).well();
        make("install-built", &root, "/usr").well();
        std::fs::copy(Path::new(PACKAGE).join("tests/boot/inside.sh"), result.join("inside.sh")).unwrap();
        std::fs::write(root.join("etc/systemd/system/inside.service"), UNIT).unwrap();
        // Kept, so that it can be read when the boot hangs.
        std::fs::create_dir_all(root.join("var/log/journal")).unwrap();
        run(Command::new("systemctl").arg("--root").arg(&root).args(["enable", "inside.service"])).well();
        Self { _folder: folder, root, result }
    }

    /// Boots it, and waits until it has powered itself off.
    fn boot(&self, number: usize, setting: &str) {
        std::fs::write(self.result.join("setting"), format!("BOOT={number}\n{setting}")).unwrap();
        let mut nspawn = Command::new("systemd-nspawn");
        // Not registered with a machine manager, and in no unit of its own: neither need run here.
        nspawn.args(["--quiet", "--register=no", "--keep-unit", "--console=pipe", "--boot", "--capability=all"]);
        nspawn
            .args(["--bind=/dev/fuse", "--bind=/dev/autofs", "--bind"])
            .arg(format!("{}:/result", self.result.display()));
        nspawn.arg(format!("--machine=oncefs-boot-{}", std::process::id())).arg("--directory").arg(&self.root);
        Running::start(&mut nspawn).end_within(PATIENCE).well();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.result.join(name)).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal = run(Command::new("journalctl").arg("--directory").arg(self.root.join("var/log/journal")));
            eprintln!("the machine's journal:\n{}\nsteps:\n{}", journal.out, self.read("steps"));
            eprintln!("what was done:\n{}\n{}", self.read("log.1"), self.read("log.2"));
        }
    }
}

#[test]
fn oncefs_is_a_service_of_a_debian_that_is_booted_twice() {
    let machine = Machine::install();
    let image = Image::usual(7);
    let registry = Registry::with(&image);
    image.write_layout(&machine.result.join("layout"));
    let setting = format!("IMAGE={}\nLAYOUT=oci:/result/layout\nPAGE='page 7'\n", registry.image());
    machine.boot(1, &setting);
    machine.boot(2, &setting);
    assert_eq!(machine.read("steps"), STEPS);
}
