//! Trouble that ends while readers wait: none of them sees it.

use std::path::Path;

use rcgen::{CertificateParams, CertifiedKey, KeyPair};
use rustls::pki_types::PrivateKeyDer;

use super::proxy::{Proxy, Trouble};
use super::stage::{Hub, Mounted, assert_read};
use crate::cli::node::until;

/// Each for a layer of its own.
pub(super) const TROUBLES: [Trouble; 14] = [
    Trouble::Resets(10),
    Trouble::Stalls(10),
    Trouble::Drips,
    Trouble::Ends(10),
    Trouble::Ends(0),
    Trouble::Flips,
    Trouble::Shortens,
    Trouble::Status(401, ""),
    Trouble::Status(403, ""),
    Trouble::Status(404, ""),
    Trouble::Status(429, "Retry-After: 1\r\n"),
    Trouble::Status(500, ""),
    Trouble::Loops,
    Trouble::Babbles,
];

/// Longer than a test may take.
const LONG: u32 = 100;

#[test]
fn readers_wait_for_the_end_of_any_trouble_and_ask_seldom() {
    const SEED: u64 = 5_100;
    let hub = Hub::with_layers(TROUBLES.len(), SEED);
    let proxy = Proxy::before(hub.address());
    let mounted = Mounted::through(&proxy, LONG);
    let before: Vec<usize> = (0..TROUBLES.len()).map(|n| proxy.asked(&hub.layer(n))).collect();
    let asked = |n: usize| proxy.asked(&hub.layer(n)) - before[n];
    for (n, trouble) in TROUBLES.into_iter().enumerate() {
        proxy.troubles(&hub.layer(n), trouble);
    }
    let mut readers: Vec<_> = (0..TROUBLES.len()).map(|n| mounted.starts_reading(n, 0)).collect();
    until("all are waited for", || mounted.metric("oncefs_fetch_outages_total") >= TROUBLES.len() as f64);
    let first: Vec<usize> = (0..TROUBLES.len()).map(asked).collect();
    for (n, trouble) in TROUBLES.iter().enumerate() {
        until(&format!("{trouble:?} is met again"), || asked(n) > first[n]);
        assert!(!readers[n].has_ended(), "{trouble:?} was not waited for");
    }
    proxy.heals();
    let met: Vec<usize> = (0..TROUBLES.len()).map(asked).collect();
    for (n, reader) in readers.into_iter().enumerate() {
        assert_read(reader.end(), SEED, n, 0);
    }
    for (n, trouble) in TROUBLES.iter().enumerate() {
        // A try may be one question to a blob that was opened before, and one to it opened anew, each with its retry.
        assert!(met[n] <= 100 && asked(n) <= met[n] + 4, "{trouble:?}: {} requests, then {}", met[n], asked(n));
    }
    assert_eq!(mounted.metric("oncefs_fetch_waiting"), 0.0);
    // What is here now needs no registry.
    drop(proxy);
    assert_read(mounted.reads(4, 0), SEED, 4, 0);
}

#[test]
fn readers_wait_for_a_registry_that_refuses_connections_or_shows_another_certificate() {
    const SEED: u64 = 5_200;
    let hub = Hub::with_layers(1, SEED);
    let right = certificate();
    let mut proxy = Proxy::over_tls(hub.address(), server(&right));
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), right.cert.pem()).unwrap();
    let mounted = Mounted::of(&proxy.address().to_string(), LONG, &trusting(&proxy, ca.path()));
    assert_read(mounted.reads(0, 0), SEED, 0, 0);

    proxy.closes();
    let tries = || mounted.metric("oncefs_fetch_outage_tries_total");
    let reader = mounted.starts_reading(0, 1);
    until("a closed port is asked again", || tries() >= 1.0);
    proxy.opens_again();
    assert_read(reader.end(), SEED, 0, 1);

    let (before, asked) = (tries(), proxy.asked(&hub.layer(0)));
    proxy.says_over(server(&certificate()));
    let reader = mounted.starts_reading(0, 2);
    until("a host that cannot be trusted is asked again", || tries() > before);
    assert_eq!(proxy.asked(&hub.layer(0)), asked, "it was told what is wanted");
    proxy.says_over(server(&right));
    assert_read(reader.end(), SEED, 0, 2);
}

/// Lines of a configuration that has this authority believed of the proxy.
pub(super) fn trusting(proxy: &Proxy, ca: &Path) -> String {
    format!("secure_hosts = [\"{}\"]\nca_files = [\"{}\"]\n", proxy.address(), ca.display())
}

/// One that is its own authority.
pub(super) fn certificate() -> CertifiedKey<KeyPair> {
    let signing_key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().self_signed(&signing_key).unwrap();
    CertifiedKey { cert, signing_key }
}

pub(super) fn server(of: &CertifiedKey<KeyPair>) -> rustls::ServerConfig {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::Pkcs8(of.signing_key.serialize_der().into());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    builder.with_no_client_auth().with_single_cert(vec![of.cert.der().clone()], key).unwrap()
}
