//! `oncefs mount IMAGE DIR`

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;

use super::connection::of_client;
use super::progress::Shown;
use super::serve::{interrupts, keep_logins_from_view};
use super::{ImageArgs, Setting, print_line};
use crate::control::{Call, Failure, FailureKind, MountCall, Owner};
use crate::daemon::{self, Lifetime};
use crate::sys::mount::Restrictions;
use crate::sys::process;

const EXAMPLES: &str = "\
Examples:
  oncefs mount docker.io/library/redis:7 /mnt
  oncefs mount --wait ghcr.io/owner/app@sha256:6f1c... /mnt
  oncefs mount --platform linux/arm64 debian:12 /mnt
  oncefs mount oci-archive:image.tar /mnt

The command returns as soon as the image's manifest and config are known; nothing of a layer is fetched before somebody \
looks below DIR. Then every layer is fetched, verified and indexed once, however many mounts want it. A server in the \
background keeps the mounts and ends with the last of them.";

/// Show an image at a directory, before it is downloaded
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Mount {
    #[command(flatten)]
    image: ImageArgs,
    /// The directory to show it at
    #[arg(value_name = "DIR")]
    at: PathBuf,
    /// Return only when all of every layer is here, each byte of it checked
    #[arg(long)]
    wait: bool,
    /// Serve from this process, until the mount is gone or Ctrl-C is pressed
    #[arg(long)]
    foreground: bool,
    /// Whom files belong to: image (as it says), me, or a user and group as in 1000:1000 [default: image for root, me for others]
    #[arg(long, value_name = "WHO")]
    owner: Option<Who>,
    #[command(flatten)]
    restricted: Restricted,
}

/// What shall not work there, as mount(8) calls it.
#[derive(Debug, Clone, Copy, Args)]
struct Restricted {
    /// Device files of the image are names only
    #[arg(long)]
    nodev: bool,
    /// Set-user-id and set-group-id bits of the image's programs have no effect
    #[arg(long)]
    nosuid: bool,
    /// No program of the image can be executed there
    #[arg(long)]
    noexec: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Image,
    Me,
    Of(u32, u32),
}

impl FromStr for Who {
    type Err = &'static str;

    fn from_str(who: &str) -> Result<Self, Self::Err> {
        let ids = |(uid, gid): (&str, &str)| Some(Self::Of(uid.parse().ok()?, gid.parse().ok()?));
        match who {
            "image" => Ok(Self::Image),
            "me" => Ok(Self::Me),
            _ => who.split_once(':').and_then(ids).ok_or("write image, me, or two numbers as in 1000:1000"),
        }
    }
}

impl Mount {
    pub(super) async fn run(self, setting: &Setting) -> Result<ExitCode, Failure> {
        let at = self.at.canonicalize();
        if !self.foreground && at.as_ref().is_err_and(is_dead) {
            // A server that starts clears what one has left that died.
            setting.call(&Call::Status, &mut Shown::new()).await?;
        }
        let at = at.or_else(|_| self.at.canonicalize()).map_err(|error| unusable(&self.at, &error))?;
        let opened = open(&at).map_err(|error| unusable(&self.at, &error))?;
        let Restricted { nodev, nosuid, noexec } = self.restricted;
        let call = MountCall {
            image: absolute(&self.image.image),
            platform: self.image.platform,
            at,
            opened: Some(format!("/proc/{}/fd/{}", std::process::id(), opened.as_raw_fd()).into()),
            owner: owner(self.owner),
            wait: self.wait,
            restrictions: Restrictions { nodev, nosuid, noexec },
        };
        if self.foreground {
            return serve_here(call, setting).await;
        }
        // The server has less than root may have, and sees the open files only of those who have no more.
        let _could_only_be_less = process::give_up_capabilities();
        let mut shown = Shown::new();
        let image = call.image.clone();
        setting.call(&Call::Mount(call), &mut shown).await?;
        shown.say_what_is_missing(&image);
        Ok(ExitCode::SUCCESS)
    }
}

/// Only to name it to the server; nothing is read.
fn open(at: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    File::options().read(true).custom_flags(flags.bits().cast_signed()).open(at)
}

/// Whether the server of what is mounted there has died.
fn is_dead(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted)
}

fn unusable(at: &Path, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::NotADirectory {
        let message = format!("{} is no directory; make one elsewhere, and mount there: mkdir -p DIR", at.display());
        return Failure::new(FailureKind::Usage, message);
    }
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => format!("; make it first: mkdir -p {}", at.display()),
        _ if is_dead(error) => {
            format!("; that is the mount of a server that has died: oncefs umount {}", at.display())
        }
        _ => String::new(),
    };
    Failure::new(FailureKind::Usage, format!("cannot mount at {}: {error}{remedy}", at.display()))
}

fn owner(who: Option<Who>) -> Owner {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    match who {
        Some(Who::Image) => Owner::Image,
        None if uid.is_root() => Owner::Image,
        Some(Who::Me) | None => Owner::Of(uid.as_raw(), gid.as_raw()),
        Some(Who::Of(uid, gid)) => Owner::Of(uid, gid),
    }
}

async fn serve_here(call: MountCall, setting: &Setting) -> Result<ExitCode, Failure> {
    let run = &setting.config.run;
    if daemon::running(run).await.map_err(|error| of_client(&error))?.is_some() {
        let message =
            format!("a server runs for {} already; mount without --foreground, or choose another --run", run.display());
        return Err(Failure::new(FailureKind::Store, message));
    }
    keep_logins_from_view();
    let at = call.at.clone();
    let ready = || print_line(&format!("mounted at {}; Ctrl-C unmounts", at.display()));
    // The first interrupt stops the serving in order; before it serves, it ends the command.
    let start = setting.serve(Lifetime::OnDemand, Some(Call::Mount(call)));
    daemon::serve(start, ready, interrupts()?).await.map(|()| ExitCode::SUCCESS)
}

/// An image in a local file is named from here; the server has another working directory.
pub(super) fn absolute(image: &str) -> String {
    for scheme in ["oci:", "oci-archive:"] {
        if let Some(path) = image.strip_prefix(scheme)
            && !path.is_empty()
            && !path.starts_with(['/', ':'])
            && let Ok(here) = std::env::current_dir()
        {
            return format!("{scheme}{}", here.join(path).display());
        }
    }
    image.to_owned()
}
