//! The configuration file, which providers are asked, and what their answers mean.

use super::*;

/// A folder with kubelet's file and a program that is a real one, as kubelet would run it.
struct Node {
    dir: tempfile::TempDir,
    kubelet: Kubelet,
}

const FILE: &str = r#"
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: cloud
    matchImages: ["*.cloud.example", "docker.io"]
    defaultCacheDuration: "1h"
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    args: ["get", "it"]
    env: [{name: CLOUD_SECRET, value: hunter2-env}]
"#;

impl Node {
    fn with(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            kubelet_credential_providers: Some(dir.path().join("providers.yaml")),
            kubelet_credential_provider_bin_dir: Some(dir.path().to_owned()),
            ..Config::default()
        };
        let node = Self { kubelet: Kubelet::new(&config), dir };
        node.write(FILE);
        node.script(script);
        node
    }

    fn write(&self, file: &str) {
        std::fs::write(self.dir.path().join("providers.yaml"), file).unwrap();
    }

    /// The program notes each call.
    fn script(&self, script: &str) {
        let path = self.dir.path().join("cloud");
        let calls = self.dir.path().join("calls");
        program::write_script(&path, &format!("read -r asked; echo \"$asked\" >> {}\n{script}", calls.display()));
    }

    fn answering(response: &str) -> Self {
        Self::with(&format!("cat <<'END'\n{response}\nEND"))
    }

    fn calls(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn find(&self, repository: &str, refused: &[Credential]) -> Result<Option<Credential>, String> {
        self.kubelet.find(&repository.parse().unwrap(), refused).await
    }
}

fn response(cache: &str, auth: &str) -> String {
    format!(
        r#"{{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1",{cache},"auth":{auth}}}"#
    )
}

fn password(user: &str, password: &str) -> Option<Credential> {
    Some(Credential::Password { user: user.into(), password: Secret::new(password) })
}

#[tokio::test]
async fn a_provider_is_asked_as_kubelet_asks_it_and_for_its_images_only() {
    let script = r#"[ "$1 $2" = "get it" ] || exit 1
printf '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image","auth":{"*.cloud.example":{"username":"u","password":"%s"}}}' "$CLOUD_SECRET""#;
    let node = Node::with(script);
    assert_eq!(node.find("a.cloud.example/team/app", &[]).await, Ok(password("u", "hunter2-env")));
    assert_eq!(node.find("quay.io/app", &[]).await, Ok(None));
    let asked = serde_json::json!({
        "kind": "CredentialProviderRequest", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "image": "a.cloud.example/team/app",
    });
    assert_eq!(node.calls(), [asked]);
}

