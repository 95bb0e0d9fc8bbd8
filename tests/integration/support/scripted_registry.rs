//! A registry that does what the test says: asks for logins, is slow, breaks off, lies.
//!
//! Speaks HTTP/1.1 by hand, so that it can break every rule of it. Reads like a sentence:
//! `registry().with("app", "1", &image).once("blobs/", Act::CutAfter(1000)).run().await`.

mod wire;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oncefs::digest::Digest;
use oncefs::sync::{Mutex, spawn};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::sample::{INDEX, MANIFEST, Sample};
use wire::{give, head, read_request, respond};

/// What the registry is to be.
#[derive(Default)]
pub(crate) struct Script {
    documents: HashMap<String, Document>,
    rules: Vec<Rule>,
    wants: Wants,
    tls: Option<Arc<rustls::ServerConfig>>,
    delay: Duration,
    company: usize,
}

/// A registry at work; ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

/// How an answer differs from the right one.
#[derive(Clone)]
pub(crate) enum Act {
    /// This status, with these headers and no login asked.
    Status(u16, Vec<(&'static str, String)>),
    Redirect(String),
    /// The right head, then the connection ends after so many bytes of the body.
    CutAfter(usize),
    /// The right head, then nothing after so many bytes of the body.
    StallAfter(usize),
    /// No answer at all.
    Silence,
    /// All of it with status 200, whatever range was asked for.
    Whole,
    /// Status 206 with a Content-Range that is one byte off.
    OtherRange,
    /// Status 206 without a Content-Range.
    NoRange,
    /// Without a length: so many of the bytes, then these, then a proper end.
    Chunked(usize, Vec<u8>),
    /// Other bytes in place of the right ones.
    Bytes(Bytes),
    /// The right bytes with another header.
    Header(&'static str, String),
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

struct Document {
    media_type: &'static str,
    bytes: Bytes,
}

struct Rule {
    part: String,
    /// How the User-Agent of those it is for begins; empty: it is for all.
    agent: String,
    left: usize,
    act: Act,
}

#[derive(Default, Clone)]
enum Wants {
    #[default]
    Nothing,
    Basic(String),
    /// A token; to give it, this Authorization or this refresh token.
    Token {
        basic: Option<String>,
        refresh: Option<String>,
        realm: Option<String>,
    },
}

struct State {
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    tokens: Mutex<Vec<String>>,
    /// Requests at work now, and the most there ever were.
    busy: Mutex<(usize, usize)>,
}

enum Next {
    KeepAlive,
    Close,
}

pub(crate) fn registry() -> Script {
    Script::default()
}

// === impl Script ===

impl Script {
    /// Holds `image` as `repository:tag`.
    pub(crate) fn with(mut self, repository: &str, tag: &str, image: &Sample) -> Self {
        for blob in image.layers.iter().chain([&image.config]) {
            self = self.with_blob(repository, blob);
        }
        self.with_manifest(repository, tag, MANIFEST, &image.manifest)
    }

    pub(crate) fn with_index(self, repository: &str, tag: &str, index: &Bytes) -> Self {
        self.with_manifest(repository, tag, INDEX, index)
    }

    pub(crate) fn with_blob(mut self, repository: &str, blob: &Bytes) -> Self {
        let document = Document { media_type: "application/octet-stream", bytes: blob.clone() };
        self.documents.insert(format!("/v2/{repository}/blobs/{}", Digest::of(blob)), document);
        self
    }

    /// What the registry says of those that are about `subject`, in the words of the index's bytes.
    pub(crate) fn with_referrers(mut self, repository: &str, subject: &Digest, index: &Bytes) -> Self {
        let document = Document { media_type: INDEX, bytes: index.clone() };
        self.documents.insert(format!("/v2/{repository}/referrers/{subject}"), document);
        self
    }

    /// A manifest under its tag and its digest.
    pub(crate) fn with_manifest(
        mut self,
        repository: &str,
        tag: &str,
        media_type: &'static str,
        bytes: &Bytes,
    ) -> Self {
        for name in [tag.to_owned(), Digest::of(bytes).to_string()] {
            let document = Document { media_type, bytes: bytes.clone() };
            self.documents.insert(format!("/v2/{repository}/manifests/{name}"), document);
        }
        self
    }

    /// Requests whose target has `part` in it get `act`, once.
    pub(crate) fn once(self, part: &str, act: Act) -> Self {
        self.times(1, part, act)
    }

    pub(crate) fn times(mut self, times: usize, part: &str, act: Act) -> Self {
        self.rules.push(Rule { part: part.to_owned(), agent: String::new(), left: times, act });
        self
    }

    /// Clients whose User-Agent begins so always get `act` for these requests.
    pub(crate) fn always_for(mut self, agent: &str, part: &str, act: Act) -> Self {
        self.rules.push(Rule { part: part.to_owned(), agent: agent.to_owned(), left: usize::MAX, act });
        self
    }

    pub(crate) fn always(self, part: &str, act: Act) -> Self {
        self.times(usize::MAX, part, act)
    }

    /// Wants this Authorization header with every request.
    pub(crate) fn wants_basic(mut self, header: &str) -> Self {
        self.wants = Wants::Basic(header.to_owned());
        self
    }

    /// Wants a token, which everybody gets.
    pub(crate) fn wants_token(mut self) -> Self {
        self.wants = Wants::Token { basic: None, refresh: None, realm: None };
        self
    }

    /// Wants a token, which this Authorization header gets.
    pub(crate) fn wants_token_for(mut self, header: &str) -> Self {
        self.wants = Wants::Token { basic: Some(header.to_owned()), refresh: None, realm: None };
        self
    }

    /// Wants a token, which this refresh token gets.
    pub(crate) fn wants_token_for_refresh(mut self, refresh: &str) -> Self {
        self.wants = Wants::Token { basic: None, refresh: Some(refresh.to_owned()), realm: None };
        self
    }

    /// Wants a token from elsewhere.
    pub(crate) fn wants_token_of(mut self, realm: &str) -> Self {
        self.wants = Wants::Token { basic: None, refresh: None, realm: Some(realm.to_owned()) };
        self
    }

    pub(crate) fn over_tls(mut self, config: rustls::ServerConfig) -> Self {
        self.tls = Some(Arc::new(config));
        self
    }

    /// Every answer takes this long.
    pub(crate) fn slow(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Nothing is answered until so many requests have been there at the same time, and whoever comes a little later.
    pub(crate) fn in_company(mut self, of: usize) -> Self {
        self.company = of;
        self.slow(Duration::from_millis(30))
    }

    pub(crate) async fn run(self) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = self.tls.clone().map(tokio_rustls::TlsAcceptor::from);
        let state = Arc::new(State {
            script: Mutex::new(self),
            seen: Mutex::default(),
            tokens: Mutex::default(),
            busy: Mutex::default(),
        });
        let running = Running { address, state };
        let serving = running.clone();
        spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (serving, tls) = (serving.clone(), tls.clone());
                spawn(async move {
                    let _ = stream.set_nodelay(true);
                    match tls {
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serving.serve(stream).await,
                            Err(_) => return,
                        },
                        None => serving.serve(stream).await,
                    };
                });
            }
        });
        running
    }
}

