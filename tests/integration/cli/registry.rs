//! A registry for one test: answers from memory, counts what it is asked for and misbehaves on demand.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use oncefs::digest::Digest;
use oncefs::sync::Mutex;

use super::image::{Image, MANIFEST};
use crate::support::ports;

/// How an answer goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Status(u16),
    /// 401 with a challenge for a password.
    Unauthorized,
    /// Sends so many bytes and then nothing, until the fault is taken away.
    StallsAfter(usize),
    /// Sends so many bytes and closes the connection.
    CutAfter(usize),
    /// One bit of this byte is another.
    FlippedAt(usize),
}

/// Serves on a loopback port until it is dropped.
pub(crate) struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    ended: AtomicBool,
}

/// Keys are the last part of a path: a digest or a tag; nothing for the begin of an upload.
#[derive(Default)]
struct State {
    content: HashMap<String, (String, Vec<u8>)>,
    faults: HashMap<String, Fault>,
    round_trip: Duration,
    requests: HashMap<String, Count>,
}

/// What was asked for and sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) requests: usize,
    pub(crate) bytes: usize,
}

struct Request {
    method: String,
    path: String,
    range: Option<(usize, Option<usize>)>,
}

// === impl Registry ===

impl Registry {
    /// Has the image under every repository name, with the tag `1`.
    pub(crate) fn with(image: &Image) -> Self {
        let registry = Self::empty();
        registry.put("1", MANIFEST, &image.manifest);
        registry.put(&image.manifest_digest().to_string(), MANIFEST, &image.manifest);
        for (digest, bytes) in image.blobs() {
            registry.put(&digest.to_string(), "application/octet-stream", &bytes);
        }
        registry
    }

    pub(crate) fn empty() -> Self {
        // Nobody gets its port when it goes away.
        let listener = ports::listening();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let listening = std::thread::spawn({
            let shared = shared.clone();
            move || listen(&listener, &shared)
        });
        Self { address, shared, listening: Some(listening) }
    }

    pub(crate) fn put(&self, key: &str, media_type: &str, bytes: &[u8]) {
        self.shared.state.lock().content.insert(key.to_owned(), (media_type.to_owned(), bytes.to_vec()));
    }

    pub(crate) fn fault(&self, key: impl ToString, fault: Fault) {
        self.shared.state.lock().faults.insert(key.to_string(), fault);
    }

    /// From now on each answer begins so much later.
    pub(crate) fn move_away(&self, round_trip: Duration) {
        self.shared.state.lock().round_trip = round_trip;
    }

    pub(crate) fn heal(&self) {
        self.shared.state.lock().faults.clear();
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// What the command line calls the image.
    pub(crate) fn image(&self) -> String {
        format!("{}/images/usual:1", self.address)
    }

    pub(crate) fn count(&self, key: impl ToString) -> Count {
        self.shared.state.lock().requests.get(&key.to_string()).copied().unwrap_or_default()
    }

    /// Requests for anything.
    pub(crate) fn requests(&self) -> usize {
        self.shared.state.lock().requests.values().map(|count| count.requests).sum()
    }

    /// Requests for layers of this image.
    pub(crate) fn layer_requests(&self, image: &Image) -> usize {
        image.layers.iter().map(|layer| self.count(layer.digest()).requests).sum()
    }

    /// Closes the port: connections are refused from now on.
    pub(crate) fn go_away(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(listening) = self.listening.take() {
            let _wakes_accept = TcpStream::connect(self.address);
            listening.join().unwrap();
            ports::until_refused(self.address);
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.go_away();
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.ended.load(Ordering::Relaxed) {
            return;
        }
        let (Ok(stream), shared) = (stream, shared.clone()) else { continue };
        std::thread::spawn(move || {
            let _client_gone = shared.answer(stream);
        });
    }
}

fn read_request(stream: &TcpStream) -> io::Result<Option<Request>> {
    let mut lines = BufReader::new(stream).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(None) };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut range = None;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("range") {
            let (from, to) = value.trim().trim_start_matches("bytes=").split_once('-').unwrap();
            range = Some((from.parse().unwrap(), to.parse::<usize>().ok().map(|last| last + 1)));
        }
    }
    Ok(Some(Request { method, path, range }))
}

impl Shared {
    /// One request a connection: what is sent before a fault then needs no framing of its own.
    fn answer(&self, stream: TcpStream) -> io::Result<()> {
        let Some(request) = read_request(&stream)? else { return Ok(()) };
        let path = request.path.split('?').next().unwrap_or_default();
        let key = path.rsplit('/').next().unwrap_or_default().to_owned();
        if path == "/v2/" {
            return head(&stream, 200, "", 0);
        }
        if path.contains("/referrers/") {
            return head(&stream, 404, "", 0); // as one that has only the tag
        }
        let round_trip = self.state.lock().round_trip;
        std::thread::sleep(round_trip);
        let (fault, found) = {
            let mut state = self.state.lock();
            if matches!(request.method.as_str(), "GET" | "POST") {
                state.requests.entry(key.clone()).or_default().requests += 1;
            }
            (state.faults.get(&key).copied(), state.content.get(&key).cloned())
        };
        match fault {
            Some(Fault::Status(status)) => return head(&stream, status, "", 0),
            Some(Fault::Unauthorized) => {
                return head(&stream, 401, "WWW-Authenticate: Basic realm=\"images\"\r\n", 0);
            }
            _ => {}
        }
        let Some((media_type, bytes)) = found else { return head(&stream, 404, "", 0) };
        let all = bytes.len();
        let (from, to) = request.range.map_or((0, all), |(from, to)| (from.min(all), to.unwrap_or(all).min(all)));
        let digest = if key.starts_with("sha256:") { key.clone() } else { Digest::of(&bytes).to_string() };
        let mut fields = format!("Content-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\n");
        if request.range.is_some() {
            fields.push_str(&format!("Content-Range: bytes {from}-{}/{all}\r\n", to.saturating_sub(1)));
        }
        head(&stream, if request.range.is_some() { 206 } else { 200 }, &fields, to - from)?;
        match request.method.as_str() {
            "HEAD" => Ok(()),
            _ => self.send(&stream, &key, &bytes, from..to, fault),
        }
    }

    fn send(
        &self,
        mut stream: &TcpStream,
        key: &str,
        bytes: &[u8],
        range: std::ops::Range<usize>,
        fault: Option<Fault>,
    ) -> io::Result<()> {
        let mut bytes = bytes.to_vec();
        if let Some(Fault::FlippedAt(at)) = fault {
            bytes[at] ^= 1;
        }
        let end = match fault {
            Some(Fault::StallsAfter(count) | Fault::CutAfter(count)) => range.end.min(count).max(range.start),
            _ => range.end,
        };
        // Before they are sent: who has them may ask how many there were.
        self.state.lock().requests.entry(key.to_owned()).or_default().bytes += end - range.start;
        stream.write_all(&bytes[range.start..end])?;
        if let Some(stall @ Fault::StallsAfter(_)) = fault {
            while self.state.lock().faults.get(key) == Some(&stall) {
                if self.ended.load(Ordering::Relaxed) {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            stream.write_all(&bytes[end..range.end])?;
            self.state.lock().requests.entry(key.to_owned()).or_default().bytes += range.end - end;
        }
        Ok(())
    }
}

fn head(mut stream: &TcpStream, status: u16, fields: &str, length: usize) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} Scripted\r\nConnection: close\r\nDocker-Distribution-API-Version: registry/2.0\r\n\
         Content-Length: {length}\r\n{fields}\r\n"
    );
    stream.write_all(head.as_bytes())
}
