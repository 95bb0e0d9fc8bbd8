//! All of an image here: what its layers have let go of, or never had, is fetched before somebody reads it.
//!
//! Each frame is asked for once, so this comes to its end however small the cache is; and it stops as soon as one part of the image
//! would have to go for another.

use std::ops::Range;

use futures::stream::{self, StreamExt as _};

use super::{Image, ImageError, ImageFailed, Images, LayerError, Opened};
use crate::flight::Failed;
use crate::index::frames::FrameId;
use crate::store::{FillError, FillFailed, Layer, Priority};
use crate::sync::Arc;
use crate::view::ViewSlot;

/// Content that is asked for before it is looked at again whether the cache keeps it.
const PART_BYTES: u64 = 16 << 20;

/// Parts that are asked for at once: layers may be small, and far away.
const PARTS_AT_ONCE: usize = 4;

/// Neighbouring frames of a layer.
struct Part {
    layer: Arc<Layer>,
    frames: Range<u32>,
}

impl Images {
    /// All layers of the image, bottom first, each verified and all of it here, as far as the cache can hold it: how far that is,
    /// [`Layer::resident_bytes`] says.
    pub async fn pull(&self, image: &Arc<Image>) -> Result<Vec<Arc<Layer>>, ImageFailed> {
        let _shown = self.shared.progresses.lock().fill(image);
        let _held = self.hold(image);
        let layers = self.layers(image).await?;
        self.fill(image, &layers).await?;
        Ok(layers)
    }

    /// The image's merged tree under this slot, as [`Images::open_chain`] has it, and all of its layers here in the same way.
    pub async fn open_whole(&self, image: &Arc<Image>, slot: ViewSlot) -> Result<Opened, ImageFailed> {
        let _shown = self.shared.progresses.lock().fill(image);
        let opened = self.open_chain(image.chain(), slot).await?;
        let layers: Vec<_> = opened.layers.values().cloned().collect();
        self.fill(image, &layers).await?;
        Ok(opened)
    }

    /// Fetches what is not here of these layers, which show the image, until the cache can hold no more of them.
    async fn fill(&self, image: &Image, layers: &[Arc<Layer>]) -> Result<(), ImageFailed> {
        let mut filling =
            stream::iter(layers.iter().flat_map(parts)).map(|part| part.fill(image)).buffer_unordered(PARTS_AT_ONCE);
        let mut most = resident_bytes(layers);
        while let Some(part) = filling.next().await {
            let (is_kept, now) = (part?.is_here(), resident_bytes(layers));
            if !is_kept || now < most {
                let bytes: u64 = layers.iter().map(|layer| layer.data_bytes()).sum();
                tracing::warn!(
                    image = image.reference,
                    resident_bytes = now,
                    bytes,
                    "the cache or its disk cannot hold all of the image; what is left out is fetched when it is read"
                );
                return Ok(());
            }
            most = now;
        }
        Ok(())
    }
}

fn resident_bytes(layers: &[Arc<Layer>]) -> u64 {
    layers.iter().map(|layer| layer.resident_bytes()).sum()
}

/// The frames of the layer that are not here, in parts.
fn parts(layer: &Arc<Layer>) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut bytes = 0;
    for frame in (0..layer.frames().len()).filter(|frame| !layer.is_resident(*frame)) {
        // What the index does not say of a frame is an error of its fill.
        let more = layer.frames().data_range(FrameId(frame)).map_or(0, |data| data.end - data.start);
        bytes += more;
        match parts.last_mut() {
            Some(part) if bytes <= PART_BYTES => part.frames.end = frame + 1,
            _ => {
                parts.push(Part { layer: layer.clone(), frames: frame..frame + 1 });
                bytes = more;
            }
        }
    }
    parts
}

impl Part {
    async fn fill(self, image: &Image) -> Result<Self, ImageFailed> {
        match self.layer.fill_for(self.frames.clone(), Priority::Background).await {
            // A large frame without room; small ones are lent.
            Err(Failed::Work(error)) if matches!(*error, FillError::Full { .. }) => Ok(self),
            Err(failed) => Err(of_fill(image, &self.layer, &failed)),
            Ok(()) => Ok(self),
        }
    }

    fn is_here(&self) -> bool {
        self.frames.clone().all(|frame| self.layer.is_resident(frame))
    }
}

fn of_fill(image: &Image, layer: &Layer, failed: &FillFailed) -> ImageFailed {
    let source = match failed {
        Failed::Work(error) => LayerError::Fill((**error).clone()),
        Failed::Panicked => return Failed::Panicked,
    };
    let error = ImageError::Layer { image: image.reference.clone(), layer: layer.digest(), source: Box::new(source) };
    Failed::Work(Arc::new(error))
}
