//! Whether a failed request is sent again, and when: a pure function of what happened so far.

use std::time::{Duration, SystemTime};

/// What bounds the tries of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// Tries after the first.
    pub(super) retries: u32,
    /// No try starts later than this after the first.
    pub(super) deadline: Duration,
    pub(super) first_pause: Duration,
}

/// How a try failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// No connection: unknown host, refused, no route, no handshake in time.
    NoConnection,
    /// The connection broke, or the answer did not come in time.
    Lost,
    /// An answer with this status, and how long it asked to be left alone.
    Status(u16, Option<Duration>),
    /// Anything that another try cannot better.
    Final,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Again(Duration),
    GiveUp,
}

const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Somebody waits at the prompt for a name that may be wrong: a host that does not let us connect is given this long.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

impl Policy {
    /// What to do after try number `attempt` (the first is 0) failed with `outcome`, `elapsed` after the first began.
    /// `chance`, between 0 and 1, spreads clients that failed together.
    pub(super) fn next(&self, attempt: u32, elapsed: Duration, outcome: Outcome, chance: f64) -> Verdict {
        let pause = self.pause(attempt, chance);
        let (pause, deadline) = match outcome {
            Outcome::NoConnection => (pause, self.deadline.min(CONNECT_DEADLINE)),
            Outcome::Lost => (pause, self.deadline),
            Outcome::Status(408 | 425 | 429 | 500 | 502 | 503 | 504, asked) => {
                (asked.map_or(pause, |asked| asked.max(pause)), self.deadline)
            }
            Outcome::Status(..) | Outcome::Final => return Verdict::GiveUp,
        };
        let in_time = elapsed.checked_add(pause).is_some_and(|start| start <= deadline);
        if attempt < self.retries && in_time { Verdict::Again(pause) } else { Verdict::GiveUp }
    }

    /// Doubles with every try up to a bound; between half of that and all of it.
    fn pause(&self, attempt: u32, chance: f64) -> Duration {
        let full = self.first_pause.saturating_mul(1u32.checked_shl(attempt.min(16)).unwrap_or(u32::MAX));
        full.min(PAUSE_MAX).mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

/// A Retry-After header: seconds, or a date (RFC 9110, 10.2.3).
pub(super) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number holds are a long time too.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: Policy =
        Policy { retries: 3, deadline: Duration::from_secs(60), first_pause: Duration::from_millis(200) };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_may_pass_is_tried_again_and_what_will_not_is_not() {
        use Outcome::*;
        let again = [NoConnection, Lost, Status(429, None), Status(500, None), Status(502, None), Status(503, None)];
        for outcome in again {
            assert_eq!(POLICY.next(0, ms(0), outcome, 1.0), Verdict::Again(ms(200)), "{outcome:?}");
        }
        for outcome in [Status(400, None), Status(401, None), Status(404, Some(ms(1))), Status(501, None), Final] {
            assert_eq!(POLICY.next(0, ms(0), outcome, 1.0), Verdict::GiveUp, "{outcome:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_ten_seconds_and_end_with_the_retries() {
        let policy = Policy { retries: 20, ..POLICY };
        let pause = |attempt| policy.next(attempt, ms(0), Outcome::Lost, 1.0);
        let table = [(0, 200), (1, 400), (2, 800), (5, 6_400), (6, 10_000), (19, 10_000)];
        for (attempt, want) in table {
            assert_eq!(pause(attempt), Verdict::Again(ms(want)), "{attempt}");
        }
        assert_eq!(pause(20), Verdict::GiveUp);
        assert_eq!(policy.next(0, ms(0), Outcome::Lost, 0.0), Verdict::Again(ms(100)));
    }

    #[test]
    fn a_registry_that_asks_for_a_pause_gets_it_if_there_is_time() {
        let asks =
            |secs, elapsed| POLICY.next(0, ms(elapsed), Outcome::Status(429, Some(Duration::from_secs(secs))), 0.5);
        assert_eq!(asks(7, 0), Verdict::Again(Duration::from_secs(7)));
        assert_eq!(asks(0, 0), Verdict::Again(ms(150)));
        assert_eq!(asks(60, 0), Verdict::Again(Duration::from_secs(60)));
        assert_eq!(asks(60, 1), Verdict::GiveUp);
        assert_eq!(asks(u64::MAX, 1), Verdict::GiveUp);
    }

    #[test]
    fn a_host_that_cannot_be_reached_is_given_up_within_seconds() {
        assert_eq!(POLICY.next(2, ms(1_900), Outcome::NoConnection, 0.0), Verdict::GiveUp);
        assert_eq!(POLICY.next(0, ms(5_000), Outcome::NoConnection, 0.0), Verdict::GiveUp);
        assert!(matches!(POLICY.next(0, ms(5_000), Outcome::Lost, 0.0), Verdict::Again(_)));
    }

    #[test]
    fn retry_after_is_a_number_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        let cases = [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(u64::from(u32::MAX))),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ];
        for (text, secs) in cases {
            assert_eq!(retry_after(text, now), secs.map(Duration::from_secs), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn it_ends_and_never_starts_late(attempt in 0u32..100, elapsed in 0u64..200_000, status: u16, after: Option<u32>, chance: f64) {
            let after = after.map(|secs| Duration::from_secs(u64::from(secs)));
            if let Verdict::Again(pause) = POLICY.next(attempt, ms(elapsed), Outcome::Status(status, after), chance) {
                prop_assert!(attempt < POLICY.retries);
                prop_assert!(ms(elapsed) + pause <= POLICY.deadline);
            }
        }
    }
}
