//! Indexes that were not used, and why: for `oncefs status`.

use std::collections::HashMap;

use crate::digest::LayerDigest;
use crate::sync::{Arc, Mutex};

/// In memory alone: what was declined is scanned, and then nobody asks for it again.
#[derive(Default)]
pub(super) struct Declines {
    causes: Mutex<HashMap<LayerDigest, Arc<str>>>,
}

/// Many more than a node has layers of; beyond that it begins anew.
const DECLINES_MAX: usize = 10_000;

impl Declines {
    pub(super) fn note(&self, layer: LayerDigest, cause: &str) {
        let mut causes = self.causes.lock();
        if causes.len() >= DECLINES_MAX {
            causes.clear();
        }
        causes.insert(layer, cause.into());
    }

    pub(super) fn of(&self, layer: &LayerDigest) -> Option<Arc<str>> {
        self.causes.lock().get(layer).cloned()
    }
}
