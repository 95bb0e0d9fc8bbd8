//! Who we are to a registry: what was learned, kubelet's credential providers, docker's `config.json` and files of its form
//! with the helper programs they name, in this order.
//!
//! Files are read anew whenever they are needed, so that a `docker login` counts at once. Errors name the file or the helper and
//! never what it holds: serde's own messages quote values, so only their line and column are passed on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::registry::config::Config;
use crate::registry::credential_helper;
use crate::registry::kubelet::Kubelet;
use crate::registry::learned::{Learned, Login};
use crate::registry::reference::{DOCKER_HUB, Repository};
use crate::registry::secret::Secret;

/// What proves who we are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Credential {
    Password {
        user: String,
        password: Secret,
    },
    /// An OAuth2 refresh token, to be changed for an access token.
    Identity(Secret),
    /// A finished access token.
    Token(Secret),
}

/// Where credentials are looked for.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    files: Vec<PathBuf>,
    helper_folders: Vec<PathBuf>,
    helper_timeout: Duration,
    learned: Learned,
    kubelet: Kubelet,
}

#[derive(Deserialize, Default)]
pub(super) struct FileText {
    #[serde(default)]
    auths: BTreeMap<String, AuthText>,
    #[serde(rename = "credHelpers", default)]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore", default)]
    store: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthText {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What docker calls Docker Hub in its configuration, and what its helpers expect.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
const FILE_BYTES_MAX: u64 = 1 << 20;

// === impl Credentials ===

impl Credentials {
    pub(super) fn new(config: &Config, learned: Learned) -> Self {
        Self {
            files: config.docker_config.clone(),
            helper_folders: config.helper_folders(),
            helper_timeout: config.helper_timeout(),
            learned,
            kubelet: Kubelet::new(config),
        }
    }

    /// Takes what somebody says for `repository`; it counts more than the files. `None` if it is no login, else whether it is news.
    pub(super) fn learn(&self, repository: &Repository, login: Login) -> Option<bool> {
        let text = AuthText {
            auth: login.auth,
            username: login.username,
            password: login.password,
            identitytoken: login.identity_token,
            registrytoken: login.registry_token,
        };
        let credential = Some(text).filter(|text| !text.is_empty())?.credential()?;
        Some(self.learned.learn(repository, credential))
    }

    /// The files that are looked at, for those who find nothing there.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The best credential for `repository` that is none of those that were `refused`. An error is a sentence.
    pub(super) async fn find(
        &self,
        repository: &Repository,
        refused: &[Credential],
    ) -> Result<Option<Credential>, String> {
        if let Some(learned) = self.learned.find(repository, refused) {
            return Ok(Some(learned));
        }
        match self.kubelet.find(repository, refused).await {
            Ok(Some(provided)) => return Ok(Some(provided)),
            Ok(None) => {}
            // Docker's files may know, and the image may be public.
            Err(cause) => tracing::warn!(%repository, "kubelet's credential providers cannot be asked: {cause}"),
        }
        for path in &self.files {
            let Some(file) = read(path.clone()).await? else { continue };
            let is_new = |credential: &Credential| !refused.contains(credential);
            if let Some(credential) = self.helped(&file, repository, path).await?.filter(is_new) {
                return Ok(Some(credential));
            }
            if let Some(credential) = file.stored(repository, path)?.filter(is_new) {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }

    /// What the helper that the file names for the repository's registry knows.
    async fn helped(&self, file: &FileText, of: &Repository, path: &Path) -> Result<Option<Credential>, String> {
        let Some(name) = file.helper(of.host()) else { return Ok(None) };
        let server = if of.host() == DOCKER_HUB { DOCKER_HUB_KEY } else { of.host() };
        let found = credential_helper::ask(&name, &self.helper_folders, self.helper_timeout, server).await;
        found.map_err(|cause| format!("{cause} (named in {})", path.display()))
    }
}

/// The file, or `None` if there is none.
async fn read(path: PathBuf) -> Result<Option<FileText>, String> {
    let read = tokio::task::spawn_blocking(move || {
        let bytes = match read_bounded(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        FileText::parse(&bytes).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("{} is not a docker configuration (line {line}, column {column})", path.display())
        })
    });
    read.await.unwrap_or_else(|_| Err("reading the docker configuration was interrupted".to_owned()))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX { Err(io::Error::other("it is larger than 1 MiB")) } else { Ok(bytes) }
}

// === impl FileText ===

impl FileText {
    /// An empty file says nothing.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, serde_json::Error> {
        if bytes.trim_ascii().is_empty() { Ok(None) } else { serde_json::from_slice(bytes).map(Some) }
    }

    /// The helper program for a registry: its own, else the one for all.
    pub(super) fn helper(&self, host: &str) -> Option<String> {
        let own = self.helpers.iter().find(|(key, _)| key_of(key) == host).map(|(_, name)| name);
        own.or(Some(&self.store)).filter(|name| !name.is_empty()).cloned()
    }

    /// What the file itself holds, for the longest key that covers the repository (podman's files have such).
    pub(super) fn stored(&self, repository: &Repository, path: &Path) -> Result<Option<Credential>, String> {
        let whole = repository.to_string();
        let covers = |key: &str| whole.strip_prefix(key).is_some_and(|rest| rest.starts_with('/') || rest.is_empty());
        let covering = self.auths.iter().map(|(key, auth)| (key_of(key), auth)).filter(|(key, _)| covers(key));
        let credentials = covering.filter(|(_, auth)| !auth.is_empty()).max_by_key(|(key, _)| key.len());
        let Some((key, auth)) = credentials else { return Ok(None) };
        auth.credential()
            .map(Some)
            .ok_or_else(|| format!("the entry for {key} in {} cannot be decoded", path.display()))
    }
}

/// A key of the file as hosts and repositories are written here: no scheme, no `/v1/`, Docker Hub by its own name.
pub(super) fn key_of(key: &str) -> String {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or_else(|| bare.strip_suffix("/v2")).unwrap_or(bare);
    let (host, path) = bare.split_at(bare.find('/').unwrap_or(bare.len()));
    let host = match host.to_ascii_lowercase().as_str() {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
        other => other.to_owned(),
    };
    host + path
}

// === impl AuthText ===

impl AuthText {
    fn is_empty(&self) -> bool {
        [&self.auth, &self.username, &self.identitytoken, &self.registrytoken].iter().all(|text| text.is_empty())
    }

    fn credential(&self) -> Option<Credential> {
        if !self.registrytoken.is_empty() {
            return Some(Credential::Token(Secret::new(&self.registrytoken)));
        }
        if !self.identitytoken.is_empty() {
            return Some(Credential::Identity(Secret::new(&self.identitytoken)));
        }
        if self.auth.is_empty() {
            return Some(Credential::Password { user: self.username.clone(), password: Secret::new(&self.password) });
        }
        let text = String::from_utf8(STANDARD.decode(self.auth.trim()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        // Old versions of docker padded the password with zero bytes.
        Some(Credential::Password { user: user.to_owned(), password: Secret::new(password.trim_end_matches('\0')) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(user: &str, password: &str) -> String {
        STANDARD.encode(format!("{user}:{password}"))
    }

    fn password(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password { user: user.into(), password: Secret::new(password) })
    }

    fn stored(text: &serde_json::Value, repository: &str) -> Result<Option<Credential>, String> {
        let file: FileText = serde_json::from_str(&text.to_string()).unwrap();
        file.stored(&repository.parse().unwrap(), Path::new("config.json"))
    }

    #[test]
    fn the_entry_for_the_registry_is_found_however_it_is_written() {
        let text = serde_json::json!({"auths": {
            "https://index.docker.io/v1/": {"auth": auth("hub", "a:b")},
            "quay.io": {"auth": auth("quay", "q\0\0")},
            "https://Private.example:5000/v2/": {"username": "plain", "password": "p"},
            "podman.example": {"auth": auth("all", "1")},
            "podman.example/team/app": {"auth": auth("one", "2")},
            "empty.example": {},
        }, "HttpHeaders": {"User-Agent": "x"}, "plugins": {}});
        let cases = [
            ("redis", password("hub", "a:b")),
            ("quay.io/a/b", password("quay", "q")),
            ("private.example:5000/a", password("plain", "p")),
            ("podman.example/team/app", password("one", "2")),
            ("podman.example/team/application", password("all", "1")),
            ("private.example/a", None),
            ("empty.example/a", None),
        ];
        for (repository, want) in cases {
            assert_eq!(stored(&text, repository), Ok(want), "{repository}");
        }
    }

    #[test]
    fn tokens_come_before_passwords() {
        let text = serde_json::json!({"auths": {
            "a.example": {"auth": auth("<token>", ""), "identitytoken": "i"},
            "b.example": {"registrytoken": "r"},
        }});
        assert_eq!(stored(&text, "a.example/x"), Ok(Some(Credential::Identity(Secret::new("i")))));
        assert_eq!(stored(&text, "b.example/x"), Ok(Some(Credential::Token(Secret::new("r")))));
    }

    #[test]
    fn a_helper_of_the_registrys_own_comes_before_the_one_for_all() {
        let file = |text: &str| serde_json::from_str::<FileText>(text).unwrap();
        let both = file(
            r#"{"credHelpers": {"ecr.example": "ecr-login", "https://index.docker.io/v1/": "hub"}, "credsStore": "pass"}"#,
        );
        assert_eq!(both.helper("ecr.example"), Some("ecr-login".into()));
        assert_eq!(both.helper("docker.io"), Some("hub".into()));
        assert_eq!(both.helper("quay.io"), Some("pass".into()));
        assert_eq!(file("{}").helper("quay.io"), None);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_understood_is_named_and_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let of = |files: Vec<PathBuf>| {
            Credentials::new(&Config { docker_config: files, ..Config::default() }, Learned::default())
        };
        for text in [r#"{"auths": {"h.example": {"auth": ["hunter2"]}}}"#, r#"{"auths": "hunter2"}"#, "hunter2"] {
            std::fs::write(&path, text).unwrap();
            let refused = of(vec![path.clone()]).find(&"h.example/a".parse().unwrap(), &[]).await.unwrap_err();
            assert!(refused.contains("config.json is not a docker configuration (line 1"), "{refused}");
            assert!(!refused.contains("hunter2"), "{refused}");
        }
        std::fs::write(&path, r#"{"auths": {"h.example": {"auth": "hunter2!"}}}"#).unwrap();
        let refused = of(vec![path.clone()]).find(&"h.example/a".parse().unwrap(), &[]).await.unwrap_err();
        assert!(refused.contains("the entry for h.example") && !refused.contains("hunter2"), "{refused}");
        assert_eq!(of(vec![dir.path().join("none")]).find(&"h.example/a".parse().unwrap(), &[]).await, Ok(None));
        std::fs::write(&path, vec![b' '; FILE_BYTES_MAX as usize + 1]).unwrap();
        let refused = of(vec![path]).find(&"h.example/a".parse().unwrap(), &[]).await.unwrap_err();
        assert!(refused.contains("larger than 1 MiB"), "{refused}");
    }

    #[tokio::test]
    async fn the_first_file_that_knows_the_registry_decides() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = ["a", "b", "c"].iter().map(|name| dir.path().join(name)).collect();
        std::fs::write(&paths[1], serde_json::json!({"auths": {"o.example": {"auth": auth("o", "1")}}}).to_string())
            .unwrap();
        std::fs::write(&paths[2], serde_json::json!({"auths": {"h.example": {"auth": auth("h", "2")}}}).to_string())
            .unwrap();
        let credentials = Credentials::new(&Config { docker_config: paths, ..Config::default() }, Learned::default());
        assert_eq!(credentials.find(&"h.example/a".parse().unwrap(), &[]).await, Ok(password("h", "2")));
        assert_eq!(credentials.find(&"o.example/a".parse().unwrap(), &[]).await, Ok(password("o", "1")));
    }

    #[tokio::test]
    async fn what_was_refused_is_passed_over_and_the_next_one_found() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = ["a", "b"].iter().map(|name| dir.path().join(name)).collect();
        for (path, name) in paths.iter().zip(["first", "second"]) {
            let text = serde_json::json!({"auths": {"h.example": {"auth": auth(name, "p")}}});
            std::fs::write(path, text.to_string()).unwrap();
        }
        let credentials = Credentials::new(&Config { docker_config: paths, ..Config::default() }, Learned::default());
        let repository: Repository = "h.example/a".parse().unwrap();
        let login = |name: &str| Login { username: name.into(), password: "p".into(), ..Login::default() };
        assert_eq!(credentials.learn(&repository, login("older")), Some(true));
        assert_eq!(credentials.learn(&repository, login("newer")), Some(true));
        let mut refused = Vec::new();
        for name in ["newer", "older", "first", "second"] {
            let found = credentials.find(&repository, &refused).await.unwrap();
            assert_eq!(found, password(name, "p"));
            refused.extend(found);
        }
        assert_eq!(credentials.find(&repository, &refused).await, Ok(None));
    }
}
