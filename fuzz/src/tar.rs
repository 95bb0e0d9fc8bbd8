//! A tar of arbitrary bytes, in arbitrary chunks: what comes out must be the same whole, and a tree can be made of it.

use oncefs::digest::{DiffId, Digest};
use oncefs::index::tar::{Parser, TarError, TarLimits};
use oncefs::index::tree::draft::{Draft, DraftLimits};
use oncefs::index::tree::read::Tree;
use oncefs::index::tree::write::{Labels, Source, WriteError, write};

const BLOCK: usize = 512;

pub(crate) fn fuzz(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    let mut tar = rest.to_vec();
    if mode & 1 == 0 {
        tar.chunks_exact_mut(BLOCK).for_each(sign);
    }
    let chunk = 1 + usize::from(mode >> 1) * 7;
    let read_whole = read(&[&tar]);
    assert_eq!(read(&tar.chunks(chunk).collect::<Vec<_>>()), read_whole);
    if let Ok(Some(source)) = read_whole {
        grow(&source, tar.len() as u64);
    }
}

/// Makes a block's checksum right, so that arbitrary headers are looked into.
fn sign(block: &mut [u8]) {
    if block.iter().all(|byte| *byte == 0) {
        return;
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// None where only the end of the draft found something to refuse.
fn read(chunks: &[&[u8]]) -> Result<Option<Source>, TarError> {
    let limits = DraftLimits { inodes_max: 5000, kept_bytes_max: 8 << 20 };
    let (mut parser, mut draft) = (Parser::new(TarLimits::default()), Draft::new(limits));
    chunks.iter().try_for_each(|chunk| parser.push(chunk, &mut draft))?;
    parser.finish()?;
    Ok(draft.finish().ok())
}

fn grow(source: &Source, data_bytes: u64) {
    let file = tempfile::tempfile().expect("a temporary file");
    let labels = Labels { diff_id: DiffId(Digest::of(b"")), data_bytes };
    match write(source, &labels, &file) {
        Ok(_) => {}
        Err(WriteError::TooLarge(_)) => return,
        Err(error) => panic!("the draft made what the writer refuses: {error}"),
    }
    let tree = Tree::open(&file).expect("a sound tree");
    tree.check().expect("a sound tree");
    assert!(tree.walk().all(|visited| visited.is_ok()));
}
