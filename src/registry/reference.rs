//! What a user calls an image: `redis:7`, `quay.io/org/app@sha256:...`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`.
//!
//! The grammar is that of github.com/distribution/reference, so what docker takes is taken here and the short forms
//! mean the same. Text only: nothing here looks at a disk or a network.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Digest, ParseDigestError};

/// An image as its user names it. `Display` gives the full form, which parses to the same reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    Remote(Remote),
    /// An OCI image layout directory.
    Layout(Local),
    /// A tar of an OCI image layout.
    Archive(Local),
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Remote {
    pub repository: Repository,
    /// Where a digest is given too, the digest decides and the tag is only for people.
    pub tag: Option<Tag>,
    pub digest: Option<Digest>,
}

/// A registry and a repository in it: what holds manifests and blobs, and what a login is good for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    host: String,
    path: String,
}

/// A tag: 1 to 128 of `A-Z a-z 0-9 _ . -`, the first none of `.` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);

/// An image on this machine's disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Local {
    pub path: PathBuf,
    /// The name of one of the layout's images; without it, the layout must hold only one.
    pub tag: Option<String>,
}

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("the name of an image is missing; write one like docker.io/library/redis:7")]
    Empty,
    #[error("{0:?} is no host name; write HOST or HOST:PORT before the first slash")]
    Host(String),
    #[error(
        "{0:?} is no port; it must be a number from 1 to 65535. An image is written HOST:PORT/NAME:TAG, oci:DIR or oci-archive:FILE, without https://"
    )]
    Port(String),
    #[error("{0:?} is a path; an OCI layout there is called oci:{0}, an archive of one oci-archive:{0}")]
    Path(String),
    #[error(
        "{0} does not lead to an image here: HOST/NAME:TAG without http://, oci:DIR and oci-archive:FILE; skopeo copy makes such a layout of others"
    )]
    Scheme(String),
    #[error("the name of the repository is missing after the host {0:?}")]
    NoRepository(String),
    #[error("the repository name {0:?} has capital letters; registries know only small ones")]
    Capitals(String),
    #[error(
        "{part:?} cannot be a part of a repository name: small letters and digits, divided by one '.', one or two '_', \
         or any number of '-'"
    )]
    Part { part: String },
    #[error("the repository name has {0} characters, 255 are the most")]
    Long(usize),
    #[error("{0:?} is no tag: it has 1 to 128 of A-Z a-z 0-9 _ . - and does not begin with . or -")]
    Tag(String),
    #[error("the name of an image has no login; `docker login HOST` keeps one for oncefs, too")]
    Login,
    #[error("{text:?} after @ is no digest")]
    Digest { text: String, source: ParseDigestError },
    #[error("{0:?} looks like an image's id; oncefs finds images by name, such as redis:7")]
    Id(String),
    #[error("the path is missing after {0}")]
    NoPath(&'static str),
    #[error(
        "{0:?} has a colon in its path, which would be taken for the beginning of the tag; move or link it elsewhere"
    )]
    ColonInPath(PathBuf),
}

/// The registry that a name without a host means.
pub(super) const DOCKER_HUB: &str = "docker.io";
/// Where Docker Hub keeps the images whose name has no slash.
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// distribution/reference: `NameTotalLengthMax`.
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;
const LAYOUT: &str = "oci:";
const ARCHIVE: &str = "oci-archive:";
/// skopeo's and our origins' way to say "in a registry"; taken, never required.
const REMOTE: &str = "docker://";
/// How others name what is in none of these places.
const FOREIGN: [&str; 5] = ["http://", "https://", "docker-archive:", "docker-daemon:", "containers-storage:"];

// === impl Reference ===

impl Reference {
    /// The same image for a program with another working directory: a relative path starts at `base`.
    ///
    /// # Errors
    /// Fails where the path that comes out has a colon, since the text form could not be read back.
    pub fn absolute(self, base: &Path) -> Result<Self, ReferenceError> {
        Ok(match self {
            Self::Remote(_) => self,
            Self::Layout(local) => Self::Layout(local.absolute(base)?),
            Self::Archive(local) => Self::Archive(local.absolute(base)?),
        })
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if let Some(rest) = text.strip_prefix(LAYOUT) {
            Local::parse(rest, LAYOUT).map(Self::Layout)
        } else if let Some(rest) = text.strip_prefix(ARCHIVE) {
            Local::parse(rest, ARCHIVE).map(Self::Archive)
        } else if text.starts_with(['/', '.', '~']) {
            Err(ReferenceError::Path(text.to_owned()))
        } else if let Some(scheme) = FOREIGN.into_iter().find(|scheme| text.starts_with(scheme)) {
            Err(ReferenceError::Scheme(scheme.to_owned()))
        } else {
            text.strip_prefix(REMOTE).unwrap_or(text).parse().map(Self::Remote)
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(remote) => remote.fmt(f),
            Self::Layout(local) => write!(f, "{LAYOUT}{local}"),
            Self::Archive(local) => write!(f, "{ARCHIVE}{local}"),
        }
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

// === impl Remote ===

impl FromStr for Remote {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (rest, digest) = match text.split_once('@') {
            // No digest has a slash: this is the host after a user and a password, or the half of a password.
            Some((_, rest)) if rest.contains('/') => return Err(ReferenceError::Login),
            Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
            None => (text, None),
        };
        // A colon after the last slash begins a tag; before it, a port.
        let name_at = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest.split_at(name_at).1.find(':') {
            Some(colon) => {
                let (name, tag) = rest.split_at(name_at + colon);
                (name, Some(tag.trim_start_matches(':').parse()?))
            }
            None => (rest, None),
        };
        if name_at == 0 && name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(ReferenceError::Id(name.to_owned()));
        }
        let repository: Repository = name.parse()?;
        let tag = tag.or_else(|| digest.is_none().then(|| Tag(DEFAULT_TAG.to_owned())));
        Ok(Self { repository, tag, digest })
    }
}

fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    text.parse().map_err(|source| ReferenceError::Digest { text: text.to_owned(), source })
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repository.fmt(f)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

// === impl Repository ===

impl Repository {
    /// The registry as people write it (`docker.io`), with its port if it has one.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository inside the registry: `library/redis`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    fn from_str(name: &str) -> Result<Self, ReferenceError> {
        let (host, path) = match name.split_once('/') {
            Some((first, rest)) if is_host(first) => (first, rest),
            _ => (DOCKER_HUB, name),
        };
        check_host(host)?;
        if path.is_empty() {
            return Err(if name.is_empty() {
                ReferenceError::Empty
            } else {
                ReferenceError::NoRepository(host.to_owned())
            });
        }
        let host = match host {
            "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
            // Host names have no case, but capitals alone may be what makes this one a host.
            other => {
                Some(other.to_ascii_lowercase()).filter(|lower| is_host(lower)).unwrap_or_else(|| other.to_owned())
            }
        };
        let official = if host == DOCKER_HUB && !path.contains('/') { OFFICIAL } else { "" };
        let path = format!("{official}{path}");
        let length = host.len() + 1 + path.len();
        if length > NAME_MAX {
            return Err(ReferenceError::Long(length));
        }
        path.split('/').try_for_each(|part| check_part(part, &path))?;
        Ok(Self { host, path })
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

/// Whether the first part of a name is a host: docker's rule, on which every short name depends.
fn is_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':', '[']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_host(host: &str) -> Result<(), ReferenceError> {
    let bad = || ReferenceError::Host(host.to_owned());
    let port = if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or_else(bad)?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
        if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(bad)?) }
    } else {
        let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
        let is_label = |label: &str| {
            let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
        };
        if !name.split('.').all(is_label) {
            return Err(bad());
        }
        port
    };
    let Some(port) = port else { return Ok(()) };
    let is_number = port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    if is_number { Ok(()) } else { Err(ReferenceError::Port(port.to_owned())) }
}

fn check_part(part: &str, path: &str) -> Result<(), ReferenceError> {
    if part.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(ReferenceError::Capitals(path.to_owned()));
    }
    let bad = || Err(ReferenceError::Part { part: part.to_owned() });
    let is_word = |b: char| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !part.starts_with(is_word) || !part.ends_with(is_word) {
        return bad();
    }
    let divided_well = |divider: &str| matches!(divider, "" | "." | "_" | "__") || divider.bytes().all(|b| b == b'-');
    if part.split(is_word).all(divided_well) { Ok(()) } else { bad() }
}

// === impl Tag ===

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let fits = (1..=TAG_MAX).contains(&text.len())
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|b| word(b) || b == b'.' || b == b'-');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(ReferenceError::Tag(text.chars().take(TAG_MAX + 1).collect()))
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Local ===

impl Local {
    /// As skopeo reads it: the path ends at the first colon. The tag may hold anything, other tools write whole
    /// references there.
    fn parse(text: &str, prefix: &'static str) -> Result<Self, ReferenceError> {
        let (path, tag) = text.split_once(':').map_or((text, None), |(path, tag)| (path, Some(tag)));
        if path.is_empty() {
            return Err(ReferenceError::NoPath(prefix));
        }
        if tag.is_some_and(|tag| tag.is_empty() || tag.len() > NAME_MAX || tag.contains(char::is_control)) {
            return Err(ReferenceError::Tag(tag.unwrap_or_default().chars().take(NAME_MAX).collect()));
        }
        Ok(Self { path: PathBuf::from(path), tag: tag.map(str::to_owned) })
    }

    fn absolute(self, base: &Path) -> Result<Self, ReferenceError> {
        let joined: PathBuf = base.join(&self.path).components().filter(|part| *part != Component::CurDir).collect();
        if joined.to_str().is_none_or(|path| path.contains(':')) {
            return Err(ReferenceError::ColonInPath(joined));
        }
        Ok(Self { path: joined, tag: self.tag })
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
    }
}

#[cfg(test)]
mod tests;
