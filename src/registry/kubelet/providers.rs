//! Kubelet's own file of credential providers: `CredentialProviderConfig`, as YAML or JSON.
//!
//! What is wrong in it is named by line or by provider and never quoted: providers' environments may hold secrets.
//! Keys that are not known are passed over, so that a newer kubelet's file can be read.

use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;

use crate::registry::duration;

/// One program, and which images it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::registry) struct Provider {
    pub(super) name: String,
    pub(super) match_images: Vec<String>,
    pub(super) cache: Duration,
    /// Of the texts that it reads and writes.
    pub(super) api_version: String,
    pub(super) args: Vec<String>,
    pub(super) env: Env,
    /// It wants a token of the pod's service account, which only kubelet has.
    pub(super) needs_pod: bool,
}

/// Variables for a program. Shows only their names.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Env(pub(super) Vec<(String, String)>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileText {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Vec<ProviderText>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProviderText {
    name: String,
    #[serde(default)]
    match_images: Vec<String>,
    default_cache_duration: String,
    api_version: String,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<EnvText>>,
    #[serde(default)]
    token_attributes: Option<TokenText>,
}

#[derive(Deserialize)]
struct EnvText {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenText {
    #[serde(default)]
    require_service_account: bool,
}

const KIND: &str = "CredentialProviderConfig";
const FILE_VERSIONS: [&str; 3] =
    ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];
const PLUGIN_VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];
const PROVIDERS_MAX: usize = 64;

/// The providers of a file, in its order. An error is a clause to stand after the file's name.
pub(in crate::registry) fn parse(text: &[u8]) -> Result<Vec<Provider>, String> {
    let file: FileText = serde_saphyr::from_slice(text).map_err(|error| match error.location() {
        Some(at) => format!("is no {KIND} (line {}, column {})", at.line(), at.column()),
        None => format!("is no {KIND}"),
    })?;
    if file.kind != KIND || !FILE_VERSIONS.contains(&file.api_version.as_str()) {
        return Err(format!("is no {KIND} of {}", FILE_VERSIONS.join(", ")));
    }
    if file.providers.is_empty() || file.providers.len() > PROVIDERS_MAX {
        return Err(format!("has {} providers; 1 to {PROVIDERS_MAX} are allowed", file.providers.len()));
    }
    let mut names = HashSet::new();
    let mut providers = Vec::new();
    for provider in file.providers {
        let name = provider.name.chars().take(64).collect::<String>();
        let provider = provider.check().map_err(|cause| format!("has a provider {name:?} {cause}"))?;
        if !names.insert(provider.name.clone()) {
            return Err(format!("has two providers {name:?}"));
        }
        providers.push(provider);
    }
    Ok(providers)
}

// === impl ProviderText ===

impl ProviderText {
    fn check(self) -> Result<Provider, String> {
        let is_name = !self.name.is_empty() && ![".", ".."].contains(&self.name.as_str());
        // It becomes the name of a file in the folder of programs.
        if !is_name || self.name.contains(['/', '\0']) || self.name.contains(char::is_whitespace) {
            return Err("whose name is no name of a program".to_owned());
        }
        if !PLUGIN_VERSIONS.contains(&self.api_version.as_str()) {
            return Err(format!("whose apiVersion is none of {}", PLUGIN_VERSIONS.join(", ")));
        }
        if self.match_images.is_empty() {
            return Err("without matchImages".to_owned());
        }
        let cache = duration::parse(&self.default_cache_duration)
            .ok_or("whose defaultCacheDuration is no duration (as in \"12h\" or \"0s\")")?;
        let env: Vec<_> = self.env.unwrap_or_default().into_iter().map(|env| (env.name, env.value)).collect();
        let is_variable =
            |(name, value): &(String, String)| !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
        if !env.iter().all(is_variable) {
            return Err("with an env that cannot be set".to_owned());
        }
        Ok(Provider {
            name: self.name,
            match_images: self.match_images,
            cache,
            api_version: self.api_version,
            args: self.args.unwrap_or_default(),
            env: Env(env),
            needs_pod: self.token_attributes.is_some_and(|token| token.require_service_account),
        })
    }
}

