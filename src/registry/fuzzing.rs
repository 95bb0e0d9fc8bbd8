//! The parsers of what registries, mirrors and administrators write, for the fuzz targets alone.

use std::path::Path;

use super::credentials::FileText;
use super::reference::Repository;
use super::{Platform, Reference, challenge, hosts, kubelet, manifest};

/// What a text is taken for.
#[derive(Debug, Clone, Copy)]
pub enum Text {
    Challenge,
    HostsToml,
    CredentialProviders,
    Manifest,
    ImageConfig,
    Reference,
    Platform,
    DockerConfig,
}

impl Text {
    pub const ALL: [Self; 8] = [
        Self::Challenge,
        Self::HostsToml,
        Self::CredentialProviders,
        Self::Manifest,
        Self::ImageConfig,
        Self::Reference,
        Self::Platform,
        Self::DockerConfig,
    ];

    /// Parses it.
    ///
    /// # Panics
    /// If what was understood does not come back as it was, which is a bug.
    pub fn read(self, bytes: &[u8]) {
        match self {
            Self::CredentialProviders => drop(kubelet::parse(bytes)),
            Self::Manifest => drop(manifest::Document::parse(bytes, None)),
            Self::ImageConfig => drop(manifest::ImageConfig::parse(bytes)),
            Self::DockerConfig => ask_docker_config(bytes),
            Self::Challenge | Self::HostsToml | Self::Reference | Self::Platform => {
                if let Ok(text) = std::str::from_utf8(bytes) {
                    self.read_text(text);
                }
            }
        }
    }

    fn read_text(self, text: &str) {
        match self {
            Self::Challenge => drop(challenge::parse([text])),
            Self::HostsToml => drop(hosts::HostFile::parse(text, Path::new("/nowhere"))),
            Self::Reference => {
                if let Ok(reference) = text.parse::<Reference>() {
                    assert_eq!(reference.to_string().parse().ok(), Some(reference), "as it is shown it means the same");
                }
            }
            _ => {
                if let Ok(platform) = text.parse::<Platform>() {
                    assert_eq!(platform.to_string().parse().ok(), Some(platform), "as it is shown it means the same");
                }
            }
        }
    }
}

fn ask_docker_config(bytes: &[u8]) {
    let Ok(Some(file)) = FileText::parse(bytes) else { return };
    for repository in ["docker.io/library/redis", "h.example:5000/team/app"] {
        let Ok(repository) = repository.parse::<Repository>() else { continue };
        let _ = (file.helper(repository.host()), file.stored(&repository, Path::new("config.json")));
    }
}
