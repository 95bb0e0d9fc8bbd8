//! Errors as people read them.

use std::borrow::Cow;
use std::error::Error;

/// The error and its causes on one line. A cause that the text before it repeats already is left out.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| (*cause).source()) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Digests by these begin so; what else comes after an `@` is the rest of an address.
const ALGORITHMS: [&str; 5] = ["sha256:", "sha384:", "sha512:", "blake3:", "md5:"];

/// What somebody called an image, without the login that stands before its host where somebody has put one. There is no place for it in
/// an image's name, and so nothing else takes it out.
pub fn without_login(name: &str) -> Cow<'_, str> {
    let is_path = name.starts_with(['/', '.', '~']) || name.starts_with("oci:") || name.starts_with("oci-archive:");
    let (scheme, address) = name.find("://").map_or(("", name), |at| name.split_at(at + 3));
    let halves = address.rmatch_indices('@').filter_map(|(at, _)| address.get(at + 1..));
    let mut hosts = halves.filter(|half| !ALGORITHMS.iter().any(|algorithm| half.starts_with(algorithm)));
    match hosts.next() {
        Some(host) if !is_path => Cow::Owned(format!("{scheme}***@{host}")),
        _ => Cow::Borrowed(name),
    }
}

/// Where a TOML text is wrong, at which key, and what was expected there. What stands there instead is not said: it may be a secret, and the parser's own
/// words would show all of its line.
pub fn of_toml(text: &str, error: &toml::de::Error) -> String {
    let message = without_value(error.message());
    let Some((before, after)) = error.span().and_then(|span| text.split_at_checked(span.start)) else { return message };
    let line = before.rsplit('\n').next().unwrap_or_default();
    let (number, column) = (before.matches('\n').count() + 1, line.chars().count() + 1);
    // Of a line that is none of TOML nobody knows what of it is a key.
    let is_of_value = message.starts_with("invalid ") && message.contains(", expected ") && !after.is_empty();
    let key = line.split_once('=').map(|(key, _)| key.trim()).filter(|key| is_of_value && is_bare(key));
    let at = key.map_or(String::new(), |key| format!(", `{key}`"));
    format!("line {number}, column {column}{at}: {message}")
}

/// Of serde's "invalid type: string "many", expected u32": the same without what is between the quotes.
fn without_value(message: &str) -> String {
    let is_of_value = message.starts_with("invalid type: ") || message.starts_with("invalid value: ");
    match message.rsplit_once(", expected ").filter(|_| is_of_value) {
        Some((found, expected)) => {
            let kind = found.split(['"', '`']).next().unwrap_or_default();
            format!("{}, expected {expected}", kind.trim_end())
        }
        None => message.to_owned(),
    }
}

fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        #[derive(Debug, serde::Deserialize)]
        #[allow(dead_code)] // what is read does not matter
        struct File {
            count: Option<u32>,
            header: Option<std::collections::BTreeMap<String, String>>,
        }
        of_toml(text, &toml::from_str::<File>(text).unwrap_err())
    }

    #[test]
    fn of_a_wrong_toml_its_place_is_told_and_nothing_that_stands_there() {
        assert_eq!(wrong("\ncount = \"s3cret\"\n"), "line 2, column 9, `count`: invalid type: string, expected u32");
        assert_eq!(
            wrong("header = \"s3cret, expected s3cret\"\n"),
            "line 1, column 10, `header`: invalid type: string, expected a map"
        );
        for text in [
            "[header]\nauthorization = \"Basic s3cret\nx = \"y\"\n",
            "[header]\nauthorization = 's3cret\n",
            "[header]\nauthorization = \"\"\"\ns3cret==\n",
            "[header]\nauthorization = Basic s3cret\n",
            "[header]\nauthorization = \"\\s3cret\"\n",
            "[header]\nauthorization \"s3cret=\"\n",
            "[header]\nauthorization = [\n \"s3cret=\",\n]\n",
            "[header]\ns3cret",
            "count = -1\nheader = {a = \"s3cret\", b}",
        ] {
            let told = wrong(text);
            assert!(told.starts_with("line ") && !told.contains("s3cret"), "{text}: {told}");
        }
    }

    #[test]
    fn of_an_images_name_all_is_told_but_a_login() {
        for (name, told) in [
            ("https://me:s3cret@h.example/app", "https://***@h.example/app"),
            ("me:s3cret@h.example:5000/app:1", "***@h.example:5000/app:1"),
            ("me:s3@cr/et@h.example/app@sha256:00", "***@h.example/app@sha256:00"),
            ("s3cret@h", "***@h"),
        ] {
            assert_eq!(without_login(name), told);
        }
        for name in ["", "redis", "redis:7@sha256:00", "redis@md5:00", "oci:/a@b/c", "/a@b/c", "./a@b/c"] {
            assert_eq!(without_login(name), name);
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the {0}")]
    struct Outer(&'static str, #[source] std::io::Error);

    #[test]
    fn causes_follow_and_are_not_repeated() {
        let error = Outer("lid", std::io::Error::other("stuck"));
        assert_eq!(with_causes(&error), "cannot open the lid: stuck");
        let error = Outer("lid: stuck", std::io::Error::other("stuck"));
        assert_eq!(with_causes(&error), "cannot open the lid: stuck");
    }
}
