//! Tars, whole and in pieces, good and hostile.

use proptest::prelude::*;

use super::*;
use crate::index::tree::draft::{DraftError, DraftLimits};
use crate::index::tree::write::{Content, From, Inode, Piece, Source};
use crate::index::tree::{Kind, Time};

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

// === what is refused ===

#[test]
fn what_is_no_tar_is_told_at_once() {
    assert_eq!(fault(&[vec![7; 512]]), Fault::Checksum);
    let mut damaged = file("a", b"");
    damaged[0] = b'b';
    assert_eq!(fault(&[damaged]), Fault::Checksum);
    assert_eq!(fault(&[file("a", b""), vec![0; 512], file("b", b"")]), Fault::LoneZeroBlock);
    let error = read(&[file("a", b"1"), vec![b'x'; 512]]).unwrap_err();
    assert_eq!((error.at, error.entry), (1024, None));
}

#[test]
fn signed_checksums_of_old_programs_are_accepted() {
    let mut block = member("caf\u{e9}", b'0', b"", |_| {});
    block[148..156].fill(b' ');
    let sum: i64 = block.iter().map(|byte| i64::from(byte.cast_signed())).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert!(read(&[block]).is_ok());
}

#[test]
fn names_that_lead_out_are_refused_and_named() {
    let error = read(&[file("ok", b"12"), file("a/../../etc/passwd", b"")]).unwrap_err();
    assert_eq!(error.fault, Fault::Draft(DraftError::Upwards));
    let text = "tar entry `a/../../etc/passwd` (header at byte 1024): the name has a component `..`, \
                which could lead out of the layer";
    assert_eq!(error.to_string(), text);
    assert_eq!(fault(&[pax(&[("path", "a\0b")]), file("a", b"")]), Fault::Draft(DraftError::ZeroByte));
    let target = fault(&[pax(&[("linkpath", "a\0b")]), link("l", b'2', "a")]);
    assert_eq!(target, Fault::Draft(DraftError::SymlinkTarget));
}

#[test]
fn fields_that_cannot_be_meant_are_refused() {
    let with = |range: std::ops::Range<usize>, text: &'static [u8]| {
        fault(&[member("a", b'0', b"", move |block| block[range].copy_from_slice(text))])
    };
    assert_eq!(with(100..108, b"rw-r--r-"), Fault::Field(BadField("mode")));
    assert_eq!(with(108..116, b"\x80\0\0\x01\0\0\0\0"), Fault::Field(BadField("uid")));
    assert_eq!(with(116..124, b"\xff\xff\xff\xff\xff\xff\xff\xff"), Fault::Field(BadField("gid")));
    assert_eq!(with(136..148, b"12345678901z"), Fault::Field(BadField("mtime")));
    assert_eq!(with(156..157, b"Z"), Fault::Type("Z".into()));
    assert_eq!(with(156..157, b"M"), Fault::Type("M".into()));
    assert_eq!(fault(&[pax(&[("uid", "4294967296")]), file("a", b"")]), Fault::Pax(PaxError::Value("uid".into())));
    let global = member("g", b'g', &records_of(&[("path", "x")]), |_| {});
    assert_eq!(fault(&[global]), Fault::Pax(PaxError::Global("path".into())));
}

#[test]
fn an_extended_header_is_only_so_large() {
    let mut large = member("x", b'x', b"", |block| block[124..136].copy_from_slice(b"00004000001\0"));
    assert_eq!(fault(&[large.clone()]), Fault::LargeExtended { size: (1 << 20) + 1, max: 1 << 20 });
    large = pax(&[("comment", &"c".repeat((1 << 20) - 100))]);
    assert!(read(&[large, file("a", b"")]).is_ok());
}

// === sparse files ===

fn base_256(number: u64) -> [u8; 12] {
    let mut field = [0; 12];
    field[0] = 0x80;
    field[4..].copy_from_slice(&number.to_be_bytes());
    field
}