#[tokio::test]
async fn an_answer_is_kept_for_as_much_and_as_long_as_it_says() {
    let auth = r#"{"*.cloud.example":{"username":"u","password":"p"}}"#;
    // How many calls three images of two registries take.
    let cases = [
        (r#""cacheKeyType":"Image""#, 3),
        (r#""cacheKeyType":"Registry""#, 2),
        (r#""cacheKeyType":"Global""#, 1),
        (r#""cacheKeyType":"Global","cacheDuration":"0s""#, 6),
        (r#""cacheKeyType":"Global","cacheDuration":"1h""#, 1),
        (r#""cacheKeyType":"Global","cacheDuration":"1ns""#, 6),
    ];
    for (cache, want) in cases {
        let node = Node::answering(&response(cache, auth));
        for image in ["a.cloud.example/1", "a.cloud.example/2", "b.cloud.example/1"].repeat(2) {
            assert_eq!(node.find(image, &[]).await, Ok(password("u", "p")), "{cache}");
        }
        assert_eq!(node.calls().len(), want, "{cache}");
    }
}

#[tokio::test]
async fn the_credential_for_the_longest_name_comes_first_and_a_refused_one_is_passed_over() {
    let auth = r#"{"a.cloud.example":{"username":"all","password":"1"},"a.cloud.example/team":{"username":"team","password":"2"},
        "other.example":{"username":"other","password":"3"},"a.cloud.example/none":{"username":"","password":""}}"#;
    let node = Node::answering(&response(r#""cacheKeyType":"Global""#, auth));
    let team = node.find("a.cloud.example/team/app", &[]).await.unwrap();
    assert_eq!(team, password("team", "2"));
    assert_eq!(node.find("a.cloud.example/team/app", &[team.unwrap()]).await, Ok(password("all", "1")));
    assert_eq!(node.find("a.cloud.example/none", &[]).await, Ok(password("all", "1")));
    assert_eq!(node.find("docker.io/library/redis", &[]).await, Ok(None));
    assert_eq!(node.calls().len(), 1);
}

#[tokio::test]
async fn a_kept_credential_that_is_refused_is_asked_for_anew_once() {
    let script = r#"printf '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","auth":{"*.cloud.example":{"username":"u","password":"%s"}}}' "$(grep -c . "${0%/*}/calls")""#;
    let node = Node::with(script);
    let old = node.find("a.cloud.example/app", &[]).await.unwrap().unwrap();
    assert_eq!(Some(old.clone()), password("u", "1"));
    assert_eq!(node.find("a.cloud.example/app", &[old]).await, Ok(password("u", "2")));
    assert_eq!(node.find("a.cloud.example/app", &[]).await, Ok(password("u", "2")));
    assert_eq!(node.calls().len(), 2);
}

#[tokio::test]
async fn docker_hub_s_other_names_are_docker_hub() {
    for name in ["docker.io", "index.docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"] {
        let auth = format!(r#"{{"{name}":{{"username":"u","password":"p"}}}}"#);
        let node = Node::answering(&response(r#""cacheKeyType":"Global""#, &auth));
        assert_eq!(node.find("redis", &[]).await, Ok(password("u", "p")), "{name}");
        assert_eq!(node.calls()[0]["image"], "docker.io/library/redis");
    }
}

#[tokio::test]
async fn a_provider_that_fails_is_as_one_that_knows_nothing() {
    let wrong_version = response(r#""cacheKeyType":"Global""#, "{}").replace("k8s.io/v1", "k8s.io/v1beta1");
    let scripts = [
        "echo hunter2 >&2; exit 3".to_owned(),
        "echo hunter2".to_owned(),
        "head -c 2000000 /dev/zero".to_owned(),
        format!("echo '{wrong_version}'"),
        format!("echo '{}'", response(r#""cacheKeyType":"Some""#, "{}")),
        format!("echo '{}'", response(r#""cacheKeyType":"Global","cacheDuration":"hunter2""#, "{}")),
    ];
    for script in scripts {
        let node = Node::with(&script);
        assert_eq!(node.find("a.cloud.example/app", &[]).await, Ok(None), "{script}");
        let provider = providers::parse(FILE.as_bytes()).unwrap().remove(0);
        let refused = node.kubelet.shared.ask(&provider, node.dir.path(), "a.cloud.example/app").await.unwrap_err();
        assert!(refused.starts_with("cloud ") && !refused.contains("hunter2"), "{refused}");
    }
    let node = Node::answering(&response(r#""cacheKeyType":"Global""#, "null"));
    assert_eq!(node.find("a.cloud.example/app", &[]).await, Ok(None));
    std::fs::remove_file(node.dir.path().join("cloud")).unwrap();
    node.write(&FILE.replace("1h", "2h"));
    assert_eq!(node.find("a.cloud.example/app", &[]).await, Ok(None));
}

#[tokio::test]
async fn the_file_is_read_again_when_it_has_changed_and_named_when_it_is_broken() {
    let node = Node::answering(&response(
        r#""cacheKeyType":"Global""#,
        r#"{"*.cloud.example":{"username":"u","password":"p"}}"#,
    ));
    assert_eq!(node.find("a.cloud.example/app", &[]).await, Ok(password("u", "p")));
    node.write(&FILE.replace("*.cloud.example", "*.other.example"));
    assert_eq!(node.find("a.cloud.example/app", &[]).await, Ok(None));
    node.write(&FILE.replace("args: [\"get\", \"it\"]", "tokenAttributes: {requireServiceAccount: true}"));
    assert_eq!(node.find("a.cloud.example/app", &[]).await, Ok(None), "only kubelet has the pod's token");
    node.write(&FILE.replace("matchImages", "matchimages"));
    let refused = node.find("a.cloud.example/app", &[]).await.unwrap_err();
    assert!(refused.contains("providers.yaml has a provider \"cloud\" without matchImages"), "{refused}");
    std::fs::remove_file(node.dir.path().join("providers.yaml")).unwrap();
    let refused = node.find("a.cloud.example/app", &[]).await.unwrap_err();
    assert!(refused.contains("cannot read") && refused.contains("providers.yaml"), "{refused}");
}

#[test]
fn nothing_that_is_kept_is_shown() {
    let node = Node::with("true");
    let said: Said = Arc::new(vec![("a".into(), password("u", "hunter2").unwrap())]);
    node.kubelet.shared.keep(Key { provider: "cloud".into(), scope: Scope::Global }, Duration::from_secs(60), said);
    let shown = format!("{:?}", node.kubelet);
    assert!(shown.contains("Global") && !shown.contains("hunter2"), "{shown}");
}
