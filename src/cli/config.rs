//! `oncefs config show|check`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

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

impl Show {
    pub(super) fn run(self, mut flags: Flags) -> Result<ExitCode, Failure> {
        match self.what {
            What::Show => print_line(set_up(flags, false)?.config.to_toml().trim_end()),
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
