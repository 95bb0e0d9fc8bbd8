//! Extended headers as programs write them, and as nobody should.

use proptest::prelude::*;

use super::*;
use crate::index::tar::tests::record;

fn read(bytes: &[u8]) -> Result<Pax, PaxError> {
    let mut pax = Pax::default();
    pax.read(bytes)?;
    Ok(pax)
}

#[test]
fn records_are_read_as_posix_shows_them() {
    let pax = read(b"30 mtime=1350244992.023960108\n11 uid=123\n").unwrap();
    assert_eq!(pax.mtime, Some(Time { seconds: 1_350_244_992, nanos: 23_960_108 }));
    assert_eq!(pax.uid, Some(123));
}

#[test]
fn values_may_hold_anything() {
    let value = b"a=b\nc\0\xff";
    let pax = read(&[record("SCHILY.xattr.user.x", value), record("path", b"p\n=")].concat()).unwrap();
    assert_eq!(pax.xattrs, [(b"user.x".to_vec(), value.to_vec())]);
    assert_eq!(pax.path.unwrap(), b"p\n=");
}

#[test]
fn times_before_1970_round_down() {
    for (text, seconds, nanos) in [
        ("0", 0, 0),
        ("1.5", 1, 500_000_000),
        ("1.", 1, 0),
        ("-1", -1, 0),
        ("-0.25", -1, 750_000_000),
        ("-1.000000001", -2, 999_999_999),
        ("3.1234567899", 3, 123_456_789),
        ("9223372036854775807", i64::MAX, 0),
        ("-9223372036854775807.9", i64::MIN, 100_000_000),
    ] {
        assert_eq!(time(text.as_bytes()), Some(Time { seconds, nanos }), "{text}");
    }
    for text in ["", "-", ".5", "1.x", "+1", "1e3", " 1", "--1", "9223372036854775808", "1.2.3"] {
        assert_eq!(time(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn an_empty_value_takes_back_a_global_one() {
    let mut pax = Pax::default();
    pax.read_global(&[record("uid", b"5"), record("gid", b"6"), record("comment", b"x")].concat()).unwrap();
    pax.read(&record("uid", b"")).unwrap();
    assert_eq!((pax.uid, pax.gid), (None, Some(6)));
}

#[test]
fn a_global_header_cannot_name_or_size_entries() {
    for key in ["path", "linkpath", "size", "GNU.sparse.map", "SCHILY.xattr.user.a"] {
        let refused = Pax::default().read_global(&record(key, b"1"));
        assert_eq!(refused, Err(PaxError::Global(key.to_owned())));
    }
}

#[test]
fn libarchive_attributes_are_decoded_and_give_way_to_plain_ones() {
    let pax = read(
        &[
            record("SCHILY.xattr.user.b", b"plain"),
            record("LIBARCHIVE.xattr.user.%62", b"b3RoZXI"),
            record("LIBARCHIVE.xattr.user.a", b"AP8K"),
        ]
        .concat(),
    )
    .unwrap();
    let xattr = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    assert_eq!(pax.xattrs, [xattr("user.b", b"other"), xattr("user.a", b"\0\xff\n"), xattr("user.b", b"plain")]);
    assert!(read(&record("LIBARCHIVE.xattr.user.a", b"A")).is_err());
    assert!(read(&record("LIBARCHIVE.xattr.user.a", b"AP8*")).is_err());
}

/// RFC 4648, section 10.
#[test]
fn padding_of_base64_may_be_missing() {
    for (text, plain) in [("", ""), ("Zg==", "f"), ("Zm8", "fo"), ("Zm9v", "foo"), ("Zm9vYmE=", "fooba")] {
        assert_eq!(BASE64.decode(text).unwrap(), plain.as_bytes());
    }
}

#[test]
fn sparse_maps_come_in_two_spellings() {
    let pairs = [("offset", "0"), ("numbytes", "512"), ("offset", "4096"), ("numbytes", "100")];
    let repeated: Vec<u8> = pairs.iter().flat_map(|(k, v)| record(&format!("GNU.sparse.{k}"), v.as_bytes())).collect();
    assert_eq!(read(&repeated).unwrap().sparse.unwrap().map().unwrap(), [(0, 512), (4096, 100)]);
    let map = [record("GNU.sparse.numblocks", b"2"), record("GNU.sparse.map", b"0,512,4096,100")].concat();
    assert_eq!(read(&map).unwrap().sparse.unwrap().map().unwrap(), [(0, 512), (4096, 100)]);
    for (count, map) in [("3", "0,512,4096,100"), ("2", "0,512,4096")] {
        let map = [record("GNU.sparse.numblocks", count.as_bytes()), record("GNU.sparse.map", map.as_bytes())].concat();
        assert_eq!(read(&map).unwrap().sparse.unwrap().map(), Err(PaxError::SparseCount));
    }
    assert!(read(&record("GNU.sparse.numbytes", b"1")).is_err(), "a length before its offset");
    assert!(read(&record("GNU.sparse.map", b"1,,2")).is_err());
}

#[test]
fn what_is_no_record_is_refused() {
    for bytes in [
        &b"11 uid=123"[..],
        b"12 uid=123\n",
        b"10 uid=123\n",
        b"uid=123\n",
        b" uid=123\n",
        b"0 \n",
        b"3 \n",
        b"2 uid=1\n",
        b"6 =ab\n",
        b"7 uida\n",
        b"-1 uid=1\n",
        b"99999999999999999999999 a=b\n",
        b"18446744073709551615 a=b\n",
        b"11 uid=123\n\0\0",
    ] {
        assert_eq!(read(bytes), Err(PaxError::Record), "{}", bytes.escape_ascii());
    }
    for (key, value) in [("uid", "4294967296"), ("uid", "-1"), ("gid", "x"), ("size", "0x1"), ("size", "-1")] {
        assert_eq!(read(&record(key, value.as_bytes())), Err(PaxError::Value(key.to_owned())));
    }
}

proptest! {
    #[test]
    fn records_are_read_as_they_are_written(records: Vec<(String, Vec<u8>)>) {
        let records: Vec<_> = records.into_iter().filter(|(key, _)| !key.contains(['=', '\0'])).collect();
        let text: Vec<u8> =
            records.iter().flat_map(|(key, value)| record(&format!("SCHILY.xattr.{key}"), value)).collect();
        let xattrs: Xattrs = records.into_iter().map(|(key, value)| (key.into_bytes(), value)).collect();
        prop_assert_eq!(read(&text).unwrap().xattrs, xattrs);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes: Vec<u8>, text in "[0-9]{1,2} (GNU.sparse.map|size|mtime)=[-0-9,.]{0,9}\n") {
        let _ = read(&bytes);
        let _ = read(text.as_bytes());
    }
}
