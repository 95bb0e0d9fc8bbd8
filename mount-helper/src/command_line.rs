//! `mount.oncefs IMAGE DIR [-sfnv] [-N namespace] [-o options] [-t type]`, as mount(8) writes it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

pub(crate) const HELP: &str = "\
Usage: mount.oncefs IMAGE DIR [-sfnv] [-o OPTIONS]

Mounts a container image for mount(8): mount -t oncefs IMAGE DIR -o OPTIONS

  -o OPTIONS  mount options, divided by commas: see mount.oncefs(8)
  -s          let unknown options pass
  -f          check only, mount nothing
  -n          write no mtab (there is none)
  -v          say what is done
  -h, --help
  -V, --version";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Mount(Mount),
    Help,
    Version,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) image: OsString,
    pub(crate) at: PathBuf,
    /// Every `-o`, one after the other.
    pub(crate) options: Vec<OsString>,
    pub(crate) is_sloppy: bool,
    pub(crate) is_fake: bool,
    pub(crate) is_verbose: bool,
}

/// The command line makes no sense, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Usage(pub(crate) String);

/// Types under which images are mounted, in fstab and in the kernel's table.
const TYPES: [&str; 2] = ["oncefs", "fuse.oncefs"];

pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Asked, Usage> {
    let mut arguments = arguments.into_iter();
    let mut mount = Mount::default();
    let mut words = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.as_bytes() {
            b"--help" => return Ok(Asked::Help),
            b"--version" => return Ok(Asked::Version),
            b"--" => {
                words.extend(arguments.by_ref());
            }
            [b'-', letters @ ..] if !letters.is_empty() => {
                if let Some(answer) = mount.letters(letters, &mut arguments)? {
                    return Ok(answer);
                }
            }
            _ => words.push(argument),
        }
    }
    let mut words = words.into_iter();
    let (Some(image), Some(at), None) = (words.next(), words.next(), words.next()) else {
        return Err(Usage("give an image and a directory: mount.oncefs IMAGE DIR [-o OPTIONS]".to_owned()));
    };
    (mount.image, mount.at) = (image, at.into());
    Ok(Asked::Mount(mount))
}

// === impl Mount ===

impl Mount {
    /// A word of letters, as in `-nv` or `-oro`: a letter that takes a value takes the rest of the word, or the next one.
    fn letters(
        &mut self,
        letters: &[u8],
        further: &mut impl Iterator<Item = OsString>,
    ) -> Result<Option<Asked>, Usage> {
        let mut rest = letters;
        while let Some((letter, after)) = rest.split_first() {
            rest = after;
            match letter {
                b's' => self.is_sloppy = true,
                b'f' => self.is_fake = true,
                b'v' => self.is_verbose = true,
                b'n' => {} // there has been no mtab for a long time
                b'h' => return Ok(Some(Asked::Help)),
                b'V' => return Ok(Some(Asked::Version)),
                b'r' => self.options.push("ro".into()),
                b'w' => self.options.push("rw".into()),
                b'o' | b't' | b'N' => {
                    let value = match std::mem::take(&mut rest) {
                        [] => further.next(),
                        joined => Some(OsString::from_vec(joined.to_vec())),
                    };
                    self.value(char::from(*letter), value)?;
                }
                other => return Err(Usage(format!("unknown option -{}; see mount.oncefs --help", char::from(*other)))),
            }
        }
        Ok(None)
    }

    fn value(&mut self, letter: char, value: Option<OsString>) -> Result<(), Usage> {
        let value = value.ok_or_else(|| Usage(format!("-{letter} needs a value")))?;
        match letter {
            'o' => self.options.push(value),
            't' if TYPES.map(OsStr::new).contains(&value.as_os_str()) => {}
            't' => return Err(Usage(format!("mounts are of type oncefs here, not {}", value.display()))),
            // The server mounts, and it lives in the namespace it was started in.
            _ => {
                let message = "mounting in another namespace (-N) is not possible; run mount inside of it: nsenter -m";
                return Err(Usage(message.to_owned()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Asked, Usage> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn mount(line: &str) -> Mount {
        match parsed(line) {
            Ok(Asked::Mount(mount)) => mount,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn what_mount_writes_is_read() {
        let line = mount("127.0.0.1:5000/x:tag@sha256:ab /mnt -s -f -n -v -o rw,wait -t oncefs");
        assert_eq!((line.image, line.at), ("127.0.0.1:5000/x:tag@sha256:ab".into(), "/mnt".into()));
        assert_eq!(line.options, ["rw,wait"]);
        assert!(line.is_sloppy && line.is_fake && line.is_verbose);
    }

    #[test]
    fn letters_may_be_joined_to_each_other_and_to_their_value() {
        let line = mount("-vnoro,wait image /mnt -o x-b");
        assert_eq!(line.options, ["ro,wait", "x-b"]);
        assert!(line.is_verbose && !line.is_sloppy);
        assert_eq!(mount("-r image /mnt").options, ["ro"]);
    }

    #[test]
    fn after_two_dashes_come_only_words() {
        assert_eq!(mount("-- -image /mnt").image, "-image");
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (line, word) in [
            ("", "image and a directory"),
            ("image", "image and a directory"),
            ("image /mnt more", "image and a directory"),
            ("image /mnt -x", "-x"),
            ("image /mnt -o", "-o needs a value"),
            ("image /mnt -t ext4", "not ext4"),
            ("image /mnt -N /proc/1/ns/mnt", "nsenter"),
        ] {
            let Err(Usage(message)) = parsed(line) else { panic!("{line} was taken") };
            assert!(message.contains(word), "{line}: {message}");
        }
    }

    #[test]
    fn help_and_version_need_nothing_else() {
        assert_eq!(parsed("-h"), Ok(Asked::Help));
        assert_eq!(parsed("--version"), Ok(Asked::Version));
    }
}
