//! What a caller says of the server that it means: a server that runs has its own root, configuration and log, whatever flags a command is
//! given.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

const ROOT: HeaderName = HeaderName::from_static("oncefs-root");
const CONFIG: HeaderName = HeaderName::from_static("oncefs-config");
const LOG: HeaderName = HeaderName::from_static("oncefs-log");

/// What flags say; none is whatever the server has. Places are absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub root: Option<PathBuf>,
    pub config: Option<PathBuf>,
    pub log: Option<String>,
}

// === impl Wanted ===

impl Wanted {
    /// As headers of a call. What cannot be one is left out.
    pub(super) fn headers(&self) -> HeaderMap {
        let place = |place: &Option<PathBuf>| place.as_deref().map(|place| place.as_os_str().as_bytes().to_vec());
        let said = [(ROOT, place(&self.root)), (CONFIG, place(&self.config)), (LOG, self.log.clone().map(Vec::from))];
        let value = |(name, said): (HeaderName, Option<Vec<u8>>)| Some((name, HeaderValue::from_bytes(&said?).ok()?));
        said.into_iter().filter_map(value).collect()
    }

    pub fn of_headers(headers: &HeaderMap) -> Self {
        let said = |name| headers.get(name).map(HeaderValue::as_bytes);
        let place = |name| said(name).map(|place| PathBuf::from(OsStr::from_bytes(place)));
        let log = said(LOG).map(|log| String::from_utf8_lossy(log).into_owned());
        Self { root: place(ROOT), config: place(CONFIG), log }
    }
}

/// A place by its one name, where it exists.
pub fn one_name(place: &Path) -> PathBuf {
    let absolute = || std::path::absolute(place).unwrap_or_else(|_| place.to_owned());
    place.canonicalize().unwrap_or_else(|_| absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_arrives_as_it_is() {
        let root = PathBuf::from(OsStr::from_bytes(b"/a b/\xc3\xa9\xff"));
        let wanted = Wanted { root: Some(root), config: None, log: Some("oncefs::registry=debug,\"x\"".to_owned()) };
        assert_eq!(Wanted::of_headers(&wanted.headers()), wanted);
        assert_eq!(Wanted::of_headers(&HeaderMap::new()), Wanted::default());
        let unsayable = Wanted { log: Some("a\nb".to_owned()), ..Wanted::default() };
        assert_eq!(unsayable.headers().len(), 0);
    }
}
