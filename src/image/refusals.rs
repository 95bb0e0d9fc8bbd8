//! Layers that oncefs could not make usable, and containerd perhaps can: it is told to unpack them itself.
//!
//! In memory alone: after a restart they are tried once more, since another version or another limit may let them pass.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::LayerError;
use crate::blob::Layered;
use crate::digest::{DiffId, LayerDigest};
use crate::errors::with_causes;
use crate::index::scan::ScanError;
use crate::sync::{Arc, Mutex};

/// What scans ended with, of layers whose scans ended badly.
#[derive(Default)]
pub(super) struct Refusals {
    layers: Mutex<HashMap<(LayerDigest, DiffId), Refusal>>,
}

#[derive(Clone)]
struct Refusal {
    cause: Arc<str>,
    /// `None`: what is wrong is the layer itself.
    until: Option<Instant>,
}

/// A disk that was full may have room again.
const DISK_LASTS: Duration = Duration::from_secs(60);

/// Many more than a node has images of; beyond that they are tried anew.
const REFUSALS_MAX: usize = 10_000;

// === impl Refusals ===

impl Refusals {
    /// Takes note of how a scan ended.
    pub(super) fn note(&self, layer: &Layered, ended: Option<&LayerError>) {
        let mut layers = self.layers.lock();
        let key = (layer.digest, layer.diff_id);
        let Some((error, lasts)) = ended.and_then(|error| Some((error, lasts(error)?))) else {
            layers.remove(&key);
            return;
        };
        if layers.len() >= REFUSALS_MAX {
            layers.clear();
        }
        let until = lasts.map(|lasts| Instant::now() + lasts);
        layers.insert(key, Refusal { cause: with_causes(error).into(), until });
    }

    /// The first of these layers that is of no use, and why.
    pub(super) fn among(&self, layers: &[Layered]) -> Option<(LayerDigest, Arc<str>)> {
        let refused = self.layers.lock();
        layers.iter().find_map(|layer| {
            let refusal = refused.get(&(layer.digest, layer.diff_id))?;
            let counts = refusal.until.is_none_or(|until| Instant::now() < until);
            counts.then(|| (layer.digest, refusal.cause.clone()))
        })
    }
}

/// How long a failure says something about the next try: `None` if nothing, `Some(None)` if for good.
fn lasts(error: &LayerError) -> Option<Option<Duration>> {
    match error {
        LayerError::Scan(scan) => match scan {
            ScanError::DiffId { .. }
            | ScanError::Decode { .. }
            | ScanError::Tar { .. }
            | ScanError::Limit { .. }
            | ScanError::Draft { .. }
            | ScanError::Tree { .. }
            | ScanError::TooLarge { .. }
            | ScanError::Ratio { .. } => Some(None),
            ScanError::Disk { .. } | ScanError::Threads { .. } => Some(Some(DISK_LASTS)),
            ScanError::Blob { .. }
            | ScanError::TooShort { .. }
            | ScanError::TooLong { .. }
            | ScanError::BlobDigest { .. }
            | ScanError::Stopped { .. } => None,
        },
        LayerError::OtherContent { .. } => Some(None),
        LayerError::Store(_) => Some(Some(DISK_LASTS)),
        LayerError::Blob(_) | LayerError::Fill(_) | LayerError::Stopping => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::BlobError;
    use crate::digest::Digest;
    use crate::index::scan::Part;

    fn layered(text: &str) -> Layered {
        let digest = Digest::of(text.as_bytes());
        Layered {
            digest: LayerDigest(digest),
            diff_id: DiffId(digest),
            size: 1,
            media_type: String::new(),
            annotations: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_wrong_with_a_layer_counts_until_it_was_made_usable_all_the_same() {
        let (refusals, good, bad) = (Refusals::default(), layered("good"), layered("bad"));
        let too_large = LayerError::Scan(ScanError::TooLarge { layer: bad.digest, max: 1 });
        refusals.note(&bad, Some(&too_large));
        let (layer, cause) = refusals.among(&[good.clone(), bad.clone()]).unwrap();
        assert!(layer == bad.digest && cause.contains("more than 1 bytes"), "{cause}");
        assert!(refusals.among(std::slice::from_ref(&good)).is_none());
        // Of another image, which says another thing of the same blob.
        assert!(refusals.among(&[Layered { diff_id: good.diff_id, ..bad.clone() }]).is_none());
        refusals.note(&bad, None);
        assert!(refusals.among(&[bad]).is_none());
    }

    #[test]
    fn the_network_says_nothing_of_a_layer_and_the_disk_only_for_a_while() {
        let (refusals, layer) = (Refusals::default(), layered("layer"));
        refusals.note(&layer, Some(&LayerError::Blob(BlobError::Unreachable("away".into()))));
        assert!(refusals.among(std::slice::from_ref(&layer)).is_none());
        let full = std::io::ErrorKind::StorageFull.into();
        let full = LayerError::Scan(ScanError::Disk { layer: layer.digest, part: Part::Data, source: full });
        refusals.note(&layer, Some(&full));
        assert!(refusals.among(std::slice::from_ref(&layer)).is_some());
        refusals.layers.lock().values_mut().for_each(|refusal| refusal.until = Some(Instant::now()));
        assert!(refusals.among(&[layer]).is_none());
    }
}