// === impl Running ===

impl Running {
    /// How an image here is called.
    pub(crate) fn image(&self, name: &str) -> oncefs::registry::Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }

    pub(crate) fn origin(&self, repository: &str) -> oncefs::blob::Origin {
        oncefs::blob::Origin(format!("docker://{}/{repository}", self.address))
    }

    /// The requests so far whose target has `part` in it.
    pub(crate) fn seen(&self, part: &str) -> Vec<Seen> {
        self.state.seen.lock().iter().filter(|seen| seen.target.contains(part)).cloned().collect()
    }

    /// The most requests that were ever being answered at the same time.
    pub(crate) fn busiest(&self) -> usize {
        self.state.busy.lock().1
    }

    /// No token given so far is good any more.
    pub(crate) fn revoke_tokens(&self) {
        self.state.tokens.lock().iter_mut().for_each(|token| token.push_str(" revoked"));
    }

    pub(crate) fn add_rule(&self, times: usize, part: &str, act: Act) {
        let rule = Rule { part: part.to_owned(), agent: String::new(), left: times, act };
        self.state.script.lock().rules.push(rule);
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) -> Option<()> {
        let mut buffer = Vec::new();
        loop {
            let Some(request) = read_request(&mut stream, &mut buffer).await else {
                // What is no request, such as the beginning of a TLS handshake, is told so.
                let _ = respond(&mut stream, 400, &[], b"").await;
                return stream.shutdown().await.ok();
            };
            self.state.seen.lock().push(request.clone());
            {
                let mut busy = self.state.busy.lock();
                busy.0 += 1;
                busy.1 = busy.1.max(busy.0);
            }
            let (delay, company) = {
                let script = self.state.script.lock();
                (script.delay, script.company)
            };
            while self.busiest() < company {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(delay).await;
            let done = self.answer(&mut stream, &request).await;
            self.state.busy.lock().0 -= 1;
            match done? {
                Next::KeepAlive => {}
                Next::Close => return stream.shutdown().await.ok(),
            }
        }
    }

    async fn answer<S: AsyncWrite + Unpin>(&self, stream: &mut S, request: &Seen) -> Option<Next> {
        if request.target.starts_with("/token") {
            let answer = self.token(request);
            return respond(stream, answer.0, &[], answer.1.as_bytes()).await;
        }
        if let Some(challenge) = self.challenge(request) {
            let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"echo of what was sent"}]}"#;
            return respond(stream, 401, &[("WWW-Authenticate", challenge)], body).await;
        }
        match (self.act(request), self.document(request)) {
            (Some(Act::Status(status, headers)), _) => respond(stream, status, &headers, b"{}").await,
            (Some(Act::Redirect(to)), _) => respond(stream, 307, &[("Location", to)], b"moved").await,
            (Some(Act::Silence), _) => std::future::pending().await,
            (None, Some((media_type, bytes))) if request.method == "HEAD" => {
                let digest = ("Docker-Content-Digest", Digest::of(&bytes).to_string());
                head(stream, 200, &[("Content-Type", media_type.to_owned()), digest], bytes.len()).await?;
                stream.flush().await.ok()?;
                Some(Next::KeepAlive)
            }
            (_, None) => respond(stream, 404, &[], br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#).await,
            (act, Some((media_type, bytes))) => give(stream, request, act, media_type, bytes).await,
        }
    }

    fn act(&self, request: &Seen) -> Option<Act> {
        let agent = request.headers.get("user-agent").map_or("", String::as_str);
        let is_for = |rule: &Rule| request.target.contains(&rule.part) && agent.starts_with(&rule.agent);
        let mut script = self.state.script.lock();
        let rule = script.rules.iter_mut().find(|rule| rule.left > 0 && is_for(rule))?;
        rule.left -= 1;
        Some(rule.act.clone())
    }

    fn document(&self, request: &Seen) -> Option<(&'static str, Bytes)> {
        let script = self.state.script.lock();
        let path = request.target.split('?').next()?;
        script.documents.get(path).map(|document| (document.media_type, document.bytes.clone()))
    }

    fn challenge(&self, request: &Seen) -> Option<String> {
        let wants = self.state.script.lock().wants.clone();
        let sent = request.headers.get("authorization").cloned().unwrap_or_default();
        match wants {
            Wants::Nothing => None,
            Wants::Basic(header) => (sent != header).then(|| "Basic realm=\"images\"".to_owned()),
            Wants::Token { realm, .. } => {
                let is_good = self.state.tokens.lock().iter().any(|token| sent == format!("Bearer {token}"));
                let realm = realm.unwrap_or_else(|| format!("http://{}/token", self.address));
                let scope = request.target.split("/manifests/").next()?.split("/blobs/").next()?;
                let scope = scope.split("/referrers/").next()?;
                let scope = format!("repository:{}:pull", scope.trim_start_matches("/v2/"));
                (!is_good).then(|| format!("Bearer realm=\"{realm}\",service=\"the service\",scope=\"{scope}\""))
            }
        }
    }

    fn token(&self, request: &Seen) -> (u16, String) {
        if let Some(Act::Status(status, _)) = self.act(request) {
            return (status, "{}".to_owned());
        }
        let Wants::Token { basic, refresh, .. } = self.state.script.lock().wants.clone() else {
            return (404, "{}".to_owned());
        };
        let has_basic = basic.is_none_or(|basic| request.headers.get("authorization") == Some(&basic));
        let has_refresh = refresh.is_none_or(|refresh| {
            request.body.contains(&format!("refresh_token={refresh}")) && request.method == "POST"
        });
        if !has_basic || !has_refresh {
            return (401, r#"{"details":"incorrect username or password"}"#.to_owned());
        }
        let mut tokens = self.state.tokens.lock();
        let token = format!("very-secret-token-{}", tokens.len());
        tokens.push(token.clone());
        (200, serde_json::json!({"token": token, "expires_in": 300}).to_string())
    }
}
