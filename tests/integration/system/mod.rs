//! oncefs as a part of a system: installed, called by mount(8), started by systemd.

mod boot;
mod installing;
mod mount_helper;

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::cli::node::{ONCEFS, run};

/// Where the programs are, both of them built from the sources as they are.
pub(crate) fn built() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build).clone()
}

/// Cargo builds for the tests of a package the programs of that package only.
fn build() -> PathBuf {
    let folder = PathBuf::from(ONCEFS).parent().unwrap().to_owned();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--locked", "--package", "mount-oncefs", "--target-dir"]).arg(folder.parent().unwrap());
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    run(cargo.current_dir(env!("CARGO_MANIFEST_DIR"))).well();
    folder
}
