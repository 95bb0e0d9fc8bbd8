//! `make install`: what lies where afterwards, and that it is usable.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::built;
use crate::cli::node::{Ran, run};

/// Calls the Makefile's target for a tree of its own, with the programs that the tests run.
pub(super) fn make(target: &str, destdir: &Path, prefix: &str) -> Ran {
    let mut make = Command::new("make");
    make.args(["--no-print-directory", target]).current_dir(env!("CARGO_MANIFEST_DIR"));
    make.arg(format!("DESTDIR={}", destdir.display())).arg(format!("PREFIX={prefix}"));
    make.arg(format!("BUILT={}", built().display()));
    run(&mut make)
}

/// Every file below a directory, relative to it.
fn files(below: &Path) -> Vec<String> {
    let listed = run(Command::new("find").arg(below).args(["-type", "f", "-printf", "%P\\n"])).well();
    let mut files: Vec<String> = listed.out.lines().map(str::to_owned).collect();
    files.sort();
    files
}

#[test]
fn everything_lies_where_a_distribution_would_put_it() {
    let tree = tempfile::tempdir().unwrap();
    make("install-built", tree.path(), "/usr").well();
    let files = files(tree.path());
    for file in [
        "etc/oncefs/config.toml",
        "sbin/mount.oncefs",
        "usr/bin/oncefs",
        "usr/lib/systemd/system/oncefs.service",
        "usr/lib/systemd/system/oncefs.socket",
        "usr/share/bash-completion/completions/oncefs",
        "usr/share/doc/oncefs/config.toml",
        "usr/share/fish/vendor_completions.d/oncefs.fish",
        "usr/share/man/man1/oncefs.1",
        "usr/share/man/man1/oncefs-mount.1",
        "usr/share/man/man1/oncefs-serve.1",
        "usr/share/man/man1/oncefs-config-check.1",
        "usr/share/man/man5/oncefs.toml.5",
        "usr/share/man/man8/mount.oncefs.8",
        "usr/share/zsh/site-functions/_oncefs",
    ] {
        assert!(files.iter().any(|known| known == file), "{file} is missing in {files:#?}");
    }
    let mode = |file: &str| run(Command::new("stat").args(["-c", "%a"]).arg(tree.path().join(file))).well().out;
    assert_eq!([mode("usr/bin/oncefs"), mode("etc/oncefs/config.toml")], ["755\n", "644\n"]);
    let hidden = files.iter().filter(|file| file.ends_with("oncefs-man.1"));
    assert_eq!(hidden.count(), 0, "what the help hides has no page");
}

#[test]
fn the_pages_of_the_manual_have_no_mistakes() {
    let tree = tempfile::tempdir().unwrap();
    make("install-built", tree.path(), "/usr").well();
    let man = tree.path().join("usr/share/man");
    let pages: Vec<PathBuf> = files(&man).iter().map(|page| man.join(page)).collect();
    assert!(pages.len() > 10, "{pages:?}");
    for page in pages {
        let shown =
            run(Command::new("man").args(["--warnings", "-E", "UTF-8", "-l"]).arg(&page).env("MANWIDTH", "100"));
        let shown = shown.well();
        assert!(shown.err.is_empty() && shown.out.contains("NAME"), "{}: {shown:?}", page.display());
    }
}

#[test]
fn what_is_configured_stays_and_the_rest_can_be_uninstalled() {
    let tree = tempfile::tempdir().unwrap();
    make("install-built", tree.path(), "/usr/local").well();
    let config = tree.path().join("etc/oncefs/config.toml");
    std::fs::write(&config, "log = 'debug'\n").unwrap();
    make("install-built", tree.path(), "/usr/local").well();
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "log = 'debug'\n");
    make("uninstall", tree.path(), "/usr/local").well();
    assert_eq!(files(tree.path()), ["etc/oncefs/config.toml"]);
}

#[test]
fn the_units_name_the_program_where_it_is() {
    let tree = tempfile::tempdir().unwrap();
    make("install-built", tree.path(), "/usr/local").well();
    let unit = std::fs::read_to_string(tree.path().join("usr/local/lib/systemd/system/oncefs.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/local/bin/oncefs"), "{unit}");
}

#[test]
fn the_completions_are_scripts_of_their_shells() {
    let tree = tempfile::tempdir().unwrap();
    make("install-built", tree.path(), "/usr").well();
    let script = tree.path().join("usr/share/bash-completion/completions/oncefs");
    let complete =
        "source \"$0\"; COMP_WORDS=(oncefs mo); COMP_CWORD=1; _oncefs oncefs mo oncefs; echo \"${COMPREPLY[@]}\"";
    assert_eq!(run(Command::new("bash").args(["-c", complete]).arg(&script)).well().out, "mount\n");
    let text = |file: &str| std::fs::read_to_string(tree.path().join("usr/share").join(file)).unwrap();
    assert!(text("zsh/site-functions/_oncefs").starts_with("#compdef oncefs"));
    assert!(text("fish/vendor_completions.d/oncefs.fish").contains("complete -c oncefs"));
}
