//! Tars, whole and in pieces, good and hostile.

use proptest::prelude::*;

use super::*;
use crate::index::tree::draft::{DraftError, DraftLimits};
use crate::index::tree::write::{Content, From, Inode, Piece, Source};
use crate::index::tree::{Kind, Time};

mod any;
mod refused;
mod sparse;

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

/// Whatever the chunks, the result is the same: whole, byte by byte, and in pieces of odd sizes.
fn read_in_all_ways(bytes: &[u8]) -> Result<Source, TarError> {
    let whole = read_in(&[bytes]);
    for size in [1, 7, 511, 512, 513, 1000] {
        assert_eq!(read_in(&bytes.chunks(size).collect::<Vec<_>>()), whole, "in chunks of {size}");
    }
    whole
}

fn data_piece(at: u64, len: u64, data: u64) -> Piece {
    Piece { at, len, from: From::Data(data) }
}

fn own_piece(at: u64, bytes: &[u8]) -> Piece {
    Piece { at, len: bytes.len() as u64, from: From::Bytes(bytes.to_vec()) }
}

fn sparse_of(source: &Source, path: &str) -> (u64, Vec<Piece>) {
    match &find(source, path).content {
        Content::Extents { size, pieces } => (*size, pieces.clone()),
        other => panic!("{other:?}"),
    }
}

fn counted(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

// === what is read ===

#[test]
fn a_file_is_one_piece_of_the_data_file() {
    let tar = [file("a", b"hello"), file("d/b", &[7; 600]), file("e", b""), end()].concat();
    let source = read_in_all_ways(&tar).unwrap();
    let piece = |len, data| Content::Extents { size: len, pieces: vec![data_piece(0, len, data)] };
    assert_eq!(find(&source, "a").content, piece(5, 512));
    assert_eq!(find(&source, "d/b").content, piece(600, 1536));
    assert_eq!(find(&source, "e").content, Content::None);
    assert_eq!(find(&source, "a").mode, 0o644);
}

#[test]
fn every_type_becomes_its_kind() {
    let device = |block: &mut [u8]| {
        block[329..336].copy_from_slice(b"0000010");
        block[337..344].copy_from_slice(b"0000003");
    };
    let tar = [
        member("v7", 0, b"1", |_| {}),
        member("v7dir/", 0, b"", |block| block[257..265].fill(0)),
        member("contiguous", b'7', b"1", |_| {}),
        member("dir", b'5', b"", |_| {}),
        link("symlink", b'2', "v7"),
        link("hardlink", b'1', "v7"),
        member("char", b'3', b"", device),
        member("block", b'4', b"", device),
        member("fifo", b'6', b"", |_| {}),
        member("label", b'V', b"", |_| {}),
        end(),
    ];
    let source = read_in_all_ways(&tar.concat()).unwrap();
    let kinds = ["v7", "v7dir", "contiguous", "dir", "symlink", "hardlink", "char", "block", "fifo"];
    let found: Vec<_> = kinds.iter().map(|path| find(&source, path).kind).collect();
    use Kind::*;
    assert_eq!(found, [File, Directory, File, Directory, Symlink, File, CharDevice, BlockDevice, Fifo]);
    assert_eq!(find(&source, "char").device, (8, 3));
    assert!(std::ptr::eq(find(&source, "hardlink"), find(&source, "v7")));
    assert_eq!(source.inodes[0].content, find(&source, "").content);
    let Content::Children(children) = &source.inodes[0].content else { unreachable!() };
    assert_eq!(children.len(), kinds.len(), "a label is no part of the tree");
}

#[test]
fn types_without_content_have_none_whatever_their_size_says() {
    let sized = |block: &mut [u8]| block[124..136].copy_from_slice(b"00000001000\0");
    let mut members = Vec::new();
    for (typeflag, name) in [(b'1', "l"), (b'2', "s"), (b'3', "c"), (b'4', "b"), (b'5', "d"), (b'6', "f")] {
        members.push(member(name, typeflag, b"", |block| {
            block[157] = b'a';
            sized(block);
        }));
    }
    let source = read(&[file("a", b""), members.concat(), file("last", b"x"), end()]).unwrap();
    assert_eq!(find(&source, "last").kind, Kind::File);
}

#[test]
fn long_names_come_from_prefix_gnu_or_pax() {
    let long = ["component"; 30].join("/");
    let gnu = |typeflag, text: &str| member("././@LongLink", typeflag, format!("{text}\0").as_bytes(), |_| {});
    let source = read_in_all_ways(
        &[
            member("name", b'0', b"", |block| block[345..351].copy_from_slice(b"prefix")),
            gnu(b'L', &long),
            file("component/componen", b"1"),
            gnu(b'K', &long),
            gnu(b'L', "gnu link"),
            link("short", b'2', "short"),
            pax(&[("path", "by\npax"), ("linkpath", &long)]),
            link("short", b'2', "short"),
            pax(&[("path", &long)]),
            gnu(b'L', &long),
            file("short", b"22"),
            end(),
        ]
        .concat(),
    )
    .unwrap();
    assert_eq!(find(&source, "prefix/name").kind, Kind::File);
    assert_eq!(sparse_of(&source, &long).0, 2);
    assert_eq!(find(&source, "gnu link").content, Content::Target(long.clone().into()));
    assert_eq!(find(&source, "by\npax").content, Content::Target(long.clone().into()));
}

#[test]
fn a_prefix_counts_only_where_the_format_has_one() {
    let gnu = |block: &mut [u8]| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[345..357].copy_from_slice(b"00000000017\0"); // the time of last access
    };
    let old_go = |block: &mut [u8]| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[345..351].copy_from_slice(b"before");
    };
    let star = |block: &mut [u8]| {
        block[345..349].copy_from_slice(b"star");
        block[476..488].copy_from_slice(b"00000000017 ");
        block[508..512].copy_from_slice(b"tar\0");
    };
    let v7 = |block: &mut [u8]| {
        block[257..265].fill(0);
        block[345..351].copy_from_slice(b"before");
    };
    let made = [("gnu", gnu as fn(&mut [u8])), ("go", old_go), ("star", star), ("v7", v7)];
    let members = made.map(|(name, edit)| member(name, b'0', b"", edit));
    let source = read(&members).unwrap();
    for path in ["gnu", "before/go", "star/star", "v7"] {
        assert_eq!(find(&source, path).kind, Kind::File);
    }
}

