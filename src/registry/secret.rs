//! A text that must never be seen: passwords and tokens.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;

/// Shows nothing of what it holds, however it is printed, and cannot be serialised.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Secret(String);

// === impl Secret ===

impl Secret {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself: for the request it goes into, and nothing else.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `Authorization: Bearer ...`, marked so that no header's `Debug` shows it; `None` if it cannot stand in a header.
    pub(super) fn bearer(&self) -> Option<HeaderValue> {
        sensitive(&format!("Bearer {}", self.0))
    }

    /// `Authorization: Basic ...` (RFC 7617).
    pub(super) fn basic(&self, user: &str) -> Option<HeaderValue> {
        sensitive(&format!("Basic {}", STANDARD.encode(format!("{user}:{}", self.0))))
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_by_nothing() {
        let secret = Secret::new("hunter2");
        let shown = format!("{secret} {secret:?} {:?} {:?}", secret.bearer(), secret.basic("user"));
        assert!(!shown.contains("hunter2") && !shown.contains("aHVudGVyMg") && !shown.contains("dXNlcjpo"), "{shown}");
    }

    #[test]
    fn headers_are_as_the_rfcs_have_them() {
        // RFC 7617, section 2.
        assert_eq!(Secret::new("open sesame").basic("Aladdin").unwrap(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(Secret::new("abc").bearer().unwrap(), "Bearer abc");
        assert_eq!(Secret::new("a\r\nX-Other: b").bearer(), None);
    }
}
