//! `-o ro,platform=linux/arm64,...`: mount options, and what `oncefs mount` is to be told.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

/// What the options ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    platform: Option<OsString>,
    owner: Owner,
    /// Options of `oncefs` itself, with their values.
    global: Vec<(&'static str, OsString)>,
    /// Options of `oncefs mount` that are set: `--wait`, `--nodev`, ...
    set: Vec<&'static str>,
    /// `_netdev`.
    pub(crate) is_of_network: bool,
    /// For who wants to know more.
    pub(crate) notes: Vec<String>,
}

/// Whom files are shown to belong to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Owner {
    uid: Option<u32>,
    gid: Option<u32>,
}

/// An option that cannot be followed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    Unknown(String),
    NoValue(String),
    NeedlessValue(String),
    NoNumber { name: String, value: String },
    HalfAnOwner,
    Remount,
}

/// Options of ours that need a value and are handed on to `oncefs`.
const GLOBAL: [(&str, &str); 4] = [("root", "--root"), ("run", "--run"), ("config", "--config"), ("log", "--log")];

/// Options that `oncefs mount` has, and those that undo them.
const RESTRICTIONS: [(&str, &str, &str); 3] =
    [("nodev", "dev", "--nodev"), ("nosuid", "suid", "--nosuid"), ("noexec", "exec", "--noexec")];

/// Said to mount(8), to systemd and to those who read fstab; or of no meaning where nothing is written.
const FOR_OTHERS: &[&str] = &[
    "async",
    "atime",
    "auto",
    "defaults",
    "diratime",
    "dirsync",
    "group",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "noauto",
    "nodiratime",
    "nofail",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosymfollow",
    "nouser",
    "owner",
    "relatime",
    "ro",
    "silent",
    "strictatime",
    "symfollow",
    "sync",
    "user",
    "users",
];

/// The same, with a value or a name that goes on.
const FOR_OTHERS_BEGIN: &[&str] =
    &["x-", "X-", "comment=", "user=", "context=", "fscontext=", "defcontext=", "rootcontext="];

// === impl Options ===

impl Options {
    /// Reads every `-o`. Sloppy: what is unknown is passed over.
    pub(crate) fn read(lists: &[OsString], is_sloppy: bool) -> Result<Self, Wrong> {
        let mut options = Self::default();
        for option in lists.iter().flat_map(|list| split(list.as_bytes())) {
            match options.take(&option) {
                Err(wrong @ Wrong::Unknown(_)) if is_sloppy => options.notes.push(format!("{wrong}; passed over (-s)")),
                taken => taken?,
            }
        }
        if options.owner.uid.is_some() != options.owner.gid.is_some() {
            return Err(Wrong::HalfAnOwner);
        }
        Ok(options)
    }

    fn take(&mut self, option: &[u8]) -> Result<(), Wrong> {
        let text = String::from_utf8_lossy(option).into_owned();
        let (name, value) = match option.iter().position(|byte| *byte == b'=') {
            Some(at) => (text.split('=').next().unwrap_or_default(), option.get(at + 1..)),
            None => (text.as_str(), None),
        };
        if text == "rw" {
            // mount(8) says so whenever nobody said "ro": it cannot be told apart from a wish.
            self.notes.push("images are read-only: rw is taken as ro".to_owned());
            return Ok(());
        }
        if text == "remount" {
            return Err(Wrong::Remount);
        }
        for (on, off, argument) in RESTRICTIONS {
            if text == on || text == off {
                self.set.retain(|set| *set != argument);
                self.set.extend((text == on).then_some(argument));
                return Ok(());
            }
        }
        if let Some((_, argument)) = GLOBAL.iter().find(|(known, _)| *known == name) {
            self.global.push((argument, required(name, value)?));
            return Ok(());
        }
        match name {
            "platform" => self.platform = Some(required(name, value)?),
            "uid" => self.owner.uid = Some(number(name, value)?),
            "gid" => self.owner.gid = Some(number(name, value)?),
            "wait" if value.is_some() => return Err(Wrong::NeedlessValue(name.to_owned())),
            "wait" => self.set.push("--wait"),
            "_netdev" => self.is_of_network = true,
            _ if FOR_OTHERS.contains(&text.as_str()) => self.imply(&text),
            _ if FOR_OTHERS_BEGIN.iter().any(|begin| text.starts_with(begin)) => {}
            _ => return Err(Wrong::Unknown(text)),
        }
        Ok(())
    }

    /// Who lets others mount, distrusts what they mount (mount(8), "user", "group"). mount(8) writes it out; fstab read by others may not.
    fn imply(&mut self, option: &str) {
        let implied: &[&'static str] = match option {
            "user" | "users" => &["--nodev", "--nosuid", "--noexec"],
            "group" | "owner" => &["--nodev", "--nosuid"],
            _ => &[],
        };
        for argument in implied {
            if !self.set.contains(argument) {
                self.set.push(argument);
            }
        }
    }

    /// The command line of `oncefs`.
    pub(crate) fn arguments(&self, image: &OsStr, at: &Path) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        // Joined, for values that begin with a dash.
        for (name, value) in &self.global {
            arguments.push(joined(name, value));
        }
        arguments.push("mount".into());
        arguments.extend(self.set.iter().map(OsString::from));
        arguments.extend(self.platform.iter().map(|platform| joined("--platform", platform)));
        if let Owner { uid: Some(uid), gid: Some(gid) } = self.owner {
            arguments.push(format!("--owner={uid}:{gid}").into());
        }
        arguments.extend(["--".into(), image.into(), at.into()]);
        arguments
    }
}

