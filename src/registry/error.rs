//! Why a registry, or an image layout in its place, did not give what was asked, in sentences that say what to do.
//!
//! No variant holds a URL or anything a server wrote freely: addresses of redirected blobs carry signatures, and a
//! server may echo what it was sent. Hosts, names, numbers and known codes are all that is kept.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::blob::{BlobError, Origin};
use crate::digest::{Digest, Mismatch, ParseDigestError};
use crate::errors::with_causes;
use crate::registry::reference::ReferenceError;
use crate::sync::Arc;

/// Cheap to clone: everybody who joined a flight gets it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    #[error("cannot reach registry {host}: {cause}; check the name or the network")]
    Unreachable { host: String, cause: String },
    #[error("registry {host} cannot be trusted: {cause}; name its certificate authority in registry.ca_files")]
    Untrusted { host: String, cause: String },
    #[error(
        "registry {host} does not speak HTTPS: {cause}; if it speaks plain HTTP, name it in registry.insecure_hosts"
    )]
    NotHttps { host: String, cause: String },
    #[error("registry {host} did not answer within {} s when asked for {what}", .after.as_secs())]
    Silent { host: String, what: String, after: Duration },
    #[error("registry {host} stopped sending {what}: {} came in {} s", came_text(*.bytes), .after.as_secs())]
    Stalled { host: String, what: String, after: Duration, bytes: u64 },
    #[error("the connection to registry {host} broke while it sent {what}: {cause}")]
    Broken { host: String, what: String, cause: String },
    #[error("registry {host} refuses {what}{}: {}", code_text(.code), login_text(.host, *.had_login, .looked_at))]
    Denied { host: String, what: String, code: Option<String>, had_login: bool, looked_at: Vec<PathBuf> },
    #[error("registry {host} does not have {what}{}; check name and tag", code_text(.code))]
    NotFound { host: String, what: String, code: Option<String> },
    #[error("registry {host} asks to slow down (429 for {what}){}; a login often raises the limit", wait_text(*.wait))]
    Busy { host: String, what: String, wait: Option<Duration> },
    #[error("registry {host} answered {status} for {what}{}", code_text(.code))]
    Status { host: String, what: String, status: u16, code: Option<String>, wait: Option<Duration> },
    /// The server broke the protocol.
    #[error("registry {host} gave a wrong answer for {what}: {cause}")]
    Protocol { host: String, what: String, cause: String },
    #[error("cannot log in to registry {host}: {cause}")]
    Login { host: String, cause: String },
    #[error("{what} has more bytes than the {max} that are allowed")]
    TooLarge { what: String, max: u64 },
    #[error("{what} has {has} bytes where {want} were promised")]
    Size { what: String, has: u64, want: u64 },
    #[error("{what} is not what its digest says")]
    Mismatch { what: String, source: Mismatch },
    #[error("{image} is no image that oncefs can use: {source}")]
    Manifest { image: String, source: ManifestError },
    #[error("{image} is not there for {want}; there are: {}", list(.have))]
    NoPlatform { image: String, want: String, have: Vec<String> },
    #[error("{image} has no image named {tag:?}; there are: {}", list(.have))]
    NoTag { image: String, tag: String, have: Vec<String> },
    #[error("{image} holds several images; add one of these names after a colon: {}", list(.have))]
    SeveralTags { image: String, have: Vec<String> },
    #[error("{} is no OCI image layout: {cause}", .path.display())]
    NoLayout { path: PathBuf, cause: String },
    #[error("cannot read {}", .path.display())]
    Io { path: PathBuf, source: Arc<io::Error> },
    #[error("the certificate file {} cannot be used: {cause}", .path.display())]
    CaFile { path: PathBuf, cause: String },
    #[error("{} cannot be used: {cause}", .path.display())]
    HostFile { path: PathBuf, cause: String },
    #[error("{0:?} in registry.insecure_hosts or registry.secure_hosts is no host; write HOST or HOST:PORT")]
    HostInConfig(String),
    #[error(
        "registry.kubelet_credential_providers and registry.kubelet_credential_provider_bin_dir go together; name the other too"
    )]
    KubeletHalf,
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
    #[error("{0:?} does not say where a blob is")]
    Origin(String, #[source] Option<ReferenceError>),
    #[error("{0} is on this machine's disk; only a registry can be pushed to")]
    NotPushed(Origin),
    #[error(
        "{to} does not have {blob} and does not take it over from {from}; copy the image there first, as with skopeo copy"
    )]
    NotMounted { blob: Digest, from: String, to: String },
    #[error("fetching {0} ended without a result (it panicked, or oncefs is stopping)")]
    Stopped(String),
}

