//! Whom we trust: the system's certificate authorities and those of the configuration.
//!
//! The cryptography is chosen here (ring) and handed to each client; nothing is installed for the whole process.

use std::path::Path;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::registry::config::Config;
use crate::registry::error::RegistryError;
use crate::registry::hosts::Tls;
use crate::sync::Arc;

/// Certificate authorities that the configuration adds, read when it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Authorities(Vec<CertificateDer<'static>>);

// === impl Authorities ===

impl Authorities {
    pub(super) fn read(config: &Config) -> Result<Self, RegistryError> {
        let mut all = Vec::new();
        for path in &config.ca_files {
            all.extend(read_file(path)?);
        }
        Ok(Self(all))
    }

    /// For connections that will not use TLS: knows nobody, costs nothing.
    pub(super) fn trust_nobody() -> Result<ClientConfig, RegistryError> {
        client(RootCertStore::empty())
    }

    /// Reads the system's authorities, which takes some milliseconds. A system that has none is no error here: the
    /// handshake will say that the server is not trusted.
    pub(super) fn trust(&self) -> Result<ClientConfig, RegistryError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(self.0.iter().cloned());
        client(roots)
    }

    /// The same, and what a `hosts.toml` says beyond it.
    pub(super) fn trust_as(&self, tls: &Tls) -> Result<ClientConfig, RegistryError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(self.0.iter().cloned());
        for path in &tls.ca {
            roots.add_parsable_certificates(read_file(path)?);
        }
        let identity = match tls.client.first() {
            None => None,
            Some((certificate, key)) => Some(read_identity(certificate, key.as_deref().unwrap_or(certificate))?),
        };
        let mut config = client_as(roots, identity)?;
        if tls.skip_verify {
            let provider = config.crypto_provider().clone();
            config.dangerous().set_certificate_verifier(Arc::new(Believing(provider)));
        }
        Ok(config)
    }
}

/// A client's certificates and its key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn client(roots: RootCertStore) -> Result<ClientConfig, RegistryError> {
    client_as(roots, None)
}

fn client_as(roots: RootCertStore, identity: Option<Identity>) -> Result<ClientConfig, RegistryError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| RegistryError::Client(error.to_string()))?.with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificates, key)) => builder
            .with_client_auth_cert(certificates, key)
            .map_err(|error| RegistryError::Client(format!("the client's certificate: {error}")))?,
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn read_identity(certificate: &Path, key: &Path) -> Result<Identity, RegistryError> {
    let certificates = read_file(certificate)?;
    let refused = |cause: String| RegistryError::CaFile { path: key.to_path_buf(), cause };
    let pem = std::fs::read(key).map_err(|error| refused(error.to_string()))?;
    // The parser's own error might quote the file.
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| refused("it holds no private key".to_owned()))?;
    Ok((certificates, key))
}

/// Believes whoever answers, as `skip_verify` of a `hosts.toml` asks for. What is signed is still checked.
#[derive(Debug)]
struct Believing(Arc<CryptoProvider>);

impl ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn read_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let refused = |cause: String| RegistryError::CaFile { path: path.to_path_buf(), cause };
    let pem = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|_| refused("it is not PEM".to_owned()))?;
    let mut checked = RootCertStore::empty();
    for certificate in &certificates {
        checked.add(certificate.clone()).map_err(|error| refused(error.to_string()))?;
    }
    if checked.is_empty() { Err(refused("it holds no certificate".to_owned())) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Authorities, RegistryError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Authorities::read(&Config { ca_files: vec![file.path().to_path_buf()], ..Config::default() })
    }

    #[test]
    fn a_file_of_certificates_is_taken_and_anything_else_named() {
        let one = rcgen::generate_simple_self_signed(vec!["h.example".into()]).unwrap().cert.pem();
        assert_eq!(read(&format!("{one}\n{one}")).unwrap().0.len(), 2);
        assert!(read("").unwrap_err().to_string().ends_with("holds no certificate"));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(read(broken), Err(RegistryError::CaFile { .. })));
        let missing = Config { ca_files: vec!["/nonexistent.pem".into()], ..Config::default() };
        assert!(Authorities::read(&missing).unwrap_err().to_string().contains("/nonexistent.pem"));
    }
}
