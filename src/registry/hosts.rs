//! Where a registry is: its scheme and its real name, and the mirrors to ask before it. The one place that decides what may go
//! over plain HTTP.

mod file;
mod folders;
mod unverified;

use std::net::IpAddr;

use reqwest::Url;
use reqwest::header::HeaderMap;

use crate::registry::config::Config;
use crate::registry::error::RegistryError;
use crate::registry::reference::{DOCKER_HUB, Repository};
use crate::sync::Arc;

pub(super) use file::HostFile;
pub(super) use file::Tls;
pub use unverified::{Missing, Unverified};

use file::{Manner, Place};
use folders::Folders;
use unverified::{Told, insecure};

/// Docker Hub's registry has another name than its images.
const DOCKER_HUB_ENDPOINT: &str = "registry-1.docker.io";

/// The rules of the configuration, read once.
#[derive(Debug, Clone)]
pub(super) struct Hosts {
    insecure: Vec<Pattern>,
    secure: Vec<Pattern>,
    folders: Arc<Folders>,
    told: Arc<Told>,
}

/// A registry to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// As its images are named: what people and docker's configuration call it.
    pub(super) name: String,
    /// Of its API: `https://registry-1.docker.io/v2/`
    pub(super) endpoint: Url,
    /// The registry that it stands in for, if it is a mirror.
    pub(super) mirrored: Option<String>,
    /// Sent with every request, to it alone.
    pub(super) headers: HeaderMap,
    /// How to connect, where the configuration does not say it for all.
    pub(super) tls: Option<Arc<Tls>>,
}

/// What a host is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// To say what a name means.
    Resolve,
    /// To give what a digest names.
    Pull,
    /// To say which manifests are about another one.
    Referrers,
    /// To take what is new.
    Push,
}

/// `HOST` or `HOST:PORT` from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    host: String,
    port: Option<u16>,
}

// === impl Hosts ===

impl Hosts {
    pub(super) fn new(config: &Config) -> Result<Self, RegistryError> {
        let read = |texts: &[String]| texts.iter().map(|text| Pattern::parse(text)).collect::<Result<Vec<_>, _>>();
        let folders = Arc::new(Folders::new(&config.config_path));
        let (insecure, secure) = (read(&config.insecure_hosts)?, read(&config.secure_hosts)?);
        Ok(Self { insecure, secure, folders, told: Arc::default() })
    }

    /// The places to ask for `repository`, one after the other until one answers; the upstream is the last.
    pub(super) fn places(&self, repository: &Repository, need: Need) -> Result<Vec<Host>, RegistryError> {
        let upstream = self.of(repository)?;
        let Some(file) = self.folders.of(repository.host())? else { return Ok(vec![upstream]) };
        let may = |manner: &Manner| manner.may.contains(&need);
        let mirrors = file.mirrors.iter().filter(|mirror| may(&mirror.manner));
        let mut places: Vec<Host> = mirrors.map(|mirror| Host::at(mirror, &upstream)).collect();
        // With no place left, it is the upstream's to say so.
        if may(&file.of_server) || places.is_empty() {
            places.push(match &file.server {
                Some(server) => Host::at(server, &upstream),
                None => upstream.in_manner(&file.of_server),
            });
        }
        Ok(places)
    }

    /// The registry that holds `repository`.
    fn of(&self, repository: &Repository) -> Result<Host, RegistryError> {
        let name = repository.host().to_owned();
        let authority = if name == DOCKER_HUB { DOCKER_HUB_ENDPOINT } else { &name };
        let no_url = |_| RegistryError::HostInConfig(name.clone());
        // The scheme decides the default port, so a URL is needed to ask which scheme.
        let https = Url::parse(&format!("https://{authority}/v2/")).map_err(no_url)?;
        let endpoint = if self.is_plain(&https, authority) {
            Url::parse(&format!("http://{authority}/v2/")).map_err(no_url)?
        } else {
            https
        };
        Ok(Host { name, endpoint, mirrored: None, headers: HeaderMap::new(), tls: None })
    }

    /// Whether this host is spoken to without TLS. A loopback host that is written with HTTPS's own port is not.
    fn is_plain(&self, url: &Url, written: &str) -> bool {
        if self.secure.iter().any(|pattern| pattern.covers(url)) {
            return false;
        }
        let insecure = self.insecure.iter().find(|pattern| pattern.covers(url));
        if let Some(unverified) = insecure.and_then(Pattern::unverified) {
            self.told.once(&unverified);
        }
        insecure.is_some() || (is_loopback(url) && !written.ends_with(":443"))
    }

