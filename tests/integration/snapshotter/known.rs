//! Chains that a test says are known, and a count of the claims on them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _};
use oncefs::digest::{ChainId, Digest};
use oncefs::snapshotter::{Chains, NotShown, UnknownChain, Usage, Wanted};
use oncefs::sync::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::served::PATIENCE;

/// Clones share everything.
#[derive(Clone)]
pub(super) struct Known {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    chains: Mutex<BTreeSet<ChainId>>,
    claims: Mutex<BTreeMap<ChainId, usize>>,
    wanted: Mutex<Vec<Wanted>>,
    settled: AtomicUsize,
    /// How many searches may end.
    open: Semaphore,
    /// A search has begun.
    begun: Notify,
}

/// The chain of this name.
pub(super) fn chain(name: &str) -> ChainId {
    ChainId(Digest::of(name.as_bytes()))
}

impl Known {
    /// Chains are shown below `directory`.
    pub(super) fn new(directory: PathBuf) -> Self {
        let shared = Shared {
            directory,
            chains: Mutex::default(),
            claims: Mutex::default(),
            wanted: Mutex::default(),
            settled: AtomicUsize::new(0),
            open: Semaphore::new(Semaphore::MAX_PERMITS),
            begun: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(super) fn know(&self, name: &str) -> ChainId {
        self.shared.chains.lock().insert(chain(name));
        chain(name)
    }

    pub(super) fn forget(&self, name: &str) {
        self.shared.chains.lock().remove(&chain(name));
    }

    /// As after a restart: nobody holds a claim.
    pub(super) fn restart(&self) {
        self.shared.claims.lock().clear();
        self.shared.settled.store(0, Ordering::SeqCst);
    }

    pub(super) fn claims(&self) -> BTreeMap<ChainId, usize> {
        self.shared.claims.lock().clone()
    }

    /// Until the chain has so many claims.
    pub(super) async fn settles(&self, chain: &ChainId, claims: usize) {
        let until = Instant::now() + PATIENCE;
        while self.claims().get(chain) != Some(&claims) {
            assert!(Instant::now() < until, "{:?}", self.claims());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(super) fn wanted(&self) -> Vec<Wanted> {
        self.shared.wanted.lock().clone()
    }

    pub(super) fn settled(&self) -> usize {
        self.shared.settled.load(Ordering::SeqCst)
    }

    pub(super) fn directory(&self, chain: &ChainId) -> PathBuf {
        self.shared.directory.join(chain.0.hex())
    }

    /// Searches wait until [`Known::answer`].
    pub(super) fn hold(&self) {
        self.shared.open.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(super) fn answer(&self, searches: usize) {
        self.shared.open.add_permits(searches);
    }

    /// Until a search begins.
    pub(super) async fn asked(&self) {
        self.shared.begun.notified().await;
    }

    fn add(&self, chain: ChainId) -> bool {
        let known = self.shared.chains.lock().contains(&chain);
        if known {
            *self.shared.claims.lock().entry(chain).or_default() += 1;
        }
        known
    }
}

impl Chains for Known {
    fn find(&self, wanted: Wanted) -> BoxFuture<'static, Option<()>> {
        let known = self.clone();
        async move {
            let chain = wanted.chain;
            known.shared.wanted.lock().push(wanted);
            known.shared.begun.notify_one();
            known.shared.open.acquire().await.unwrap().forget();
            known.add(chain).then_some(())
        }
        .boxed()
    }

    fn claim(&self, chain: &ChainId) -> Result<(), UnknownChain> {
        if self.add(*chain) { Ok(()) } else { Err(UnknownChain(*chain)) }
    }

    fn release(&self, chain: &ChainId) {
        let mut claims = self.shared.claims.lock();
        let count = claims.get_mut(chain).expect("what is released was claimed");
        *count -= 1;
        if *count == 0 {
            claims.remove(chain);
        }
    }

    fn containerd_calls(&self) {}

    fn settled(&self) {
        self.shared.settled.fetch_add(1, Ordering::SeqCst);
    }

    fn show(&self, chain: &ChainId) -> Result<PathBuf, NotShown> {
        let claimed = self.shared.claims.lock().contains_key(chain);
        if claimed { Ok(self.directory(chain)) } else { Err(UnknownChain(*chain).into()) }
    }

    fn usage(&self, _chain: &ChainId) -> Usage {
        Usage { bytes: 12_345, inodes: 67 }
    }
}
