//! `oncefs completions SHELL`

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::print_line;

const EXAMPLES: &str = "\
Examples:
  oncefs completions bash > /usr/share/bash-completion/completions/oncefs
  oncefs completions zsh  > /usr/share/zsh/vendor-completions/_oncefs
  oncefs completions fish > /usr/share/fish/vendor_completions.d/oncefs.fish";

/// Print what completes oncefs's command line in a shell
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completions {
    pub(super) fn run(self, mut line: clap::Command) -> ExitCode {
        let shell = match self.shell {
            Shell::Bash => clap_complete::Shell::Bash,
            Shell::Zsh => clap_complete::Shell::Zsh,
            Shell::Fish => clap_complete::Shell::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut line, "oncefs", &mut script);
        print_line(String::from_utf8_lossy(&script).trim_end());
        ExitCode::SUCCESS
    }
}
