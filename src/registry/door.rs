//! What stands before each host: places for so many requests, so many of them in a second, and the pauses that it asks for;
//! and what is known of the way there.
//!
//! There is one door for a host on the whole node, whoever asks and for what. A host that answers 429, or says Retry-After
//! with 503, is left alone by everybody for that long, not just by the one who was told. But what it says may be nonsense, and what was the
//! matter may be over sooner: a pause has an end that we set, and in a long one somebody looks now and then.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::gate::{Bucket, Gate, Place, Urgency};
use crate::registry::config::Config;
use crate::registry::error::RegistryError;
use crate::registry::link::Link;
use crate::registry::retry::retry_after;
use crate::registry::transport::Weight;
use crate::sync::{Arc, Mutex};

/// The doors of all hosts.
pub(super) struct Doors {
    by_host: Mutex<HashMap<String, Arc<Door>>>,
    rules: Rules,
}

/// What is the same for all hosts.
#[derive(Debug, Clone, Copy)]
struct Rules {
    places: usize,
    /// 0 is without a bound.
    requests_per_second: u32,
    /// For a host that says 429 and not for how long.
    usual_pause: Duration,
    /// Who would have to wait longer is told so instead, but for one in each such time, who looks whether the host has opened.
    longest_pause: Duration,
}

/// A host wants to be left alone.
#[derive(Debug, Clone, Copy)]
struct Closed {
    until: Instant,
    /// When it last said so, or somebody last looked.
    looked: Instant,
}

/// What one finds at a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Open,
    /// It opens after so long.
    ClosedFor(Duration),
    /// It is closed, and it is time that somebody looks.
    MayLook,
}

/// One host's.
struct Door {
    places: Gate,
    /// Whole layers leave a quarter of the places to requests that somebody waits for.
    heavy: Arc<Semaphore>,
    /// The one who may send next, where requests are counted by the second.
    turn: Gate,
    rate: Option<Mutex<Bucket>>,
    closed: Mutex<Option<Closed>>,
    link: Mutex<Link>,
}

/// The right to talk to a host, until it is dropped.
pub(super) struct Inside {
    door: Arc<Door>,
    /// The door is closed, and this one looks whether that is still meant.
    looks: bool,
    _place: Place,
    _heavy: Option<OwnedSemaphorePermit>,
}

/// Hosts are few; redirects to made-up names must not fill the table.
const DOORS_MAX: usize = 256;
/// Docker Hub counts in hours and says so elsewhere; who asks for more than this by Retry-After has made a mistake, or wants us away for good.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Who waits for nothing at all looks no more often than this.
const LOOK_EVERY_MIN: Duration = Duration::from_secs(10);

// === impl Doors ===

impl Doors {
    pub(super) fn new(config: &Config) -> Self {
        let rules = Rules {
            places: config.connections_per_host.clamp(1, 1024),
            requests_per_second: config.requests_per_second,
            usual_pause: Duration::from_millis(config.retry_pause_ms),
            longest_pause: Duration::from_secs(config.retry_deadline_secs),
        };
        Self { by_host: Mutex::default(), rules }
    }

    /// Waits until `host` may be asked. Every holder of a place has deadlines of its own. Fails where the host wants to be left
    /// alone for longer than anybody waits.
    pub(super) async fn enter(&self, host: &str, what: &str, weight: &Weight) -> Result<Inside, RegistryError> {
        let door = self.of(host);
        let urgency = weight.urgency();
        loop {
            let found = door.look(Instant::now(), self.rules.longest_pause);
            match found {
                Found::ClosedFor(closed) if closed > self.rules.longest_pause => {
                    let (host, what) = (host.to_owned(), what.to_owned());
                    return Err(RegistryError::Busy { host, what, wait: Some(closed) });
                }
                Found::ClosedFor(closed) => {
                    tokio::time::sleep(closed).await;
                    continue;
                }
                Found::Open | Found::MayLook => {}
            }
            let looks = found == Found::MayLook;
            let _heavy = match weight {
                Weight::Heavy => door.heavy.clone().acquire_owned().await.ok(), // it is never closed
                Weight::Light | Weight::Part(_) => None,
            };
            let _place = door.places.enter(&urgency).await;
            let inside = Inside { door: door.clone(), looks, _place, _heavy };
            // It may have been closed while we stood in the queue.
            if looks || door.closed_for(Instant::now()).is_zero() {
                inside.door.wait_for_turn(&urgency).await;
                return Ok(inside);
            }
        }
    }

