//! Logging in: what to send as Authorization for a repository, found out when a registry first asks.
//!
//! The token flow is distribution's ("Token Authentication Specification") with Docker's OAuth2 form for identity
//! tokens. One token is fetched however many wait for it, and kept until shortly before it runs out. Credentials go to
//! the registry they are for and to the token service it names, over TLS unless the host is one that is trusted without.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use crate::flight::{Failed, Flight};
use crate::registry::ask::{Access, Ask};
use crate::registry::challenge::Challenge;
use crate::registry::counters::{Kind, add};
use crate::registry::credentials::{Credential, Credentials};
use crate::registry::error::RegistryError;
use crate::registry::failure;
use crate::registry::hosts::{Host, Hosts, authority};
use crate::registry::learned::Login;
use crate::registry::reference::Repository;
use crate::registry::secret::Secret;
use crate::registry::transport::{Call, Sent, Transport, Weight};
use crate::sync::{Arc, Mutex};

/// All logins of a program. Clones share them.
#[derive(Clone)]
pub(super) struct Logins {
    shared: Arc<Shared>,
}

struct Shared {
    transport: Arc<Transport>,
    hosts: Hosts,
    credentials: Credentials,
    kept: Mutex<HashMap<Key, Arc<Authorization>>>,
    /// Together with what was refused: who has tried more waits for nobody who tries it again.
    flight: Flight<(Key, Vec<Credential>), Arc<Authorization>, RegistryError>,
}

/// A host, by its authority, a repository that it has, and what is to be done there.
type Key = (String, Repository, Access);

/// What to send to one registry for one repository.
pub(super) struct Authorization {
    pub(super) header: HeaderValue,
    /// What it was made of; an anonymous token is made of nothing.
    pub(super) credential: Option<Credential>,
    expires: Option<Instant>,
}

/// A registry's wish for a token.
struct Wish {
    host: Host,
    repository: Repository,
    realm: Url,
    service: Option<String>,
    scope: String,
}

/// A token service's answer.
#[derive(Deserialize)]
struct TokenText {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// The specification's own default and least (in seconds).
const LIFE_LEAST_SECS: u64 = 60;
/// A token that says it lives for years is asked for anew every day.
const LIFE_MOST_SECS: u64 = 24 * 3600;
const TOKEN_BYTES_MAX: u64 = 256 << 10;
const KEPT_MAX: usize = 1024;
/// Credentials that are tried for one question; more are a mistake, and look like an attack to a registry.
pub(super) const REFUSED_MAX: usize = 8;

// === impl Logins ===

impl Logins {
    pub(super) fn new(transport: Arc<Transport>, hosts: Hosts, credentials: Credentials) -> Self {
        let (kept, flight) = (Mutex::default(), Flight::new());
        Self { shared: Arc::new(Shared { transport, hosts, credentials, kept, flight }) }
    }

    /// Takes a login for a repository; an older one's token is not used any more. Whether it is one that can be used.
    pub(super) fn learn(&self, repository: &Repository, login: Login) -> bool {
        let is_news = self.shared.credentials.learn(repository, login);
        if is_news == Some(true) {
            // At the mirrors too: who may see an image there is theirs to say again.
            self.shared.kept.lock().retain(|(_, of, _), _| of != repository);
        }
        is_news.is_some()
    }

    /// Where credentials were looked for.
    pub(super) fn looked_at(&self) -> &[std::path::PathBuf] {
        self.shared.credentials.files()
    }

    /// What worked before and has not run out.
    pub(super) fn known(&self, host: &Host, repository: &Repository, access: Access) -> Option<Arc<Authorization>> {
        let kept = self.shared.kept.lock();
        kept.get(&key(host, repository, access)).filter(|authorization| authorization.is_alive()).cloned()
    }

    /// A registry did not take it: it is not sent again.
    pub(super) fn forget(&self, host: &Host, ask: &Ask, refused: &Arc<Authorization>) {
        let mut kept = self.shared.kept.lock();
        let key = key(host, &ask.repository, ask.access);
        if kept.get(&key).is_some_and(|known| Arc::ptr_eq(known, refused)) {
            kept.remove(&key);
        }
    }

