//! Going on where another process stopped: a FUSE connection outlives its server as long as somebody has its descriptor open.
//!
//! The kernel says INIT once in a connection's life, and fuser insists on hearing it. So it hears one of ours, through a pair of sockets,
//! and then the number it reads from is made to mean the connection. What the dead server had taken and not answered the kernel
//! queues again when it is asked to (FUSE_NOTIFY_RESEND, Linux 6.9); nothing else is needed: node ids mean the same in every process.
//!
//! All threads of a session share one descriptor. One of its own for each (FUSE_DEV_IOC_CLONE) would be faster where there are many
//! processors, but what is under way on such a one fails when it is closed, as it is when its process dies.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use fuser::{Config, SessionACL};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use super::operations::Serving;
use crate::sys::descriptor;

/// `FUSE_INIT`, its header's and its body's length, and the version of the protocol (linux/fuse.h). Nobody looks at what is
/// negotiated here: both sides did that long ago.
const INIT: u32 = 26;
const HEADER_BYTES: usize = 40;
const INIT_BYTES: usize = 64;
const MAJOR: u32 = 7;
const MINOR: u32 = 40;

/// An answer to INIT is shorter than this.
const ANSWER_BYTES_MAX: usize = 256;

/// `FUSE_NOTIFY_RESEND`.
const RESEND: u32 = 7;

/// A session that serves the connection behind `device`, which stays open; and whether it hears again what is not answered.
pub(super) fn adopt(serving: Serving, device: &OwnedFd, config: Config) -> io::Result<(fuser::Session<Serving>, bool)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    send(&ours, &init(), SendFlags::NOSIGNAL)?;
    let acl = if serving.is_for_everybody() { SessionACL::All } else { SessionACL::Owner };
    let session = fuser::Session::from_fd(serving, theirs, acl, config)?;
    let _swallowed = recv(&ours, &mut [0; ANSWER_BYTES_MAX], RecvFlags::DONTWAIT)?;
    descriptor::replace(&session, device)?;
    let is_complete = resend_or_give_own_queue(&session, device)?;
    Ok((session, is_complete))
}

/// The descriptor of a session that was just mounted, for the next process.
pub(super) fn split(session: &fuser::Session<Serving>) -> io::Result<OwnedFd> {
    let device = session.as_fd().try_clone_to_owned()?;
    resend_or_give_own_queue(session, &device)?;
    Ok(device)
}

/// Where the kernel does not resend, what is under way must at least fail when this process dies, and not wait for ever.
fn resend_or_give_own_queue(session: &fuser::Session<Serving>, device: &OwnedFd) -> io::Result<bool> {
    let is_resent = resend(device)?;
    if !is_resent {
        descriptor::replace(session, descriptor::clone_fuse(device)?)?;
    }
    Ok(is_resent)
}

/// Has the kernel queue again what is taken and not answered. False where it cannot.
fn resend(device: &OwnedFd) -> io::Result<bool> {
    let mut message = [0; 16];
    let (length, code) = (16u32.to_ne_bytes(), RESEND.to_ne_bytes());
    message[..4].copy_from_slice(&length);
    message[4..8].copy_from_slice(&code);
    match rustix::io::write(device, &message) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn init() -> Vec<u8> {
    let mut request = Vec::with_capacity(HEADER_BYTES + INIT_BYTES);
    // Length, operation and the request's number; then, after the header, the version.
    let length = (HEADER_BYTES + INIT_BYTES) as u32;
    [length, INIT].iter().for_each(|word| request.extend(word.to_ne_bytes()));
    request.extend(1u64.to_ne_bytes());
    request.resize(HEADER_BYTES, 0);
    [MAJOR, MINOR].iter().for_each(|word| request.extend(word.to_ne_bytes()));
    request.resize(HEADER_BYTES + INIT_BYTES, 0);
    request
}
