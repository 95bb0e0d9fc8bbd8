//! What went wrong with an exchange, put into the registry's own words: of reqwest's errors and of status codes.
//!
//! reqwest's texts hold URLs, and URLs hold signatures, so only the innermost cause is kept; of what a server says of
//! its refusal only the code, and only if it looks like one.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use serde::Deserialize;

use crate::registry::error::RegistryError;
use crate::registry::retry::{Outcome, retry_after};
use crate::registry::transport::Reply;

/// distribution's form of an error.
#[derive(Deserialize)]
struct Refusal {
    errors: Vec<RefusalCode>,
}

#[derive(Deserialize)]
struct RefusalCode {
    code: String,
}

/// Why no answer came.
pub(super) fn of_request(error: reqwest::Error, host: &str, what: &str, connecting: Duration) -> RegistryError {
    let (host, what) = (host.to_owned(), what.to_owned());
    let cause = innermost(&error);
    match tls(&error) {
        Some(rustls::Error::InvalidCertificate(_)) => return RegistryError::Untrusted { host, cause },
        Some(rustls::Error::InvalidMessage(_)) => {
            return RegistryError::NotHttps { host, cause: "its answer is no TLS".to_owned() };
        }
        _ => {}
    }
    if error.is_connect() && error.is_timeout() {
        let cause = format!("no connection within {} s", connecting.as_secs());
        return RegistryError::Unreachable { host, cause };
    }
    if error.is_connect() {
        return RegistryError::Unreachable { host, cause };
    }
    RegistryError::Broken { host, what, cause }
}

/// The last of an error's causes, which says what really happened: "Connection refused (os error 111)".
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let last = std::iter::successors(Some(error), |error| (*error).source()).last().unwrap_or(error);
    match last.downcast_ref::<reqwest::Error>() {
        // Without its cause a reqwest error is its kind and its URL; the URL must not be shown.
        Some(_) => "the request failed".to_owned(),
        None => last.to_string(),
    }
}

/// The TLS error below an error. An I/O error does not show what it wraps as its source, only that one's source.
fn tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut error = Some(error);
    while let Some(this) = error {
        if let Some(found) = this.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        error = match this.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inside) => Some(inside),
            None => this.source(),
        };
    }
    None
}

/// What an answer that is no success means. `looked_at` and `had_login` speak of the login that was tried.
pub(super) async fn of_reply(
    reply: Reply,
    name: &str,
    what: &str,
    had_login: bool,
    looked_at: &[std::path::PathBuf],
) -> RegistryError {
    let status = reply.status;
    let wait = reply.header(RETRY_AFTER).and_then(|text| retry_after(text, SystemTime::now()));
    let (host, what) = (name.to_owned(), what.to_owned());
    let code = reply.body.drain().await.and_then(|body| code(&body));
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            RegistryError::Denied { host, what, code, had_login, looked_at: looked_at.to_vec() }
        }
        StatusCode::NOT_FOUND => RegistryError::NotFound { host, what, code },
        StatusCode::TOO_MANY_REQUESTS => RegistryError::Busy { host, what, wait },
        _ => RegistryError::Status { host, what, status: status.as_u16(), code, wait },
    }
}

fn code(body: &Bytes) -> Option<String> {
    let refusal: Refusal = serde_json::from_slice(body).ok()?;
    let code = refusal.errors.into_iter().next()?.code;
    let is_code = (1..=40).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    is_code.then_some(code)
}

/// How the rules of retrying see an error.
pub(super) fn outcome(error: &RegistryError) -> Outcome {
    match error {
        RegistryError::Unreachable { .. } => Outcome::NoConnection,
        RegistryError::Silent { .. } | RegistryError::Stalled { .. } | RegistryError::Broken { .. } => Outcome::Lost,
        RegistryError::Busy { wait, .. } => Outcome::Status(429, *wait),
        RegistryError::Status { status, wait, .. } => Outcome::Status(*status, *wait),
        _ => Outcome::Final,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_like_a_code_is_repeated() {
        let of = |text: &'static str| code(&Bytes::from_static(text.as_bytes()));
        assert_eq!(of(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"x"}]}"#), Some("MANIFEST_UNKNOWN".into()));
        assert_eq!(of(r#"{"errors":[{"code":"Bearer hunter2"}]}"#), None);
        assert_eq!(of(r#"{"errors":[]}"#), None);
        assert_eq!(of("<html>"), None);
    }
}