    /// The host answered so to who is inside: does it ask to be left alone? Says whether it does.
    pub(super) fn answered(&self, inside: &Inside, status: StatusCode, headers: &HeaderMap) -> bool {
        let asked = headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now()));
        let pause = match (status, asked) {
            (StatusCode::TOO_MANY_REQUESTS, asked) => asked.unwrap_or(self.rules.usual_pause),
            (StatusCode::SERVICE_UNAVAILABLE, Some(asked)) => asked,
            _ => {
                if inside.looks {
                    *inside.door.closed.lock() = None;
                }
                return false;
            }
        };
        let (looked, pause) = (Instant::now(), pause.min(PAUSE_MAX));
        let mut closed = inside.door.closed.lock();
        // What it says to one who looked is newer than what it said before.
        let before = closed.filter(|_| !inside.looks).map(|before| before.until);
        let until = before.max(Some(looked + pause)).unwrap_or(looked);
        *closed = Some(Closed { until, looked });
        !pause.is_zero()
    }

    /// Bytes that come from the host in the time of a round trip; 0 if that is not known.
    pub(super) fn carries(&self, host: &str) -> u64 {
        let door = self.by_host.lock().get(host).cloned();
        door.map_or(0, |door| door.link.lock().carries())
    }

    fn of(&self, host: &str) -> Arc<Door> {
        let mut doors = self.by_host.lock();
        if doors.len() >= DOORS_MAX {
            doors.retain(|_, door| Arc::strong_count(door) > 1 || door.places.holders() > 1);
        }
        doors.entry(host.to_owned()).or_insert_with(|| Arc::new(Door::new(self.rules))).clone()
    }
}

// === impl Inside ===

impl Inside {
    /// The first byte of the answer came so long after it was asked for.
    pub(super) fn answered(&self, after: Duration) {
        self.door.link.lock().answered(after);
    }

    /// All of the answer had come so long after it was asked for.
    pub(super) fn came(&self, bytes: u64, after: Duration) {
        self.door.link.lock().came(bytes, after);
    }
}

// === impl Door ===

impl Door {
    fn new(rules: Rules) -> Self {
        let heavy = (rules.places - rules.places.div_ceil(4)).max(1);
        let per_second = f64::from(rules.requests_per_second);
        // Requests come in bursts; a quarter of a second's is none that anybody would notice.
        let bucket = || Mutex::new(Bucket::new(per_second, (per_second / 4.0).max(1.0), Instant::now()));
        Self {
            places: Gate::new(rules.places),
            heavy: Arc::new(Semaphore::new(heavy)),
            turn: Gate::new(1),
            rate: (rules.requests_per_second > 0).then(bucket),
            closed: Mutex::new(None),
            link: Mutex::default(),
        }
    }

    fn closed_for(&self, now: Instant) -> Duration {
        self.closed.lock().map_or(Duration::ZERO, |closed| closed.until.saturating_duration_since(now))
    }

    /// Whether one may go in. Who may look is the one who does: for a while nobody else may.
    fn look(&self, now: Instant, longest_pause: Duration) -> Found {
        let mut state = self.closed.lock();
        let Some(closed) = &mut *state else { return Found::Open };
        let left = closed.until.saturating_duration_since(now);
        if left.is_zero() {
            return Found::Open;
        }
        let may_look = now.saturating_duration_since(closed.looked) >= longest_pause.max(LOOK_EVERY_MIN);
        if left > longest_pause && may_look {
            closed.looked = now;
            return Found::MayLook;
        }
        Found::ClosedFor(left)
    }

