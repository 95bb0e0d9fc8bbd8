//! The command line: parses, calls, prints. One file a command; nothing here knows how anything is done.

mod check;
mod completions;
mod config;
mod connection;
mod doctor;
mod index;
mod inspect;
mod man;
mod mount;
mod pin;
mod progress;
mod prune;
mod pull;
mod rm;
mod serve;
mod status;
mod trace;
mod umount;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::config::{Config, Environment, Flags, LogFormat};
use crate::control::{Failure, FailureKind};
use crate::daemon;

const EXAMPLES: &str = "\
Examples:
  oncefs mount docker.io/library/redis:7 /mnt  layers come when one looks
  oncefs mount oci:./layout:latest /mnt        the same of a local OCI layout
  oncefs status                                what is mounted and here
  oncefs umount /mnt

Exit codes:
  0  done
  1  another failure, or interrupted (Ctrl-C)
  2  wrong usage
  3  damaged content (a digest did not match, no layer at all), or problems that
     check has left
  4  no such image, or not for this platform; nothing mounted there
  5  the registry denies access, or the server to this user
  6  the registry cannot be reached
  7  the store is in use, full, or read-only";

/// A lazy container-image filesystem: every layer is fetched, verified and kept once
#[derive(Debug, Parser)]
#[command(name = "oncefs", version, after_help = EXAMPLES, max_term_width = 100)]
struct Line {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
struct Global {
    /// Where layers are kept [default: /var/lib/oncefs, or $XDG_DATA_HOME/oncefs for ordinary users]
    #[arg(long, value_name = "DIR", global = true)]
    root: Option<PathBuf>,
    /// Where the socket and the FUSE mount are [default: /run/oncefs, or $XDG_RUNTIME_DIR/oncefs]
    #[arg(long, value_name = "DIR", global = true)]
    run: Option<PathBuf>,
    /// The configuration file [default: /etc/oncefs/config.toml, or $XDG_CONFIG_HOME/oncefs/config.toml]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// What is logged: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", global = true)]
    log: Option<String>,
    /// How it is logged: auto (journald where standard error is the journal's, else text), text, json or journald
    #[arg(long, value_name = "FORMAT", global = true, value_parser = log_format())]
    log_format: Option<LogFormat>,
}

fn log_format() -> impl clap::builder::TypedValueParser<Value = LogFormat> {
    use clap::builder::TypedValueParser as _;
    let named = |name: String| LogFormat::ALL.into_iter().find(|format| format.name() == name).unwrap_or_default();
    clap::builder::PossibleValuesParser::new(LogFormat::ALL.map(LogFormat::name)).map(named)
}

#[derive(Debug, Subcommand)]
enum Command {
    Mount(mount::Mount),
    Umount(umount::Umount),
    Pull(pull::Pull),
    Status(status::Status),
    Inspect(inspect::Inspect),
    Pin(pin::Pin),
    Unpin(pin::Unpin),
    Rm(rm::Rm),
    Prune(prune::Prune),
    Index(index::Index),
    Convert(index::Convert),
    Trace(trace::Trace),
    Check(check::Check),
    Doctor(doctor::Doctor),
    Config(config::Show),
    Completions(completions::Completions),
    #[command(hide = true)]
    Man(man::Man),
    Serve(serve::Serve),
}

/// An image, and of which platform.
#[derive(Debug, Clone, Args)]
struct ImageArgs {
    /// The image: NAME[:TAG|@DIGEST], oci:DIR[:TAG] or oci-archive:FILE[:TAG]
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The platform to take of an image for several, as in linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
}

/// What every command gets.
struct Setting {
    config: Config,
    flags: Flags,
    environment: Environment,
    log: daemon::Log,
}

/// Parses the command line and does what it says.
pub fn run() -> ExitCode {
    let Line { global, command } = Line::parse();
    let Global { root, run, config, log, log_format } = global;
    let address = match &command {
        Command::Serve(serve) => serve.address.clone(),
        _ => None,
    };
    let flags = Flags { root, run, config, log, log_format, address };
    let is_server = matches!(command, Command::Serve(_));
    let done = match command {
        // What needs no configuration is there when the configuration is wrong.
        Command::Completions(command) => Ok(command.run(Line::command())),
        Command::Man(command) => command.run(Line::command()),
        Command::Config(command) => command.run(flags),
        Command::Doctor(command) => command.run(flags),
        command => set_up(flags, is_server).and_then(|setting| perform(command, &setting)),
    };
    match done {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("oncefs: {}", failure.message);
            exit_code(failure.kind)
        }
    }
}

