//! The sockets that a server listens at: made before anything else, so that who starts at the same time can connect, and waits
//! in the backlog until there is somebody to answer; or handed over by the service manager, which had them even earlier.
//!
//! What was left by a server that was killed is replaced, what a living one answers at is not, and only what was made here is
//! taken away again. `<run>/sockets.lock` is held for the moments in which that is looked at and done.

use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpListener, UnixListener};

use super::access::Access;
use super::keeping::Keeping;
use super::server::Lifetime;
use super::start::{lock, prepare_run};
use crate::config::Config;
use crate::control::{self, Failure, FailureKind};

/// All that one server listens at.
pub(super) struct Sockets {
    pub(super) control: Socket,
    /// Whom that one is for.
    pub(super) access: Access,
    /// containerd's; a server that a command started has none, and none that is not root's.
    pub(super) snapshotter: Option<Socket>,
    /// kubelet's.
    pub(super) cri: Option<Socket>,
    /// Whoever watches, if the configuration says where.
    pub(super) metrics: Option<TcpListener>,
}

/// One of them.
pub(super) struct Socket {
    listener: StdListener,
    /// `None` where the service manager made it, and keeps it.
    made: Option<Made>,
}

/// A socket that this process was born with.
struct Handed {
    listener: StdListener,
    /// A server before this one made it.
    is_ours: bool,
}

/// A socket file of our own. Dropped, it is taken away, if it is still the one that was made.
pub(super) struct Made {
    path: PathBuf,
    lock: PathBuf,
    device: u64,
    inode: u64,
}

/// What the sockets are called among those of the service manager.
const CONTROL: &str = "control";
const SNAPSHOTTER: &str = "snapshotter";
const CRI: &str = "cri";

/// What they are called while they are kept for the next server: who connects meanwhile waits for that.
const KEPT: &str = "kept-";

/// Clients that may wait for their turn; the kernel takes no more than net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// How long a server that is ending may take to leave its place.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Nobody holds the lock for longer than a few system calls take.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

// === impl Sockets ===

impl Sockets {
    pub(super) async fn open(
        config: &Config,
        lifetime: Lifetime,
        inherited: Vec<(String, OwnedFd)>,
        keeping: &Keeping,
    ) -> Result<Self, Failure> {
        let run = &config.run;
        prepare_run(run).map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))?;
        let access = Access::new(&config.server.group)?;
        let is_service = lifetime == Lifetime::Service;
        let snapshotter = match config.server.address.as_os_str().is_empty() {
            true => run.join("snapshotter.sock"),
            false => config.server.address.clone(),
        };
        let cri = run.join("cri.sock");
        let places = [(CONTROL, control::socket(run)), (SNAPSHOTTER, snapshotter.clone()), (CRI, cri.clone())];
        // Overlay mounts, and the one that is for everybody, are root's to make.
        let is_roots = is_service && rustix::process::geteuid().is_root();
        if is_service && !is_roots && !config.server.address.as_os_str().is_empty() {
            let message =
                "only root's server answers containerd: leave out --address ([server] address), or start it as root";
            return Err(Failure::new(FailureKind::Usage, message));
        }
        let mut handed = handed_over(&places, inherited)?;
        let mut open = async |name: &str, path: &Path| match handed.remove(name) {
            Some(Handed { listener, is_ours: false }) => Ok(Socket { listener, made: None }),
            Some(Handed { listener, .. }) if path.exists() => Socket::made_before(listener, path, run),
            _ => {
                let socket = Socket::make(path, run).await?;
                if let Err(error) = keeping.keep(&format!("{KEPT}{name}"), &socket.listener) {
                    tracing::warn!(name, %error, "the next server will make this socket anew");
                }
                Ok(socket)
            }
        };
        let place = control::socket(run);
        let control = open(CONTROL, &place).await?;
        // Also one that the service manager made: what its unit says of groups would be true of containerd's socket too.
        if let Some(group) = access.group().filter(|_| control.is_at(&place)) {
            let failed = |error| format!("cannot give {} to [server] group: {error}", place.display());
            share(run, &place, group).map_err(|error| Failure::new(FailureKind::Usage, failed(error)))?;
        }
        let snapshotter = if is_roots { Some(open(SNAPSHOTTER, &snapshotter).await?) } else { None };
        let cri = if is_service && config.cri.enabled { Some(open(CRI, &cri).await?) } else { None };
        for name in handed.keys() {
            tracing::warn!(name, "the service manager hands over a socket that nothing is served at");
        }
        let metrics = match config.metrics.listen {
            Some(address) if is_service => {
                let bound = TcpListener::bind(address).await;
                let failed = |error| format!("cannot listen at {address} ([metrics] listen): {error}");
                Some(bound.map_err(|error| Failure::new(FailureKind::Usage, failed(error)))?)
            }
            _ => None,
        };
        Ok(Self { control, access, snapshotter, cri, metrics })
    }
}

