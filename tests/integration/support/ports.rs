//! Ports of the loopback device that nobody listens at.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::cli::node::until;

/// Below those that the kernel gives to whoever asks for any: nobody gets it in between, or when who listens there goes away for a while.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// Each caller gets another.
pub(crate) fn unused() -> SocketAddr {
    listening().local_addr().unwrap()
}

/// Somebody who listens there already.
pub(crate) fn listening() -> TcpListener {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Several of these programs may run at once.
    let from = (std::process::id() as u16).wrapping_mul(97);
    (0..COUNT)
        .map(|_| NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(from) % COUNT)
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + port)))
        .find_map(|address| TcpListener::bind(address).ok())
        .expect("a port that nobody listens at")
}

/// Waits until connections are refused. Who closed the port may not be the last to have it: a child that another test just forked has it until
/// it executes its program.
pub(crate) fn until_refused(address: SocketAddr) {
    until("connections are refused", || TcpStream::connect(address).is_err());
}