fn joined(name: &str, value: &OsStr) -> OsString {
    let mut joined = OsString::from(name);
    joined.push("=");
    joined.push(value);
    joined
}

fn required(name: &str, value: Option<&[u8]>) -> Result<OsString, Wrong> {
    match value {
        Some(value) if !value.is_empty() => Ok(OsString::from_vec(unquoted(value))),
        _ => Err(Wrong::NoValue(name.to_owned())),
    }
}

fn number(name: &str, value: Option<&[u8]>) -> Result<u32, Wrong> {
    let value = required(name, value)?.to_string_lossy().into_owned();
    value.parse().map_err(|_| Wrong::NoNumber { name: name.to_owned(), value })
}

/// At commas that stand between no double quotes: the only way that mount(8) has for a comma in a value.
fn split(list: &[u8]) -> Vec<Vec<u8>> {
    let (mut options, mut option, mut is_quoted) = (Vec::new(), Vec::new(), false);
    for byte in list {
        match byte {
            b',' if !is_quoted => options.push(std::mem::take(&mut option)),
            byte => {
                is_quoted ^= *byte == b'"';
                option.push(*byte);
            }
        }
    }
    options.push(option);
    options.retain(|option| !option.is_empty());
    options
}

fn unquoted(value: &[u8]) -> Vec<u8> {
    match value {
        [b'"', inner @ .., b'"'] => inner.to_vec(),
        _ => value.to_vec(),
    }
}

// === impl Wrong ===

impl fmt::Display for Wrong {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(option) => {
                write!(to, "unknown mount option {option:?}; mount.oncefs(8) lists them, and with -s it is passed over")
            }
            Self::NoValue(name) => write!(to, "the mount option {name} needs a value: {name}=..."),
            Self::NeedlessValue(name) => write!(to, "the mount option {name} takes no value"),
            Self::NoNumber { name, value } => write!(to, "{name}={value:?} is no number of a user or group"),
            Self::HalfAnOwner => write!(to, "uid= and gid= belong together: give both or none"),
            Self::Remount => {
                write!(to, "the options of a mounted image cannot be changed; unmount it and mount it again")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &str) -> Result<Options, Wrong> {
        Options::read(&[list.into()], false)
    }

    fn arguments(list: &str) -> Vec<String> {
        let arguments = read(list).unwrap().arguments(OsStr::new("redis:7"), Path::new("/mnt"));
        arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn ours_become_arguments_of_oncefs() {
        let list = "rw,platform=linux/arm64,wait,root=/a,run=/b,config=/c,log=debug,uid=5,gid=6,noexec";
        let expected = "--root=/a --run=/b --config=/c --log=debug mount --wait --noexec --platform=linux/arm64 --owner=5:6 \
                        -- redis:7 /mnt";
        assert_eq!(arguments(list).join(" "), expected);
    }

    #[test]
    fn those_for_others_change_nothing() {
        let list = "defaults,ro,_netdev,nofail,noauto,x-systemd.automount,x-systemd.requires=oncefs.socket,comment=mine,\
                    noatime,relatime,sync,X-mount.mkdir,,";
        assert_eq!(arguments(list).join(" "), "mount -- redis:7 /mnt");
    }

    #[test]
    fn the_last_of_two_that_contradict_each_other_counts() {
        assert_eq!(arguments("nodev,dev,suid,nosuid").join(" "), "mount --nosuid -- redis:7 /mnt");
        assert_eq!(arguments("user,exec").join(" "), "mount --nodev --nosuid -- redis:7 /mnt");
    }

    #[test]
    fn a_comma_may_stand_in_quotes() {
        assert_eq!(arguments("root=\"/x y,z\",wait").join("|"), "--root=/x y,z|mount|--wait|--|redis:7|/mnt");
    }

    #[test]
    fn rw_is_taken_as_ro_and_noted() {
        assert_eq!(read("rw").unwrap().notes, ["images are read-only: rw is taken as ro"]);
    }

    #[test]
    fn what_cannot_be_followed_is_told() {
        let told = |list: &str| read(list).unwrap_err();
        assert_eq!(told("ro,foo=1"), Wrong::Unknown("foo=1".into()));
        assert_eq!(told("platform"), Wrong::NoValue("platform".into()));
        assert_eq!(told("root="), Wrong::NoValue("root".into()));
        assert_eq!(told("wait=1"), Wrong::NeedlessValue("wait".into()));
        assert_eq!(told("uid=me,gid=1"), Wrong::NoNumber { name: "uid".into(), value: "me".into() });
        assert_eq!(told("uid=1"), Wrong::HalfAnOwner);
        assert_eq!(told("remount,ro"), Wrong::Remount);
    }

    #[test]
    fn sloppy_lets_only_the_unknown_pass() {
        let options = Options::read(&["foo,nodev".into()], true).unwrap();
        assert_eq!((options.set, options.notes.len()), (vec!["--nodev"], 1));
        assert_eq!(
            Options::read(&["uid=me".into()], true).unwrap_err().to_string(),
            "uid=\"me\" is no number of a user or group"
        );
    }
}
