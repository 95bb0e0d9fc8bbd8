//! A proxy before a registry, which makes trouble for what it passes on.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use oncefs::sync::Mutex;
use rustix::net::sockopt::set_socket_linger;

use crate::support::ports;

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The connection is reset after so many bytes of the body.
    Resets(usize),
    /// Nothing comes any more after so many.
    Stalls(usize),
    /// One byte comes after the other, and never a pause that is long.
    Drips,
    /// The connection ends after so many, in good order.
    Ends(usize),
    /// One bit in the middle is another.
    Flips,
    /// The last byte is missing, and the length says so.
    Shortens,
    /// This status, with these lines in its head.
    Status(u16, &'static str),
    /// A redirect to where it was asked for.
    Loops,
    /// An alert of TLS, where HTTP was expected.
    Babbles,
}

/// What is wrong with tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenTrouble {
    /// Those that are given are not taken.
    NotTaken,
    /// Whoever asks for one meets an error.
    NotGiven,
}

/// On a loopback port, until it is dropped.
pub(super) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: SocketAddr,
    /// With it, all is said over TLS.
    tls: Option<Arc<rustls::ServerConfig>>,
    state: Mutex<State>,
    is_closed: AtomicBool,
}

/// Blobs by their digests.
#[derive(Default)]
struct State {
    troubles: HashMap<String, Trouble>,
    asked: HashMap<String, usize>,
    /// The only token that is good now, if one is wanted. Whoever asks gets it.
    token: Option<u32>,
    tokens_given: usize,
    token_trouble: Option<TokenTrouble>,
    /// Blobs are at this address, below a signature that is good until the next one.
    storage: Option<(SocketAddr, u32)>,
}

/// A connection, over TLS or not.
trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// How long anybody on this machine may take for one answer.
const PATIENCE: Duration = Duration::from_secs(60);

// === impl Proxy ===

impl Proxy {
    pub(super) fn before(upstream: SocketAddr) -> Self {
        Self::open(upstream, None)
    }

    pub(super) fn over_tls(upstream: SocketAddr, tls: rustls::ServerConfig) -> Self {
        Self::open(upstream, Some(Arc::new(tls)))
    }

    fn open(upstream: SocketAddr, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        // Nobody gets its port while it is closed.
        let listener = ports::listening();
        let address = listener.local_addr().unwrap();
        let shared = Shared { upstream, tls, state: Mutex::default(), is_closed: AtomicBool::new(false) };
        let mut proxy = Self { address, shared: Arc::new(shared), listening: None };
        proxy.listen(listener);
        proxy
    }

    fn listen(&mut self, listener: TcpListener) {
        self.shared.is_closed.store(false, Ordering::SeqCst);
        let shared = self.shared.clone();
        self.listening = Some(std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.is_closed.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), shared) = (stream, shared.clone()) else { continue };
                std::thread::spawn(move || {
                    let _client_gone = shared.answer(stream);
                });
            }
        }));
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on connections are refused.
    pub(super) fn closes(&mut self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        if let Some(listening) = self.listening.take() {
            let _wakes_accept = TcpStream::connect(self.address);
            listening.join().unwrap();
            ports::until_refused(self.address);
        }
    }

    /// At the same port.
    pub(super) fn opens_again(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        self.listen(listener);
    }

    /// Another certificate; or the same for HTTP.
    pub(super) fn says_over(&mut self, tls: rustls::ServerConfig) {
        self.closes();
        let state = std::mem::take(&mut *self.shared.state.lock());
        let is_closed = AtomicBool::new(true);
        self.shared = Arc::new(Shared {
            upstream: self.shared.upstream,
            tls: Some(Arc::new(tls)),
            state: Mutex::new(state),
            is_closed,
        });
        self.opens_again();
    }

    /// Whoever asks for this blob has trouble.
    pub(super) fn troubles(&self, blob: &str, trouble: Trouble) {
        self.shared.state.lock().troubles.insert(blob.to_owned(), trouble);
    }

    pub(super) fn heals(&self) {
        self.shared.state.lock().troubles.clear();
    }

    /// How often this blob was asked for.
    pub(super) fn asked(&self, blob: &str) -> usize {
        self.shared.state.lock().asked.get(blob).copied().unwrap_or_default()
    }

    /// From now on a token is wanted, a new one: those given before are not good any more.
    pub(super) fn wants_new_token(&self) {
        let mut state = self.shared.state.lock();
        state.token = Some(state.token.map_or(1, |token| token + 1));
    }

    pub(super) fn token_trouble(&self, trouble: Option<TokenTrouble>) {
        self.shared.state.lock().token_trouble = trouble;
    }

    pub(super) fn tokens_given(&self) -> usize {
        self.shared.state.lock().tokens_given
    }

    /// From now on blobs are had from `storage`, with a new signature: those given before are not good any more.
    pub(super) fn signs_anew(&self, storage: &Self) {
        let mut state = self.shared.state.lock();
        let next = state.storage.map_or(1, |(_, signature)| signature + 1);
        state.storage = Some((storage.address, next));
        storage.shared.state.lock().token = Some(next);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.closes();
    }
}