/// What the service manager hands over. It is known by its name, or by its place: all sockets of one unit have the same name.
fn handed_over(
    places: &[(&'static str, PathBuf); 3],
    inherited: Vec<(String, OwnedFd)>,
) -> Result<HashMap<&'static str, Handed>, Failure> {
    let failed = |cause: String| {
        Failure::new(FailureKind::Usage, format!("the sockets of the service manager cannot be used: {cause}"))
    };
    let mut handed = HashMap::new();
    for (name, descriptor) in inherited {
        let at = sockopt::socket_domain(&descriptor)
            .ok()
            .filter(|domain| *domain == AddressFamily::UNIX)
            .and_then(|_| place_of(&descriptor));
        let is_ours = name.starts_with(KEPT);
        let is_it = |(known, place): &&(&str, PathBuf)| *known == name || at.as_ref() == Some(place);
        let Some((which, _)) = places.iter().find(is_it) else {
            tracing::warn!(
                name,
                ?at,
                "the service manager hands over a descriptor that nothing is known of; it is closed"
            );
            continue;
        };
        if !is_listening(&descriptor) {
            return Err(failed(format!("{which} is no unix socket of type stream that listens (ListenStream=)")));
        }
        let new = Handed { listener: StdListener::from(descriptor), is_ours };
        // What is kept may be there twice: the socket of a server that died before it could say what it had.
        if handed.insert(*which, new).is_some_and(|other| !other.is_ours && !is_ours) {
            return Err(failed(format!("there are two for {which}")));
        }
    }
    Ok(handed)
}

/// Nothing of this server's is kept any longer.
pub(super) fn let_go(keeping: &Keeping) {
    for name in [CONTROL, SNAPSHOTTER, CRI] {
        keeping.let_go(&format!("{KEPT}{name}"));
    }
}

/// Where a unix socket is bound.
fn place_of(descriptor: impl AsFd) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    let address = SocketAddrUnix::try_from(rustix::net::getsockname(descriptor).ok()?).ok()?;
    Some(std::ffi::OsString::from_vec(address.path_bytes()?.to_vec()).into())
}

fn is_listening(descriptor: &OwnedFd) -> bool {
    sockopt::socket_domain(descriptor) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(descriptor) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(descriptor) == Ok(true)
}

// === impl Socket ===

impl Socket {
    /// Makes it at `path`, once whoever has it has gone.
    async fn make(path: &Path, run: &Path) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(FailureKind::Usage, format!("cannot listen at {}: {error}", path.display()))
        };
        if let Some(above) = path.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(above);
            made.map_err(|error| failed(&error))?;
        }
        let lock_path = run.join("sockets.lock");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let held = lock(&lock_path, LOCK_PATIENCE).await.map_err(|error| failed(&error))?;
            match is_lived_at(path) {
                Ok(false) => return make_at(path, &lock_path).map_err(|error| failed(&error)),
                Ok(true) if Instant::now() < deadline => {}
                Ok(true) => {
                    let who = "another server answers there; if commands started it, it ends with its last mount \
                               (oncefs umount --all)";
                    return Err(Failure::new(FailureKind::Store, failed(&who).message));
                }
                Err(error) => return Err(failed(&error)),
            }
            drop(held);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The one that a server before this one has made there.
    fn made_before(listener: StdListener, path: &Path, run: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure::new(FailureKind::Usage, format!("cannot listen at {}: {error}", path.display()));
        let made = Made::at(path, &run.join("sockets.lock")).map_err(failed)?;
        Ok(Self { listener, made: Some(made) })
    }

    /// Whether who connects to that file connects to this.
    fn is_at(&self, path: &Path) -> bool {
        self.made.is_some() || place_of(&self.listener).is_some_and(|place| place == path)
    }

    /// The listener for the runtime, and what takes the file away when it is dropped.
    pub(super) fn split(self) -> Result<(UnixListener, Option<Made>), Failure> {
        let Self { listener, made } = self;
        let listener = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
        let failed = |error| Failure::new(FailureKind::Other, format!("cannot listen: {error}"));
        Ok((listener.map_err(failed)?, made))
    }
}

/// Whether somebody listens there. A socket file that nobody listens at was left by a server that was killed.
fn is_lived_at(path: &Path) -> io::Result<bool> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::other("a file is there that is no socket; move it away"));
        }
        Ok(_) => {}
    }
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&probe, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        // EAGAIN: its backlog is full.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// The group may connect, and pass through the directory for it; what else is there it may not list.
fn share(run: &Path, socket: &Path, group: u32) -> io::Result<()> {
    for (path, mode) in [(socket, 0o660), (run, 0o710)] {
        std::os::unix::fs::lchown(path, None, Some(group))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Called with the lock held and nobody living there.
fn make_at(path: &Path, lock: &Path) -> io::Result<Socket> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let made = Made::at(path, lock)?;
    // Before it listens: nobody else may have connected by then.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(Socket { listener: StdListener::from(socket), made: Some(made) })
}

// === impl Made ===

impl Made {
    fn at(path: &Path, lock: &Path) -> io::Result<Self> {
        let metadata = path.symlink_metadata()?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        Ok(Self { path: path.to_owned(), lock: lock.to_owned(), device, inode })
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // Not to look at ours and to take away the next one's.
        let held = File::open(&self.lock).and_then(|file| {
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        });
        let is_ours = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino()) == (self.device, self.inode);
        if self.path.symlink_metadata().is_ok_and(is_ours) {
            let _gone_already = std::fs::remove_file(&self.path);
        }
        drop(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    async fn make(dir: &Path) -> Result<Socket, Failure> {
        Socket::make(&dir.join("s.sock"), dir).await
    }

    #[tokio::test]
    async fn what_a_killed_server_left_is_replaced_and_ones_own_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        drop(StdListener::bind(&path).unwrap());
        let socket = make(dir.path()).await.unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_another_put_in_its_place_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let socket = make(dir.path()).await.unwrap();
        std::fs::rename(&path, dir.path().join("ours")).unwrap();
        let _next = StdListener::bind(&path).unwrap();
        drop(socket);
        UnixStream::connect(&path).unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays_and_a_path_that_is_too_long_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        std::fs::write(&path, "a diary").unwrap();
        let refused = make(dir.path()).await.err().unwrap();
        assert!(refused.message.contains("no socket") && refused.message.contains(path.to_str().unwrap()), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a diary");

        let long = dir.path().join("x".repeat(120));
        let refused = Socket::make(&long, dir.path()).await.err().unwrap();
        assert!(refused.message.contains("too long"), "{refused}");
    }
}
