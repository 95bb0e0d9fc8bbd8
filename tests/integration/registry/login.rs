//! Logins: tokens, passwords, helpers; and that no secret is ever shown.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::support::scripted_registry::{Act, Running, registry};

const PASSWORD: &str = "hunter2-very-secret";

fn basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("someone:{PASSWORD}")))
}

/// A docker configuration in a directory of its own.
struct Docker {
    dir: TempDir,
    config: Config,
}

impl Docker {
    fn with(text: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, text.to_string()).unwrap();
        let config = Config { docker_config: vec![path], helper_path: vec![dir.path().join("bin")], ..config() };
        Self { dir, config }
    }

    fn password_for(server: &Running, password: &str) -> Self {
        let auth = STANDARD.encode(format!("someone:{password}"));
        Self::with(&json!({"auths": {server.address.to_string(): {"auth": auth}}}))
    }

    /// Adds a helper program.
    fn helper(self, name: &str, script: &str) -> Self {
        let bin = self.dir.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        let path: PathBuf = bin.join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn client(&self) -> Registry {
        client(self.config.clone())
    }

    fn path(&self) -> &Path {
        &self.config.docker_config[0]
    }
}

#[tokio::test]
async fn a_token_for_everybody_needs_no_login() {
    let image = Sample::of_sizes(&[1000]);
    let server = registry().with("team/app", "1", &image).wants_token().run().await;
    let client = client(config());
    resolve(&client, &server.image("team/app:1")).await.unwrap();
    let tokens = server.seen("/token");
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].target, "/token?service=the+service&scope=repository%3Ateam%2Fapp%3Apull");
    assert_eq!((counts(&client).tokens, counts(&client).requests), (1, 4));
    let manifests = server.seen("manifests/");
    assert_eq!(manifests[1].headers["authorization"], "Bearer very-secret-token-0");
    assert_eq!(server.seen("blobs/").len(), 1, "the token is kept: no second 401");
}

