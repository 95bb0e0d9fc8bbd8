//! One question to a registry, until it is answered: login, redirects, retries.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, AsHeaderName, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE, WWW_AUTHENTICATE,
};
use reqwest::{StatusCode, Url};

use crate::digest::{self, Digest};
use crate::registry::ask::{Access, Ask};
use crate::registry::challenge;
use crate::registry::clients::Lasting;
use crate::registry::config::Config;
use crate::registry::counters::{Counters, add};
use crate::registry::credentials::{Credential, Credentials};
use crate::registry::error::RegistryError;
use crate::registry::failure;
use crate::registry::hosts::{Host, Hosts, Unverified, authority};
use crate::registry::login::{Authorization, Logins, REFUSED_MAX};
use crate::registry::mirrors::Mirrors;
use crate::registry::retry::{Outcome, Policy, Verdict};
use crate::registry::transport::{Call, Reply, Sent, Transport};
use crate::sync::Arc;

/// Asks registries.
pub(super) struct Client {
    transport: Arc<Transport>,
    hosts: Hosts,
    mirrors: Mirrors,
    logins: Logins,
    policy: Policy,
}

/// A success: its head, and a body to be read.
pub(super) struct Answer {
    pub(super) reply: Reply,
    /// Where on another host the answer came from, for the next question of the same kind.
    pub(super) moved_to: Option<Url>,
    /// The mirror that gave it.
    pub(super) mirror: Option<String>,
}

/// A small thing, whole.
pub(super) struct Small {
    pub(super) bytes: Bytes,
    pub(super) headers: HeaderMap,
}

/// Logging in to one host for one question.
#[derive(Default)]
struct Attempt {
    authorization: Option<Arc<Authorization>>,
    /// Whether it was made for this very question.
    is_fresh: bool,
    /// Credentials that the host did not take.
    refused: Vec<Credential>,
    /// What the host said to one of them: it counts more than what it then says to nobody.
    forbidden: Option<RegistryError>,
}

/// More than any storage behind a registry needs.
const HOPS_MAX: usize = 10;

// === impl Client ===

impl Client {
    pub(super) fn new(config: &Config, lasting: &Lasting) -> Result<Self, RegistryError> {
        if config.kubelet_credential_providers.is_some() != config.kubelet_credential_provider_bin_dir.is_some() {
            return Err(RegistryError::KubeletHalf);
        }
        let transport = Arc::new(Transport::new(config, lasting)?);
        let hosts = Hosts::new(config)?;
        let logins = Logins::new(transport.clone(), hosts.clone(), Credentials::new(config, lasting.learned.clone()));
        let policy = Policy {
            retries: config.retries,
            deadline: Duration::from_secs(config.retry_deadline_secs),
            first_pause: Duration::from_millis(config.retry_pause_ms),
        };
        Ok(Self { transport, hosts, mirrors: Mirrors::default(), logins, policy })
    }

    pub(super) fn logins(&self) -> &Logins {
        &self.logins
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        self.transport.counters()
    }

    /// Bytes that come from the host in the time of a round trip; 0 if that is not known.
    pub(super) fn carries(&self, host: &str) -> u64 {
        self.transport.carries(host)
    }

    /// As [`super::Registry::unverified`].
    pub(super) fn unverified(&self) -> Vec<Unverified> {
        self.hosts.unverified()
    }

    /// As [`super::Registry::clock_ahead_secs`].
    pub(super) fn clock_ahead_secs(&self) -> Option<i64> {
        self.transport.clock().ahead_secs()
    }

