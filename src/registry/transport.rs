//! One HTTP exchange: connections bounded per host, every wait with a deadline, every byte counted.
//!
//! Knows nothing of registries: no login, no redirect, no retry. Bodies are handed on as they come, without a copy.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::header::{self, HeaderMap, HeaderName};
use reqwest::{Client, Method, StatusCode, Url};

use crate::gate::Urgency;
use crate::registry::clients::Lasting;
use crate::registry::clock::Clock;
use crate::registry::config::Config;
use crate::registry::counters::{Counters, Kind, add};
use crate::registry::door::{Doors, Inside};
use crate::registry::error::RegistryError;
use crate::registry::failure;
use crate::registry::hosts::{Host, Tls, authority, is_loopback};
use crate::registry::tls::Authorities;
use crate::sync::{Arc, Mutex};

/// The program's side of HTTP.
pub(super) struct Transport {
    /// To this machine, without TLS.
    near: Client,
    /// To this machine, with TLS; made when first needed, since reading the system's authorities takes a while.
    near_tls: OnceLock<Client>,
    /// To the world, through the system's proxy if there is one.
    far: OnceLock<Client>,
    /// To hosts that are spoken to in a manner of their own.
    own: Mutex<HashMap<(Arc<Tls>, bool), Client>>,
    authorities: Authorities,
    doors: Doors,
    config: Config,
    counters: Arc<Counters>,
    clock: Clock,
}

/// One request. `what` is what errors call the thing asked for.
pub(super) struct Call<'a> {
    pub(super) url: Url,
    pub(super) what: &'a str,
    pub(super) headers: HeaderMap,
    /// What is sent; without it, it is a GET, or a HEAD.
    pub(super) sent: Option<Sent>,
    pub(super) only_head: bool,
    pub(super) weight: Weight,
    /// How to connect, where it is not as to all.
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) kind: Kind,
}

/// A request that has a body.
pub(super) struct Sent {
    pub(super) method: Method,
    pub(super) media_type: &'static str,
    pub(super) body: Bytes,
}

/// How long an answer's body will keep its connection.
#[derive(Debug, Clone)]
pub(super) enum Weight {
    /// A manifest, a token.
    Light,
    /// A whole layer.
    Heavy,
    /// A part of one, as urgent as this.
    Part(Urgency),
}

pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

/// The rest of an answer. Keeps its place among the host's connections until it is dropped.
pub(super) struct Body {
    response: reqwest::Response,
    host: String,
    what: String,
    idle: Duration,
    pace: Pace,
    counters: Arc<Counters>,
    /// When it was asked for, what was announced and what came since.
    since: Instant,
    length: Option<u64>,
    came: u64,
    inside: Inside,
}

/// What came of a body in how long a wait. Only waiting for the host counts: who reads slowly, to keep to a bandwidth of ours, holds up nobody but himself.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

/// Who sends less than this in a second, for as long as a body may pause, sends nothing that anybody could use. Eight connections over a modem are faster.
const LEAST_BYTES_PER_SECOND: u64 = 512;

/// Manners of connecting that a configuration names.
const OWN_MAX: usize = 64;
/// A registry closes what is idle after about a minute.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// What one reader may lag behind on an HTTP/2 connection.
const WINDOW_BYTES: u32 = 2 << 20;
/// What refusals say is read up to here, so that the connection can be used again.
const REFUSAL_BYTES_MAX: u64 = 16 << 10;
/// Who sends more slowly than this is taken for somebody whose connection is lost.
const SENT_BYTES_PER_SECOND: u64 = 64 << 10;
/// A new connection is had sooner.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(2);

// === impl Transport ===

