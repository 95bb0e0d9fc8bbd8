//! What is no tar, or says what cannot be meant.

use super::*;

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