    /// What to send after a registry answered 401 with these challenges to a request with `refused`, and will not take
    /// these `credentials` either. `None` if we have nothing that it would take.
    pub(super) async fn answer(
        &self,
        host: &Host,
        ask: &Ask,
        challenges: Vec<Challenge>,
        refused: Option<&Arc<Authorization>>,
        credentials: &[Credential],
    ) -> Result<Option<Arc<Authorization>>, RegistryError> {
        let is_other = |known: &Authorization| !known.credential.as_ref().is_some_and(|of| credentials.contains(of));
        if let Some(known) = self.known(host, &ask.repository, ask.access)
            && refused.is_none_or(|refused| !Arc::ptr_eq(refused, &known))
            && is_other(&known)
        {
            return Ok(Some(known)); // somebody else has asked meanwhile
        }
        let Some(challenge) = best(challenges) else { return Ok(None) };
        let (shared, host, repository, access) =
            (self.shared.clone(), host.clone(), ask.repository.clone(), ask.access);
        let name = host.name.clone();
        let (key, credentials) = (key(&host, &repository, access), credentials.to_vec());
        let ticket = self.shared.flight.join((key.clone(), credentials.clone()), move || async move {
            let found = shared.find(&host, (&repository, access), challenge, credentials).await?;
            shared.keep(key, found.clone());
            Ok(found)
        });
        match ticket.await {
            Ok(authorization) => Ok(Some(authorization)),
            Err(Failed::Work(error)) => match &*error {
                RegistryError::Denied { had_login: false, .. } => Ok(None),
                error => Err(error.clone()),
            },
            Err(Failed::Panicked) => Err(RegistryError::Stopped(format!("the login to {name}"))),
        }
    }
}

fn key(host: &Host, repository: &Repository, access: Access) -> Key {
    (authority(&host.endpoint), repository.clone(), access)
}

/// Tokens go before passwords: they are worth less to a thief.
fn best(challenges: Vec<Challenge>) -> Option<Challenge> {
    let mut basic = None;
    for challenge in challenges {
        match challenge {
            Challenge::Bearer { .. } => return Some(challenge),
            Challenge::Basic => basic = Some(challenge),
            Challenge::Other(_) => {}
        }
    }
    basic
}

// === impl Shared ===

impl Shared {
    /// The first authorization that one of our credentials is worth. A credential that the token service does not take
    /// makes place for the next; without any, it is asked for an anonymous token.
    async fn find(
        &self,
        host: &Host,
        (repository, access): (&Repository, Access),
        to: Challenge,
        mut refused: Vec<Credential>,
    ) -> Result<Arc<Authorization>, RegistryError> {
        let mut last = self.denied(host, &repository.to_string(), false);
        let wrong = |cause: String| RegistryError::Login { host: host.name.clone(), cause };
        let there = host.repository(repository);
        while refused.len() < REFUSED_MAX {
            let credential = match &there {
                Some(there) => self.credentials.find(there, &refused).await.map_err(wrong)?,
                None => None,
            };
            if credential.is_none() && !refused.is_empty() {
                break;
            }
            match self.made_of(credential.clone(), host, (repository, access), &to).await {
                Err(denied @ RegistryError::Denied { .. }) if credential.is_some() => {
                    last = denied;
                    refused.extend(credential);
                }
                made => return made,
            }
        }
        Err(last)
    }

    async fn made_of(
        &self,
        credential: Option<Credential>,
        host: &Host,
        (repository, access): (&Repository, Access),
        to: &Challenge,
    ) -> Result<Arc<Authorization>, RegistryError> {
        let wrong = |cause: &str| RegistryError::Login { host: host.name.clone(), cause: cause.to_owned() };
        let lasting = |header: Option<HeaderValue>, credential: Option<Credential>| {
            let header = header.ok_or_else(|| wrong("its login holds characters that cannot be sent"))?;
            // The registry will refuse it when its time has come.
            Ok(Arc::new(Authorization { header, credential, expires: None }))
        };
        match (to, &credential) {
            (_, Some(Credential::Token(token))) => lasting(token.bearer(), credential.clone()),
            (Challenge::Basic, Some(Credential::Password { user, password })) => {
                lasting(password.basic(user), credential.clone())
            }
            (Challenge::Bearer { realm, service, scope }, _) => {
                let realm = self.realm(host, realm)?;
                let actions = access.actions();
                let scope = scope.clone().unwrap_or_else(|| format!("repository:{}:{actions}", repository.path()));
                let (host, repository, service) = (host.clone(), repository.clone(), service.clone());
                self.token(&Wish { host, repository, realm, service, scope }, credential).await
            }
            _ => Err(self.denied(host, &repository.to_string(), false)),
        }
    }

