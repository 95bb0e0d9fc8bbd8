//! A FUSE mount and the threads that serve it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use fuser::{Config as FuserConfig, MountOption, SessionACL};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::READ_BYTES_MAX;
use super::operations::{Counts, Serving};
use super::shelf::Shelf;
use super::takeover;
use crate::sys::{bdi, mount};
use crate::view::ViewSlot;

/// What a process sets for all its mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Threads that answer the kernel; 0 is one for each processor, at least 2. They never wait, so more than there
    /// are processors are of no use.
    pub threads: usize,
    /// How far the kernel reads ahead of a sequential reader, in KiB (root only).
    pub read_ahead_kib: u32,
}

/// What the mount's root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Root {
    /// A directory with one directory for each view: one mount for the whole process.
    All,
    /// One view. Its mount is its own, for who may not bind-mount.
    One(ViewSlot),
}

/// What one mount sets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Options {
    pub root: Root,
    /// Whether other users than the one who mounts may look.
    pub allow_other: bool,
    /// Show everything as belonging to this user and group.
    pub owner: Option<(u32, u32)>,
    pub restrictions: mount::Restrictions,
}

/// A mount that is being served. Dropping it takes the mount out of sight, unless it is kept.
pub struct Session {
    mountpoint: PathBuf,
    /// The file system's device number, to know it again.
    device: Option<(u32, u32)>,
    /// What another process can go on with.
    descriptor: Option<OwnedFd>,
    ended: watch::Receiver<bool>,
    /// Told of changes of the shelf as long as it is here.
    _kernel: Arc<fuser::Notifier>,
    counts: Arc<Counts>,
}

/// Why a mount failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("cannot open /dev/fuse: load the module (modprobe fuse), and in a container give it the device")]
    NoDevice(#[source] io::Error),
    #[error("cannot mount FUSE at {}{hint}", at.display())]
    Mount { at: PathBuf, hint: &'static str, source: io::Error },
    #[error("cannot start the threads that serve {}", at.display())]
    Threads { at: PathBuf, source: io::Error },
}

/// They never wait, so more than processors are of no use.
const THREADS_MAX: usize = 256;

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self { threads: 0, read_ahead_kib: (READ_BYTES_MAX / 1024) as u32 }
    }
}

impl Config {
    fn thread_count(&self) -> usize {
        let processors = || thread::available_parallelism().map_or(2, usize::from).max(2);
        if self.threads == 0 { processors() } else { self.threads.min(THREADS_MAX) }
    }
}

// === impl Session ===

impl Session {
    /// Mounts at `mountpoint` and serves what `shelf` shows. Waits are tasks of `runtime`.
    pub fn start(
        shelf: &Shelf,
        mountpoint: &Path,
        options: &Options,
        config: &Config,
        runtime: Handle,
    ) -> Result<Self, SessionError> {
        let failed = |source: io::Error| failed(mountpoint, source);
        let mountpoint = mountpoint.canonicalize().map_err(failed)?;
        let serving = Serving::new(shelf.clone(), options, runtime);
        let mut settings = fuser_config(options, config);
        settings.clone_fd = true;
        let session = fuser::Session::new(serving.clone(), &mountpoint, &settings).map_err(failed)?;
        let started = Self::serve(session, &serving, mountpoint, options, None)?;
        raise_read_ahead(started.device, config.read_ahead_kib);
        Ok(started)
    }

    /// As [`Session::start`], but the mount may outlive this process: see [`Session::descriptor`].
    pub fn start_kept(
        shelf: &Shelf,
        mountpoint: &Path,
        options: &Options,
        config: &Config,
        runtime: Handle,
    ) -> Result<Self, SessionError> {
        let failed = |source: io::Error| failed(mountpoint, source);
        let mountpoint = mountpoint.canonicalize().map_err(failed)?;
        let serving = Serving::new(shelf.clone(), options, runtime);
        let session = fuser::Session::new(serving.clone(), &mountpoint, &fuser_config(options, config));
        let session = session.map_err(failed)?;
        let descriptor = takeover::split(&session).map_err(failed)?;
        let started = Self::serve(session, &serving, mountpoint, options, Some(descriptor))?;
        raise_read_ahead(started.device, config.read_ahead_kib);
        Ok(started)
    }

    /// Goes on with a mount whose server has ended: with everything that it had been asked and had not answered.
    /// `shelf` must show already what it showed, under the same slots. The device is that of the file system, as far as it is known.
    pub fn take_over(
        shelf: &Shelf,
        (mountpoint, device): (&Path, Option<(u32, u32)>),
        descriptor: OwnedFd,
        options: &Options,
        config: &Config,
        runtime: Handle,
    ) -> Result<Self, SessionError> {
        let failed = |source: io::Error| failed(mountpoint, source);
        let serving = Serving::new(shelf.clone(), options, runtime);
        let settings = fuser_config(options, config);
        let (session, is_complete) = takeover::adopt(serving.clone(), &descriptor, settings).map_err(failed)?;
        if !is_complete {
            tracing::warn!(
                at = %mountpoint.display(),
                "this kernel does not ask again what the server before had not answered (Linux 6.9 does): who waited gets an error"
            );
        }
        let mut taken = Self::serve(session, &serving, mountpoint.to_owned(), options, Some(descriptor))?;
        // What is at the place now may be another's.
        taken.device = device.or(taken.device);
        Ok(taken)
    }

