//! A source that is away: its layer's readers wait for it together, one of them asks again for all, and each gives up in its own time.
//!
//! Without this a thousand readers would each try again on their own, and a registry that comes back would meet all of them
//! at once.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::digest::LayerDigest;
use crate::errors::with_causes;
use crate::store::fetching::Fetching;
use crate::store::fill::FillError;
use crate::sync::Mutex;
use crate::sync::atomic::Ordering;

/// What may be the matter with a layer's source.
#[derive(Debug, Default)]
pub(super) struct Outages {
    /// No bytes come.
    pub(super) away: Outage,
    /// Bytes come, and they are others than the layer's.
    pub(super) spoilt: Outage,
}

/// A source that is away, for those who ask why nothing moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceAway {
    /// For so long.
    pub since: Duration,
    /// How often it was asked again.
    pub tries: u32,
    /// What the last answer was.
    pub cause: String,
}

/// Whether a layer's source is away, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Outage {
    away: Mutex<Option<Away>>,
    /// Something about it has changed.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Away {
    since: Instant,
    /// What the last try ended with.
    error: FillError,
    tries: u32,
    next_try: Instant,
    /// Whoever comes waits for long enough to see one try.
    pause_max: Duration,
    is_tried: bool,
    waiting: usize,
}

/// What a reader may do.
pub(super) enum Turn<'a> {
    /// The source is there, as far as is known.
    Ask,
    /// It is this one who tries for all.
    Try(Try<'a>),
    /// The time is over.
    GiveUp(FillError),
}

/// The one try that is under way. If it is dropped without an end, another makes it.
pub(super) struct Try<'a>(&'a Outage);

/// A reader that waits for a source that is away.
pub(super) struct Patience<'a> {
    outage: &'a Outage,
    fetching: &'a Fetching,
    layer: LayerDigest,
    pub(super) deadline: Instant,
}

/// The pause between tries doubles up to a bound that somebody who waits still takes for soon.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);

// === impl Outages ===

impl Outages {
    pub(super) fn now(&self) -> Option<SourceAway> {
        self.away.now().or_else(|| self.spoilt.now())
    }
}

// === impl Outage ===

impl Outage {
    fn now(&self) -> Option<SourceAway> {
        let away = self.away.lock();
        let Away { since, tries, error, .. } = away.as_ref()?;
        Some(SourceAway { since: since.elapsed(), tries: *tries, cause: with_causes(error) })
    }

    pub(super) fn is_away(&self) -> bool {
        self.away.lock().is_some()
    }

    /// For those who would not wait: the next try, if it is time for one.
    pub(super) fn try_now(&self, fetching: &Fetching) -> Result<Option<Try<'_>>, FillError> {
        let mut state = self.away.lock();
        let Some(away) = &mut *state else { return Ok(None) };
        if away.try_now(fetching) { Ok(Some(Try(self))) } else { Err(away.error.clone()) }
    }

    /// A reader's fetch ended so: the source is away, or still is.
    pub(super) fn began(&self, layer: LayerDigest, error: &FillError, fetching: &Fetching) {
        let mut away = self.away.lock();
        if let Some(away) = &mut *away {
            away.error = error.clone();
            return;
        }
        let now = Instant::now();
        let patience_secs = fetching.patience().as_secs();
        let pause_max = PAUSE_MAX.min(fetching.patience() / 2);
        tracing::warn!(%layer, patience_secs, error = with_causes(error), "the layer's source is away; its readers wait");
        fetching.outages.fetch_add(1, Ordering::Relaxed);
        let (error, next_try) = (error.clone(), now + FIRST_PAUSE.min(pause_max));
        *away = Some(Away { since: now, error, tries: 0, next_try, pause_max, is_tried: false, waiting: 0 });
    }

    /// The source answered.
    pub(super) fn ended(&self, layer: LayerDigest) {
        let Some(away) = self.away.lock().take() else { return };
        let seconds = away.since.elapsed().as_secs_f64();
        tracing::info!(%layer, seconds, waiting = away.waiting, "the layer's source answers again");
        self.changed.send_replace(());
    }

    /// A reader waits from now on.
    pub(super) fn patience<'a>(&'a self, layer: LayerDigest, fetching: &'a Fetching) -> Patience<'a> {
        fetching.waiting.fetch_add(1, Ordering::Relaxed);
        fetching.waited.fetch_add(1, Ordering::Relaxed);
        if let Some(away) = &mut *self.away.lock() {
            away.waiting += 1;
        }
        Patience { outage: self, fetching, layer, deadline: Instant::now() + fetching.patience() }
    }
}

// === impl Away ===

impl Away {
    /// Whether it is time to try, and nobody does; from now on somebody does.
    fn try_now(&mut self, fetching: &Fetching) -> bool {
        let may = !self.is_tried && Instant::now() >= self.next_try;
        if may {
            self.is_tried = true;
            fetching.outage_tries.fetch_add(1, Ordering::Relaxed);
        }
        may
    }