#[tokio::test]
async fn many_who_need_a_token_fetch_one() {
    let image = Sample::of_sizes(&[1000; 20]);
    let server = registry().with("app", "1", &image).wants_token().slow(Duration::from_millis(20)).run().await;
    let client = client(Config { connections_per_host: 32, ..config() });
    let mut blobs = Vec::new();
    for n in 0..20 {
        blobs.push(open(&client, &image, n, server.origin("app")).await);
    }
    let all = futures::future::join_all(blobs.iter().map(|blob| blob.range(0..10))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(server.seen("/token").len(), 1);
}

#[tokio::test]
async fn a_token_that_ran_out_is_asked_for_once_more() {
    let image = Sample::of_sizes(&[1000]);
    let server = registry().with("app", "1", &image).wants_token().run().await;
    let client = client(config());
    resolve(&client, &server.image("app:1")).await.unwrap();
    server.revoke_tokens();
    resolve(&client, &server.image("app:1")).await.unwrap();
    assert_eq!(server.seen("/token").len(), 2);
    assert_eq!(server.seen("manifests/").len(), 4);
}

#[tokio::test]
async fn a_registry_that_takes_no_token_is_asked_only_once_again() {
    let server = registry().wants_token().run().await;
    let challenge = format!("Bearer realm=\"http://{}/token\"", server.address);
    server.add_rule(usize::MAX, "manifests/", Act::Status(401, vec![("WWW-Authenticate", challenge)]));
    let said = refused(&client(config()), &server.image("app:1")).await;
    assert!(said.contains("needs a login") || said.contains("no login is known"), "{said}");
    assert_eq!((server.seen("manifests/").len(), server.seen("/token").len()), (2, 1));
}

#[tokio::test]
async fn a_password_from_dockers_configuration_gets_a_token() {
    let image = Sample::of_sizes(&[1000]);
    let server = registry().with("app", "1", &image).wants_token_for(&basic()).run().await;
    let docker = Docker::password_for(&server, PASSWORD);
    resolve(&docker.client(), &server.image("app:1")).await.unwrap();
    let sent = server.seen("manifests/");
    assert!(
        sent.iter().all(|seen| seen.headers.get("authorization") != Some(&basic())),
        "only a token goes to the registry"
    );
}

#[tokio::test]
async fn a_password_is_sent_where_basic_is_asked_for() {
    let image = Sample::of_sizes(&[1000]);
    let server = registry().with("app", "1", &image).wants_basic(&basic()).run().await;
    let docker = Docker::password_for(&server, PASSWORD);
    resolve(&docker.client(), &server.image("app:1")).await.unwrap();
    assert_eq!(server.seen("manifests/").len(), 2, "once without, once with");
    assert!(!server.seen("manifests/")[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn an_identity_token_is_changed_for_a_token() {
    let image = Sample::of_sizes(&[1000]);
    let server = registry().with("app", "1", &image).wants_token_for_refresh("refresh-very-secret").run().await;
    let address = server.address.to_string();
    let docker = Docker::with(&json!({"auths": {address: {"identitytoken": "refresh-very-secret"}}}));
    resolve(&docker.client(), &server.image("app:1")).await.unwrap();
    let form = &server.seen("/token")[0];
    assert_eq!((form.method.as_str(), form.target.as_str()), ("POST", "/token"));
    for field in
        ["grant_type=refresh_token", "service=the+service", "scope=repository%3Aapp%3Apull", "client_id=oncefs"]
    {
        assert!(form.body.contains(field), "{}", form.body);
    }
}

#[tokio::test]
async fn a_helper_on_the_configured_path_is_asked() {
    let image = Sample::of_sizes(&[1000]);
    let server = registry().with("app", "1", &image).wants_basic(&basic()).run().await;
    let script = format!(
        r#"read -r s; [ "$1 $s" = "get {}" ] && echo '{{"Username":"someone","Secret":"{PASSWORD}"}}'"#,
        server.address
    );
    for text in [json!({"credsStore": "test"}), json!({"credHelpers": {server.address.to_string(): "test"}})] {
        let docker = Docker::with(&text).helper("test", &script);
        resolve(&docker.client(), &server.image("app:1")).await.unwrap();
    }
}

#[tokio::test]
async fn without_a_login_the_way_to_one_is_said() {
    let server = registry().wants_basic(&basic()).run().await;
    let docker = Docker::with(&json!({"auths": {}}));
    let said = refused(&docker.client(), &server.image("app:1")).await;
    assert!(said.contains(&format!("try 'docker login {}'", server.address)), "{said}");
    assert!(said.contains(&docker.path().display().to_string()) && said.contains("(UNAUTHORIZED)"), "{said}");
}

#[tokio::test]
async fn a_login_that_is_not_accepted_is_said_to_be_old() {
    for script in [registry().wants_basic(&basic()), registry().wants_token_for(&basic())] {
        let server = script.run().await;
        let docker = Docker::password_for(&server, "old-very-secret");
        let said = refused(&docker.client(), &server.image("app:1")).await;
        assert!(said.contains("was not accepted; renew it with 'docker login"), "{said}");
        assert!(said.contains(&docker.path().display().to_string()), "{said}");
    }
}

#[tokio::test]
async fn a_token_service_in_trouble_is_asked_again() {
    let image = Sample::of_sizes(&[1000]);
    let server =
        registry().with("app", "1", &image).wants_token().times(2, "/token", Act::Status(503, vec![])).run().await;
    resolve(&client(config()), &server.image("app:1")).await.unwrap();
    assert_eq!(server.seen("/token").len(), 3);
}

#[tokio::test]
async fn no_password_goes_to_a_token_service_without_tls() {
    let server = registry().wants_token_of("http://tokens.invalid/token?x=hidden").run().await;
    let docker = Docker::password_for(&server, PASSWORD);
    let said = refused(&docker.client(), &server.image("app:1")).await;
    assert!(said.contains("token service tokens.invalid:80 would be spoken to without TLS"), "{said}");
    assert!(!said.contains("hidden"), "{said}");
}

#[tokio::test]
async fn no_secret_is_shown_whatever_goes_wrong() {
    let mut errors: Vec<RegistryError> = Vec::new();
    let image = Sample::of_sizes(&[1000]);
    let acts = [
        Act::Status(401, vec![("WWW-Authenticate", basic())]),
        Act::Status(403, vec![]),
        Act::Status(500, vec![("Retry-After", "9999".to_owned())]),
        Act::Redirect(format!("https://someone:{PASSWORD}@cdn.invalid/x?sig={PASSWORD}")),
        Act::Redirect(format!("http://someone:{PASSWORD}@cdn.invalid/x?sig={PASSWORD}")),
        Act::CutAfter(10),
        Act::Bytes(Bytes::from_static(PASSWORD.as_bytes())),
    ];
    for act in acts {
        for script in [registry().wants_basic(&basic()), registry().wants_token_for(&basic())] {
            let server = script.with("app", "1", &image).always("manifests/", act.clone()).run().await;
            let docker = Docker::password_for(&server, PASSWORD);
            let client = client(Config { retries: 1, ..docker.config.clone() });
            errors.push(resolve(&client, &server.image("app:1")).await.unwrap_err());
        }
    }
    let server = registry().wants_basic(&basic()).run().await;
    let helper = format!("echo {PASSWORD}; echo {PASSWORD} >&2; exit 1");
    let docker = Docker::with(&json!({"credsStore": "bad"})).helper("bad", &helper);
    errors.push(resolve(&docker.client(), &server.image("app:1")).await.unwrap_err());
    assert!(errors.last().unwrap().to_string().contains("docker-credential-bad failed (exit status: 1)"));
    let encoded = STANDARD.encode(format!("someone:{PASSWORD}"));
    for error in errors {
        let shown = format!("{error} {error:?} {} {:?}", with_causes(&error), BlobError::from(error.clone()));
        for secret in [PASSWORD, "very-secret-token", &encoded] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