/// A header of GNU's old sparse format with a map of up to four segments.
fn old_sparse(name: &str, map: &[(u64, u64)], size: u64, payload: &[u8], extensions: &[&[(u64, u64)]]) -> Vec<u8> {
    fn put(block: &mut [u8], map: &[(u64, u64)], goes_on: bool, flag: usize) {
        for ((at, len), place) in map.iter().zip(block.chunks_mut(24)) {
            place[..12].copy_from_slice(&base_256(*at));
            place[12..].copy_from_slice(&base_256(*len));
        }
        block[flag] = u8::from(goes_on);
    }
    let mut whole = member(name, b'S', b"", |block| {
        block[124..136].copy_from_slice(format!("{:011o}\0", payload.len()).as_bytes());
        block[257..265].copy_from_slice(b"ustar  \0");
        block[483..495].copy_from_slice(&base_256(size));
        put(&mut block[386..], map, !extensions.is_empty(), 482 - 386);
    });
    for (at, extension) in extensions.iter().enumerate() {
        let mut block = vec![0; BLOCK];
        put(&mut block, extension, at + 1 < extensions.len(), 504);
        whole.extend(block);
    }
    whole.extend(payload);
    whole.resize(whole.len().next_multiple_of(BLOCK), 0);
    whole
}

fn counted(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

#[test]
fn an_old_sparse_file_has_its_map_in_headers() {
    let payload = counted(512 * 3 + 100);
    let map = [(0, 512), (4096, 512), (1 << 33, 512), (1 << 34, 0)];
    let tar = [old_sparse("s", &map, (1 << 34) + 100, &payload, &[&[(1 << 34, 100)]]), file("after", b"x"), end()];
    let source = read_in_all_ways(&tar.concat()).unwrap();
    let pieces = vec![
        data_piece(0, 512, 1024),
        data_piece(4096, 512, 1536),
        data_piece(1 << 33, 512, 2048),
        data_piece(1 << 34, 100, 2560),
    ];
    assert_eq!(sparse_of(&source, "s"), ((1 << 34) + 100, pieces));
    assert_eq!(find(&source, "after").kind, Kind::File);
}

#[test]
fn the_map_of_an_old_sparse_file_goes_on_as_long_as_it_says() {
    let map: Vec<_> = (0..60).map(|n| (n * 1024, 512)).collect();
    let payload = counted(60 * 512);
    let (first, rest) = map.split_at(4);
    let (second, third) = rest.split_at(21);
    let (third, fourth) = third.split_at(21);
    let tar = old_sparse("s", first, 60 * 1024, &payload, &[second, third, fourth]);
    let (size, pieces) = sparse_of(&read_in_all_ways(&tar).unwrap(), "s");
    assert_eq!((size, pieces.len()), (60 * 1024, 60));
    assert_eq!(pieces[59], data_piece(59 * 1024, 512, 4 * 512 + 59 * 512));
}

#[test]
fn pieces_that_are_not_whole_blocks_keep_their_bytes() {
    let payload = counted(700 + 1024 + 300);
    // 700 bytes leave the rest of the payload unaligned; what the file ends with may lie as it lies.
    let map = [(0, 700), (2048, 1024), (8192, 300)];
    let source = read_in_all_ways(&old_sparse("s", &map, 8492, &payload, &[])).unwrap();
    let pieces = vec![
        data_piece(0, 512, 512),
        own_piece(512, &payload[512..700]),
        own_piece(2048, &payload[700..1724]),
        own_piece(8192, &payload[1724..]),
    ];
    assert_eq!(sparse_of(&source, "s").1, pieces);
}

#[test]
fn pieces_misaligned_alike_in_file_and_tar_are_mapped_between_their_edges() {
    let payload = counted(100 + 1500 + 7);
    let map = [(0, 100), (1024 + 100, 1500), (4096, 7)];
    let source = read_in_all_ways(&old_sparse("s", &map, 9000, &payload, &[])).unwrap();
    let pieces = vec![
        own_piece(0, &payload[..100]),
        own_piece(1124, &payload[100..512]),
        data_piece(1536, 1024, 1024),
        own_piece(2560, &payload[1536..1600]),
        own_piece(4096, &payload[1600..]),
    ];
    assert_eq!(sparse_of(&source, "s").1, pieces);
}

#[test]
fn segments_that_follow_each_other_are_one_piece() {
    let source = read(&[old_sparse("s", &[(0, 512), (512, 1024), (1536, 10)], 1546, &counted(1546), &[])]).unwrap();
    assert_eq!(sparse_of(&source, "s"), (1546, vec![data_piece(0, 1546, 512)]));
}

fn sparse_1_0(map: &str, size: &str, payload: &[u8]) -> Vec<u8> {
    let records = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "real/name"),
        ("GNU.sparse.realsize", size),
    ];
    let mut content = map.as_bytes().to_vec();
    content.resize(content.len().next_multiple_of(BLOCK), 0);
    content.extend(payload);
    [pax(&records), file("GNUSparseFile.1/name", &content)].concat()
}

