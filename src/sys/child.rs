//! A child process that is given descriptors as a service manager gives them (sd_listen_fds(3)).

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

/// The number of the first descriptor that is handed over.
const FIRST: RawFd = 3;

/// Starts `command`, which finds these descriptors from 3 on, their number in LISTEN_FDS, whom they are meant for in LISTEN_PID, and
/// `variables` in its environment too. A watchdog that is there is meant for it from now on (WATCHDOG_PID). No signal is blocked in it. For a process of one thread, and a command whose environment was left as it is.
pub fn spawn(mut command: Command, descriptors: &[BorrowedFd<'_>], variables: &[(&str, &str)]) -> io::Result<Child> {
    let numbers: Vec<RawFd> = descriptors.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
    let mut set = Vec::new();
    for (name, value) in variables.iter().copied().chain([("LISTEN_FDS", numbers.len().to_string().as_str())]) {
        set.push((CString::new(name)?, CString::new(value)?));
    }
    let above = FIRST + RawFd::try_from(numbers.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let _until_it_runs = occupy_below(above)?;
    let prepare = move || {
        hand_over(&numbers, above)?;
        let pid = CString::new(std::process::id().to_string())?;
        let pids = [c"LISTEN_PID", c"WATCHDOG_PID"].map(|name| (name.to_owned(), pid.clone()));
        for (name, value) in set.iter().chain(&pids) {
            // SAFETY: both are strings that end, and are copied; this process has one thread, so nobody reads the environment.
            if unsafe { libc::setenv(name.as_ptr(), value.as_ptr(), 1) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        super::signals::unblock()
    };
    // SAFETY: between fork(2) and execve(2) only a process that had several threads must not allocate or take locks; this one
    // has one, as its callers say.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Takes all free numbers below this one: the pipe by which the child tells that it could not be executed must not stand there.
fn occupy_below(above: RawFd) -> io::Result<Vec<File>> {
    let mut taken = Vec::new();
    loop {
        let file = File::open("/dev/null")?;
        if file.as_raw_fd() >= above {
            return Ok(taken);
        }
        taken.push(file);
    }
}

/// Puts the descriptors at their numbers, from which nothing else of this process must be read any more.
fn hand_over(numbers: &[RawFd], above: RawFd) -> io::Result<()> {
    let checked = |returned: RawFd| if returned == -1 { Err(io::Error::last_os_error()) } else { Ok(returned) };
    // Out of the way first: one may stand at another's number.
    let mut copies = Vec::with_capacity(numbers.len());
    for number in numbers {
        // SAFETY: it is open: its owner is borrowed from by the caller of `spawn`.
        copies.push(checked(unsafe { libc::fcntl(*number, libc::F_DUPFD_CLOEXEC, above) })?);
    }
    for (copy, place) in copies.iter().zip(FIRST..) {
        // SAFETY: what stands at this number belongs to the parent's copy of this process, and is not used in this one, which
        // executes another program at once. Without close-on-exec on purpose.
        checked(unsafe { libc::dup2(*copy, place) })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_child_finds_what_it_is_given_where_the_protocol_says() {
        let (mut one, out) = std::io::pipe().unwrap();
        let (mut two, out_two) = std::io::pipe().unwrap();
        let mut command = Command::new("sh");
        let script = r#"[ "$LISTEN_PID" = $$ ] && echo "$LISTEN_FDS $LISTEN_FDNAMES" >&3 && echo two >&4"#;
        command.args(["-c", script]).stdin(Stdio::null());
        let names = [("LISTEN_FDNAMES", "a:b")];
        let mut child = spawn(command, &[out.as_fd(), out_two.as_fd()], &names).unwrap();
        drop((out, out_two));
        assert!(child.wait().unwrap().success());
        let (mut text, mut second) = (String::new(), String::new());
        one.read_to_string(&mut text).unwrap();
        two.read_to_string(&mut second).unwrap();
        assert_eq!((text.as_str(), second.as_str()), ("2 a:b\n", "two\n"));
    }
}