    /// Starts the threads that serve.
    fn serve(
        session: fuser::Session<Serving>,
        serving: &Serving,
        mountpoint: PathBuf,
        options: &Options,
        descriptor: Option<OwnedFd>,
    ) -> Result<Self, SessionError> {
        let (counts, kernel) = (serving.counts(), Arc::new(session.notifier()));
        // A single processor is the caller's as soon as it was answered.
        let has_several = thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
        if has_several && let Err(error) = serving.linger().watch(&session) {
            tracing::debug!(%error, "threads sleep after each answer");
        }
        let shelf = serving.shelf();
        if options.root == Root::All {
            shelf.keep_told(&kernel);
        }
        let (ending, ended) = watch::channel(false);
        let serve = move || {
            if let Err(error) = session.run() {
                tracing::error!(%error, "serving FUSE ended with an error");
            }
            ending.send_replace(true);
        };
        let threads = |source| SessionError::Threads { at: mountpoint.clone(), source };
        thread::Builder::new().name("fuse".to_owned()).spawn(serve).map_err(threads)?;
        let device = mount::mounted_at(&mountpoint).ok().flatten().map(|mounted| mounted.device);
        Ok(Self { mountpoint, device, descriptor, ended, _kernel: kernel, counts })
    }

    /// What keeps the mount alive as long as anybody has it open, and what the next server goes on with. Nothing, if the mount
    /// ends with this process.
    pub fn descriptor(&self) -> Option<&OwnedFd> {
        self.descriptor.as_ref()
    }

    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Its number in the kernel's table, where that could be read.
    pub fn device(&self) -> Option<(u32, u32)> {
        self.device
    }

    /// What the kernel has asked so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Takes the mount away; where it is in use, out of sight, and it ends with its last user. Another that was
    /// mounted over it, or in its place, stays.
    pub fn unmount(&mut self) {
        let on_top = mount::mounted_at(&self.mountpoint).ok().flatten();
        if self.device.is_some() && on_top.map(|mounted| mounted.device) != self.device {
            return;
        }
        let _already_gone_is_fine = mount::detach_as_anybody(&self.mountpoint);
    }

    /// Resolves when the mount is gone, whoever took it away.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ended = self.ended.clone();
        async move {
            let _sender_gone_is_ended_too = ended.wait_for(|ended| *ended).await;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // What is kept is taken away by nobody who does not mean it: a server that fails leaves it to the next.
        if self.descriptor.is_none() && !*self.ended.borrow() {
            self.unmount();
        }
    }
}

fn fuser_config(options: &Options, config: &Config) -> FuserConfig {
    let mut fuser = FuserConfig::default();
    fuser.mount_options = vec![
        MountOption::FSName("oncefs".to_owned()),
        // Not `Subtype`: that is lost on root's way of mounting. So mounts are of type fuse.oncefs for everybody.
        MountOption::CUSTOM("subtype=oncefs".to_owned()),
        MountOption::RO,
        MountOption::DefaultPermissions,
    ];
    let mount::Restrictions { nodev, nosuid, noexec } = options.restrictions;
    // Images have device nodes and set-user-id programs, and containers want both; only root may let them work.
    let is_root = rustix::process::geteuid().is_root();
    fuser.mount_options.push(if is_root && !nodev { MountOption::Dev } else { MountOption::NoDev });
    fuser.mount_options.push(if is_root && !nosuid { MountOption::Suid } else { MountOption::NoSuid });
    if noexec {
        fuser.mount_options.push(MountOption::NoExec);
    }
    fuser.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    fuser.n_threads = Some(config.thread_count());
    fuser
}

fn failed(at: &Path, source: io::Error) -> SessionError {
    if !Path::new("/dev/fuse").exists() {
        return SessionError::NoDevice(source);
    }
    let text = source.to_string();
    let hint = if text.contains("user_allow_other") {
        ": add user_allow_other to /etc/fuse.conf, or mount for yourself only"
    } else if source.kind() == io::ErrorKind::PermissionDenied {
        ": ordinary users need read and write access to /dev/fuse (mode 0666) and fusermount3 (package fuse3)"
    } else if source.kind() == io::ErrorKind::NotFound {
        ": is the directory there, and is fusermount3 (package fuse3) installed?"
    } else {
        ""
    };
    SessionError::Mount { at: at.to_owned(), hint, source }
}

/// What fails here costs speed only: ordinary users may not, and keep the kernel's 128 KiB.
fn raise_read_ahead(device: Option<(u32, u32)>, kib: u32) {
    let raised = device.map_or(Err(io::ErrorKind::NotFound.into()), |device| bdi::set_read_ahead(device, kib));
    if let Err(error) = raised {
        tracing::debug!(%error, "read-ahead stays as the kernel set it");
    }
}
