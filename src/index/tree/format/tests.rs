//! Fields and headings as the kernel's headers have them.

use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn device_numbers_are_unpacked_as_they_were_packed(major in 0..1u32 << 12, minor in 0..1u32 << 20) {
        prop_assert_eq!(unpack_device(pack_device((major, minor)).unwrap()), (major, minor));
    }
}

/// By `new_encode_dev` of the kernel's kdev_t.h.
#[test]
fn device_numbers_are_packed_as_the_kernel_does() {
    assert_eq!(pack_device((8, 1)), Some(0x801));
    assert_eq!(pack_device((0xabc, 0x12345)), Some(0x123a_bc45));
    assert_eq!((pack_device((1 << 12, 0)), pack_device((0, 1 << 20))), (None, None));
}

#[test]
fn attribute_names_are_split_where_erofs_has_a_number() {
    assert_eq!(split_xattr_name(b"user.a.b"), Some((1, &b"a.b"[..])));
    assert_eq!(split_xattr_name(b"system.posix_acl_default"), Some((3, &b""[..])));
    for name in [&b"user."[..], b"user", b"system.posix_acl_accessory", b"system.x", b""] {
        assert_eq!(split_xattr_name(name), None, "{}", name.escape_ascii());
    }
}

#[test]
fn a_heading_is_unpacked_as_it_was_packed_and_no_other_image_passes() {
    let heading = Heading {
        root: Nid(51),
        inodes: 7,
        blocks: 8,
        diff_id: DiffId(Digest::of(b"layer")),
        data_blocks: 9,
        implied: 1,
        lower_links: 2,
        body: Digest::of(b"body"),
    };
    assert_eq!(Heading::unpack(&heading.pack()), Ok(heading.clone()));
    let mut foreign = heading.pack();
    foreign[LABEL_AT] = 0;
    assert!(Heading::unpack(&foreign).unwrap_err().contains("oncefs has not made"));
    assert_eq!(Heading::unpack(&[0; 4096]), Err("it is no EROFS image"));
    assert_eq!(Heading::unpack(&heading.pack()[..1500]), Err("it is too short"));
}
