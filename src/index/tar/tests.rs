//! Tars, whole and in pieces, good and hostile.

use super::*;
use crate::index::tree::draft::DraftLimits;
use crate::index::tree::write::{Content, From, Inode, Piece, Source};

// === making tars ===

/// A header block and its payload, padded. `edit` may change the block before the checksum is made.
fn member(name: &str, typeflag: u8, payload: &[u8], edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(format!("{:011o}\0", payload.len()).as_bytes());
    block[156] = typeflag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    edit(&mut block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.extend_from_slice(payload);
    block.resize(block.len().next_multiple_of(BLOCK), 0);
    block
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    member(name, b'0', content, |_| {})
}

fn link(name: &str, typeflag: u8, target: &str) -> Vec<u8> {
    member(name, typeflag, b"", |block| block[157..157 + target.len()].copy_from_slice(target.as_bytes()))
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    member("PaxHeaders/x", b'x', &records_of(records), |_| {})
}

fn records_of(records: &[(&str, &str)]) -> Vec<u8> {
    records.iter().flat_map(|(key, value)| record(key, value.as_bytes())).collect()
}

fn end() -> Vec<u8> {
    vec![0; 2 * BLOCK]
}

/// A record of an extended header, which counts its own length.
pub(super) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut len = rest.len();
    while len != rest.len() + len.to_string().len() {
        len = rest.len() + len.to_string().len();
    }
    [len.to_string().as_bytes(), &rest].concat()
}

// === reading them ===

fn read_in(chunks: &[&[u8]]) -> Result<Source, TarError> {
    let (mut parser, mut draft) = (Parser::new(TarLimits::default()), Draft::new(DraftLimits::default()));
    for chunk in chunks {
        parser.push(chunk, &mut draft)?;
    }
    parser.finish()?;
    Ok(draft.finish().unwrap())
}

fn read(members: &[Vec<u8>]) -> Result<Source, TarError> {
    read_in(&[&members.concat()])
}

fn fault(members: &[Vec<u8>]) -> Fault {
    read(members).expect_err("read without complaint").fault
}

fn find<'a>(source: &'a Source, path: &str) -> &'a Inode {
    path.split('/').filter(|name| !name.is_empty()).fold(&source.inodes[0], |inode, name| {
        let Content::Children(children) = &inode.content else { panic!("{path}: not a directory") };
        let child = children.iter().find(|(child, _)| **child == *name.as_bytes());
        &source.inodes[child.unwrap_or_else(|| panic!("{path}: no {name}")).1.0 as usize]
    })
}

#[test]
fn a_file_is_one_piece_of_the_data_file() {
    let source = read(&[file("a", b"hello"), file("d/b", &[7; 600]), end()]).unwrap();
    let piece = |len, data| Content::Extents { size: len, pieces: vec![Piece { at: 0, len, from: From::Data(data) }] };
    assert_eq!(find(&source, "a").content, piece(5, 512));
    assert_eq!(find(&source, "d/b").content, piece(600, 1536));
    assert_eq!(find(&source, "a").mode, 0o644);
}