    async fn wait_for_turn(&self, urgency: &Urgency) {
        let Some(rate) = &self.rate else { return };
        let _turn = self.turn.enter(urgency).await;
        let wait = rate.lock().take(1.0, Instant::now());
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doors(requests_per_second: u32) -> Doors {
        Doors::new(&Config { connections_per_host: 2, requests_per_second, ..Config::default() })
    }

    fn headers(retry_after: &str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, retry_after.parse().unwrap())])
    }

    async fn enter(doors: &Doors) -> Inside {
        doors.enter("a", "it", &Weight::Light).await.unwrap()
    }

    #[tokio::test]
    async fn a_host_that_asks_for_a_pause_is_closed_to_all_and_others_are_not() {
        let doors = doors(0);
        let (inside, other) = (enter(&doors).await, enter(&doors).await);
        assert!(!doors.answered(&inside, StatusCode::OK, &headers("200")));
        assert!(!doors.answered(&inside, StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new()));
        drop(inside);
        let inside = enter(&doors).await;
        assert!(doors.answered(&inside, StatusCode::SERVICE_UNAVAILABLE, &headers("200")));
        // A shorter one, asked for later, does not open it, nor does an answer to what was asked before.
        assert!(doors.answered(&inside, StatusCode::TOO_MANY_REQUESTS, &headers("1")));
        assert!(!doors.answered(&other, StatusCode::OK, &HeaderMap::new()));
        drop((inside, other));
        for weight in [Weight::Light, Weight::Heavy, Weight::Part(Urgency::reader())] {
            let refused = doors.enter("a", "it", &weight).await.err();
            let longer = |wait: &Option<Duration>| wait.is_some_and(|wait| wait > Duration::from_secs(100));
            assert!(matches!(&refused, Some(RegistryError::Busy { wait, .. }) if longer(wait)), "{refused:?}");
        }
        drop(doors.enter("b", "it", &Weight::Light).await.unwrap());
    }

    #[tokio::test]
    async fn no_pause_lasts_longer_than_we_let_it() {
        for nonsense in ["99999999999999999999", "4294967295", "1700000000", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            let doors = doors(0);
            let inside = enter(&doors).await;
            assert!(doors.answered(&inside, StatusCode::TOO_MANY_REQUESTS, &headers(nonsense)), "{nonsense}");
            assert!(inside.door.closed_for(Instant::now()) <= Duration::from_secs(300), "{nonsense}");
        }
    }

    #[tokio::test]
    async fn in_a_long_pause_one_looks_now_and_then_and_opens_the_door_for_all() {
        let doors = doors(0);
        let inside = enter(&doors).await;
        doors.answered(&inside, StatusCode::TOO_MANY_REQUESTS, &headers("300"));
        let (door, longest) = (inside.door.clone(), doors.rules.longest_pause);
        let closed = door.closed.lock().unwrap().looked;
        let after = |secs| closed + Duration::from_secs(secs);
        assert!(matches!(door.look(after(50), longest), Found::ClosedFor(_)));
        assert_eq!(door.look(after(61), longest), Found::MayLook);
        assert!(matches!(door.look(after(62), longest), Found::ClosedFor(_)), "one is enough");
        assert_eq!(door.look(after(122), longest), Found::MayLook);
        // It is said again, and for how long from then on; or it is not.
        let looking = Inside { looks: true, ..inside };
        doors.answered(&looking, StatusCode::TOO_MANY_REQUESTS, &headers("100"));
        assert!(door.closed_for(Instant::now()) <= Duration::from_secs(100));
        doors.answered(&looking, StatusCode::OK, &HeaderMap::new());
        assert_eq!(door.look(Instant::now(), longest), Found::Open);
    }

    #[tokio::test]
    async fn a_short_pause_is_waited_for_and_so_is_the_rate() {
        let doors = doors(20);
        let inside = enter(&doors).await;
        let begun = Instant::now();
        doors.answered(&inside, StatusCode::TOO_MANY_REQUESTS, &HeaderMap::new());
        drop(inside);
        for _ in 0..8 {
            drop(doors.enter("a", "it", &Weight::Light).await.unwrap());
        }
        // 200 ms of pause, then five at once and three more with 50 ms between them.
        assert!(begun.elapsed() >= Duration::from_millis(340), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn what_nobody_waits_for_leaves_places_free() {
        let doors = doors(0);
        let background = Weight::Part(Urgency::background());
        let _held = doors.enter("a", "it", &background).await.unwrap();
        let second = tokio::time::timeout(Duration::from_millis(20), doors.enter("a", "it", &background)).await;
        assert!(second.is_err());
        drop(doors.enter("a", "it", &Weight::Light).await.unwrap());
    }
}