/// A request's first line and the others of its head.
struct Request {
    method: String,
    path: String,
    head: String,
}

impl Shared {
    /// One request a connection: what is sent before the trouble needs no framing of its own.
    fn answer(&self, socket: TcpStream) -> io::Result<()> {
        socket.set_read_timeout(Some(PATIENCE))?;
        let over = socket.try_clone()?;
        let mut stream: Box<dyn Stream> = match &self.tls {
            Some(tls) => {
                let session = rustls::ServerConnection::new(tls.clone()).map_err(io::Error::other)?;
                Box::new(rustls::StreamOwned::new(session, socket))
            }
            None => Box::new(socket),
        };
        let Some(request) = read_request(&mut stream)? else { return Ok(()) };
        let blob = request.path.split_once("/blobs/").map(|(_, digest)| digest.split('?').next().unwrap().to_owned());
        if let Some(answer) = self.at_the_door(&request, blob.is_some()) {
            return stream.write_all(answer.as_bytes());
        }
        let trouble = blob.as_ref().filter(|_| request.method == "GET").and_then(|blob| {
            let mut state = self.state.lock();
            *state.asked.entry(blob.clone()).or_default() += 1;
            state.troubles.get(blob).copied()
        });
        match (trouble, blob) {
            (Some(Trouble::Status(status, lines)), _) => stream.write_all(head(status, lines).as_bytes()),
            (Some(Trouble::Loops), _) => {
                stream.write_all(head(307, &format!("Location: {}\r\n", request.path)).as_bytes())
            }
            (Some(Trouble::Babbles), _) => stream.write_all(b"\x15\x03\x03\0\x02\x02\x28"),
            (Some(trouble), Some(blob)) => self.spoil(stream, &over, &request, (&blob, trouble)),
            _ => {
                let (head, body) = self.ask(&request)?;
                stream.write_all(&[head.as_bytes(), &body].concat())?;
                stream.flush()
            }
        }
    }

    /// What is said before the registry is asked: that there is a token to be had, a redirect to the storage, or that a signature is too old.
    fn at_the_door(&self, request: &Request, is_blob: bool) -> Option<String> {
        let mut state = self.state.lock();
        if request.path.starts_with("/token") {
            if state.token_trouble == Some(TokenTrouble::NotGiven) {
                return Some(head(500, ""));
            }
            state.tokens_given += 1;
            let token = format!("{{\"token\":\"token-{}\"}}", state.token?);
            return Some(format!("{}{token}", head_of(200, "Content-Type: application/json\r\n", token.len())));
        }
        if let Some(rest) = request.path.strip_prefix("/signed/") {
            let is_good = rest.split('/').next()?.parse().ok() == state.token;
            return (!is_good).then(|| head(403, ""));
        }
        let is_known =
            |token| request.head.to_lowercase().contains(&format!("authorization: bearer token-{token}\r\n"));
        let takes_none = state.token_trouble == Some(TokenTrouble::NotTaken);
        if let Some(token) = state.token.filter(|token| takes_none || !is_known(*token)) {
            let _stale_or_none = token;
            let realm =
                format!("Bearer realm=\"http://{{}}/token\",service=\"s\",scope=\"repository:{}:pull\"", "image");
            let host =
                request.head.lines().find_map(|line| line.to_lowercase().strip_prefix("host: ").map(str::to_owned))?;
            return Some(head(401, &format!("WWW-Authenticate: {}\r\n", realm.replace("{}", &host))));
        }
        let (storage, signature) = state.storage.filter(|_| is_blob)?;
        Some(head(307, &format!("Location: http://{storage}/signed/{signature}{}\r\n", request.path)))
    }