    /// All hosts that are believed without proof.
    pub(super) fn unverified(&self) -> Vec<Unverified> {
        self.insecure.iter().filter_map(Pattern::unverified).chain(self.folders.unverified()).collect()
    }

    /// Whether `from` may send us to `url`: over HTTPS anywhere; over plain HTTP to hosts that are named insecure, and
    /// to this machine only if `from` is on it too, since others have no business with the services of this one.
    pub(super) fn may_send(&self, from: &Host, url: &Url) -> bool {
        match url.scheme() {
            "https" => true,
            "http" => {
                let named = self.insecure.iter().any(|pattern| pattern.covers(url));
                // A host of `hosts.toml` that was written with http is meant so.
                named || (is_loopback(url) && is_loopback(&from.endpoint)) || url.origin() == from.endpoint.origin()
            }
            _ => false,
        }
    }
}

// === impl Host ===

impl Host {
    /// A place that a `hosts.toml` names, for the images of `upstream`.
    fn at(place: &Place, upstream: &Self) -> Self {
        let is_upstream = place.url.origin() == upstream.endpoint.origin();
        let name = if is_upstream { upstream.name.clone() } else { written(&place.url) };
        let mirrored = (!is_upstream).then(|| upstream.name.clone());
        let host = Self { name, endpoint: place.url.clone(), mirrored, headers: HeaderMap::new(), tls: None };
        host.in_manner(&place.manner)
    }

    fn in_manner(self, manner: &Manner) -> Self {
        let tls = (*manner.tls != Tls::default()).then(|| manner.tls.clone());
        Self { headers: manner.headers.clone(), tls, ..self }
    }

    /// What is at `path` of the API.
    pub(super) fn url(&self, path: &str) -> Option<Url> {
        let mut url = self.endpoint.join(path).ok()?;
        if let Some(mirrored) = &self.mirrored {
            // As containerd tells pull-through caches whose images they are asked for.
            url.query_pairs_mut().append_pair("ns", mirrored);
        }
        Some(url)
    }

    /// What this host calls a repository of the upstream: its credentials are for that name. `None` if it can have none.
    pub(super) fn repository(&self, repository: &Repository) -> Option<Repository> {
        match self.mirrored {
            None => Some(repository.clone()),
            Some(_) => format!("{}/{}", self.name, repository.path()).parse().ok(),
        }
    }

    /// Whether `url` is this very host.
    pub(super) fn is_at(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }
}

/// What of a host may be shown as it was written: neither a login before it nor a query after it.
fn shown(text: &str) -> &str {
    let host = text.rsplit('@').next().unwrap_or_default();
    host.split(['?', '#']).next().unwrap_or_default()
}

