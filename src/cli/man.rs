//! `oncefs man DIR`: writes the manual, made of the command line's definition and of the commented configuration.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use clap_mangen::Man as Page;
use clap_mangen::roff::{Roff, bold, roman};

use crate::control::{Failure, FailureKind};

pub(super) const CONFIGURATION: &str = include_str!("../../docs/config.toml");
const MANUAL: &str = "oncefs";

const FILES: [(&str, &str); 4] = [
    (
        "/etc/oncefs/config.toml",
        "The configuration, oncefs.toml(5). Ordinary users: $XDG_CONFIG_HOME/oncefs/config.toml, or ~/.config/oncefs/config.toml.",
    ),
    (
        "/var/lib/oncefs",
        "The root: layers and the database. Ordinary users: $XDG_DATA_HOME/oncefs, or ~/.local/share/oncefs.",
    ),
    (
        "/run/oncefs",
        "The run directory: control.sock, snapshotter.sock, cri.sock, the log of a server that a command has started (oncefs.log), the FUSE mount (fs). Ordinary users: $XDG_RUNTIME_DIR/oncefs, or /tmp/oncefs-UID.",
    ),
    ("~/.docker/config.json", "Logins, as docker, podman and skopeo write them."),
];

const VARIABLES: [(&str, &str); 4] = [
    ("ONCEFS_CONFIG", "Names the configuration file, as --config does."),
    ("ONCEFS_SECTION__KEY", "A key of the configuration, as in ONCEFS_SCAN__CONCURRENT_LAYERS=2; wins over the file."),
    ("DOCKER_CONFIG", "The folder of docker's config.json, if it is not ~/.docker."),
    (
        "HTTPS_PROXY, NO_PROXY",
        "The proxy to registries, and the hosts that are asked without it; of the server's environment.",
    ),
];

/// Write the pages of the manual
#[derive(Debug, Args)]
pub(super) struct Man {
    /// The directory to write them to
    #[arg(value_name = "DIR")]
    to: PathBuf,
}

impl Man {
    pub(super) fn run(self, line: clap::Command) -> Result<ExitCode, Failure> {
        let failed = |error: io::Error| {
            let message = format!("cannot write the manual to {}: {error}", self.to.display());
            Failure::new(FailureKind::Other, message)
        };
        let mut line = line.disable_help_subcommand(true);
        line.build();
        write_commands(&line, &self.to).map_err(failed)?;
        std::fs::write(self.to.join("oncefs.toml.5"), configuration()).map_err(failed)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A page for the command, and for each below it that its help shows.
fn write_commands(command: &clap::Command, to: &Path) -> io::Result<()> {
    let page = Page::new(command.clone()).manual(MANUAL);
    let name = page.get_filename();
    let mut text = Vec::new();
    page.render(&mut text)?;
    if command.get_name() == MANUAL {
        around().to_writer(&mut text)?;
    }
    // What follows the options are examples and exit codes, with headings of their own.
    let text = String::from_utf8_lossy(&text).replace(".SH EXTRA\n", ".SH NOTES\n");
    std::fs::write(to.join(name), text)?;
    command.get_subcommands().filter(|below| !below.is_hide_set()).try_for_each(|below| write_commands(below, to))
}

/// What oncefs(1) says of what is around it.
fn around() -> Roff {
    let mut page = Roff::new();
    for (heading, entries) in [("FILES", &FILES[..]), ("ENVIRONMENT", &VARIABLES)] {
        page.control("SH", [heading]);
        for (name, said) in entries {
            page.control("TP", []).text([bold(*name)]).text([roman(*said)]);
        }
    }
    page.control("SH", ["SEE ALSO"]).text([roman("oncefs.toml(5), mount.oncefs(8), mount(8), fusermount3(1)")]);
    page
}

/// oncefs.toml(5): the head of the commented configuration, then each section with its keys.
fn configuration() -> String {
    let mut page = Roff::new();
    let source = concat!("oncefs ", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["oncefs.toml", "5", "", source, MANUAL]);
    page.control("SH", ["NAME"]).text([roman("oncefs.toml - configuration of oncefs")]);
    page.control("SH", ["DESCRIPTION"]);
    let mut prose: Vec<&str> = Vec::new();
    let mut is_described = false;
    for line in CONFIGURATION.lines().chain([""]) {
        if let Some(section) = line.strip_prefix('[') {
            let section = format!("[{}", section);
            page.control("SH", [section.as_str()]);
            flush(&mut page, &mut prose);
        } else if let Some(said) = line.strip_prefix("# ") {
            prose.push(said);
        } else if let Some(key) = line.strip_prefix('#').filter(|key| !key.is_empty()) {
            if !is_described {
                is_described = true;
                page.control("SH", ["KEYS"]);
            }
            page.control("TP", []).text([bold(key)]);
            flush(&mut page, &mut prose);
        } else if !is_described {
            flush(&mut page, &mut prose);
        }
    }
    page.control("SH", ["SEE ALSO"]).text([roman("oncefs(1), mount.oncefs(8)")]);
    page.render()
}

/// As one paragraph.
fn flush(page: &mut Roff, prose: &mut Vec<&str>) {
    if !prose.is_empty() {
        page.text([roman(prose.join(" "))]);
        prose.clear();
    }
    page.control("PP", []);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_the_configuration_has_each_section_and_key() {
        let page = configuration();
        for line in CONFIGURATION.lines() {
            if let Some(key) = line.strip_prefix('#').filter(|key| key.starts_with(|c: char| c.is_ascii_lowercase())) {
                let name = key.split(' ').next().unwrap();
                assert!(page.contains(&format!("\\fB{name}")), "{name} is missing in:\n{page}");
            }
            assert!(!line.starts_with('[') || page.contains(line), "{line} is missing");
        }
    }
}