    fn pause(&self) -> Duration {
        FIRST_PAUSE.saturating_mul(1 << self.tries.min(10)).min(self.pause_max)
    }
}

// === impl Patience ===

impl<'a> Patience<'a> {
    /// Waits while the source is away, until it is back, or it is time to try whether it is, or to give up.
    pub(super) async fn turn(&self) -> Turn<'a> {
        let mut changed = self.outage.changed.subscribe();
        loop {
            let until = {
                let mut state = self.outage.away.lock();
                let Some(away) = &mut *state else { return Turn::Ask };
                let now = Instant::now();
                if now >= self.deadline {
                    return Turn::GiveUp(away.error.clone());
                }
                if away.try_now(self.fetching) {
                    return Turn::Try(Try(self.outage));
                }
                if away.is_tried { self.deadline } else { self.deadline.min(away.next_try) }
            };
            tokio::select! {
                _the_sender_is_ours = changed.changed() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        self.fetching.waiting.fetch_sub(1, Ordering::Relaxed);
        let mut state = self.outage.away.lock();
        let Some(away) = &mut *state else { return };
        away.waiting = away.waiting.saturating_sub(1);
        if away.waiting == 0 {
            let seconds = away.since.elapsed().as_secs_f64();
            tracing::warn!(layer = %self.layer, seconds, "the layer's source is still away, and nobody waits for it any more");
        }
    }
}

// === impl Try ===

impl Drop for Try<'_> {
    /// If it had succeeded, the outage would be over.
    fn drop(&mut self) {
        if let Some(away) = &mut *self.0.away.lock() {
            away.is_tried = false;
            away.tries += 1;
            away.next_try = Instant::now() + away.pause();
        }
        self.0.changed.send_replace(());
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::blob::BlobError;
    use crate::digest::Digest;
    use crate::store::fetching::FetchConfig;

    fn layer() -> LayerDigest {
        LayerDigest(Digest::of(b"layer"))
    }

    fn away(outage: &Outage, fetching: &Fetching) {
        let source = BlobError::Unreachable("away".to_owned());
        outage.began(layer(), &FillError::Blob { layer: layer(), source }, fetching);
    }

    /// What a reader does: how often it tried, and whether the source came back.
    async fn read(outage: &Outage, fetching: &Fetching) -> (u32, bool) {
        let (patience, mut tries) = (outage.patience(layer(), fetching), 0);
        loop {
            match patience.turn().await {
                Turn::Ask => return (tries, true),
                Turn::Try(_fails) => tries += 1,
                Turn::GiveUp(_) => return (tries, false),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_readers_try_no_more_often_than_one_and_give_up_in_time() {
        let (outage, fetching) = (Outage::default(), Fetching::with(FetchConfig::default()));
        away(&outage, &fetching);
        let begun = Instant::now();
        let readers = futures::future::join_all((0..1000).map(|_| read(&outage, &fetching))).await;
        let secs = FetchConfig::default().outage_secs;
        assert_eq!(begun.elapsed().as_secs(), secs);
        let tries: u32 = readers.iter().map(|(tries, _)| tries).sum();
        assert!(readers.iter().all(|(_, is_back)| !is_back));
        // Half a second, one, two, four, and then every five.
        assert!((10..=16).contains(&tries), "{tries} tries in {secs} s");
        assert_eq!(fetching.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn all_go_on_when_one_has_found_the_source_back() {
        let (outage, fetching) = (Outage::default(), Fetching::with(FetchConfig::default()));
        away(&outage, &fetching);
        let readers = futures::future::join_all((0..10).map(|_| read(&outage, &fetching)));
        let back = async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            assert_eq!(fetching.waiting.load(Ordering::Relaxed), 10);
            outage.ended(layer());
        };
        let (readers, ()) = tokio::join!(readers, back);
        assert!(readers.iter().all(|(_, is_back)| *is_back));
        assert!(!outage.is_away());
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_leaves_while_it_tries_leaves_the_try_to_another() {
        let (outage, fetching) = (Outage::default(), Fetching::with(FetchConfig::default()));
        away(&outage, &fetching);
        let leaver = outage.patience(layer(), &fetching);
        let Turn::Try(held) = leaver.turn().await else { panic!("it was alone") };
        let other = outage.patience(layer(), &fetching);
        let gone = async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            drop((held, leaver));
        };
        let (turn, ()) = tokio::join!(other.turn(), gone);
        assert!(matches!(turn, Turn::Try(_)));
        assert!(outage.try_now(&fetching).is_err(), "one at a time");
        drop(turn);
        assert!(outage.try_now(&fetching).is_err(), "not yet");
        tokio::time::sleep(PAUSE_MAX).await;
        assert!(matches!(outage.try_now(&fetching), Ok(Some(_))));
    }
}