/// A host as people write it: with its port only where that is not its scheme's own.
fn written(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether `url` is on this machine: no proxy is asked, and nobody else listens.
pub(super) fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// `HOST:PORT` as it stands in errors and as the key of what is kept per host. Never the rest of the URL.
pub(super) fn authority(url: &Url) -> String {
    match (url.host_str(), url.port_or_known_default()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    }
}

// === impl Pattern ===

impl Pattern {
    fn parse(text: &str) -> Result<Self, RegistryError> {
        let refused = || RegistryError::HostInConfig(shown(text).to_owned());
        let url = Url::parse(&format!("https://{text}/")).map_err(|_| refused())?;
        let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && !text.contains('@');
        let host = url.host_str().filter(|host| is_bare && !host.is_empty()).ok_or_else(refused)?.to_owned();
        // `https://h:443/` and `https://h/` are the same URL; here a port that was written counts.
        let written = text.rsplit(']').next().unwrap_or(text).contains(':');
        Ok(Self { host, port: if written { url.port_or_known_default() } else { None } })
    }

    fn unverified(&self) -> Option<Unverified> {
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        insecure(&format!("{}{port}", self.host))
    }

    fn covers(&self, url: &Url) -> bool {
        url.host_str() == Some(&self.host) && self.port.is_none_or(|port| url.port_or_known_default() == Some(port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(insecure: &[&str], secure: &[&str]) -> Hosts {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Hosts::new(&Config { insecure_hosts: own(insecure), secure_hosts: own(secure), ..Config::default() }).unwrap()
    }

    fn endpoint(hosts: &Hosts, name: &str) -> String {
        hosts.of(&format!("{name}/app").parse().unwrap()).unwrap().endpoint.to_string()
    }

    #[test]
    fn each_registry_has_its_endpoint() {
        let hosts = hosts(&["plain.example", "some.example:5000", "[fd00::1]:80"], &["127.0.0.1:5443", "10.0.0.1"]);
        let cases = [
            ("docker.io", "https://registry-1.docker.io/v2/"),
            ("quay.io", "https://quay.io/v2/"),
            ("quay.io:8443", "https://quay.io:8443/v2/"),
            ("localhost", "http://localhost/v2/"),
            ("localhost:5000", "http://localhost:5000/v2/"),
            ("a.localhost:1", "http://a.localhost:1/v2/"),
            ("127.1.2.3:5000", "http://127.1.2.3:5000/v2/"),
            ("[::1]:5000", "http://[::1]:5000/v2/"),
            ("[::ffff:127.0.0.1]:5000", "http://[::ffff:7f00:1]:5000/v2/"),
            ("localhost:443", "https://localhost/v2/"),
            ("127.0.0.1:5443", "https://127.0.0.1:5443/v2/"),
            ("10.0.0.1:5000", "https://10.0.0.1:5000/v2/"),
            ("plain.example", "http://plain.example/v2/"),
            ("plain.example:7000", "http://plain.example:7000/v2/"),
            ("some.example:5000", "http://some.example:5000/v2/"),
            ("some.example", "https://some.example/v2/"),
            ("localhost.example.com", "https://localhost.example.com/v2/"),
            ("127.0.0.1.nip.io", "https://127.0.0.1.nip.io/v2/"),
            ("[fd00::1]:80", "http://[fd00::1]/v2/"),
        ];
        for (name, want) in cases {
            assert_eq!(endpoint(&hosts, name), want, "{name}");
        }
    }

    #[test]
    fn a_server_cannot_send_us_to_plain_http_elsewhere_nor_into_this_machine() {
        let hosts = hosts(&["plain.example"], &[]);
        let may = |from: &str, url: &str| {
            let from = hosts.of(&format!("{from}/app").parse().unwrap()).unwrap();
            hosts.may_send(&from, &url.parse().unwrap())
        };
        for from in ["quay.io", "localhost:5000", "plain.example"] {
            assert!(may(from, "https://cdn.example/x") && may(from, "http://plain.example/x"), "{from}");
            assert!(!may(from, "http://cdn.example/x") && !may(from, "ftp://plain.example/x"), "{from}");
            assert!(!may(from, "file:///etc/passwd"), "{from}");
            assert_eq!(may(from, "http://127.0.0.1:1/x"), from == "localhost:5000", "{from}");
        }
    }

    #[test]
    fn what_is_no_host_in_the_configuration_is_refused() {
        for text in
            ["", "http://h", "h/path", "user@h", ":s3cret@h", "u:s3cret@h", "u:s3/cret@h", "h:99999", "h?s3cret", "a b"]
        {
            let refused = Pattern::parse(text).unwrap_err().to_string();
            assert!(!refused.contains("s3cret") && !refused.contains("cret"), "{text:?}: {refused}");
        }
        assert_eq!(Pattern::parse("h:443").unwrap(), Pattern { host: "h".into(), port: Some(443) });
        assert_eq!(Pattern::parse("H").unwrap(), Pattern { host: "h".into(), port: None });
    }

    #[test]
    fn hosts_that_need_not_prove_who_they_are_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("hosts.toml"), text).unwrap();
        };
        write(
            "a.example",
            "[host.\"https://mirror.example:5000\"]\nskip_verify = true\n[host.\"http://plain.example\"]\n",
        );
        write("b.example", "skip_verify = true\n[host.\"https://right.example\"]\n[host.\"http://127.0.0.1:5000\"]\n");
        write("c.example", "server = \"https://c.example\"\n");
        write("_default", "skip_verify = true\n");
        write("broken.example", "[host\n");
        let insecure_hosts = ["d.example", "[fd00::1]:80", "localhost:5000", "127.0.0.1"].map(str::to_owned).to_vec();
        let config = Config { insecure_hosts, config_path: vec![dir.path().to_owned()], ..Config::default() };
        let found: Vec<_> =
            Hosts::new(&config).unwrap().unverified().into_iter().map(|one| (one.host, one.proof)).collect();
        let want = [
            ("d.example", Missing::Certificate),
            ("[fd00::1]:80", Missing::Certificate),
            ("any registry without a folder of its own", Missing::Vouching),
            ("mirror.example:5000", Missing::Vouching),
            ("plain.example", Missing::Certificate),
            ("b.example", Missing::Vouching),
        ];
        assert_eq!(found, want.map(|(host, proof)| (host.to_owned(), proof)));
    }

    #[test]
    fn an_authority_is_all_that_is_kept_of_a_url() {
        let url = "https://user:secret@cdn.example/path?X-Amz-Signature=secret".parse().unwrap();
        assert_eq!(authority(&url), "cdn.example:443");
    }
}
