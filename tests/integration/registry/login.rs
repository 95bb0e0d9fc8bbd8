//! Logins: tokens, passwords, helpers; and that no secret is ever shown.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use oncefs::registry::{Login, Repository};
use oncefs::sync::Mutex;

use super::*;
use crate::cli::node::write_script;
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
        write_script(&bin.join(format!("docker-credential-{name}")), script);
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
        assert!(said.contains("renew it with 'docker login"), "{said}");
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

fn login(password: &str) -> Login {
    Login { username: "someone".into(), password: password.into(), ..Login::default() }
}

fn repository(server: &Running) -> Repository {
    format!("{}/app", server.address).parse().unwrap()
}

#[tokio::test]
async fn of_several_that_were_learned_the_one_that_is_accepted_is_found_and_kept() {
    let image = Sample::of_sizes(&[1000]);
    for script in [registry().wants_basic(&basic()), registry().wants_token_for(&basic())] {
        let server = script.with("app", "1", &image).run().await;
        let client = client(config());
        for password in [PASSWORD, "of-another-pod", "of-a-third"] {
            assert!(client.learn(&repository(&server), login(password)));
        }
        resolve(&client, &server.image("app:1")).await.unwrap();
        let before = server.seen("").len();
        resolve(&client, &server.image("app:1")).await.unwrap();
        assert_eq!(server.seen("").len() - before, 2, "manifest and config, at once with what was accepted");
    }
}

#[tokio::test]
async fn what_was_learned_comes_before_the_files_and_gives_way_to_them() {
    let image = Sample::of_sizes(&[1000]);
    let server = registry().with("app", "1", &image).wants_basic(&basic()).run().await;
    let docker = Docker::password_for(&server, PASSWORD);
    let client = docker.client();
    assert!(client.learn(&repository(&server), login("old")));
    resolve(&client, &server.image("app:1")).await.unwrap();
    let sent = server.seen("manifests/").into_iter().map(|seen| seen.headers.get("authorization").cloned());
    let old = format!("Basic {}", STANDARD.encode("someone:old"));
    assert_eq!(sent.collect::<Vec<_>>(), [None, Some(old), Some(basic())]);
}

#[tokio::test]
async fn a_login_that_is_forbidden_all_at_once_is_made_anew_once() {
    let image = Sample::of_sizes(&[1000]);
    for script in [registry().wants_basic(&basic()), registry().wants_token_for(&basic())] {
        let server = script.with("app", "1", &image).run().await;
        let docker = Docker::password_for(&server, PASSWORD);
        let client = docker.client();
        resolve(&client, &server.image("app:1")).await.unwrap();
        server.add_rule(1, "manifests/", Act::Status(403, vec![]));
        resolve(&client, &server.image("app:1")).await.unwrap();
        server.add_rule(usize::MAX, "manifests/", Act::Status(403, vec![]));
        let before = server.seen("manifests/").len();
        let said = refused(&client, &server.image("app:1")).await;
        assert!(said.contains("was not accepted"), "{said}");
        assert!(server.seen("manifests/").len() - before <= 5, "it is not asked for ever");
    }
}

/// Kubelet's file and a provider's program beside it, which gives the first line of `passwords` and notes each call.
fn provider(server: &Running, dir: &TempDir, cache: &str) -> Config {
    let program = dir.path().join("cloud");
    let response = format!(
        r#"{{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","cacheDuration":"{cache}","auth":{{"{}":{{"username":"someone","password":"%s"}}}}}}"#,
        server.address
    );
    let here = dir.path().display();
    let script = format!("cat >> {here}/calls; echo >> {here}/calls\nprintf '{response}' \"$(cat {here}/password)\"");
    write_script(&program, &script);
    let file = dir.path().join("providers.yaml");
    let text = format!(
        "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: cloud\n  \
         matchImages: [\"{}\"]\n  defaultCacheDuration: 1h\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n",
        server.address
    );
    fs::write(&file, text).unwrap();
    Config {
        kubelet_credential_providers: Some(file),
        kubelet_credential_provider_bin_dir: Some(dir.path().to_owned()),
        ..config()
    }
}

#[tokio::test]
async fn a_provider_of_kubelets_is_asked_once_and_anew_when_what_it_gave_is_refused() {
    let image = Sample::of_sizes(&[1000]);
    for is_token in [true, false] {
        let script = if is_token { registry().wants_token_for(&basic()) } else { registry().wants_basic(&basic()) };
        let server = script.with("app", "1", &image).with("other", "1", &image).run().await;
        let dir = tempfile::tempdir().unwrap();
        let client = client(provider(&server, &dir, "12h"));
        let calls = || fs::read_to_string(dir.path().join("calls")).unwrap_or_default();
        fs::write(dir.path().join("password"), "of-yesterday").unwrap();
        let said = refused(&client, &server.image("app:1")).await;
        assert!(said.contains("was not accepted"), "{said}");
        fs::write(dir.path().join("password"), PASSWORD).unwrap();
        resolve(&client, &server.image("app:1")).await.unwrap();
        let before = calls().lines().count();
        resolve(&client, &server.image("other:1")).await.unwrap();
        assert_eq!(calls().lines().count(), before, "what it said is kept for the whole registry");
        let asked: Value = serde_json::from_str(calls().lines().next().unwrap()).unwrap();
        assert_eq!(asked["image"], repository(&server).to_string());
    }
}

#[tokio::test]
async fn half_of_kubelets_configuration_is_refused() {
    let half = Config { kubelet_credential_providers: Some("/etc/providers.yaml".into()), ..config() };
    let said = Registry::new(half).err().unwrap().to_string();
    assert!(said.contains("kubelet_credential_provider_bin_dir"), "{said}");
}

/// What is logged, from `trace` on.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_logged_by_anything_that_handles_one() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    let _logging = tracing::subscriber::set_default(subscriber.finish());
    let image = Sample::of_sizes(&[1000]);
    for script in [registry().wants_basic(&basic()), registry().wants_token_for(&basic())] {
        let server = script.with("app", "1", &image).once("blobs/", Act::Status(503, vec![])).run().await;
        let dir = tempfile::tempdir().unwrap();
        let client = client(provider(&server, &dir, "12h"));
        fs::write(dir.path().join("password"), "of-yesterday-very-secret").unwrap();
        client.learn(&repository(&server), login("learned-very-secret"));
        refused(&client, &server.image("app:1")).await;
        fs::write(dir.path().join("password"), PASSWORD).unwrap();
        resolve(&client, &server.image("app:1")).await.unwrap();
        server.revoke_tokens();
        client.reload(&Config { retries: 1, ..provider_that_fails(&server, &dir) }).unwrap();
        refused(&client, &server.image("app:1")).await;
    }
    let log = String::from_utf8_lossy(&log.0.lock()).into_owned();
    assert!(log.contains("asking again") && log.contains("no credentials from a provider"), "{log}");
    let encoded = [PASSWORD, "of-yesterday-very-secret", "learned-very-secret"]
        .map(|password| STANDARD.encode(format!("someone:{password}")));
    for secret in [PASSWORD, "very-secret"].into_iter().chain(encoded.iter().map(String::as_str)) {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}

fn provider_that_fails(server: &Running, dir: &TempDir) -> Config {
    let config = provider(server, dir, "0s");
    write_script(&dir.path().join("cloud"), &format!("echo {PASSWORD}; echo {PASSWORD} >&2; exit 1"));
    config
}
