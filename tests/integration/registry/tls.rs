//! HTTPS with a certificate authority of one's own, and what is said where TLS is not right.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tempfile::NamedTempFile;

use super::*;
use crate::support::scripted_registry::{Act, Script, registry};

/// An authority, as a PEM file, and a server's side certified by it for 127.0.0.1.
fn certified() -> (NamedTempFile, rustls::ServerConfig) {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap().signed_by(&key, &authority).unwrap();
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    (file, server)
}

/// The scripted registry, over TLS, as the only host that is spoken to over HTTPS though it is on this machine.
fn secure(address: std::net::SocketAddr, ca: Option<&NamedTempFile>) -> Config {
    let ca_files = ca.iter().map(|file| file.path().to_path_buf()).collect();
    Config { secure_hosts: vec![address.to_string()], ca_files, ..config() }
}

async fn over_tls(script: Script) -> (NamedTempFile, crate::support::scripted_registry::Running) {
    let (file, server) = certified();
    (file, script.over_tls(server).run().await)
}

#[tokio::test]
async fn a_registry_of_an_own_authority_is_trusted_when_that_is_named() {
    let image = Sample::of_sizes(&[1 << 20]);
    let (ca, server) = over_tls(registry().with("app", "1", &image)).await;
    let client = client(secure(server.address, Some(&ca)));
    resolve(&client, &server.image("app:1")).await.unwrap();
    let blob = open(&client, &image, 0, server.origin("app")).await;
    assert_eq!(read(&blob).await.unwrap(), image.layers[0]);
}

#[tokio::test]
async fn a_registry_of_an_unknown_authority_is_not_talked_to() {
    let (_, server) = over_tls(registry()).await;
    let said = refused(&client(secure(server.address, None)), &server.image("app:1")).await;
    assert!(said.contains("cannot be trusted") && said.contains("registry.ca_files"), "{said}");
    assert_eq!(server.seen("").len(), 0);
    let (other, _) = certified();
    let said = refused(&client(secure(server.address, Some(&other))), &server.image("app:1")).await;
    assert!(said.contains("cannot be trusted"), "{said}");
}

#[tokio::test]
async fn a_certificate_for_another_host_is_not_accepted() {
    let (ca, server) = over_tls(registry()).await;
    let name = format!("localhost:{}", server.address.port());
    let config = Config { secure_hosts: vec![name.clone()], ..secure(server.address, Some(&ca)) };
    let said = refused(&client(config), &format!("{name}/app:1").parse().unwrap()).await;
    assert!(said.contains("cannot be trusted"), "{said}");
}

#[tokio::test]
async fn a_registry_without_tls_where_it_is_expected_is_said() {
    let server = registry().run().await;
    let said = refused(&client(secure(server.address, None)), &server.image("app:1")).await;
    assert!(said.contains("does not speak HTTPS") && said.contains("registry.insecure_hosts"), "{said}");
}

#[tokio::test]
async fn a_registry_over_tls_may_send_us_to_storage_on_this_machine() {
    let image = Sample::of_sizes(&[1000]);
    let storage = registry().with("app", "1", &image).run().await;
    let target = format!("http://{}/v2/app/blobs/{}", storage.address, image.layer_digest(0));
    let (ca, server) = over_tls(registry().always("blobs/", Act::Redirect(target))).await;
    let client = client(secure(server.address, Some(&ca)));
    let blob = open(&client, &image, 0, server.origin("app")).await;
    assert_eq!(blob.range(0..100).await.unwrap(), image.layers[0][..100]);
}

#[tokio::test]
async fn a_hosts_toml_says_whom_to_trust_and_who_we_are() {
    let image = Sample::of_sizes(&[1000]);
    let (ca, server) = over_tls(registry().with("app", "1", &image)).await;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("registry.example");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(ca.path(), folder.join("own.pem")).unwrap();
    let config = Config { config_path: vec![dir.path().to_owned()], ..config() };
    let name: Reference = "registry.example/app:1".parse().unwrap();
    for (manner, is_trusted) in [("", false), ("ca = \"own.pem\"", true), ("skip_verify = true", true)] {
        let text = format!("server = \"https://{}\"\n{manner}\n", server.address);
        std::fs::write(folder.join("hosts.toml"), text).unwrap();
        let said = resolve(&client(config.clone()), &name).await;
        assert_eq!(said.is_ok(), is_trusted, "{manner}: {said:?}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_the_host_that_wants_it() {
    let image = Sample::of_sizes(&[1000]);
    let (ca, server, [certificate, key]) = mutual();
    let server = registry().with("app", "1", &image).over_tls(server).run().await;
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("registry.example");
    std::fs::create_dir(&folder).unwrap();
    for (file, name) in [(&ca, "ca.pem"), (&certificate, "me.pem"), (&key, "me.key")] {
        std::fs::copy(file.path(), folder.join(name)).unwrap();
    }
    let config = Config { config_path: vec![dir.path().to_owned()], ..config() };
    let name: Reference = "registry.example/app:1".parse().unwrap();
    for (client_key, is_let_in) in [("", false), ("client = [[\"me.pem\", \"me.key\"]]", true)] {
        let text = format!("server = \"https://{}\"\nca = \"ca.pem\"\n{client_key}\n", server.address);
        std::fs::write(folder.join("hosts.toml"), text).unwrap();
        let said = resolve(&client(config.clone()), &name).await;
        assert_eq!(said.is_ok(), is_let_in, "{client_key}: {said:?}");
    }
}

/// An authority, the side of a server that wants to see a certificate of the same authority, and a client's certificate
/// and key.
fn mutual() -> (NamedTempFile, rustls::ServerConfig, [NamedTempFile; 2]) {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let signed = |name: &str| {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new(vec![name.into()]).unwrap().signed_by(&key, &authority).unwrap(), key)
    };
    let file = |text: String| {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    };
    let ((certificate, key), (of_client, key_of_client)) = (signed("127.0.0.1"), signed("client.example"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    (file(authority.pem()), server, [file(of_client.pem()), file(key_of_client.serialize_pem())])
}
