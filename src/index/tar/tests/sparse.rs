//! Sparse files, in the old format and in 1.0.

use super::*;

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
