//! Moments as JSON has them: `2006-01-02T15:04:05.999999999Z` or with an offset (RFC 3339).

use crate::index::tree::Time;

/// The moment, or none if the text is none.
pub(super) fn parse(text: &str) -> Option<Time> {
    let (date, time) = text.split_once(['T', 't'])?;
    let [year, month, day] = fields(date, '-')?;
    let (clock, offset) = split_offset(time)?;
    let (clock, nanos) = clock.split_once('.').map_or(Some((clock, 0)), |(clock, part)| Some((clock, nanos(part)?)))?;
    let [hour, minute, second] = fields(clock, ':')?;
    let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    in_range.then_some(Time { seconds, nanos })
}

/// Three numbers, of four digits at most.
fn fields(text: &str, by: char) -> Option<[i64; 3]> {
    let mut parts = text.split(by).map(number);
    let three = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(three)
}

fn number(text: &str) -> Option<i64> {
    let is_number = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

fn nanos(part: &str) -> Option<u32> {
    let is_fraction = (1..=9).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    let digits: u32 = part.parse().ok().filter(|_| is_fraction)?;
    Some(digits * 10u32.pow(9 - part.len() as u32))
}

/// The time of day without its offset from UTC, and that offset in seconds.
fn split_offset(time: &str) -> Option<(&str, i64)> {
    if let Some(time) = time.strip_suffix(['Z', 'z']) {
        return Some((time, 0));
    }
    let at = time.rfind(['+', '-'])?;
    let (time, offset) = time.split_at_checked(at)?;
    let (sign, offset) = offset.split_at_checked(1)?;
    let (hours, minutes) = offset.split_once(':')?;
    let seconds = number(hours).filter(|hours| *hours < 24)? * 3600 + number(minutes).filter(|part| *part < 60)? * 60;
    Some((time, if sign == "-" { -seconds } else { seconds }))
}

/// Days from 1970-01-01 in the Gregorian calendar, which repeats itself every 400 years of 146,097 days.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is a year's last.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `date -u -d TEXT +%s` says the same.
    #[test]
    fn moments_are_read_as_date_reads_them() {
        let cases = [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2024-02-29T12:34:56Z", 1_709_210_096, 0),
            ("2000-03-01T00:00:00Z", 951_868_800, 0),
            ("1969-12-31T23:59:59.25Z", -1, 250_000_000),
            ("1900-03-01T00:00:00Z", -2_203_891_200, 0),
            ("2026-11-23T10:15:57.000000001+02:30", 1_795_419_957, 1),
            ("2038-01-19T03:14:08-00:30", 2_147_485_448, 0),
        ];
        for (text, seconds, nanos) in cases {
            assert_eq!(parse(text), Some(Time { seconds, nanos }), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "T",
            "2024-02-29",
            "2024-02-29T12:34Z",
            "2024-02-29T12:34:56",
            "2024-13-01T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "+024-01-01T00:00:00Z",
            "20240-01-01T00:00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00.0000000001Z",
            "2024-01-01T00:00:00+99:00",
            "2024-01-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String, digits in "[0-9TZ:+.-]{0,40}") {
            let _ = (parse(&text), parse(&digits));
        }
    }
}
