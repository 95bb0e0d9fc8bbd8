//! The program `oncefs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    oncefs::cli::run()
}
