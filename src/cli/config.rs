//! `oncefs config show|check`

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Setting, print_line};
use crate::control::Failure;

/// Show the configuration as it is in force, or only check it
#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print every key with the value in force: defaults, file, environment and flags taken together
    Show,
    /// Say whether the configuration can be used
    Check,
}

impl Show {
    /// It was loaded, and so is right, before any command runs.
    pub(super) fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        match self.what {
            What::Show => print_line(setting.config.to_toml().trim_end()),
            What::Check => print_line("the configuration is right"),
        }
        Ok(ExitCode::SUCCESS)
    }
}
