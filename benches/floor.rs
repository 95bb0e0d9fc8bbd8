//! The least that any scan of these blobs costs: inflating them, and hashing what goes in and what comes out.
//!
//! `cargo bench --bench floor -- BLOB...` prints seconds of one core for each part, summed over the gzip blobs named,
//! as JSON. Reads the blobs into memory first, so nothing but the arithmetic is timed.

use std::io::Read;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// As much as stays in the cache of a core: the size in which a pipeline hands bytes on.
const PIECE_BYTES: usize = 256 << 10;

#[derive(Default)]
struct Spent {
    inflate: Duration,
    blob: Duration,
    tar: Duration,
    frames: Duration,
    bytes_in: u64,
    bytes_out: u64,
}

fn timed<T>(spent: &mut Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    *spent += start.elapsed();
    result
}

fn measure(blob: &[u8], spent: &mut Spent) -> std::io::Result<()> {
    spent.bytes_in += blob.len() as u64;
    timed(&mut spent.blob, || std::hint::black_box(Sha256::digest(blob)));
    let (mut inflater, mut tar) = (flate2::bufread::MultiGzDecoder::new(blob), Sha256::new());
    let (mut frame, mut in_frame) = (blake3::Hasher::new(), 0);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = timed(&mut spent.inflate, || inflater.read(&mut piece))?;
        if length == 0 {
            break;
        }
        let bytes = piece.get(..length).unwrap_or_default();
        spent.bytes_out += length as u64;
        timed(&mut spent.tar, || tar.update(bytes));
        timed(&mut spent.frames, || {
            frame.update(bytes);
            in_frame += length;
            if in_frame >= 1 << 20 {
                std::hint::black_box(frame.finalize());
                frame.reset();
                in_frame = 0;
            }
        });
    }
    Ok(())
}

fn main() -> std::io::Result<()> {
    let mut spent = Spent::default();
    for path in std::env::args().skip(1).filter(|argument| !argument.starts_with("--")) {
        measure(&std::fs::read(path)?, &mut spent)?;
    }
    println!(
        "{{\"inflate\": {:.3}, \"sha256_blob\": {:.3}, \"sha256_tar\": {:.3}, \"blake3_frames\": {:.3}, \"bytes_in\": {}, \"bytes_out\": {}}}",
        spent.inflate.as_secs_f64(),
        spent.blob.as_secs_f64(),
        spent.tar.as_secs_f64(),
        spent.frames.as_secs_f64(),
        spent.bytes_in,
        spent.bytes_out
    );
    Ok(())
}
