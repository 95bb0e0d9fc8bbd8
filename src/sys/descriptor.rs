//! File descriptors: those that a process is born with, those that go from one process to another, and those of /dev/fuse.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// Descriptors that come with one message at most. More are closed by the kernel.
const RECEIVED_MAX: usize = 16;

/// `FUSE_DEV_IOC_CLONE` of linux/fuse.h: `_IOR(229, 0, uint32_t)`.
const FUSE_CLONE: libc::Ioctl = 0x8004_e500_u32 as libc::Ioctl;

/// One message, as far as it fits, and the descriptors that came with it.
pub struct Received {
    pub bytes: usize,
    pub descriptors: Vec<OwnedFd>,
    /// There were more: too many for one message, or for this process.
    pub is_cut: bool,
}

/// Takes over a descriptor that whoever started this process left open for it. Each may be taken once: who takes it closes it.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the borrow ends with this line, and a number that is no open descriptor gives EBADF and nothing worse.
    rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) })?;
    // SAFETY: it is open, and nobody else in this process knows of it: it was there before `main`, above the three standard
    // ones, and callers take each number once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A socket that sends to this place: a path, or after an `@` a name that no file system has.
pub fn datagrams_to(place: &Path) -> io::Result<UnixDatagram> {
    let address = match place.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(place)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// Sends one message with descriptors.
pub fn send(socket: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RECEIVED_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message, if there is one now.
pub fn receive(socket: impl AsFd, message: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RECEIVED_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(message)], &mut ancillary, flags)?;
    let mut descriptors = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = part {
            descriptors.extend(some);
        }
    }
    Ok(Received { bytes: received.bytes, descriptors, is_cut: received.flags.contains(ReturnFlags::CTRUNC) })
}

/// Whether whatever is at the other end is still there: a mount, of /dev/fuse; a reader or writer, of a pipe.
pub fn is_connected(descriptor: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&descriptor, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let looked = poll(&mut polled, Some(&now));
    let [polled] = polled;
    looked.is_ok() && !polled.revents().intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL)
}

/// Whether it is a socket that clients connect to.
pub fn is_listening(descriptor: impl AsFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(descriptor) == Ok(true)
}

/// Makes the number of `place` mean what `with` means; whoever reads and writes there goes on with that. What it meant before
/// is closed. Nobody else in the process must have been promised what `place` is.
pub fn replace(place: impl AsFd, with: impl AsFd) -> io::Result<()> {
    let (place, with) = (place.as_fd().as_raw_fd(), with.as_fd().as_raw_fd());
    // SAFETY: both are open, and different since both are borrowed from owners; the owner of `place` goes on owning what its
    // number means, and closes that once.
    match unsafe { libc::dup3(with, place, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Another way into the same FUSE connection, with requests under way of its own: they fail when it is closed.
pub fn clone_fuse(device: impl AsFd) -> io::Result<OwnedFd> {
    let another = File::options().read(true).write(true).open("/dev/fuse")?;
    let of = u32::try_from(device.as_fd().as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the call reads one u32, which lives longer than it.
    match unsafe { libc::ioctl(another.as_raw_fd(), FUSE_CLONE, &raw const of) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(another.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn descriptors_travel_with_a_message() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        send(&ours, b"FDSTORE=1", &[reader.as_fd()]).unwrap();
        drop(reader);
        let mut message = [0; 64];
        let received = receive(&theirs, &mut message).unwrap();
        assert_eq!(&message[..received.bytes], b"FDSTORE=1");
        assert!(is_connected(&writer), "it is kept by who received it");
        drop(received);
        assert!(crate::sys::comes_to_be(|| !is_connected(&writer)));
        assert_eq!(receive(&theirs, &mut message).err().unwrap().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn of_more_descriptors_than_are_taken_it_is_told() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2 * RECEIVED_MAX))];
        let mut message = [0; 64];
        for (sent, is_cut) in [(RECEIVED_MAX, false), (2 * RECEIVED_MAX, true)] {
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let sent = vec![file.as_fd(); sent];
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&sent)));
            rustix::net::sendmsg(&ours, &[IoSlice::new(b"all")], &mut ancillary, SendFlags::empty()).unwrap();
            let received = receive(&theirs, &mut message).unwrap();
            assert_eq!((received.is_cut, received.descriptors.len() < sent.len()), (is_cut, is_cut));
        }
    }

    #[test]
    fn a_number_can_mean_another_file() {
        let (mut here, mut there) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        replace(&here, &there).unwrap();
        here.write_all(b"there").unwrap();
        assert_eq!(std::io::Seek::stream_position(&mut there).unwrap(), 5);
    }

    #[test]
    fn what_is_not_open_or_belongs_to_everybody_is_not_taken() {
        assert_eq!(inherited(2).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(inherited(1_000_000).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
