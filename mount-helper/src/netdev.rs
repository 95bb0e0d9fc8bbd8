//! `_netdev`, noted where mount(8) and systemd look for what the kernel does not keep of a mount: libmount's table (`/run/mount/utab`).
//!
//! mount(8) notes it too, but under the names that it was given, and what the kernel shows has others: oncefs's file system, and a directory
//! in it. systemd then takes what it sees mounted for a local file system and orders it so; whoever waited for the mount as one of
//! the network's is forgotten, and a boot does not end (seen with systemd 252).

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Lines about one place that are taken away at once.
const LINES_MAX: usize = 16;

/// A line of /proc/self/mountinfo, as far as it matters (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    device: Vec<u8>,
    /// What of its file system is seen.
    root: PathBuf,
    at: PathBuf,
}

/// Notes that what is mounted at `at` is of the network, with mount(8)'s own help. Does nothing if nothing is mounted there.
///
/// # Errors
/// Tells what cannot be read or run, or that mount(8) refused.
pub(crate) fn note(at: &Path) -> io::Result<()> {
    let at = at.canonicalize()?;
    let Some(source) = source(&fs::read("/proc/self/mountinfo")?, &at) else { return Ok(()) };
    forget(&at)?;
    let mut mount = Command::new("/bin/mount");
    // Nothing is mounted, and no helper called.
    mount.args(["--fake", "--internal-only", "-o", "_netdev"]);
    match source {
        Source::Whole => mount.args(["-t", "fuse.oncefs", "oncefs"]),
        Source::Part(path) => mount.arg("--bind").arg(path),
    };
    let status = mount.arg(&at).stdin(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("mount --fake ends with {status}"))) }
}

/// Takes away what is noted of an earlier mount there: umount(8) takes one line of the two that mount(8) and we have written.
fn forget(at: &Path) -> io::Result<()> {
    for _ in 0..LINES_MAX {
        let noted = match fs::read("/run/mount/utab") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            noted => noted?,
        };
        if !is_noted(&noted, at) {
            break;
        }
        let mut umount = Command::new("/bin/umount");
        umount.args(["--fake", "--internal-only", "--no-canonicalize"]).arg(at);
        if !umount.stdin(Stdio::null()).stderr(Stdio::null()).status()?.success() {
            break;
        }
    }
    Ok(())
}

fn is_noted(noted: &[u8], at: &Path) -> bool {
    let mut words = noted.split(|byte| matches!(byte, b' ' | b'\n'));
    words.any(|word| word.strip_prefix(b"TARGET=").is_some_and(|target| unescaped(target) == at.as_os_str()))
}

/// What is mounted: a file system, or a directory that is also seen below that file system's own mount.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Whole,
    Part(PathBuf),
}

fn source(table: &[u8], at: &Path) -> Option<Source> {
    let all: Vec<Mounted> = table.split(|byte| *byte == b'\n').filter_map(parse).collect();
    // Of what lies over one another the last is seen.
    let mounted = all.iter().rev().find(|mounted| mounted.at == at)?;
    let Ok(inside) = mounted.root.strip_prefix("/") else { return None };
    if inside.as_os_str().is_empty() {
        return Some(Source::Whole);
    }
    let whole = all.iter().find(|whole| whole.device == mounted.device && whole.root == Path::new("/"))?;
    Some(Source::Part(whole.at.join(inside)))
}

fn parse(line: &[u8]) -> Option<Mounted> {
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    let (device, root, at) = (words.next()?, words.next()?, words.next()?);
    Some(Mounted { device: device.to_vec(), root: unescaped(root).into(), at: unescaped(at).into() })
}

/// Blanks and their like stand there as `\040`.
fn unescaped(word: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        match octal.and_then(|digits| u8::from_str_radix(&OsStr::from_bytes(digits).to_string_lossy(), 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 0:5 / / rw - ext4 /dev/vda rw\n\
30 22 0:41 / /run/oncefs/fs ro shared:1 - fuse.oncefs oncefs ro\n\
31 22 0:41 /ab12 /srv/one ro - fuse.oncefs oncefs ro\n\
32 22 0:42 / /srv/two\\040words ro - fuse.oncefs oncefs ro\n\
33 22 0:43 /cd /srv/lost ro - fuse.oncefs oncefs ro\n";

    fn found(at: &str) -> Option<Source> {
        source(TABLE, Path::new(at))
    }

    #[test]
    fn a_directory_is_named_where_its_file_system_is_mounted() {
        assert_eq!(found("/srv/one"), Some(Source::Part("/run/oncefs/fs/ab12".into())));
    }

    #[test]
    fn a_file_system_of_its_own_is_named_as_one_also_with_blanks_in_its_place() {
        assert_eq!(found("/srv/two words"), Some(Source::Whole));
    }

    #[test]
    fn a_place_is_found_among_the_notes_also_with_blanks() {
        let noted = b"SRC=oncefs TARGET=/srv/two\\040words ROOT=/ OPTS=_netdev\nSRC=x TARGET=/srv/one ROOT=/\n";
        assert!(is_noted(noted, Path::new("/srv/two words")) && is_noted(noted, Path::new("/srv/one")));
        assert!(!is_noted(noted, Path::new("/srv")) && !is_noted(b"", Path::new("/")));
    }

    #[test]
    fn what_is_not_mounted_or_not_to_be_seen_has_no_name() {
        assert_eq!((found("/srv/none"), found("/srv/lost")), (None, None));
        assert_eq!(source(b"nonsense\n\\", Path::new("/")), None);
    }
}