/// Why a manifest, an index or a config is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("{document} is not valid at line {line}, column {column}: {cause}")]
    Json { document: &'static str, line: usize, column: usize, cause: String },
    #[error("its manifest is of the old schema 1, which has no digests of its own; push it again with a newer tool")]
    Schema1,
    #[error("it is neither manifest nor index (media type {0:?})")]
    MediaType(String),
    #[error("it calls itself {body:?} and the registry calls it {header:?}")]
    TwoTypes { body: String, header: String },
    #[error("it has both layers and manifests, so different programs would see different images")]
    Ambiguous,
    #[error("it is not a container image but {0:?}")]
    Artifact(String),
    #[error("layer {layer} is {kind}; ask for a build of the image with plain tar, gzip or zstd layers")]
    Layer { layer: String, kind: String },
    #[error("it has {0} layers, {max} are the most", max = 512)]
    Layers(usize),
    #[error("it has {layers} layers and its config {diff_ids} diff ids, which must be as many")]
    DiffIds { layers: usize, diff_ids: usize },
    #[error("{text:?} cannot be used as a digest")]
    Digest { text: String, source: ParseDigestError },
    #[error("its indexes refer to indexes more than {max} deep", max = 4)]
    Deep,
    #[error("its index has no entry that is an image")]
    Empty,
}

// === impl RegistryError ===

impl From<RegistryError> for BlobError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Size { has, want, .. } => Self::Size { has, want },
            RegistryError::NotFound { .. } => Self::NotFound(with_causes(&error)),
            RegistryError::Denied { .. } | RegistryError::Login { .. } => Self::Denied(with_causes(&error)),
            RegistryError::Unreachable { .. }
            | RegistryError::Silent { .. }
            | RegistryError::Stalled { .. }
            | RegistryError::Broken { .. }
            | RegistryError::Busy { .. }
            | RegistryError::Status { status: 408 | 500..=599, .. } => Self::Unreachable(with_causes(&error)),
            _ => Self::Other(with_causes(&error)),
        }
    }
}

fn code_text(code: &Option<String>) -> String {
    code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default()
}

fn came_text(bytes: u64) -> String {
    match bytes {
        0 => "nothing".to_owned(),
        1 => "1 byte".to_owned(),
        bytes => format!("{bytes} bytes"),
    }
}

fn wait_text(wait: Option<Duration>) -> String {
    wait.map(|wait| format!("; try again in {} s", wait.as_secs().max(1))).unwrap_or_default()
}

fn login_text(host: &str, had_login: bool, looked_at: &[PathBuf]) -> String {
    let files = looked_at.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    match (had_login, looked_at.is_empty()) {
        (true, true) => "the login of this pull, or of a credential provider, was not accepted; renew it".to_owned(),
        (true, false) => format!(
            "the login that was tried last (of this pull, of a credential provider, or in {files}) was not accepted; renew it with \
             'docker login {host}' if it is docker's"
        ),
        (false, true) => format!("no login is known; log in with 'docker login {host}' and name its config.json"),
        (false, false) => {
            format!("it does not exist or needs a login, and none was found in {files}; try 'docker login {host}'")
        }
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}