fn set_up(mut flags: Flags, is_server: bool) -> Result<Setting, Failure> {
    let uid = rustix::process::geteuid().as_raw();
    let environment = Environment::of_process();
    // Said outright to a server that is started, which stands elsewhere.
    flags.config = flags.config.or_else(|| environment.named_file());
    let config = Config::load(&flags, &environment, uid).map_err(|error| daemon::of_config(&error))?;
    let config = config.with_absolute_places();
    // A command speaks for itself; what a server logs goes to its own log.
    let level = match config.log.as_str() {
        "info" if !is_server => "warn",
        chosen => chosen,
    };
    let level = flags.log.as_deref().unwrap_or(level);
    let log = daemon::start_logging(level, config.log_format, environment.journal_stream());
    Ok(Setting { config, flags, environment, log })
}

fn perform(command: Command, setting: &Setting) -> Result<ExitCode, Failure> {
    if let Command::Serve(serve) = &command
        && serve.is_keeper()
    {
        return serve.keep(setting);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(FailureKind::Other, format!("cannot start: {error}")))?;
    let done = runtime.block_on(async {
        match command {
            Command::Mount(command) => command.run(setting).await,
            Command::Umount(command) => command.run(setting).await,
            Command::Pull(command) => command.run(setting).await,
            Command::Status(command) => command.run(setting).await,
            Command::Inspect(command) => command.run(setting).await,
            Command::Pin(command) => command.run(setting).await,
            Command::Unpin(command) => command.run(setting).await,
            Command::Rm(command) => command.run(setting).await,
            Command::Prune(command) => command.run(setting).await,
            Command::Index(command) => command.run(setting).await,
            Command::Convert(command) => command.run(setting).await,
            Command::Trace(command) => command.run(setting).await,
            Command::Check(command) => command.run(setting).await,
            Command::Completions(_) | Command::Man(_) | Command::Config(_) | Command::Doctor(_) => {
                unreachable!("bug: it was done before")
            }
            Command::Serve(command) => command.run(setting).await,
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    done
}

fn exit_code(kind: FailureKind) -> ExitCode {
    ExitCode::from(match kind {
        FailureKind::Other => 1,
        FailureKind::Usage => 2,
        FailureKind::Corrupt => 3,
        FailureKind::NotFound => 4,
        FailureKind::Denied => 5,
        FailureKind::Unreachable => 6,
        FailureKind::Store => 7,
    })
}

/// `1 layer`, `2 layers`.
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Prints a value as JSON for programs.
fn print_json(value: &impl serde::Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print_line(&text),
        Err(error) => eprintln!("oncefs: cannot show this as JSON: {error}"),
    }
}

/// Prints, and does not mind a reader that has gone (`oncefs status | head -1`). What cannot be written elsewhere ends the command: a script
/// must not take nothing for an answer.
fn print_line(line: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let _nobody_to_tell = writeln!(std::io::stderr(), "oncefs: cannot write to standard output: {error}");
            std::process::exit(1);
        }
        _written_or_not_wanted => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Line::command().debug_assert();
    }

    /// Paragraphs are one line each and as wide as the terminal; tables and examples have to fit the narrowest.
    #[test]
    fn what_follows_the_options_is_not_torn_at_eighty_columns() {
        fn assert_fits(command: &clap::Command) {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let torn: Vec<_> = text.lines().filter(|line| line.starts_with(' ') && line.chars().count() > 80).collect();
            assert!(torn.is_empty(), "{}: {torn:#?}", command.get_name());
            let is_prose = |line: &str| !line.is_empty() && !line.starts_with(' ') && !line.ends_with(':');
            for (line, next) in text.lines().zip(text.lines().skip(1)) {
                // In the manual, what follows a table's line without a space between is on that line.
                let is_torn = is_prose(next) && (is_prose(line) || line.starts_with(' '));
                assert!(!is_torn, "{}: one paragraph: {line}", command.get_name());
            }
            command.get_subcommands().for_each(assert_fits);
        }
        assert_fits(&Line::command());
    }
}
