//! Digests as text, chain ids, and what a check lets through.

use super::*;
use proptest::prelude::*;

#[test]
fn the_digest_of_nothing_is_the_well_known_one() {
    let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(Digest::of(b"").to_string(), empty);
    assert_eq!(empty.parse::<Digest>().unwrap(), Digest::of(b""));
}

#[test]
fn what_is_no_digest_is_refused_with_its_reason() {
    let hex = "e".repeat(64);
    assert_eq!("abc".parse::<Digest>(), Err(ParseDigestError::NoAlgorithm));
    assert_eq!(format!("md5:{hex}").parse::<Digest>(), Err(ParseDigestError::Algorithm("md5".into())));
    assert_eq!(format!("sha256:{}", hex.to_uppercase()).parse::<Digest>(), Err(ParseDigestError::Hex));
    assert_eq!(format!("sha256:{hex}e").parse::<Digest>(), Err(ParseDigestError::Hex));
    assert_eq!("sha256:../../etc/passwd".parse::<Digest>(), Err(ParseDigestError::Hex));
}

/// Worked by hand from the definition: ChainID(A,B) = Digest(ChainID(A) + " " + DiffID(B)).
#[test]
fn a_chain_id_folds_the_diff_ids() {
    let (a, b, c) = (DiffId(Digest::of(b"a")), DiffId(Digest::of(b"b")), DiffId(Digest::of(b"c")));
    assert_eq!(ChainId::of(&[]), None);
    assert_eq!(ChainId::of(&[a]), Some(ChainId(a.0)));
    let ab = Digest::of(format!("{a} {b}").as_bytes());
    let abc = Digest::of(format!("{ab} {c}").as_bytes());
    assert_eq!(ChainId::of(&[a, b, c]), Some(ChainId(abc)));
    assert_eq!(ChainId::of_prefixes(&[a, b, c]), [ChainId(a.0), ChainId(ab), ChainId(abc)]);
    assert_eq!(ChainId::of_prefixes(&[]), []);
}

#[test]
fn what_is_made_of_a_source_is_checked_by_the_sources_digest_to_its_end() {
    let want = FrameDigest::Source(*Digest::of(b"the source").as_bytes());
    for (source, is_right) in [(&b"the source"[..], true), (b"the sourcf", false), (b"the sourc", false)] {
        let mut hashing = SourceHashing::new(source);
        hashing.read_exact(&mut [0; 3]).unwrap();
        assert_eq!(hashing.finish("made", &want).unwrap().is_ok(), is_right);
        assert_eq!(check_frame(source, &want).is_ok(), is_right);
    }
    // A digest of a source is none of what it decodes to.
    let mut hashing = FrameHashing::new(Vec::new(), &want);
    hashing.write_all(b"the source").unwrap();
    assert!(hashing.finish().is_err());
}

proptest! {
    #[test]
    fn a_digest_is_read_as_it_is_written(bytes: [u8; 32]) {
        let digest = Digest::from_bytes(bytes);
        prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn only_the_very_bytes_pass_the_check(bytes: Vec<u8>, other: Vec<u8>) {
        prop_assert_eq!(check(&other, &Digest::of(&bytes)).is_ok(), bytes == other);
        for want in [FrameDigest::of(&bytes), FrameDigest::from(Digest::of(&bytes))] {
            prop_assert_eq!(check_frame(&other, &want).is_ok(), bytes == other);
            let mut hashing = FrameHashing::new(Vec::new(), &want);
            hashing.write_all(&other).unwrap();
            prop_assert_eq!(hashing.finish().is_ok(), bytes == other);
        }
    }
}
