//! The start of an image, for people.

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, LayerDigest};

/// The last start of an image that was watched. Times are microseconds since somebody first looked into it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceReport {
    pub reference: String,
    pub platform: String,
    pub manifest_digest: Digest,
    /// Milliseconds since 1970.
    pub began_ms: u64,
    /// Until all layers could be read.
    pub usable_us: u64,
    /// How long it was watched.
    pub recorded_us: u64,
    /// What was fetched ahead because earlier starts wanted it.
    pub ahead_frames: u64,
    pub ahead_bytes: u64,
    /// Bottom first.
    pub layers: Vec<TracedLayer>,
    /// First reads of frames, in their order.
    pub touches: Vec<TracedTouch>,
    pub requests: Vec<TracedRequest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedLayer {
    pub digest: LayerDigest,
    /// Bytes of the blob.
    pub size: u64,
}

/// The first read of a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedTouch {
    /// Which of the layers, from 0.
    pub layer: u32,
    pub frame: u32,
    /// What was read; what is no UTF-8 is replaced. None if the layer is not here any more.
    pub file: Option<String>,
    pub at_us: u64,
    /// When the reader had its bytes; none if that was not seen.
    pub served_us: Option<u64>,
    /// The frame was in the store.
    pub was_here: bool,
    /// The request that brought the frame, by its place among them.
    pub request: Option<usize>,
}

/// One request for a part of a layer's blob, with its retries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedRequest {
    pub layer: u32,
    /// Bytes `start..end` of the blob.
    pub start: u64,
    pub end: u64,
    pub at_us: u64,
    pub took_us: u64,
    /// Whether the bytes came.
    pub came: bool,
    /// Nobody had read any of it when it was made.
    pub is_ahead: bool,
}