impl Transport {
    pub(super) fn new(config: &Config, lasting: &Lasting) -> Result<Self, RegistryError> {
        let near = client(config, Authorities::trust_nobody()?, true, None)?;
        let authorities = Authorities::read(config)?;
        let (near_tls, far) = (OnceLock::new(), OnceLock::new());
        let (own, doors) = (Mutex::default(), Doors::new(config));
        let (config, counters) = (config.clone(), lasting.counters.clone());
        Ok(Self { near, near_tls, far, own, authorities, doors, config, counters, clock: Clock::new() })
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Bytes that come from the host in the time of a round trip; 0 if that is not known.
    pub(super) fn carries(&self, host: &str) -> u64 {
        self.doors.carries(host)
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(&self, call: Call<'_>) -> Result<Reply, RegistryError> {
        let host = authority(&call.url);
        let client = self.client(&call.url, call.tls.as_ref()).await?;
        let inside = self.doors.enter(&host, call.what, &call.weight).await?;
        let sent_bytes = call.sent.as_ref().map_or(0, |sent| sent.body.len() as u64);
        let mut request = match call.sent {
            Some(Sent { method, media_type, body }) => {
                client.request(method, call.url).header(header::CONTENT_TYPE, media_type).body(body)
            }
            None if call.only_head => client.head(call.url),
            None => client.get(call.url),
        };
        request = request.headers(call.headers);
        add(&self.counters.requests, 1);
        let since = Instant::now();
        let after = self.config.response_timeout() + Duration::from_secs(sent_bytes / SENT_BYTES_PER_SECOND);
        let sent = tokio::time::timeout(self.config.connect_timeout() + after, request.send()).await;
        let status = sent.as_ref().ok().and_then(|sent| sent.as_ref().ok()).map(reqwest::Response::status);
        self.counters.answered(status.map(|status| status.as_u16()));
        let what = call.what.to_owned();
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(failure::of_request(error, &host, &what, self.config.connect_timeout())),
            Err(_) => return Err(RegistryError::Silent { host, what, after }),
        };
        self.counters.latency(call.kind).observe(since.elapsed());
        inside.answered(since.elapsed());
        let (status, headers) = (response.status(), response.headers().clone());
        if self.doors.answered(&inside, status, &headers) {
            add(&self.counters.pauses, 1);
        }
        self.clock.note(&headers);
        let (idle, counters) = (self.config.idle_timeout(), self.counters.clone());
        let length = response.content_length(); // later it says what is left
        let pace = Pace::default();
        let body = Body { response, host, what, idle, pace, counters, since, length, came: 0, inside };
        Ok(Reply { status, headers, body })
    }

    async fn client(&self, url: &Url, tls: Option<&Arc<Tls>>) -> Result<Client, RegistryError> {
        let is_near = is_loopback(url);
        if let Some(tls) = tls {
            return self.own_client(tls, is_near).await;
        }
        let made = match (is_near, url.scheme()) {
            (true, "http") => return Ok(self.near.clone()),
            (true, _) => &self.near_tls,
            (false, _) => &self.far,
        };
        if let Some(client) = made.get() {
            return Ok(client.clone());
        }
        let (authorities, config) = (self.authorities.clone(), self.config.clone());
        let making = tokio::task::spawn_blocking(move || client(&config, authorities.trust()?, is_near, None));
        let client = making.await.map_err(|error| RegistryError::Client(error.to_string()))??;
        // Of two that were made at once one is dropped: they are the same.
        Ok(made.get_or_init(|| client).clone())
    }

    async fn own_client(&self, tls: &Arc<Tls>, is_near: bool) -> Result<Client, RegistryError> {
        let key = (tls.clone(), is_near);
        if let Some(client) = self.own.lock().get(&key) {
            return Ok(client.clone());
        }
        let (authorities, config, tls) = (self.authorities.clone(), self.config.clone(), tls.clone());
        let making = tokio::task::spawn_blocking(move || {
            client(&config, authorities.trust_as(&tls)?, is_near, tls.dial_timeout)
        });
        let client = making.await.map_err(|error| RegistryError::Client(error.to_string()))??;
        let mut own = self.own.lock();
        if own.len() >= OWN_MAX {
            own.clear();
        }
        Ok(own.entry(key).or_insert(client).clone())
    }
}

// === impl Weight ===

impl Weight {
    /// Of the request.
    pub(super) fn urgency(&self) -> Urgency {
        match self {
            Self::Light | Self::Heavy => Urgency::reader(),
            Self::Part(urgency) => urgency.clone(),
        }
    }
}

// === impl Call ===

impl Call<'_> {
    /// To this host in its manner, if it is the host itself that is asked.
    pub(super) fn of(mut self, host: &Host, is_itself: bool) -> Self {
        if is_itself {
            let headers = host.headers.iter().map(|(name, value)| (name.clone(), value.clone()));
            self.headers.extend(headers);
            self.tls = host.tls.clone();
        }
        self
    }
}

