//! What single system calls on files cost, without an interpreter's cost around them: `run.py` runs this on an oncefs
//! mount and on an unpacked directory.
//!
//! `calls stat DIR [TWIN]` asks lstat(2) of everything below DIR; with TWIN, a directory of the same content, the names
//! are listed there, and DIR is asked for names that nobody has listed. `calls read DIR [SEED [COUNT]]` opens its large
//! files and reads 4 KiB at random places of them. Both print what one call took on the clock, in microseconds, as JSON;
//! `calls sequential DIR` reads its largest files from end to end and prints GB/s. What is needed for that (listing, opening,
//! choosing, memory) is done before the clock starts, or timed apart.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const READ_BYTES: usize = 4096;
/// Reads go to files of at least this size, and to so many of them.
const LARGE_BYTES: u64 = 1 << 20;
const LARGE_MAX: usize = 200;
/// Sequential reads go to files of at least this size, with what cat(1) asks for at a time.
const LARGEST_BYTES: u64 = 8 << 20;
const PIECE_BYTES: usize = 128 << 10;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let number = |at: usize, or: u64| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(or);
    match (arguments.first().map(String::as_str), arguments.get(1)) {
        (Some("stat"), Some(top)) => stat(Path::new(top), Path::new(arguments.get(2).unwrap_or(top))),
        (Some("read"), Some(top)) => read(Path::new(top), number(2, 0), number(3, 200_000)),
        (Some("sequential"), Some(top)) => sequential(Path::new(top)),
        _ => Err(io::Error::other("calls stat DIR [TWIN] | calls read DIR [SEED [COUNT]] | calls sequential DIR")),
    }
}

/// Lists a directory of `twin`, then asks for each of its entries below `top`. Only the asking is timed.
fn stat(top: &Path, twin: &Path) -> io::Result<()> {
    let (mut directories, mut count, mut spent) = (vec![PathBuf::new()], 0u32, Duration::ZERO);
    while let Some(directory) = directories.pop() {
        let listed = fs::read_dir(twin.join(&directory))?.map(|entry| Ok(directory.join(entry?.file_name())));
        let names = listed.collect::<io::Result<Vec<_>>>()?;
        let paths: Vec<_> = names.iter().map(|name| top.join(name)).collect();
        let started = Instant::now();
        let found = paths.iter().map(fs::symlink_metadata).collect::<io::Result<Vec<_>>>()?;
        spent += started.elapsed();
        count += u32::try_from(found.len()).unwrap_or(u32::MAX);
        directories.extend(names.into_iter().zip(found).filter(|(_, found)| found.is_dir()).map(|(name, _)| name));
    }
    println!("{{\"stat\": {:.4}, \"count\": {count}}}", microseconds(spent, count));
    Ok(())
}

fn read(top: &Path, seed: u64, count: u64) -> io::Result<()> {
    let paths = large_files(top, LARGE_BYTES)?;
    let started = Instant::now();
    let files = paths.iter().map(|(path, size)| Ok((File::open(path)?, *size))).collect::<io::Result<Vec<_>>>()?;
    let opened = microseconds(started.elapsed(), u32::try_from(files.len()).unwrap_or(u32::MAX));
    let mut chance = seed;
    let mut places = Vec::new();
    while (places.len() as u64) < count {
        let Some((file, size)) = files.get(below(&mut chance, files.len() as u64) as usize) else {
            return Err(io::Error::other("no large files there"));
        };
        places.push((file, below(&mut chance, size - READ_BYTES as u64)));
    }
    let mut page = [0; READ_BYTES];
    let started = Instant::now();
    for (file, at) in &places {
        file.read_exact_at(black_box(&mut page), *at)?;
    }
    let spent = started.elapsed();
    println!("{{\"read\": {:.4}, \"open\": {opened:.4}, \"count\": {count}}}", microseconds(spent, count as u32));
    Ok(())
}

fn sequential(top: &Path) -> io::Result<()> {
    let paths = large_files(top, LARGEST_BYTES)?;
    let files = paths.iter().map(|(path, _)| File::open(path)).collect::<io::Result<Vec<_>>>()?;
    touch_memory(paths.iter().map(|(_, size)| *size as usize).sum());
    let (mut piece, mut bytes) = (vec![0; PIECE_BYTES], 0);
    let started = Instant::now();
    for mut file in files {
        loop {
            match file.read(black_box(&mut piece))? {
                0 => break,
                count => bytes += count,
            }
        }
    }
    let rate = bytes as f64 / 1e9 / started.elapsed().as_secs_f64();
    println!("{{\"sequential\": {rate:.4}, \"bytes\": {bytes}}}");
    Ok(())
}

/// Has this machine's host give the memory that the page cache will take: where guests return what is free, a page's first
/// touch costs more than reading it.
fn touch_memory(bytes: usize) {
    drop(black_box(vec![1u8; bytes]));
}

/// Those of `top`, in the order of their names, so that two copies of a tree are read alike.
fn large_files(top: &Path, least: u64) -> io::Result<Vec<(PathBuf, u64)>> {
    let (mut directories, mut found) = (vec![top.to_owned()], Vec::new());
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let (path, about) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            if about.is_dir() {
                directories.push(path);
            } else if about.is_file() && about.len() >= least {
                found.push((path, about.len()));
            }
        }
    }
    found.sort();
    found.truncate(LARGE_MAX);
    Ok(found)
}

fn microseconds(spent: Duration, count: u32) -> f64 {
    spent.as_secs_f64() * 1e6 / f64::from(count.max(1))
}

/// The next of a sequence of numbers below `end` that looks like chance (splitmix64).
fn below(state: &mut u64, end: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % end.max(1)
}
