//! The parsers of what registries, mirrors and administrators write, for the fuzz targets alone.

use std::path::Path;

use super::credentials::FileText;
use super::reference::Repository;
use super::{Platform, Reference, challenge, hosts, kubelet, manifest, referrers};
use crate::blob::Referrer;

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
    /// A page of what refers to a manifest.
    Referrers,
    /// The header that names the next page.
    Link,
}

/// What a page of the referrers API lists.
///
/// # Errors
/// Says what is wrong with it.
pub fn referrers(page: &[u8]) -> Result<Vec<Referrer>, String> {
    referrers::parse(page, None, false)
}

impl Text {
    pub const ALL: [Self; 10] = [
        Self::Challenge,
        Self::HostsToml,
        Self::CredentialProviders,
        Self::Manifest,
        Self::ImageConfig,
        Self::Reference,
        Self::Platform,
        Self::DockerConfig,
        Self::Referrers,
        Self::Link,
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
            Self::Referrers => ask_referrers(bytes),
            Self::Challenge | Self::HostsToml | Self::Reference | Self::Platform | Self::Link => {
                if let Ok(text) = std::str::from_utf8(bytes) {
                    self.read_text(text);
                }
            }
        }
    }

    fn read_text(self, text: &str) {
        match self {
            Self::Challenge => drop(challenge::parse([text])),
            Self::Link => drop(referrers::next_page(text)),
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

/// Of a list that is filtered here as many are left as of one that the registry has filtered, less those that have no type.
fn ask_referrers(page: &[u8]) {
    const OURS: &str = "application/vnd.oncefs.index.v1+json";
    let Ok(all) = referrers::parse(page, None, false) else { return };
    let [here, there] =
        [false, true].map(|is_filtered| referrers::parse(page, Some(OURS), is_filtered).map_or(0, |found| found.len()));
    assert_eq!(here, all.iter().filter(|one| one.artifact_type == OURS).count());
    assert!(here <= there && there <= all.len());
}