    fn keep(&self, key: Key, authorization: Arc<Authorization>) {
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, authorization| authorization.is_alive());
        }
        if kept.len() < KEPT_MAX {
            kept.insert(key, authorization);
        }
    }

    fn denied(&self, host: &Host, what: &str, had_login: bool) -> RegistryError {
        let looked_at = self.credentials.files().to_vec();
        RegistryError::Denied { host: host.name.clone(), what: what.to_owned(), code: None, had_login, looked_at }
    }

    /// The token service, if credentials may be sent there.
    fn realm(&self, host: &Host, realm: &str) -> Result<Url, RegistryError> {
        let refused = |cause: &str| RegistryError::Login { host: host.name.clone(), cause: cause.to_owned() };
        let url = Url::parse(realm).map_err(|_| refused("its token service has no address that can be understood"))?;
        if self.hosts.may_send(host, &url) {
            Ok(url)
        } else {
            Err(refused(&format!("its token service {} would be spoken to without TLS", authority(&url))))
        }
    }

    async fn token(&self, wish: &Wish, credential: Option<Credential>) -> Result<Arc<Authorization>, RegistryError> {
        let is_somebody = credential.is_some();
        let what = format!("a token for {}", wish.repository);
        let call = wish.call(credential.as_ref(), &what)?.of(&wish.host, wish.host.is_at(&wish.realm));
        let reply = self.transport.send(call).await?;
        match reply.status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(self.denied(&wish.host, &what, is_somebody));
            }
            status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                return Err(wish.refused(&format!("its token service answered {}", status.as_u16())));
            }
            status if status.is_redirection() => return Err(wish.refused("its token service sends us elsewhere")),
            _ => {
                let host = authority(&wish.realm);
                return Err(failure::of_reply(reply, &host, &what, is_somebody, self.credentials.files()).await);
            }
        }
        let text = reply.body.whole(TOKEN_BYTES_MAX).await?;
        add(&self.transport.counters().tokens, 1);
        // serde's message would quote the answer, and the answer is a token.
        let text: TokenText = serde_json::from_slice(&text)
            .map_err(|_| wish.refused("its token service's answer cannot be understood"))?;
        let token = Secret::new(text.token.or(text.access_token).unwrap_or_default());
        let header = token.bearer().filter(|_| !token.is_empty());
        let header = header.ok_or_else(|| wish.refused("its token service gave no token"))?;
        let life = text.expires_in.unwrap_or(LIFE_LEAST_SECS).clamp(LIFE_LEAST_SECS, LIFE_MOST_SECS);
        // A tenth of its life before the end, so that no request is under way with it when it ends.
        let expires = Instant::now().checked_add(Duration::from_secs(life - life / 10));
        Ok(Arc::new(Authorization { header, credential, expires }))
    }
}

// === impl Wish ===

impl Wish {
    fn call<'a>(&self, credential: Option<&Credential>, what: &'a str) -> Result<Call<'a>, RegistryError> {
        let mut url = self.realm.clone();
        let mut headers = HeaderMap::new();
        let mut sent = None;
        let service = self.service.as_deref();
        match credential {
            Some(Credential::Identity(token)) => {
                let fields = [("grant_type", "refresh_token"), ("client_id", "oncefs"), ("scope", &*self.scope)];
                let fields = fields.into_iter().chain(service.map(|service| ("service", service)));
                let form = form_of(fields.chain([("refresh_token", token.reveal())]));
                let media_type = "application/x-www-form-urlencoded";
                sent = Some(Sent { method: Method::POST, media_type, body: form.into() });
            }
            other => {
                url.query_pairs_mut().extend_pairs(service.map(|service| ("service", service)));
                url.query_pairs_mut().append_pair("scope", &self.scope);
                if let Some(Credential::Password { user, password }) = other {
                    let value = password.basic(user);
                    let value = value.ok_or_else(|| self.refused("its login holds characters that cannot be sent"))?;
                    headers.insert(AUTHORIZATION, value);
                }
            }
        }
        Ok(Call { url, what, headers, sent, only_head: false, weight: Weight::Light, tls: None, kind: Kind::Token })
    }

    fn refused(&self, cause: &str) -> RegistryError {
        RegistryError::Login { host: self.host.name.clone(), cause: cause.to_owned() }
    }
}

/// Fields as a form's body; a URL's query has the same encoding.
fn form_of<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let Ok(mut url) = Url::parse("http://form/") else { return String::new() };
    url.query_pairs_mut().extend_pairs(fields);
    url.query().unwrap_or_default().to_owned()
}

// === impl Authorization ===

impl Authorization {
    /// Whether it stands for somebody.
    pub(super) fn is_somebody(&self) -> bool {
        self.credential.is_some()
    }

    fn is_alive(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() < expires)
    }
}
