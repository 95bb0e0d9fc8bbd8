//! Logging in: what to send as Authorization for a repository, found out when a registry first asks.
//!
//! The token flow is distribution's ("Token Authentication Specification") with Docker's OAuth2 form for identity
//! tokens. One token is fetched however many wait for it, and kept until shortly before it runs out. Credentials go to
//! the registry they are for and to the token service it names, over TLS unless the host is one that is trusted without.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use crate::flight::{Failed, Flight};
use crate::registry::challenge::Challenge;
use crate::registry::counters::{Kind, add};
use crate::registry::credentials::{Credential, Credentials};
use crate::registry::error::RegistryError;
use crate::registry::failure;
use crate::registry::hosts::{Host, Hosts, authority};
use crate::registry::learned::{Learned, Login};
use crate::registry::reference::Repository;
use crate::registry::secret::Secret;
use crate::registry::transport::{Call, Transport, Weight};
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
    flight: Flight<Key, Arc<Authorization>, RegistryError>,
}

/// A host, by its authority, and a repository that it has.
type Key = (String, Repository);

/// What to send to one registry for one repository.
pub(super) struct Authorization {
    pub(super) header: HeaderValue,
    /// Whether it stands for somebody: an anonymous token does not.
    pub(super) is_somebody: bool,
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
            self.shared.kept.lock().retain(|(_, of), _| of != repository);
        }
        is_news.is_some()
    }

    /// What was learned, for who takes over.
    pub(super) fn learned(&self) -> Learned {
        self.shared.credentials.learned()
    }

    /// Where credentials were looked for.
    pub(super) fn looked_at(&self) -> &[std::path::PathBuf] {
        self.shared.credentials.files()
    }

    /// What worked before and has not run out.
    pub(super) fn known(&self, host: &Host, repository: &Repository) -> Option<Arc<Authorization>> {
        let kept = self.shared.kept.lock();
        kept.get(&key(host, repository)).filter(|authorization| authorization.is_alive()).cloned()
    }

    /// What to send after a registry answered 401 with these challenges to a request with `refused`. `None` if we have
    /// nothing that it would take.
    pub(super) async fn answer(
        &self,
        host: &Host,
        repository: &Repository,
        challenges: Vec<Challenge>,
        refused: Option<&Arc<Authorization>>,
    ) -> Result<Option<Arc<Authorization>>, RegistryError> {
        if let Some(known) = self.known(host, repository)
            && refused.is_none_or(|refused| !Arc::ptr_eq(refused, &known))
        {
            return Ok(Some(known)); // somebody else has asked meanwhile
        }
        let Some(challenge) = best(challenges) else { return Ok(None) };
        let (shared, host, repository) = (self.shared.clone(), host.clone(), repository.clone());
        let name = host.name.clone();
        let key = key(&host, &repository);
        let ticket = self.shared.flight.join(key.clone(), move || async move {
            let found = shared.find(&host, &repository, challenge).await?;
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

fn key(host: &Host, repository: &Repository) -> Key {
    (authority(&host.endpoint), repository.clone())
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
    async fn find(
        &self,
        host: &Host,
        repository: &Repository,
        to: Challenge,
    ) -> Result<Arc<Authorization>, RegistryError> {
        let refused = |cause: String| RegistryError::Login { host: host.name.clone(), cause };
        let credential = match host.repository(repository) {
            Some(there) => self.credentials.find(&there).await.map_err(refused)?,
            None => None,
        };
        let header = |value: Option<HeaderValue>| {
            value.ok_or_else(|| refused("its login holds characters that cannot be sent".to_owned()))
        };
        match (to, credential) {
            (_, Some(Credential::Token(token))) => Ok(Authorization::lasting(header(token.bearer())?)),
            (Challenge::Basic, Some(Credential::Password { user, password })) => {
                Ok(Authorization::lasting(header(password.basic(&user))?))
            }
            (Challenge::Bearer { realm, service, scope }, credential) => {
                let realm = self.realm(host, &realm)?;
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", repository.path()));
                let wish = Wish { host: host.clone(), repository: repository.clone(), realm, service, scope };
                self.token(&wish, credential).await
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
        let call = wish.call(credential, &what)?.of(&wish.host, wish.host.is_at(&wish.realm));
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
        Ok(Arc::new(Authorization { header, is_somebody, expires }))
    }
}

// === impl Wish ===

impl Wish {
    fn call<'a>(&self, credential: Option<Credential>, what: &'a str) -> Result<Call<'a>, RegistryError> {
        let mut url = self.realm.clone();
        let mut headers = HeaderMap::new();
        let mut form = None;
        let service = self.service.as_deref();
        match credential {
            Some(Credential::Identity(token)) => {
                let fields = [("grant_type", "refresh_token"), ("client_id", "oncefs"), ("scope", &*self.scope)];
                let fields = fields.into_iter().chain(service.map(|service| ("service", service)));
                form = Some(form_of(fields.chain([("refresh_token", token.reveal())])));
            }
            other => {
                url.query_pairs_mut().extend_pairs(service.map(|service| ("service", service)));
                url.query_pairs_mut().append_pair("scope", &self.scope);
                if let Some(Credential::Password { user, password }) = other {
                    let value = password.basic(&user);
                    let value = value.ok_or_else(|| self.refused("its login holds characters that cannot be sent"))?;
                    headers.insert(AUTHORIZATION, value);
                }
            }
        }
        Ok(Call { url, what, headers, form, only_head: false, weight: Weight::Light, tls: None, kind: Kind::Token })
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
    /// One that the registry will refuse when its time has come.
    fn lasting(header: HeaderValue) -> Arc<Self> {
        Arc::new(Self { header, is_somebody: true, expires: None })
    }

    fn is_alive(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() < expires)
    }
}
