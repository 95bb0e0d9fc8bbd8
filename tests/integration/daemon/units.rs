//! systemd's own judgement of the units that are shipped.

use std::path::Path;
use std::process::Command;

use super::stage::needed;
use crate::cli::node::{ONCEFS, names_in, run};

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let dir = tempfile::tempdir().unwrap();
    let mut verify = Command::new(needed("systemd-analyze"));
    verify.args(["verify", "--man=no"]).current_dir(dir.path());
    let mut names = names_in(&shipped);
    names.retain(|name| [".service", ".socket", ".mount", ".automount"].iter().any(|kind| name.ends_with(kind)));
    names.sort();
    assert_eq!(names, ["mnt-redis.automount", "mnt-redis.mount", "oncefs.service", "oncefs.socket"]);
    for name in &names {
        // systemd wants the program to be there.
        let text = std::fs::read_to_string(shipped.join(name)).unwrap().replace("/usr/local/bin/oncefs", ONCEFS);
        std::fs::write(dir.path().join(name), text).unwrap();
        verify.arg(format!("./{name}"));
    }
    let ran = run(&mut verify).well();
    // Of a key that older releases ignore, as the unit says.
    let is_too_old = |line: &&str| line.contains("FileDescriptorStorePreserve") && line.contains("ignoring");
    let of_ours = ran.err.lines().filter(|line| names.iter().any(|name| line.contains(name)));
    let complaints: Vec<&str> = of_ours.filter(|line| !is_too_old(line)).collect();
    assert_eq!(complaints, [""; 0]);
}