    fn spoil(
        &self,
        mut stream: Box<dyn Stream>,
        socket: &TcpStream,
        request: &Request,
        (blob, trouble): (&str, Trouble),
    ) -> io::Result<()> {
        let (mut head, mut body) = self.ask(request)?;
        let sent = match trouble {
            Trouble::Resets(count) | Trouble::Stalls(count) | Trouble::Ends(count) => count.min(body.len()),
            Trouble::Drips => 0,
            _ => body.len(),
        };
        match trouble {
            Trouble::Flips if !body.is_empty() => {
                let middle = body.len() / 2;
                body[middle] ^= 1;
            }
            Trouble::Shortens if !body.is_empty() => {
                let (is, says) = (body.len() - 1, format!("Content-Length: {}", body.len()));
                assert!(head.contains(&says), "{head}");
                head = head.replace(&says, &format!("Content-Length: {is}"));
                body.truncate(is);
            }
            _ => {}
        }
        stream.write_all(&[head.as_bytes(), &body[..sent.min(body.len())]].concat())?;
        stream.flush()?;
        match trouble {
            Trouble::Resets(_) => set_socket_linger(socket, Some(Duration::ZERO))?,
            Trouble::Stalls(_) => {
                while self.goes_on(blob, trouble) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Trouble::Drips => {
                for byte in body.chunks(1).take_while(|_| self.goes_on(blob, trouble)) {
                    stream.write_all(byte)?;
                    stream.flush()?;
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            _ => socket.shutdown(Shutdown::Write)?,
        }
        Ok(())
    }

    /// Whether there is still this trouble with the blob.
    fn goes_on(&self, blob: &str, trouble: Trouble) -> bool {
        self.state.lock().troubles.get(blob) == Some(&trouble) && !self.is_closed.load(Ordering::SeqCst)
    }

    /// The registry's answer: its head, with the empty line, and its body.
    fn ask(&self, request: &Request) -> io::Result<(String, Vec<u8>)> {
        let mut upstream = TcpStream::connect(self.upstream)?;
        upstream.set_read_timeout(Some(PATIENCE))?;
        let path = match request.path.strip_prefix("/signed/") {
            Some(rest) => &rest[rest.find('/').unwrap_or(0)..],
            None => &request.path,
        };
        let lines = request.head.lines().filter(|line| !line.to_lowercase().starts_with("connection:"));
        let lines: String = lines.map(|line| format!("{line}\r\n")).collect();
        write!(upstream, "{} {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n", request.method)?;
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or(io::ErrorKind::InvalidData)? + 4;
        let body = answer.split_off(end);
        Ok((String::from_utf8(answer).map_err(io::Error::other)?, body))
    }
}

fn head(status: u16, lines: &str) -> String {
    head_of(status, lines, 0)
}

fn head_of(status: u16, lines: &str, length: usize) -> String {
    format!("HTTP/1.1 {status} Proxied\r\nConnection: close\r\nContent-Length: {length}\r\n{lines}\r\n")
}

fn read_request(stream: &mut Box<dyn Stream>) -> io::Result<Option<Request>> {
    let (mut text, mut piece) = (Vec::new(), [0; 4096]);
    let end = loop {
        if let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        match stream.read(&mut piece)? {
            0 => return Ok(None),
            count => text.extend_from_slice(&piece[..count]),
        }
    };
    let text = String::from_utf8_lossy(&text[..end + 2]).into_owned();
    let (first, head) = text.split_once("\r\n").unwrap();
    let mut words = first.split(' ').map(str::to_owned);
    Ok(words.next().zip(words.next()).map(|(method, path)| Request { method, path, head: head.to_owned() }))
}
