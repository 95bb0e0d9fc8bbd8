//! What the fuzz targets do with bytes. `make fuzz` has libFuzzer find them; the integration tests, which have this file as a module of theirs,
//! give each target its seeds and what once made it fail. Errors are fine; panics, hangs and what is not bounded are bugs.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)] // a target that panics has said what it had to say

mod control;
mod documents;
mod filter;
mod frames;
mod gzip_decode;
mod profile;
mod published;
mod referrers;
mod registry_texts;
mod sources;
mod tar;
mod toc;
mod tree;
mod view;
mod ztoc;

pub use referrers::found as found_beside_an_image;

/// A name, as of the directory of its seeds, and what is done with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All that there are. Each has a program in `fuzz_targets/`.
pub const TARGETS: &[Target] = &[
    ("control", control::fuzz),
    ("estargz", sources::fuzz_estargz),
    ("filter", filter::fuzz),
    ("frames", frames::fuzz),
    ("gzip_decode", gzip_decode::fuzz),
    ("profile", profile::fuzz),
    ("published", published::fuzz),
    ("referrers", referrers::fuzz),
    ("registry_texts", registry_texts::fuzz),
    ("soci", sources::fuzz_soci),
    ("tar", tar::fuzz),
    ("toc", toc::fuzz),
    ("tree", tree::fuzz),
    ("view", view::fuzz),
    ("zstd_chunked", sources::fuzz_zstd_chunked),
    ("ztoc", ztoc::fuzz),
];

/// Runs the target of this name.
///
/// # Panics
/// If there is none, or if the bytes have found a bug.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, fuzz) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    fuzz(bytes);
}
