//! A registry whose layers never come: everything else is passed on to a real one.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(super) struct Stalling {
    address: SocketAddr,
    /// Connections that wait for a whole blob.
    waiting: Arc<AtomicUsize>,
}

impl Stalling {
    pub(super) fn before(registry: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let waiting = Arc::new(AtomicUsize::new(0));
        let counted = waiting.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let waiting = counted.clone();
                std::thread::spawn(move || answer(client, registry, &waiting));
            }
        });
        Self { address, waiting }
    }

    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }
}

/// One request a connection.
fn answer(mut client: TcpStream, registry: SocketAddr, waiting: &AtomicUsize) {
    let mut head = String::new();
    for line in BufReader::new(&client).lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
        head.push_str(&format!("{line}\r\n"));
    }
    let is_small = !head.contains("/blobs/") || head.starts_with("HEAD ");
    // The config is a blob, too; layers are larger.
    let is_config = || head.contains("/blobs/") && size_of(&head, registry).is_some_and(|size| size < 10_000);
    if is_small || is_config() {
        let _client_gone = client.write_all(&ask(&head, registry));
        return;
    }
    waiting.fetch_add(1, Ordering::SeqCst);
    let _until_the_client_goes = client.read(&mut [0; 1]);
    waiting.fetch_sub(1, Ordering::SeqCst);
}

fn ask(head: &str, registry: SocketAddr) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut server = TcpStream::connect(registry).unwrap();
    server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
    server.read_to_end(&mut answer).unwrap();
    answer
}

fn size_of(head: &str, registry: SocketAddr) -> Option<usize> {
    let head = String::from_utf8_lossy(&ask(&head.replacen("GET", "HEAD", 1), registry)).to_ascii_lowercase();
    head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok())
}