fn client(
    config: &Config,
    tls: rustls::ClientConfig,
    is_near: bool,
    dial: Option<Duration>,
) -> Result<Client, RegistryError> {
    let builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .user_agent(&config.user_agent)
        .connect_timeout(dial.unwrap_or(config.connect_timeout()))
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(config.connections_per_host)
        .http2_initial_stream_window_size(WINDOW_BYTES)
        // So many readers may pause without stopping the others of their connection.
        .http2_initial_connection_window_size(WINDOW_BYTES * 8);
    let builder = if is_near { builder.no_proxy() } else { builder };
    builder.build().map_err(|error| RegistryError::Client(failure::innermost(&error)))
}

// === impl Pace ===

impl Pace {
    /// So many bytes came after so long a wait. Whenever as much was waited as a body may pause it is looked at what came meanwhile, and given back if it was too little.
    fn too_slow(&mut self, waited: Duration, bytes: u64, idle: Duration) -> Option<Self> {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < idle {
            return None;
        }
        let pace = std::mem::take(self);
        (pace.bytes < LEAST_BYTES_PER_SECOND.saturating_mul(pace.waited.as_secs())).then_some(pace)
    }
}

// === impl Reply ===

impl Reply {
    /// A header's text, if it is one.
    pub(super) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

// === impl Body ===

impl Body {
    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let asked = Instant::now();
        let stalled = |body: &Self, after, bytes| {
            let (host, what) = (body.host.clone(), body.what.clone());
            Err(RegistryError::Stalled { host, what, after, bytes })
        };
        let piece = match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(piece)) => piece,
            Ok(Err(error)) => {
                let (host, what) = (self.host.clone(), self.what.clone());
                return Err(RegistryError::Broken { host, what, cause: failure::innermost(&error) });
            }
            Err(_) => return stalled(self, self.idle, 0),
        };
        let bytes = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        add(&self.counters.bytes, bytes);
        self.came += bytes;
        if let Some(Pace { waited, bytes }) = self.pace.too_slow(asked.elapsed(), bytes, self.idle)
            && piece.is_some()
        {
            return stalled(self, waited, bytes);
        }
        if bytes > 0 && self.length == Some(self.came) {
            self.inside.came(self.came, self.since.elapsed());
        }
        Ok(piece)
    }

    /// All of it, if it has at most `max` bytes.
    pub(super) async fn whole(mut self, max: u64) -> Result<Bytes, RegistryError> {
        let too_large = |what: &str| RegistryError::TooLarge { what: what.to_owned(), max };
        if self.length.is_some_and(|length| length > max) {
            return Err(too_large(&self.what));
        }
        let mut all = BytesMut::new();
        while let Some(piece) = self.next().await? {
            if all.len() as u64 + piece.len() as u64 > max {
                return Err(too_large(&self.what));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// What was asked for it.
    pub(super) fn url(&self) -> &Url {
        self.response.url()
    }

    /// Who gave the answer, after all redirects.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// What was announced, if it was.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// Reads what a refusal or a redirect says, so that its connection can be used again; if it is short and soon there.
    pub(super) async fn drain(self) -> Option<Bytes> {
        tokio::time::timeout(REFUSAL_TIME_MAX, self.whole(REFUSAL_BYTES_MAX)).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(30);

    fn stopped_after(pieces: impl Iterator<Item = (f64, u64)>) -> Option<usize> {
        let mut pace = Pace::default();
        let mut pieces = pieces;
        pieces.position(|(seconds, bytes)| pace.too_slow(Duration::from_secs_f64(seconds), bytes, IDLE).is_some())
    }

    #[test]
    fn who_drips_is_stopped_within_a_minute_and_who_is_slow_is_not() {
        assert_eq!(stopped_after(std::iter::repeat_n((20.0, 1), 10)), Some(1));
        assert_eq!(stopped_after(std::iter::repeat_n((0.1, 1), 10_000)), Some(299));
        // A modem, shared by eight; pieces that are late and large; a reader that lets the bytes lie, and waits for none.
        assert_eq!(stopped_after(std::iter::repeat_n((2.0, 1_400), 10_000)), None);
        assert_eq!(stopped_after(std::iter::repeat_n((29.0, 64 << 10), 1_000)), None);
        assert_eq!(stopped_after(std::iter::repeat_n((0.0, 1), 1_000_000)), None);
        // What was fast for long does not make up for what is slow now.
        let then_slow = std::iter::repeat_n((0.001, 64 << 10), 50_000).chain(std::iter::repeat_n((10.0, 1), 100));
        assert!(stopped_after(then_slow).is_some_and(|pieces| pieces < 50_010));
    }
}
