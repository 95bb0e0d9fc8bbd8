//! Sources of indexes: what they must give, and what they must refuse.

mod contract;
pub(crate) mod made;
mod refused;
mod zstd_frames;