#[test]
fn a_sparse_file_of_format_1_0_has_its_map_in_the_payload() {
    let payload = counted(1024);
    let long = format!("200\n{}", (0..200).map(|n| format!("{}\n0\n", n * 10)).collect::<String>());
    let long = long.replace("1990\n0\n", "4096\n1024\n");
    for map in ["2\n0\n512\n4096\n512\n", &long] {
        let source = read_in_all_ways(&[sparse_1_0(map, "9000", &payload), file("z", b"1"), end()].concat()).unwrap();
        assert_eq!(sparse_of(&source, "real/name").0, 9000, "{map}");
        assert_eq!(find(&source, "z").kind, Kind::File);
    }
    let source = read(&[sparse_1_0("2\n0\n512\n4096\n512\n", "9000", &payload)]).unwrap();
    assert_eq!(sparse_of(&source, "real/name").1, [data_piece(0, 512, 2048), data_piece(4096, 512, 2560)]);
    let empty = read_in_all_ways(&[sparse_1_0("0\n", "1048576", b""), end()].concat()).unwrap();
    assert_eq!(sparse_of(&empty, "real/name"), (1 << 20, vec![]));
}

#[test]
fn maps_that_do_not_fit_are_refused() {
    let old = |map: &[(u64, u64)], size| fault(&[old_sparse("s", map, size, &counted(1024), &[])]);
    assert_eq!(old(&[(512, 512), (0, 512)], 9000), Fault::Sparse(SparseError::Order));
    assert_eq!(old(&[(0, 512), (511, 512)], 9000), Fault::Sparse(SparseError::Order));
    assert_eq!(old(&[(0, 512), (8000, 512)], 8511), Fault::Sparse(SparseError::Beyond));
    let mapped = |mapped| Fault::Sparse(SparseError::Payload { mapped, payload: 1024 });
    assert_eq!(old(&[(0, 512)], 9000), mapped(512));
    assert_eq!(old(&[(0, 1025)], 9000), mapped(1025));
    assert_eq!(old(&[(0, 512)], 1 << 41), Fault::LargeSparse { size: 1 << 41, max: 1 << 40 });
    let text = |map: &str| fault(&[sparse_1_0(map, "9000", &counted(1024)), end()]);
    assert_eq!(text("x\n"), Fault::Sparse(SparseError::Text));
    assert_eq!(text("\n1\n"), Fault::Sparse(SparseError::Text));
    assert_eq!(text("99999999999999999999\n"), Fault::Sparse(SparseError::Text));
    assert_eq!(text("3\n0\n512\n"), Fault::Sparse(SparseError::Text), "the padding is no number");
    let endless = format!("9000\n{}", "1\n".repeat(254));
    assert!(matches!(text(&endless), Fault::Sparse(SparseError::Text | SparseError::NoEnd)));
    let version = pax(&[("GNU.sparse.major", "2"), ("GNU.sparse.realsize", "1")]);
    assert_eq!(fault(&[version, file("a", b"")]), Fault::Sparse(SparseError::Version(2, 0)));
    let no_size = pax(&[("GNU.sparse.map", "0,0")]);
    assert_eq!(fault(&[no_size, file("a", b"")]), Fault::Sparse(SparseError::NoSize));
}

#[test]
fn a_layer_keeps_only_so_much_of_sparse_files() {
    let limits = TarLimits { sparse_segments_max: 5, unaligned_bytes_max: 1000, ..TarLimits::default() };
    let read = |members: &[Vec<u8>]| {
        let (mut parser, mut draft) = (Parser::new(limits), Draft::new(DraftLimits::default()));
        parser.push(&members.concat(), &mut draft).map_err(|error| error.fault)
    };
    let unaligned = |name| old_sparse(name, &[(1, 600)], 9000, &counted(600), &[]);
    assert_eq!(read(&[unaligned("a")]), Ok(()));
    assert_eq!(read(&[unaligned("a"), unaligned("b")]), Err(Fault::Unaligned(1000)));
    let segments = |name| old_sparse(name, &[(0, 512), (1024, 512), (2048, 512)], 9000, &counted(1536), &[]);
    assert_eq!(read(&[segments("a")]), Ok(()));
    assert_eq!(read(&[segments("a"), segments("b")]), Err(Fault::TooManySegments(5)));
}

