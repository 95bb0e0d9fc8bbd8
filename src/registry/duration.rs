//! Durations as Go writes them, for the files of containerd and kubelet: `1.5s`, `200ms`, `12h`, `1m30s`, `0`.

use std::time::Duration;

/// `None` if it is no duration, or a negative one.
pub(super) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut sum) = (text, 0.0);
    while !rest.is_empty() {
        let (value, after) = rest.split_at(rest.find(|c: char| c != '.' && !c.is_ascii_digit())?);
        let unit = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        sum += value.parse::<f64>().ok()? * scale;
        rest = after;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(sum).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_s_durations_are_understood() {
        let cases = [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("12h", Some(43_200_000)),
            ("1m30s", Some(90_000)),
            ("1.5s", Some(1500)),
            ("200ms", Some(200)),
            ("1h0m0.25s", Some(3_600_250)),
            ("", None),
            ("5", None),
            ("-5s", None),
            ("s", None),
            ("5 s", None),
            ("5d", None),
            ("1..5s", None),
            ("99999999999999999999999999h", None),
        ];
        for (text, ms) in cases {
            assert_eq!(parse(text), ms.map(Duration::from_millis), "{text:?}");
        }
    }
}
