//! Any tar at all, in whatever pieces it comes.

use super::*;

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
