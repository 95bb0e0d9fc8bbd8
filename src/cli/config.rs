//! `oncefs config show|check`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::man::CONFIGURATION;
use super::{print_line, set_up};
use crate::config::Flags;
use crate::control::Failure;
use crate::daemon;

const EXAMPLES: &str = "\
Examples:
  oncefs config show
  oncefs config check ./config.toml";

/// Show the configuration as it is in force, or only check it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Show {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print every key with the value in force: defaults, file, environment and flags taken together
    Show,
    /// Say whether the configuration can be used
    Check {
        /// The file to check [default: the one in force]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// Keys that have no value: those of the commented configuration that are not shown.
fn unset(shown: &str) -> Vec<String> {
    let shown = keys(shown, |line| Some(line));
    // A key stands directly behind its `#`, what is said of it behind a space.
    let known = keys(CONFIGURATION, |line| line.strip_prefix('#').filter(|key| !key.starts_with(' ')));
    known.into_iter().filter(|key| !shown.contains(key)).collect()
}

/// The keys of lines as in `key = value`, after their sections.
fn keys(text: &str, uncommented: impl Fn(&str) -> Option<&str>) -> Vec<String> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = format!("{name}.");
        } else if let Some((key, _)) = uncommented(line).and_then(|line| line.split_once(" = ")) {
            keys.push(format!("{section}{key}"));
        }
    }
    keys
}

impl Show {
    pub(super) fn run(self, mut flags: Flags) -> Result<ExitCode, Failure> {
        match self.what {
            What::Show => {
                let shown = set_up(flags, false)?.config.to_toml();
                print_line(shown.trim_end());
                unset(&shown).iter().for_each(|key| print_line(&format!("# not set: {key}")));
            }
            What::Check { file } => {
                let name = file.as_ref().map_or("the configuration".to_owned(), |file| file.display().to_string());
                flags.config = file.or(flags.config);
                daemon::check_config(&set_up(flags, false)?.config)?;
                print_line(&format!("{name} is right"));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_key_is_shown_with_its_value_or_as_one_that_is_not_set() {
        let mut config = Config::default();
        assert_eq!(
            unset(&config.to_toml()),
            [
                "metrics.listen",
                "registry.kubelet_credential_providers",
                "registry.kubelet_credential_provider_bin_dir",
                "index.signing_key"
            ]
        );
        config.metrics.listen = Some(([127, 0, 0, 1], 9099).into());
        config.index.signing_key = Some("/key.pem".into());
        assert_eq!(unset(&config.to_toml()).len(), 2);
    }
}
