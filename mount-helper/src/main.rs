//! `mount.oncefs`: what mount(8) runs for `mount -t oncefs IMAGE DIR`, for lines of /etc/fstab and for systemd's mount units.
//!
//! It knows mount(8)'s conventions and nothing of images: it says the same to `oncefs mount`, and its exit codes in
//! mount(8)'s way.

mod command_line;
mod netdev;
mod options;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use command_line::{Asked, Usage};
use options::Options;

/// Exit codes of mount(8).
const SUCCESS: u8 = 0;
const INCORRECT_INVOCATION: u8 = 1;
const SYSTEM_ERROR: u8 = 2;
const MOUNT_FAILURE: u8 = 32;

/// `oncefs mount` found its arguments wrong.
const ONCEFS_USAGE: i32 = 2;

/// Where `oncefs` is, if it is not beside this program.
const PLACES: [&str; 2] = ["/usr/local/bin", "/usr/bin"];

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    ExitCode::from(match command_line::parse(arguments) {
        Ok(Asked::Help) => {
            print_line(command_line::HELP);
            SUCCESS
        }
        Ok(Asked::Version) => {
            print_line(concat!("mount.oncefs ", env!("CARGO_PKG_VERSION")));
            SUCCESS
        }
        Ok(Asked::Mount(line)) => mount(&line),
        Err(wrong) => complain(&wrong),
    })
}

fn mount(line: &command_line::Mount) -> u8 {
    let options = match Options::read(&line.options, line.is_sloppy) {
        Ok(options) => options,
        Err(wrong) => return complain(&Usage(wrong.to_string())),
    };
    if line.is_verbose {
        for note in &options.notes {
            print_line(&format!("mount.oncefs: {note}"));
        }
    }
    let Some(program) = find_oncefs() else {
        let looked = PLACES.join(" and ");
        say(&format!(
            "cannot find the program oncefs: it is neither beside this one nor in {looked}; install it there"
        ));
        return SYSTEM_ERROR;
    };
    let arguments = options.arguments(&line.image, &line.at);
    if line.is_verbose {
        let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
        print_line(&format!("mount.oncefs: runs {} {}", program.display(), words.join(" ")));
    }
    if line.is_fake {
        return SUCCESS;
    }
    let status = match Command::new(&program).args(&arguments).status() {
        Ok(status) => status,
        Err(error) => {
            say(&format!("cannot run {}: {error}", program.display()));
            return SYSTEM_ERROR;
        }
    };
    match status.code() {
        Some(0) => {
            if options.is_of_network
                && let Err(error) = netdev::note(Path::new(&line.at))
                && line.is_verbose
            {
                print_line(&format!("mount.oncefs: _netdev is not noted: {error}"));
            }
            SUCCESS
        }
        // It has said itself what is wrong.
        Some(ONCEFS_USAGE) => INCORRECT_INVOCATION,
        Some(_) => MOUNT_FAILURE,
        None => {
            say(&format!("{} was killed ({status})", program.display()));
            MOUNT_FAILURE
        }
    }
}

/// Not by PATH, which belongs to whoever calls mount(8).
fn find_oncefs() -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(Path::to_owned);
    beside.into_iter().chain(PLACES.map(PathBuf::from)).map(|place| place.join("oncefs")).find(|path| path.is_file())
}

fn complain(wrong: &Usage) -> u8 {
    say(&wrong.0);
    INCORRECT_INVOCATION
}

fn say(message: &str) {
    use std::io::Write as _;
    let _nobody_to_tell = writeln!(std::io::stderr(), "mount.oncefs: {message}");
}

fn print_line(line: &str) {
    use std::io::Write as _;
    let _reader_gone = writeln!(std::io::stdout(), "{line}");
}