#[test]
fn pax_stands_above_the_header_and_global_ones_below_it() {
    let global = member("g", b'g', &records_of(&[("uid", "70000"), ("mtime", "-1.5"), ("comment", "x")]), |_| {});
    let records = [("uid", "4294967295"), ("gid", "7"), ("mtime", "1.25"), ("size", "3"), ("SCHILY.xattr.user.a", "b")];
    let unsized_file = member("own", b'0', b"abc", |block| block[124..136].copy_from_slice(b"00000000000\0"));
    let source = read_in_all_ways(
        &[file("before", b""), global, file("global", b""), pax(&records), unsized_file, file("again", b""), end()]
            .concat(),
    )
    .unwrap();
    let told = |path| (find(&source, path).uid, find(&source, path).gid, find(&source, path).mtime);
    assert_eq!(told("before"), (0, 0, Time::default()));
    assert_eq!(told("global"), (70000, 0, Time { seconds: -2, nanos: 500_000_000 }));
    assert_eq!(told("own"), (u32::MAX, 7, Time { seconds: 1, nanos: 250_000_000 }));
    assert_eq!(told("again"), told("global"));
    assert_eq!(sparse_of(&source, "own").0, 3);
    assert_eq!(find(&source, "own").xattrs, [(b"user.a".to_vec(), b"b".to_vec())]);
    assert!(find(&source, "again").xattrs.is_empty());
}

