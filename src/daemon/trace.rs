//! The start of an image as people read it: which file, which frame, which request.

use std::collections::BTreeMap;

use super::failure;
use super::node::{Node, blocking, named};
use crate::control::{Failure, FailureKind, PullCall, TraceReport, TracedLayer, TracedRequest, TracedTouch};
use crate::digest::LayerDigest;
use crate::image::{Image, Start};
use crate::index::tree::read::{Tree, TreeError};
use crate::index::tree::{Kind, Place};
use crate::store::{Asked, Store, Touch};
use crate::sync::Arc;

/// Extents that are looked at to name the files of one layer: those of a layer with millions of files.
const EXTENTS_MAX: usize = 16 << 20;

/// A file's name is shown up to so many bytes.
const NAME_BYTES_MAX: usize = 1024;

impl Node {
    /// The last start of the image that was watched, by the image's name or its manifest's digest. No registry is asked.
    pub async fn trace(&self, call: &PullCall) -> Result<TraceReport, Failure> {
        let image = self.known(call)?;
        let images = self.images().clone();
        blocking(move || {
            let start = images.last_start(&image.manifest_digest).map_err(|error| failure::of_store(&error))?;
            let start = start.ok_or_else(|| {
                let message = format!(
                    "no start of {} was watched: mount it or run a container of it, read something, and ask again \
                     ([profile] record_secs must not be 0)",
                    image.reference
                );
                Failure::new(FailureKind::NotFound, message)
            })?;
            Ok(report(images.store(), &image, start))
        })
        .await?
    }

    /// An image that has a record here.
    fn known(&self, call: &PullCall) -> Result<Arc<Image>, Failure> {
        let named = named(&call.image, call.platform.as_deref());
        let is_meant = |image: &Image| match &named {
            Ok((reference, platform)) => {
                let is_for = call.platform.is_none() || image.platform == platform.to_string();
                image.reference == reference.to_string() && is_for
            }
            Err(_) => false,
        };
        let known = self.images().known_images();
        let by_digest = |image: &&Arc<Image>| image.manifest_digest.to_string() == call.image;
        let found = known.iter().find(|image| is_meant(image)).or_else(|| known.iter().find(by_digest));
        found.cloned().ok_or_else(|| match named {
            Err(wrong) => wrong,
            Ok((reference, _)) => Failure::new(FailureKind::NotFound, format!("{reference} is not known here")),
        })
    }
}

fn report(store: &Store, image: &Image, start: Start) -> TraceReport {
    let place = |layer: &LayerDigest| start.layers.iter().position(|other| other == layer).unwrap_or(0);
    let mut names: BTreeMap<usize, BTreeMap<u64, String>> = BTreeMap::new();
    for (number, layer) in start.layers.iter().enumerate() {
        let wanted = start.recorded.touches.iter().filter(|touch| touch.layer == *layer);
        let wanted: BTreeMap<u64, Option<String>> = wanted.map(|touch| (touch.data_at, None)).collect();
        if let Some(layer) = store.layer(layer).ok().flatten().filter(|_| !wanted.is_empty()) {
            names.insert(number, files(layer.tree(), wanted));
        }
    }
    let (touched, asked) = (&start.recorded.touches, &start.recorded.asked);
    let touches = touched.iter().map(|touch| {
        let layer = place(&touch.layer);
        TracedTouch {
            layer: layer as u32,
            frame: touch.frame,
            file: names.get(&layer).and_then(|names| names.get(&touch.data_at).cloned()),
            at_us: touch.at_us,
            served_us: touch.served_us,
            was_here: touch.was_here,
            request: asked.iter().position(|asked| brought(asked, touch)),
        }
    });
    let requests = asked.iter().map(|asked| TracedRequest {
        layer: place(&asked.layer) as u32,
        start: asked.source.start,
        end: asked.source.end,
        at_us: asked.at_us,
        took_us: asked.took_us,
        came: asked.came,
        is_ahead: !touched.iter().any(|touch| touch.at_us <= asked.at_us && covers(asked, touch)),
    });
    TraceReport {
        touches: touches.collect(),
        requests: requests.collect(),
        layers: start.layers.iter().map(|digest| TracedLayer { digest: *digest, size: size(image, digest) }).collect(),
        reference: start.reference,
        platform: start.platform,
        manifest_digest: start.manifest,
        began_ms: start.began_ms,
        usable_us: start.usable_us,
        recorded_us: start.recorded_us,
        ahead_frames: start.ahead_frames,
        ahead_bytes: start.ahead_bytes,
    }
}

fn size(image: &Image, digest: &LayerDigest) -> u64 {
    image.layers.iter().find(|layer| layer.digest == *digest).map_or(0, |layer| layer.size)
}

/// Whether the request is for the frame, wholly or in part.
fn covers(asked: &Asked, touch: &Touch) -> bool {
    let is_large = touch.source.end - touch.source.start > asked.source.end - asked.source.start;
    let (outer, inner) = if is_large { (&touch.source, &asked.source) } else { (&asked.source, &touch.source) };
    asked.layer == touch.layer && outer.start <= inner.start && inner.end <= outer.end
}

/// Whether it was this request that brought the frame.
fn brought(asked: &Asked, touch: &Touch) -> bool {
    asked.came && covers(asked, touch) && touch.served_us.is_none_or(|served| asked.at_us <= served)
}

/// Which files have these bytes of the data file.
fn files(tree: &Tree, mut wanted: BTreeMap<u64, Option<String>>) -> BTreeMap<u64, String> {
    let mut left = EXTENTS_MAX;
    let each = tree.walk().take_while(|visited| visited.is_ok()).flatten();
    for visited in each.filter(|visited| visited.kind == Kind::File) {
        let mut name = |at: u64, len: u64| {
            for (_, name) in wanted.range_mut(at..at.saturating_add(len)).filter(|(_, name)| name.is_none()) {
                let path = visited.path.get(..NAME_BYTES_MAX).unwrap_or(&visited.path);
                *name = Some(format!("/{}", String::from_utf8_lossy(path)));
            }
        };
        // A damaged tree names what it can: this is for people.
        let _named_or_not = each_extent(tree, visited.nid, &mut left, &mut name);
        if left == 0 {
            break;
        }
    }
    wanted.into_iter().filter_map(|(at, name)| Some((at, name?))).collect()
}

fn each_extent(
    tree: &Tree,
    file: crate::index::tree::Nid,
    left: &mut usize,
    with: &mut impl FnMut(u64, u64),
) -> Result<(), TreeError> {
    let (size, mut at) = (tree.node(file)?.size, 0);
    while at < size && *left > 0 {
        *left -= 1;
        let extent = tree.extent(file, at)?;
        if let Place::Data(offset) = extent.place {
            with(offset, extent.len);
        }
        at = at.saturating_add(extent.len.max(1));
    }
    Ok(())
}
