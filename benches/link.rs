//! A slow link to a server on this machine, for `benches/lazy.py`: a proxy of TCP connections that adds a round trip and
//! lets no more than so many bits a second come back, over all connections together.
//!
//!     link PORT MILLISECONDS MEGABITS
//!
//! Prints the port it listens on, and ends with its standard input. Half of the round trip is spent each way, a whole one at
//! the opening of a connection. 0 megabits is no limit.
// A measurement that panics has said what it had to say; what it spawns ends with it.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use oncefs::sync::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

const PIECE_BYTES: usize = 32 << 10;
/// Pieces that are on their way: more than any of the links here holds.
const ON_THE_WAY: usize = 512;
/// How far a connection may run ahead of the rate: timers have a resolution of a millisecond.
const BURST: Duration = Duration::from_millis(2);

/// What the link lets through, all connections together.
struct Rate {
    bytes_per_second: f64,
    /// When the link has carried what it was given so far.
    free: Mutex<Instant>,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let &[port, millis, megabits] = numbers.as_slice() else {
        // `cargo bench` runs every program here with nothing but a flag.
        println!("link PORT MILLISECONDS MEGABITS, see benches/link.rs");
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::spawn(serve(u16::try_from(port).unwrap(), Duration::from_millis(millis), megabits));
        let _end = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await;
    });
    runtime.shutdown_background();
}

async fn serve(port: u16, round_trip: Duration, megabits: u64) {
    let rate = Arc::new(Rate { bytes_per_second: megabits as f64 * 1e6 / 8.0, free: Mutex::new(Instant::now()) });
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let rate = rate.clone();
        tokio::spawn(async move {
            sleep(round_trip).await;
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            let _speed_only = (client.set_nodelay(true), server.set_nodelay(true));
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(carry(from_client, to_server, round_trip / 2, None));
            carry(from_server, to_client, round_trip / 2, Some(rate)).await;
        });
    }
}

/// Carries what comes, in its order, so much later.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin + Send + 'static,
    delay: Duration,
    rate: Option<Arc<Rate>>,
) {
    let (give, mut take) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    tokio::spawn(async move {
        while let Some((due, piece)) = take.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _it_may_be_gone = to.shutdown().await;
    });
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        let Ok(length @ 1..) = from.read(&mut piece).await else { return };
        piece.truncate(length);
        if let Some(rate) = &rate {
            rate.pass(length).await;
        }
        if give.send((Instant::now() + delay, piece)).await.is_err() {
            return;
        }
    }
}

// === impl Rate ===

impl Rate {
    async fn pass(&self, bytes: usize) {
        if self.bytes_per_second == 0.0 {
            return;
        }
        let carried = {
            let mut free = self.free.lock();
            let now = Instant::now();
            *free = (*free).max(now) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
            *free
        };
        if let Some(early) = carried.checked_sub(BURST) {
            sleep_until(early).await;
        }
    }
}
