//! Images with indexes that other programs made: what is shown of them, what is fetched, and what is not believed.

mod auto;
mod beside;
mod bounded;
mod completing;
pub(crate) mod contract;
mod estargz;
mod far;
mod from_memory;
mod hostile;
mod idle;
pub(crate) mod made;
mod published;
mod shared;
mod soci;
mod starting;
mod tampered;
mod twins;
mod zstd_chunked;
mod ztocs;