// === impl Env ===

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECR: &str = r#"
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: ecr-credential-provider
    matchImages:
      - "*.dkr.ecr.*.amazonaws.com"
      - "public.ecr.aws"
    defaultCacheDuration: "12h"
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    args:
      - get-credentials
    env:
      - name: AWS_PROFILE
        value: hunter2
    newerThanUs: true
"#;

    #[test]
    fn a_file_of_kubelet_s_is_understood() {
        let provider = parse(ECR.as_bytes()).unwrap().remove(0);
        assert_eq!(provider.name, "ecr-credential-provider");
        assert_eq!(provider.match_images, ["*.dkr.ecr.*.amazonaws.com", "public.ecr.aws"]);
        assert_eq!((provider.cache, provider.needs_pod), (Duration::from_secs(12 * 3600), false));
        assert_eq!(provider.args, ["get-credentials"]);
        assert_eq!(provider.env.0, [("AWS_PROFILE".to_owned(), "hunter2".to_owned())]);
        assert!(!format!("{provider:?}").contains("hunter2"));
        let json = br#"{"apiVersion": "kubelet.config.k8s.io/v1alpha1", "kind": "CredentialProviderConfig", "providers": [
            {"name": "acr", "matchImages": ["*.azurecr.io"], "defaultCacheDuration": "0s", "args": null,
             "apiVersion": "credentialprovider.kubelet.k8s.io/v1alpha1", "tokenAttributes": {"requireServiceAccount": true}}]}"#;
        let provider = parse(json).unwrap().remove(0);
        assert!(provider.needs_pod && provider.cache.is_zero() && provider.args.is_empty());
    }

    #[test]
    fn what_kubelet_refuses_is_refused_and_not_quoted() {
        let cases = [
            (
                "v1\nkind: CredentialProviderConfig",
                "v2\nkind: CredentialProviderConfig",
                "is no CredentialProviderConfig of",
            ),
            ("kind: CredentialProviderConfig", "kind: Pod", "is no CredentialProviderConfig of"),
            ("name: ecr-credential-provider", "name: ../sh", "no name of a program"),
            ("name: ecr-credential-provider", "name: ..", "no name of a program"),
            ("name: ecr-credential-provider", "name: a b", "no name of a program"),
            ("name: ecr-credential-provider", "name: ''", "no name of a program"),
            ("\"12h\"", "hunter2", "defaultCacheDuration"),
            ("\"12h\"", "-1h", "defaultCacheDuration"),
            (
                "credentialprovider.kubelet.k8s.io/v1",
                "credentialprovider.kubelet.k8s.io/v9",
                "whose apiVersion is none of",
            ),
            ("name: AWS_PROFILE", "name: A=B", "an env that cannot be set"),
            ("value: hunter2", "value: [hunter2]", "(line 15"),
            ("providers:", "providers: hunter2\nothers:", "(line 4"),
        ];
        for (from, to, want) in cases {
            let refused = parse(ECR.replace(from, to).as_bytes()).unwrap_err();
            assert!(refused.contains(want) && !refused.contains("hunter2"), "{to}: {refused}");
        }
        assert!(parse(b"").is_err() && parse(b"\xff\xfe\x00").is_err() && parse(b"&a [*a, *a]").is_err());
        let provider = ECR.find("  - name: ecr").unwrap();
        let twice = format!("{ECR}{}", &ECR[provider..]);
        assert!(parse(twice.as_bytes()).unwrap_err().contains("two providers"));
    }

    #[test]
    fn a_text_that_grows_when_it_is_read_is_refused() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for n in 1..12 {
            let last = n - 1;
            let stars = vec![format!("*a{last}"); 10].join(",");
            bomb += &format!("a{n}: &a{n} [{stars}]\n");
        }
        assert!(parse(bomb.as_bytes()).is_err());
    }
}
