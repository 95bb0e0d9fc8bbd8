//! What a registry wants to see before it answers: the WWW-Authenticate header (RFC 9110, 11.6.1).

/// One way to log in that a server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Fetch a token at `realm` (distribution's token specification).
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
    /// Name and password with every request.
    Basic,
    /// A scheme that is not known here.
    Other(String),
}

/// The header is read up to here; real ones have some 200 bytes.
const BYTES_MAX: usize = 8 << 10;

/// All challenges of all the headers, in order. What is malformed ends its header's reading.
pub(super) fn parse<'a>(headers: impl IntoIterator<Item = &'a str>) -> Vec<Challenge> {
    headers.into_iter().filter_map(|header| header.get(..header.len().min(BYTES_MAX))).flat_map(parse_one).collect()
}

fn parse_one(header: &str) -> Vec<Challenge> {
    let mut rest = header;
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if word.is_empty() {
            break;
        }
        match after.trim_start_matches([' ', '\t']).strip_prefix('=') {
            Some(value) => {
                let Some((value, after)) = parameter(value.trim_start_matches([' ', '\t'])) else { break };
                if let Some((_, parameters)) = found.last_mut() {
                    parameters.push((word.to_ascii_lowercase(), value));
                }
                rest = after;
            }
            None => {
                found.push((word.to_ascii_lowercase(), Vec::new()));
                rest = after;
            }
        }
    }
    found.into_iter().map(|(scheme, parameters)| Challenge::new(scheme, parameters)).collect()
}

fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/:".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

/// A parameter's value, quoted or bare, and what stands after it.
fn parameter(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, after) = token(text);
        // A second '=' is the end of what Negotiate and its like call token68.
        return Some((value.to_owned(), after.trim_start_matches('=')));
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, quoted.get(at + 1..)?)),
            '\\' => value.push(letters.next()?.1),
            letter => value.push(letter),
        }
    }
    None
}

// === impl Challenge ===

impl Challenge {
    fn new(scheme: String, parameters: Vec<(String, String)>) -> Self {
        let get = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        match (scheme.as_str(), get("realm")) {
            ("bearer", Some(realm)) => Self::Bearer { realm, service: get("service"), scope: get("scope") },
            ("basic", _) => Self::Basic,
            _ => Self::Other(scheme),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.to_owned(), service: own(service), scope: own(scope) }
    }

    #[test]
    fn the_challenges_that_registries_send_are_understood() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let hub_means =
            bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:a/b:pull,push"));
        let cases = [
            (hub, vec![hub_means]),
            (r#"Basic realm="images""#, vec![Challenge::Basic]),
            ("Basic", vec![Challenge::Basic]),
            (r#"BEARER REALM="r""#, vec![bearer("r", None, None)]),
            ("Bearer realm=https://h/t , service = s", vec![bearer("https://h/t", Some("s"), None)]),
            (r#"Bearer realm="a\"b\\c""#, vec![bearer(r#"a"b\c"#, None, None)]),
            (r#"Basic realm="x", Bearer realm="r", scope="s""#, vec![Challenge::Basic, bearer("r", None, Some("s"))]),
            ("Negotiate YWJj==, Basic", vec![Challenge::Other("negotiate".into()), Challenge::Basic]),
            ("Bearer service=s", vec![Challenge::Other("bearer".into())]),
            (r#"Bearer realm="open"#, vec![Challenge::Other("bearer".into())]),
            ("", vec![]),
            (",,=x", vec![]),
        ];
        for (header, want) in cases {
            assert_eq!(parse([header]), want, "{header}");
        }
    }

    #[test]
    fn several_headers_are_one_list() {
        assert_eq!(parse(["Basic", r#"Bearer realm="r""#]), [Challenge::Basic, bearer("r", None, None)]);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic_or_run_on(header in "\\PC{0,200}|([A-Za-z]{1,6}[ =,\"\\\\]{0,3}){0,40}") {
            prop_assert!(parse([header.as_str()]).len() <= header.len());
        }

        #[test]
        fn a_quoted_value_is_read_as_it_was_written(value in "[ -~]{0,40}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            prop_assert_eq!(parse([format!("Bearer realm=\"{quoted}\"").as_str()]), [bearer(&value, None, None)]);
        }
    }
}
