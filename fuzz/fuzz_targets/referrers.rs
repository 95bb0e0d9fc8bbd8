//! See `src/lib.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oncefs_fuzz::run("referrers", bytes));