#[test]
fn large_numbers_come_in_base_256() {
    let edit = |block: &mut [u8]| {
        block[108..116].copy_from_slice(b"\x80\0\0\0\xff\xff\xff\xff");
        block[136..148].copy_from_slice(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe");
        block[124..136].copy_from_slice(b"\x80\0\0\0\0\0\0\0\0\0\0\x05");
    };
    let source = read(&[member("a", b'0', b"12345", edit), file("b", b"")]).unwrap();
    assert_eq!((find(&source, "a").uid, find(&source, "a").mtime.seconds), (u32::MAX, -2));
    assert_eq!(sparse_of(&source, "a").0, 5);
}

// === the end ===

#[test]
fn an_archive_may_end_without_zeros_and_whatever_follows_them_is_not_read() {
    let whole = read(&[file("a", b"1"), end()]).unwrap();
    assert_eq!(read(&[file("a", b"1")]).unwrap(), whole, "no zeros");
    assert_eq!(read(&[file("a", b"1"), vec![0; 512]]).unwrap(), whole, "one block of zeros");
    assert_eq!(read_in(&[&file("a", b"1")[..513]]).unwrap(), whole, "no padding");
    assert_eq!(read(&[file("a", b"1"), end(), b"garbage".to_vec(), vec![7; 600]]).unwrap(), whole);
    assert!(read(&[]).is_ok(), "an empty tar, which is what some tools make of an empty layer");
}

#[test]
fn a_tar_that_ends_early_says_where() {
    let tar = [file("first", b"1"), file("second", &[1; 1000]), end()].concat();
    let says =
        |len: usize| read_in_all_ways(&tar[..len]).map(drop).map_err(|error| (error.at, error.entry, error.fault));
    let second = || Some("second".to_owned());
    assert_eq!(says(1030), Err((1024, None, Fault::EndsInHeader(6))));
    assert_eq!(says(1536), Err((1024, second(), Fault::EndsInPayload { size: 1000, had: 0 })));
    assert_eq!(says(2535), Err((1024, second(), Fault::EndsInPayload { size: 1000, had: 999 })));
    assert_eq!(says(2536), Ok(()));
    assert_eq!(says(tar.len() - 700), Err((2560, None, Fault::EndsInHeader(324))));
}

#[test]
fn a_size_field_beyond_what_follows_is_an_error_that_names_the_entry() {
    let huge = |size: &'static [u8]| member("huge", b'0', b"", move |block| block[124..136].copy_from_slice(size));
    let error = read(&[huge(b"120000000000"), end()]).unwrap_err();
    let text = "tar entry `huge` (header at byte 0): it says that 10737418240 bytes of content follow, \
                but the tar ends after 1024 of them";
    assert_eq!(error.to_string(), text);
    let max = TarLimits::default().data_bytes_max;
    assert_eq!(fault(&[huge(b"777777777777")]), Fault::EndsInPayload { size: 0o777_777_777_777, had: 0 });
    let size = i64::MAX as u64;
    assert_eq!(fault(&[huge(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff")]), Fault::TooLarge { size, max });
    assert_eq!(fault(&[huge(b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff")]), Fault::Field(BadField("size")));
    assert_eq!(fault(&[huge(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")]), Fault::Field(BadField("size")));
}

#[test]
fn a_header_that_speaks_of_an_entry_needs_one() {
    assert_eq!(fault(&[pax(&[("path", "x")])]), Fault::EndsAfterExtended);
    assert_eq!(fault(&[pax(&[("path", "x")]), end()]), Fault::EndsAfterExtended);
    assert_eq!(fault(&[pax(&[("path", "x")]), pax(&[("path", "y")]), file("z", b"")]), Fault::ExtendedTwice);
    let long = member("././@LongLink", b'L', b"long\0", |_| {});
    assert_eq!(fault(&[long.clone(), long.clone(), file("z", b"")]), Fault::ExtendedTwice);
    assert_eq!(fault(&[long, pax(&[("path", "x")]), file("z", b"")]), Fault::NamedTwice);
    let cut = pax(&[("path", "x")]);
    assert_eq!(fault(&[cut[..515].to_vec()]), Fault::EndsInPayload { size: 9, had: 3 });
}
