//! Whom we trust: the system's certificate authorities and those of the configuration.
//!
//! The cryptography is chosen here (ring) and handed to each client; nothing is installed for the whole process.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::registry::config::Config;
use crate::registry::error::RegistryError;
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
}

fn client(roots: RootCertStore) -> Result<ClientConfig, RegistryError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| RegistryError::Client(error.to_string()))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
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
