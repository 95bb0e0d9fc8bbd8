//! The scan alone, in this process, from memory to a file: how far its pipeline is from the arithmetic it cannot avoid.
//!
//! `cargo bench --bench scan -- BLOB...` scans the gzip or zstd blobs named, all at once as the layers of an image are,
//! and without names one that it makes of /usr. Prints a table; run `floor` with the same blobs beside it.

use std::fs::File;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oncefs::blob::{InMemory, Layered};
use oncefs::digest::{DiffId, Digest, Hasher, LayerDigest};
use oncefs::index::scan::{Limits, Parts, Progress, scan};

const ROUNDS: usize = 5;
const MADE: &str = "/tmp/oncefs-bench-usr.tar.gz";

fn main() -> io::Result<()> {
    let mut paths: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if paths.is_empty() {
        make()?;
        paths.push(MADE.to_owned());
    }
    let blobs =
        paths.iter().map(|path| Ok(bytes::Bytes::from(std::fs::read(path)?))).collect::<io::Result<Vec<_>>>()?;
    let (mut floor, mut tar_bytes, mut layers) = (Duration::ZERO, 0, Vec::new());
    for blob in &blobs {
        let (spent, bytes, diff_id) = arithmetic(blob)?;
        floor += spent;
        tar_bytes += bytes;
        layers.push(Layered {
            digest: LayerDigest(Digest::of(blob)),
            diff_id,
            size: blob.len() as u64,
            media_type: String::new(),
            annotations: Default::default(),
        });
    }
    println!("{} blobs, {} MB of tar; arithmetic of one core {floor:.2?}", blobs.len(), tar_bytes / 1_000_000);
    println!("{:>10} {:>10} {:>12} {:>17} {:>10}", "wall", "processor", "MB/s of tar", "wall / (floor/2)", "memory");
    for _ in 0..ROUNDS {
        let before = forget_peak()?;
        let (wall, processor) = round(&blobs, &layers)?;
        let memory = (kib("VmHWM:") - before) / 1024;
        let rate = tar_bytes as f64 / 1e6 / wall.as_secs_f64();
        let ratio = wall.as_secs_f64() / (floor.as_secs_f64() / 2.0);
        println!("{wall:>10.2?} {processor:>10.2?} {rate:>12.0} {ratio:>17.2} {memory:>6} MiB");
    }
    Ok(())
}

/// Scans everything once, concurrently: the time on the clock and on the processors.
fn round(blobs: &[bytes::Bytes], layers: &[Layered]) -> io::Result<(Duration, Duration)> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (started, processor) = (Instant::now(), processor_time());
    // The parts are kept until the clock has stopped: deleting a gigabyte takes a while too.
    let _parts: Vec<Parts> = runtime.block_on(async {
        let scans = blobs.iter().zip(layers).map(|(blob, layer)| async {
            let file = || File::options().read(true).write(true).open(tempfile_path()?);
            let parts = Parts { data: file()?, tree: file()?, frames: file()? };
            let progress = Arc::new(Progress::default());
            let verified = scan(layer, &InMemory(blob.clone()), &parts, &Limits::default(), &progress).await;
            verified.map(|_| parts).map_err(io::Error::other)
        });
        futures::future::try_join_all(scans).await
    })?;
    Ok((started.elapsed(), processor_time() - processor))
}

/// An empty file in the directory of the system's temporary files, which should be the disk that matters.
fn tempfile_path() -> io::Result<tempfile::TempPath> {
    Ok(tempfile::NamedTempFile::new()?.into_temp_path())
}

/// What no scan can avoid: inflating, and the three hashes.
fn arithmetic(blob: &[u8]) -> io::Result<(Duration, u64, DiffId)> {
    let started = Instant::now();
    std::hint::black_box(Digest::of(blob));
    let mut unpacked: Box<dyn Read> = match blob {
        [0x28, 0xb5, ..] => Box::new(zstd::stream::read::Decoder::new(blob)?),
        _ => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
    };
    let (mut tar, mut bytes, mut piece) = (Hasher::default(), 0, vec![0; 256 << 10]);
    loop {
        let count = unpacked.read(&mut piece)?;
        let Some(filled) = piece.get(..count).filter(|filled| !filled.is_empty()) else { break };
        tar.update(filled);
        std::hint::black_box(blake3::hash(filled));
        bytes += count as u64;
    }
    let diff_id = DiffId(tar.finish());
    Ok((started.elapsed(), bytes, diff_id))
}

/// User and system time of all threads, in the clock's ticks of 10 ms (proc(5), fields 14 and 15 of `stat`).
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(10 * ticks)
}

/// Starts the peak of resident memory anew (proc(5), `clear_refs`); gives what is resident now, in KiB.
fn forget_peak() -> io::Result<u64> {
    std::fs::write("/proc/self/clear_refs", "5")?;
    Ok(kib("VmRSS:"))
}

fn kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// About 200 MB of programs and texts, packed as images mostly are.
fn make() -> io::Result<()> {
    if std::path::Path::new(MADE).exists() {
        return Ok(());
    }
    let mut tar = Command::new("tar")
        .args(["--create", "--sort=name", "--directory=/usr", "bin", "share/doc", "share/locale", "share/zoneinfo"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let input = tar.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let made = Command::new("gzip").arg("-6").stdin(input).stdout(File::create(MADE)?).status()?;
    tar.wait()?;
    if made.success() { Ok(()) } else { Err(io::Error::other("gzip failed")) }
}
