//! What of the registry's side can be chosen. Paths come in finished: nothing here reads the environment.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How registries are reached and asked. Hosts are written `HOST` (any port) or `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Hosts spoken to over plain HTTP. Loopback hosts need no entry.
    pub insecure_hosts: Vec<String>,
    /// Loopback hosts that speak HTTPS all the same.
    pub secure_hosts: Vec<String>,
    /// Folders of containerd's registry configuration (`HOST/hosts.toml`), best first; mirrors, certificates and headers for each
    /// registry are said there. One that does not exist is passed over.
    pub config_path: Vec<PathBuf>,
    /// PEM files of certificate authorities to trust besides the system's.
    pub ca_files: Vec<PathBuf>,
    /// Docker's `config.json` and files of its form, best first; the first that knows the host decides. One that does
    /// not exist is passed over.
    pub docker_config: Vec<PathBuf>,
    /// Folders where `docker-credential-NAME` programs are looked for; empty means the usual ones.
    pub helper_path: Vec<PathBuf>,
    /// Kubelet's file of credential providers (its `--image-credential-provider-config`), asked before docker's
    /// configuration. Its programs' folder must be named too.
    pub kubelet_credential_providers: Option<PathBuf>,
    /// Where the programs of those providers are (kubelet's `--image-credential-provider-bin-dir`).
    pub kubelet_credential_provider_bin_dir: Option<PathBuf>,
    /// How long a credential helper may take; some ask a cloud.
    pub helper_timeout_secs: u64,
    /// Requests to one host at the same time. A quarter is kept free of whole-layer downloads, so that small requests
    /// (manifests, single frames somebody waits for) need not queue behind them.
    pub connections_per_host: usize,
    /// Requests to one host in a second, whoever asks; 0 is without a bound.
    pub requests_per_second: u32,
    /// How long finding the address, connecting and the TLS handshake may take together.
    pub connect_timeout_secs: u64,
    /// How long a registry may think before it answers.
    pub response_timeout_secs: u64,
    /// How long a body may pause; one that brings less than 512 bytes a second for as long is taken for one that does.
    pub idle_timeout_secs: u64,
    /// How often a request is tried again, and how often a download that broke midway is resumed without getting on.
    pub retries: u32,
    /// All tries of one request with the pauses between them start within this; a longer Retry-After is not waited for.
    pub retry_deadline_secs: u64,
    /// The pause before the first retry; each further one doubles it, up to 10 s, and chance shortens it by up to half.
    pub retry_pause_ms: u64,
    pub user_agent: String,
}

/// Where distributions put programs.
const USUAL_PATH: &[&str] = &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            insecure_hosts: Vec::new(),
            secure_hosts: Vec::new(),
            config_path: vec!["/etc/containerd/certs.d".into(), "/etc/docker/certs.d".into()],
            ca_files: Vec::new(),
            docker_config: Vec::new(),
            helper_path: Vec::new(),
            kubelet_credential_providers: None,
            kubelet_credential_provider_bin_dir: None,
            helper_timeout_secs: 30,
            connections_per_host: 8,
            requests_per_second: 0,
            connect_timeout_secs: 5,
            response_timeout_secs: 30,
            idle_timeout_secs: 30,
            retries: 5,
            retry_deadline_secs: 60,
            retry_pause_ms: 200,
            user_agent: concat!("oncefs/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl Config {
    pub(super) fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_secs.max(1))
    }

    pub(super) fn response_timeout(&self) -> Duration {
        Duration::from_secs(self.response_timeout_secs.max(1))
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_secs.max(1))
    }

    pub(super) fn helper_timeout(&self) -> Duration {
        Duration::from_secs(self.helper_timeout_secs.max(1))
    }

    pub(super) fn helper_folders(&self) -> Vec<PathBuf> {
        if self.helper_path.is_empty() {
            USUAL_PATH.iter().map(PathBuf::from).collect()
        } else {
            self.helper_path.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_and_a_missing_one_has_its_default() {
        let read = |text: &str| serde_json::from_str::<Config>(text);
        assert_eq!(read("{}").unwrap(), Config::default());
        assert_eq!(read(r#"{"retries": 1}"#).unwrap().retries, 1);
        assert!(read(r#"{"retrys": 1}"#).unwrap_err().to_string().contains("unknown field `retrys`"));
    }
}
