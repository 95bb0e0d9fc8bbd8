//! Which images a provider or a credential is for: kubelet's patterns of hosts and paths.
//!
//! `*.dkr.ecr.*.amazonaws.com/team`: each label of the host matches one label, the port must be the same (none matches
//! none), and the path is a prefix, compared as text.

/// Whether `image`, written `HOST[:PORT]/PATH`, is one that `pattern` is for.
pub(super) fn covers(pattern: &str, image: &str) -> bool {
    let ((host, port, path), (of_host, of_port, of_path)) = (parts(pattern), parts(image));
    let mut labels = host.split('.');
    let mut of_labels = of_host.split('.');
    if port != of_port || !of_path.starts_with(path) {
        return false;
    }
    loop {
        match (labels.next(), of_labels.next()) {
            (None, None) => return true,
            (Some(label), Some(of_label)) if matches(label, of_label) => {}
            _ => return false,
        }
    }
}

/// Host, port and path (with its slash).
fn parts(text: &str) -> (&str, Option<&str>, &str) {
    let (authority, path) = text.split_at(text.find('/').unwrap_or(text.len()));
    let path = if path == "/" { "" } else { path };
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port), path),
        _ => (authority, None, path),
    }
}

/// A shell pattern: `*`, `?`, `[a-z]`, `[^a-z]`, `\` before what is meant as itself. One that is malformed matches nothing.
fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut rest, mut of_text) = (pattern.as_slice(), text.as_slice());
    // Where to go on with the last star taking one letter more: enough, since an earlier one need not take more.
    let mut star: Option<(&[char], &[char])> = None;
    loop {
        if let ['*', after @ ..] = rest {
            star = Some((after, of_text));
            rest = after;
            continue;
        }
        let step = match (rest.is_empty(), of_text.split_first()) {
            (true, None) => return true,
            (false, Some((letter, after))) => one(rest, *letter).map(|rest| (rest, after)),
            _ => None,
        };
        if let Some(next) = step {
            (rest, of_text) = next;
            continue;
        }
        let Some((after, from)) = star else { return false };
        let Some((_, from)) = from.split_first() else { return false };
        star = Some((after, from));
        (rest, of_text) = (after, from);
    }
}

/// What is left of the pattern after its beginning has matched this letter.
fn one(pattern: &[char], letter: char) -> Option<&[char]> {
    match pattern {
        ['?', rest @ ..] => Some(rest),
        ['[', rest @ ..] => class(rest, letter),
        ['\\', meant, rest @ ..] | [meant, rest @ ..] => (*meant == letter).then_some(rest),
        [] => None,
    }
}

fn class(pattern: &[char], letter: char) -> Option<&[char]> {
    let (is_inverted, mut rest) = match pattern {
        ['^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (mut is_in, mut count) = (false, 0);
    loop {
        rest = match rest {
            [']', rest @ ..] if count > 0 => return (is_in != is_inverted).then_some(rest),
            [low, '-', high, rest @ ..] if *high != ']' => {
                is_in |= (*low..=*high).contains(&letter);
                rest
            }
            [only, rest @ ..] => {
                is_in |= *only == letter;
                rest
            }
            [] => return None,
        };
        count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_cover_what_kubelet_s_do() {
        let cases = [
            ("123456789.dkr.ecr.us-east-1.amazonaws.com", "123456789.dkr.ecr.us-east-1.amazonaws.com/app", true),
            ("*.dkr.ecr.*.amazonaws.com", "123456789.dkr.ecr.us-east-1.amazonaws.com/app", true),
            ("*.dkr.ecr.*.amazonaws.com", "dkr.ecr.us-east-1.amazonaws.com/app", false),
            ("*.dkr.ecr.*.amazonaws.com.cn", "1.dkr.ecr.cn-north-1.amazonaws.com.cn/app", true),
            ("*.azurecr.io", "team.azurecr.io/app", true),
            ("*.azurecr.io", "a.team.azurecr.io/app", false),
            ("gcr.io", "gcr.io/project/app", true),
            ("gcr.io", "eu.gcr.io/project/app", false),
            ("*.*.registry.io", "foo.registry.io/a", false),
            ("*.*.registry.io", "foo.bar.registry.io/a", true),
            ("registry.io:8080/path", "registry.io:8080/path/a", true),
            ("registry.io:8080/path", "registry.io/path/a", false),
            ("registry.io/path", "registry.io:8080/path/a", false),
            ("registry.io/path", "registry.io/path2", true),
            ("registry.io/path", "registry.io/other", false),
            ("registry.io/", "registry.io/other", true),
            ("registry.i*", "registry.io/a", true),
            ("app*.k8s.io", "app5.k8s.io/a", true),
            ("*-docker.pkg.dev", "us-central1-docker.pkg.dev/p/a", true),
            ("*", "localhost/a", true),
            ("*", "gcr.io/a", false),
            ("reg[0-9].example", "reg7.example/a", true),
            ("reg[^0-9].example", "reg7.example/a", false),
            ("reg[0-9.example", "reg7.example/a", false),
            ("reg?.example", "reg7.example/a", true),
            ("[::1]:5000", "[::1]:5000/a", false), // kubelet's patterns read the brackets as a class
            ("", "gcr.io/a", false),
        ];
        for (pattern, image, want) in cases {
            assert_eq!(covers(pattern, image), want, "{pattern} {image}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_with_stars_in_place_of_some_text_matches(text in "[a-z0-9-]{0,12}", cuts in proptest::collection::vec((0usize..12, 0usize..12), 0..3)) {
            let mut pattern = text.clone();
            for (from, to) in cuts {
                let (from, to) = (from.min(pattern.len()), to.min(pattern.len()));
                if from <= to {
                    pattern.replace_range(from..to, "*");
                }
            }
            prop_assert!(matches(&pattern, &text), "{pattern} {text}");
        }

        #[test]
        fn no_pattern_makes_it_run_on(pattern in "[a-c*?\\[\\]^\\\\-]{0,40}", text in "[a-c]{0,60}") {
            matches(&pattern, &text);
        }
    }
}
