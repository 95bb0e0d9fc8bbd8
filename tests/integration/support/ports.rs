//! Ports of the loopback device that nobody listens at.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below those that the kernel gives to whoever asks for any: nobody gets it in between.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// Each caller gets another.
pub(crate) fn unused() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Several of these programs may run at once.
    let from = (std::process::id() as u16).wrapping_mul(97);
    (0..COUNT)
        .map(|_| NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(from) % COUNT)
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + port)))
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("a port that nobody listens at")
}