// === anything ===

const RECORDS: [&str; 7] = [
    "10 path=x\n",
    "12 size=512\n",
    "22 GNU.sparse.major=1\n",
    "26 GNU.sparse.realsize=99\n",
    "22 GNU.sparse.size=99\n",
    "22 GNU.sparse.map=1,9\n",
    "junk",
];

/// Members good and bad, in any order.
fn any_member() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(&["a", "b/c", "./b", "..", ".wh.a", "b/.wh..wh..opq", ""][..]);
    let typeflag = prop::sample::select(&b"\x0001234567SVxgLKZ"[..]);
    let payload = prop_oneof![
        3 => Just(Vec::new()),
        2 => prop::collection::vec(any::<u8>(), 0..1500),
        2 => prop::collection::vec(prop::sample::select(&RECORDS[..]), 1..4).prop_map(|all| all.concat().into_bytes()),
        1 => Just(b"1\n0\n5\n".to_vec()),
    ];
    let bytes = prop::collection::vec((0..BLOCK, any::<u8>()), 0..3);
    (name, typeflag, payload, bytes, any::<bool>()).prop_map(|(name, typeflag, payload, bytes, gnu)| {
        member(name, typeflag, &payload, |block| {
            if gnu {
                block[257..265].copy_from_slice(b"ustar  \0");
            }
            bytes.iter().for_each(|(at, byte)| block[*at] = *byte);
        })
    })
}

proptest! {
    #[test]
    fn a_tar_means_the_same_in_whatever_chunks_it_comes(
        members in prop::collection::vec(any_member(), 0..6),
        cuts in prop::collection::vec(0..9000usize, 0..6),
        cut_off in 0..1500usize,
    ) {
        let mut tar = members.concat();
        tar.truncate(tar.len().saturating_sub(cut_off.saturating_sub(700)));
        let mut edges: Vec<_> = cuts.into_iter().map(|cut| cut % (tar.len() + 1)).chain([0, tar.len()]).collect();
        edges.sort_unstable();
        let chunks: Vec<_> = edges.windows(2).map(|pair| &tar[pair[0]..pair[1]]).collect();
        let read = |chunks: &[&[u8]]| {
            let (mut parser, mut draft) = (Parser::new(TarLimits::default()), Draft::new(DraftLimits::default()));
            chunks.iter().try_for_each(|chunk| parser.push(chunk, &mut draft))?;
            parser.finish().map(|()| draft.finish())
        };
        prop_assert_eq!(read(&chunks), read(&[&tar]));
    }

    /// The pieces of any map together are the payload, each byte where the map says.
    #[test]
    fn pieces_hold_exactly_what_the_map_says(
        segments in prop::collection::vec((0..1500u64, 0..1500u64), 1..8),
        start in 0..4u64,
        more in prop_oneof![Just(0), 0..600u64],
        chunk in 1..2000usize,
    ) {
        let start = start * 512;
        let (mut at, mut map) = (0, Vec::new());
        for (gap, len) in segments {
            map.push((at + gap, len));
            at += gap + len;
        }
        let size = at + more;
        let payload = counted(map.iter().map(|(_, len)| *len as usize).sum());
        let mut pieces = Pieces::new(&map, size, start, payload.len() as u64).unwrap();
        let mut offset = start;
        for bytes in payload.chunks(chunk) {
            pieces.pass(offset, bytes);
            offset += bytes.len() as u64;
        }
        let (mut file, mut want) = (vec![0; size as usize], vec![0; size as usize]);
        let mut end = 0;
        for piece in pieces.finish() {
            prop_assert!(piece.at >= end && piece.len > 0);
            end = piece.at + piece.len;
            let bytes = match piece.from {
                From::Bytes(bytes) => bytes,
                From::Data(data) => {
                    prop_assert!(data % 512 == 0 && piece.at % 512 == 0 && (piece.len % 512 == 0 || end == size));
                    payload[(data - start) as usize..][..piece.len as usize].to_vec()
                }
            };
            prop_assert_eq!(bytes.len() as u64, piece.len);
            file[piece.at as usize..end as usize].copy_from_slice(&bytes);
        }
        let mut from = 0;
        for (at, len) in map {
            want[at as usize..(at + len) as usize].copy_from_slice(&payload[from..from + len as usize]);
            from += len as usize;
        }
        prop_assert_eq!(file, want);
    }
}
