//! Which manifests are about another one (distribution-spec, "Listing Referrers"): asked by the API, or found under the
//! tag that stands in for it where a registry has none.

use std::collections::BTreeMap;

use reqwest::Url;
use reqwest::header::LINK;
use serde::Deserialize;

use crate::blob::Referrer;
use crate::digest::Digest;
use crate::registry::ask::{Access, Ask};
use crate::registry::client::Client;
use crate::registry::error::RegistryError;
use crate::registry::manifest::{INDEX, MANIFEST_BYTES_MAX};
use crate::registry::reference::Repository;
use crate::registry::transport::Weight;

/// An index, of which only descriptors matter. Some registries write null for an empty list.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexText {
    media_type: Option<String>,
    manifests: Option<Vec<EntryText>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntryText {
    digest: String,
    size: u64,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

/// A question for the manifests that are about `subject`.
struct Search<'a> {
    client: &'a Client,
    repository: &'a Repository,
    subject: Digest,
    artifact_type: Option<&'a str>,
}

/// An image has a handful; who attaches this many gets the first of them looked at.
const REFERRERS_MAX: usize = 4096;
const PAGES_MAX: usize = 16;

/// The referrers of `subject`; only those of `artifact_type`, if there is one.
pub(super) async fn find(
    client: &Client,
    repository: &Repository,
    subject: Digest,
    artifact_type: Option<&str>,
) -> Result<Vec<Referrer>, RegistryError> {
    let search = Search { client, repository, subject, artifact_type };
    match search.by_api().await {
        Err(error) if is_unknown(&error) => search.by_tag().await,
        answer => answer,
    }
}

/// The tag under which clients list the referrers of `subject` where the registry does not.
pub(super) fn fallback_tag(subject: &Digest) -> String {
    // Of the algorithms known here none has a name or digits that would have to be cut.
    format!("sha256-{}", subject.hex())
}

/// Whether it says that the API is not there: by 404 as the specification has it, or in another way that some have.
fn is_unknown(error: &RegistryError) -> bool {
    matches!(error, RegistryError::NotFound { .. } | RegistryError::Status { status: 400 | 405 | 406 | 501, .. })
}

// === impl Search ===

impl Search<'_> {
    async fn by_api(&self) -> Result<Vec<Referrer>, RegistryError> {
        let mut found = Vec::new();
        let mut query: Vec<(String, String)> = Vec::new();
        query.extend(self.artifact_type.map(|kind| ("artifactType".to_owned(), kind.to_owned())));
        for _ in 0..PAGES_MAX {
            let path = format!("referrers/{}{}", self.subject, query_text(&query));
            let page = self.client.small(&self.ask(path), MANIFEST_BYTES_MAX).await?;
            // Who filters may leave the type out of what it lists.
            let filters = page.header("oci-filters-applied").unwrap_or_default();
            let is_filtered = filters.split(',').any(|filter| filter.trim() == "artifactType");
            found.extend(self.of_page(&page.bytes, is_filtered)?);
            match page.header(LINK).and_then(next_page) {
                Some(next) if found.len() < REFERRERS_MAX => query = next,
                _ => break,
            }
        }
        found.truncate(REFERRERS_MAX);
        Ok(found)
    }

    async fn by_tag(&self) -> Result<Vec<Referrer>, RegistryError> {
        let ask = self.ask(format!("manifests/{}", fallback_tag(&self.subject)));
        let small = match self.client.small(&ask, MANIFEST_BYTES_MAX).await {
            Ok(small) => small,
            Err(RegistryError::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        // Anybody may have given that tag to anything.
        let is_index = small.media_type() == Some(INDEX);
        let mut found = if is_index { self.of_page(&small.bytes, false)? } else { Vec::new() };
        found.truncate(REFERRERS_MAX);
        Ok(found)
    }

    fn ask(&self, path: String) -> Ask {
        Ask {
            repository: self.repository.clone(),
            path,
            what: format!("what refers to {} in {}", self.subject, self.repository),
            accept: Some(INDEX),
            range: None,
            only_head: false,
            weight: Weight::Light,
            access: Access::Pull,
            change: None,
        }
    }

    fn of_page(&self, bytes: &[u8], is_filtered: bool) -> Result<Vec<Referrer>, RegistryError> {
        parse(bytes, self.artifact_type, is_filtered).map_err(|cause| RegistryError::Protocol {
            host: self.repository.host().to_owned(),
            what: format!("what refers to {}", self.subject),
            cause,
        })
    }
}

/// The referrers that a page lists, only those of the type that is `wanted`, if one is; by `is_filtered` the registry has left out all others. What
/// it says of itself must be an index; descriptors whose digest is of a kind that is not known here are passed over.
///
/// # Errors
/// Says what is wrong with the list.
pub(super) fn parse(bytes: &[u8], wanted: Option<&str>, is_filtered: bool) -> Result<Vec<Referrer>, String> {
    let index: IndexText = serde_json::from_slice(bytes)
        .map_err(|error| format!("its list cannot be read at line {}, column {}", error.line(), error.column()))?;
    if index.media_type.is_some_and(|media_type| media_type != INDEX) {
        return Err("its list is no image index".to_owned());
    }
    let entries = index.manifests.unwrap_or_default().into_iter();
    Ok(entries.filter_map(|entry| referrer(entry, wanted, is_filtered)).collect())
}

fn referrer(entry: EntryText, wanted: Option<&str>, is_filtered: bool) -> Option<Referrer> {
    let artifact_type = match (entry.artifact_type, wanted) {
        (Some(is), Some(wanted)) => Some(is).filter(|is| is == wanted),
        (None, Some(wanted)) => is_filtered.then(|| wanted.to_owned()),
        (is, None) => Some(is.unwrap_or_default()),
    };
    Some(Referrer {
        artifact_type: artifact_type?,
        digest: entry.digest.parse().ok()?,
        size: entry.size,
        annotations: entry.annotations.unwrap_or_default(),
    })
}

/// The query of the page that the header `Link` names as the next one. Of its address nothing else is taken: the same host is
/// asked the same question.
pub(super) fn next_page(link: &str) -> Option<Vec<(String, String)>> {
    let base = Url::parse("http://registry/").ok()?;
    let links = link.split(',');
    let is_next = |rest: &str| rest.split(';').any(|part| matches!(part.trim(), "rel=\"next\"" | "rel=next"));
    let target =
        links.filter_map(|link| link.trim().strip_prefix('<')?.split_once('>')).find(|(_, rest)| is_next(rest));
    let url = base.join(target?.0).ok()?;
    // Which registry is stood in for is ours to say.
    let pairs = url.query_pairs().into_owned().filter(|(name, _)| name != "ns");
    Some(pairs.collect())
}

fn query_text(pairs: &[(String, String)]) -> String {
    if pairs.is_empty() {
        return String::new();
    }
    let url = Url::parse_with_params("http://registry/", pairs).ok();
    url.as_ref().and_then(Url::query).map(|query| format!("?{query}")).unwrap_or_default()
}