    /// The answer's head, after as many tries as the rules allow.
    pub(super) async fn get(&self, ask: &Ask) -> Result<Answer, RegistryError> {
        let mut tries = Tries::new(self);
        loop {
            match self.once(ask).await {
                Ok(answer) => return Ok(answer),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// A small thing whole, also if it takes a second try to get to its end.
    pub(super) async fn small(&self, ask: &Ask, max: u64) -> Result<Small, RegistryError> {
        let mut tries = Tries::new(self);
        loop {
            match self.small_once(ask, max).await {
                Ok(small) => return Ok(small),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    async fn small_once(&self, ask: &Ask, max: u64) -> Result<Small, RegistryError> {
        let mut last = None;
        for host in self.places(ask)? {
            let got = match self.once_at(&host, ask).await {
                Ok(answer) => small_of(ask, answer, max).await,
                Err(error) => Err(error),
            };
            match got {
                Ok(small) => return Ok(small),
                Err(error) => last = Some(self.mirrors.failed(&host, ask, error)),
            }
        }
        Err(last.unwrap_or_else(|| nowhere(ask)))
    }

    /// Asks once at the place where an answer came from before; nothing is retried, since that place may have moved.
    pub(super) async fn get_moved(&self, ask: &Ask, url: &Url) -> Result<Answer, RegistryError> {
        let reply = self.transport.send(self.call(ask, url, None)).await?;
        if reply.status.is_success() {
            return Ok(Answer { reply, moved_to: Some(url.clone()), mirror: None });
        }
        Err(failure::of_reply(reply, &authority(url), &ask.what, false, &[]).await)
    }

    /// Asks each place once until one answers. What the last one says is the answer.
    pub(super) async fn once(&self, ask: &Ask) -> Result<Answer, RegistryError> {
        let mut last = None;
        for host in self.places(ask)? {
            match self.once_at(&host, ask).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = Some(self.mirrors.failed(&host, ask, error)),
            }
        }
        Err(last.unwrap_or_else(|| nowhere(ask)))
    }

    fn places(&self, ask: &Ask) -> Result<Vec<Host>, RegistryError> {
        let mut places = self.mirrors.useful(self.hosts.places(&ask.repository, ask.need())?, ask);
        if ask.access == Access::Push {
            // As containerd does: what is pushed goes to one place.
            places.truncate(1);
        }
        Ok(places)
    }

    /// The mirror gave wrong bytes of what `path` names: it is not asked for them again. Says whether there was one.
    pub(super) fn distrust(&self, mirror: Option<&str>, path: &str) -> bool {
        mirror.is_some_and(|mirror| self.mirrors.distrust(mirror, path))
    }

    async fn once_at(&self, host: &Host, ask: &Ask) -> Result<Answer, RegistryError> {
        let broken = |cause: &str| protocol(host, ask, cause);
        let path = format!("{}/{}", ask.repository.path(), ask.path);
        let mut url = match ask.change.as_ref().and_then(|change| change.at.clone()) {
            Some(url) if self.hosts.may_send(host, &url) => url,
            Some(_) => return Err(broken("it wants to be sent things over plain HTTP, where it may not")),
            None => host.url(&path).ok_or_else(|| broken("the address cannot be formed"))?,
        };
        let known = self.logins.known(host, &ask.repository, ask.access);
        let mut login = Attempt { authorization: known, ..Attempt::default() };
        let mut passed: Vec<Url> = Vec::new();
        // Who is sent where it was before would be sent on from there as before.
        while passed.len() < HOPS_MAX && !passed.contains(&url) {
            // A login is for the host it was made for: a redirect elsewhere gets none.
            let is_ours = host.is_at(&url);
            let sent = if is_ours { login.authorization.clone() } else { None };
            let reply = self.transport.send(self.call(ask, &url, sent.as_ref()).of(host, is_ours)).await?;
            match reply.status {
                status if status.is_success() || (status.is_redirection() && ask.only_head) => {
                    let mirror = host.mirrored.is_some().then(|| host.name.clone());
                    return Ok(Answer { reply, moved_to: (!is_ours).then_some(url), mirror });
                }
                status if status.is_redirection() => {
                    let next = self.next_hop(host, ask, &url, reply).await?;
                    passed.push(std::mem::replace(&mut url, next));
                }
                StatusCode::UNAUTHORIZED if is_ours && login.goes_on() => {
                    self.log_in(host, ask, reply, &mut login).await?;
                }
                // Says nothing of how to log in; a request without a login is told.
                StatusCode::FORBIDDEN if is_ours && login.is_somebody() && login.goes_on() => {
                    self.log_out(host, ask, reply, &mut login).await;
                }
                _ => {
                    let had_login = sent.is_some_and(|sent| sent.is_somebody()) || !login.refused.is_empty();
                    let name = if is_ours { host.name.clone() } else { authority(&url) };
                    return Err(failure::of_reply(reply, &name, &ask.what, had_login, self.logins.looked_at()).await);
                }
            }
        }
        Err(broken("it sends us round in redirects"))
    }

    fn call<'a>(&self, ask: &'a Ask, url: &Url, authorization: Option<&Arc<Authorization>>) -> Call<'a> {
        let mut headers = HeaderMap::new();
        if let Some(accept) = ask.accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        if let Some((first, last)) = ask.range
            && let Ok(value) = HeaderValue::from_str(&format!("bytes={first}-{last}"))
        {
            headers.insert(RANGE, value);
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.header.clone());
        }
        let (url, what, only_head) = (url.clone(), ask.what.as_str(), ask.only_head);
        let sent = ask.change.as_ref().map(|change| Sent {
            method: change.method.clone(),
            media_type: change.media_type,
            body: change.body.clone(),
        });
        Call { url, what, headers, sent, only_head, weight: ask.weight.clone(), kind: ask.kind(), tls: None }
    }

    async fn next_hop(&self, host: &Host, ask: &Ask, url: &Url, reply: Reply) -> Result<Url, RegistryError> {
        let target = reply.header(LOCATION).and_then(|location| url.join(location).ok());
        reply.body.drain().await;
        let target = target.ok_or_else(|| protocol(host, ask, "its redirect does not say where to"))?;
        if !self.hosts.may_send(host, &target) {
            let cause = format!("it sends us over {} to {}, where it may not", target.scheme(), authority(&target));
            return Err(protocol(host, ask, &cause));
        }
        Ok(target)
    }

    /// Finds what to send after a 401; if there is nothing, the refusal is the answer.
    async fn log_in(&self, host: &Host, ask: &Ask, reply: Reply, login: &mut Attempt) -> Result<(), RegistryError> {
        let headers = reply.headers.get_all(WWW_AUTHENTICATE).into_iter();
        let challenges = challenge::parse(headers.filter_map(|value| value.to_str().ok()));
        let had_login = login.is_somebody() || !login.refused.is_empty();
        let looked_at = self.logins.looked_at();
        // Read to its end first: the token may come over the same connection, and nobody holds two places.
        let denied = failure::of_reply(reply, &host.name, &ask.what, had_login, looked_at).await;
        let before = login.was_refused();
        let found = self.logins.answer(host, ask, challenges, before.as_ref(), &login.refused).await?;
        let found = found.ok_or_else(|| login.forbidden.take().unwrap_or(denied))?;
        login.authorization = Some(found);
        login.is_fresh = true;
        Ok(())
    }

    /// Gives up what a registry answered with 403: its time may have come, or it is another who may see this.
    async fn log_out(&self, host: &Host, ask: &Ask, reply: Reply, login: &mut Attempt) {
        let looked_at = self.logins.looked_at();
        login.forbidden = Some(failure::of_reply(reply, &host.name, &ask.what, true, looked_at).await);
        if let Some(before) = login.was_refused() {
            self.logins.forget(host, ask, &before);
        }
    }
}

// === impl Attempt ===

impl Attempt {
    fn is_somebody(&self) -> bool {
        self.authorization.as_ref().is_some_and(|authorization| authorization.is_somebody())
    }

    /// Whether after a refusal there is something else to try: a token that was kept may have run out, and of several
    /// credentials another may be the right one. An anonymous token that is new is not taken anywhere.
    fn goes_on(&self) -> bool {
        (!self.is_fresh || self.authorization.is_none() || self.is_somebody()) && self.refused.len() < REFUSED_MAX
    }

    /// Takes back what was sent. If it was new, then its credential is wrong; if not, its time may have come.
    fn was_refused(&mut self) -> Option<Arc<Authorization>> {
        let before = self.authorization.take()?;
        if self.is_fresh {
            self.refused.extend(before.credential.clone());
        }
        Some(before)
    }
}

/// A small answer whole, and what its path names.
async fn small_of(ask: &Ask, answer: Answer, max: u64) -> Result<Small, RegistryError> {
    let reply = answer.reply;
    let mut bytes = reply.body.whole(max).await?;
    // Here, where another place can still be asked.
    if let (Some(digest), Some(_)) = (ask.digest(), &answer.mirror) {
        let checked = digest::check(bytes, &digest);
        let mismatch = |source| RegistryError::Mismatch { what: ask.what.clone(), source };
        bytes = checked.map_err(mismatch)?.into_inner();
    }
    Ok(Small { bytes, headers: reply.headers })
}

fn nowhere(ask: &Ask) -> RegistryError {
    let host = ask.repository.host().to_owned();
    RegistryError::Protocol { host, what: ask.what.clone(), cause: "there is no place to ask".to_owned() }
}

// === impl Small ===

impl Small {
    /// A header's text, if it is one.
    pub(super) fn header(&self, name: impl AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn media_type(&self) -> Option<&str> {
        self.header(CONTENT_TYPE)
    }

    /// What the registry says its digest is; to be compared, not to be believed.
    pub(super) fn digest(&self) -> Option<Digest> {
        self.header("docker-content-digest")?.parse().ok()
    }
}

fn protocol(host: &Host, ask: &Ask, cause: &str) -> RegistryError {
    RegistryError::Protocol { host: host.name.clone(), what: ask.what.clone(), cause: cause.to_owned() }
}

/// The tries of one question.
pub(super) struct Tries {
    policy: Policy,
    counters: Arc<Counters>,
    began: Instant,
    attempt: u32,
}

// === impl Tries ===

impl Tries {
    pub(super) fn new(client: &Client) -> Self {
        Self { policy: client.policy, counters: client.counters().clone(), began: Instant::now(), attempt: 0 }
    }

    /// Waits before the next try, or gives the error back if there is to be none.
    pub(super) async fn after(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let outcome = failure::outcome(&error);
        self.wait(error, outcome).await
    }

    /// The same for a host that has answered before: that it cannot be reached now is worth some patience.
    pub(super) async fn after_break(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let outcome = match failure::outcome(&error) {
            Outcome::NoConnection => Outcome::Lost,
            other => other,
        };
        self.wait(error, outcome).await
    }

    /// Waits as before a second try, for others to be seen.
    pub(super) async fn pause(&self) {
        tokio::time::sleep(self.policy.first_pause.mul_f64(0.5 + chance())).await;
    }

    async fn wait(&mut self, error: RegistryError, outcome: Outcome) -> Result<(), RegistryError> {
        match self.policy.next(self.attempt, self.began.elapsed(), outcome, chance()) {
            Verdict::GiveUp => {
                self.counters.failed(&error);
                Err(error)
            }
            Verdict::Again(pause) => {
                tracing::debug!(error = %error, pause_ms = pause.as_millis() as u64, "asking again");
                self.attempt += 1;
                add(&self.counters.retries, 1);
                tokio::time::sleep(pause).await;
                Ok(())
            }
        }
    }
}

/// A number between 0 and 1. The standard library seeds its hashers by chance, which is chance enough here.
fn chance() -> f64 {
    f64::from((RandomState::new().hash_one(0u8) >> 32) as u32) / f64::from(u32::MAX)
}
