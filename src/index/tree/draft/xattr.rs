//! Which extended attributes of an image reach the tree. An image must be able neither to speak to overlayfs nor
//! to set oncefs's own marks, and what no file system could hold is left out as unpacking would leave it out.

use crate::index::tree::Xattrs;
use crate::index::tree::draft::DraftError;
use crate::index::tree::draft::name::shown;

/// What overlayfs and oncefs themselves put on a layer's nodes.
const NOT_FROM_IMAGES: &[&[u8]] = &[b"trusted.overlay.", b"user.overlay.", b"trusted.oncefs."];
/// The name spaces Linux has (xattr(7)); `system.` is for the two access control lists alone.
const NAME_SPACES: &[&[u8]] = &[b"user.", b"trusted.", b"security."];
const ACCESS_LISTS: &[&[u8]] = &[b"system.posix_acl_access", b"system.posix_acl_default"];
const CAPABILITY: &[u8] = b"security.capability";

/// Bytes of a name (Linux's limits.h) and of a value: Linux lets it have one byte more than EROFS's 16 bits can say.
const NAME_MAX: usize = 255;
const VALUE_MAX: usize = (64 << 10) - 1;
/// All of one inode, each with up to 8 bytes of EROFS around it: EROFS counts an inode's attributes in words of
/// 4 bytes with 16 bits, so 256 KiB would be the end.
const TOTAL_MAX: usize = 240 << 10;

/// Those of `xattrs` that the tree takes, the last of each name, ordered by name.
pub(super) fn kept(mut xattrs: Xattrs) -> Result<Option<Box<Xattrs>>, DraftError> {
    xattrs.retain(|(name, value)| is_kept(name) && is_well_formed(name, value));
    if xattrs.is_empty() {
        return Ok(None);
    }
    // Stable, and reversed before: the first of equals is then the last of the tar.
    xattrs.reverse();
    xattrs.sort_by(|a, b| a.0.cmp(&b.0));
    xattrs.dedup_by(|later, first| later.0 == first.0);
    let mut total = 0;
    for (name, value) in &xattrs {
        total += name.len() + value.len() + 8;
        if name.len() > NAME_MAX || value.len() > VALUE_MAX || total > TOTAL_MAX {
            return Err(DraftError::LargeXattr(shown(name)));
        }
    }
    xattrs.shrink_to_fit();
    Ok(Some(Box::new(xattrs)))
}

/// Whether an image's attribute would reach a tree as it is.
pub(crate) fn is_allowed(name: &[u8], value: &[u8]) -> bool {
    is_kept(name) && is_well_formed(name, value)
}

fn is_kept(name: &[u8]) -> bool {
    let below = |space: &&[u8]| name.strip_prefix(*space).is_some_and(|rest| !rest.is_empty());
    !name.contains(&0)
        && !NOT_FROM_IMAGES.iter().any(|taken| name.starts_with(taken))
        && (NAME_SPACES.iter().any(below) || ACCESS_LISTS.contains(&name))
}

/// setxattr(2) takes no other access lists and capabilities. The kernel would read these from EROFS all the same, and fail
/// every access to the file: a broken list on a directory would hide all that is below it.
fn is_well_formed(name: &[u8], value: &[u8]) -> bool {
    if name == CAPABILITY {
        // include/uapi/linux/capability.h: the revision in the upper byte, and how long each is.
        let revision = value.first_chunk().map(|magic| u32::from_le_bytes(*magic) >> 24);
        return matches!((revision, value.len()), (Some(1), 12) | (Some(2), 20) | (Some(3), 24));
    }
    !ACCESS_LISTS.contains(&name) || is_access_list(value)
}

/// include/uapi/linux/posix_acl_xattr.h: version 2, then entries of tag, permissions and id.
fn is_access_list(value: &[u8]) -> bool {
    let Some((version, entries)) = value.split_first_chunk() else { return false };
    let (entries, rest) = entries.as_chunks::<8>();
    let is_known = |entry: &[u8; 8]| {
        let [tag_low, tag_high, ..] = *entry;
        tag_high == 0 && matches!(tag_low, 0x01 | 0x02 | 0x04 | 0x08 | 0x10 | 0x20)
    };
    u32::from_le_bytes(*version) == 2 && rest.is_empty() && entries.iter().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: [u8; 12] = [2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255];
    const CAPABILITIES: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    fn value(name: &str) -> Vec<u8> {
        match name {
            "security.capability" => CAPABILITIES.to_vec(),
            name if name.starts_with("system.") => LIST.to_vec(),
            _ => Vec::new(),
        }
    }

    fn names(of: &[&str]) -> Vec<String> {
        let xattrs = of.iter().map(|name| (name.as_bytes().to_vec(), value(name))).collect();
        let kept = kept(xattrs).unwrap().unwrap_or_default();
        kept.iter().map(|(name, _)| String::from_utf8(name.clone()).unwrap()).collect()
    }

    #[test]
    fn an_image_cannot_speak_to_overlayfs_or_to_us() {
        assert!(names(&["trusted.overlay.opaque", "user.overlay.whiteout", "trusted.oncefs.link"]).is_empty());
        assert_eq!(names(&["trusted.overlayish", "user.oncefs.x"]), ["trusted.overlayish", "user.oncefs.x"]);
    }

    #[test]
    fn only_what_linux_could_hold_is_kept() {
        assert!(names(&["com.apple.quarantine", "user.", "system.nfs4_acl", "security", "", "user.a\0b"]).is_empty());
        let kept = ["security.capability", "system.posix_acl_access", "trusted.x", "user.y"];
        assert_eq!(names(&kept), kept);
    }

    #[test]
    fn what_the_kernel_would_choke_on_is_left_out() {
        assert!(is_well_formed(b"security.capability", &CAPABILITIES));
        assert!(!is_well_formed(b"security.capability", &CAPABILITIES[..19]));
        assert!(is_well_formed(b"system.posix_acl_access", &LIST));
        for broken in [&LIST[..11], &LIST[..3], &[1, 0, 0, 0], &[2, 0, 0, 0, 3, 0, 7, 0, 0, 0, 0, 0]] {
            assert!(!is_well_formed(b"system.posix_acl_default", broken), "{broken:?}");
        }
    }

    #[test]
    fn the_last_of_a_name_counts() {
        let xattr = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let kept = kept(vec![xattr("user.b", "1"), xattr("user.a", "2"), xattr("user.b", "3")]).unwrap().unwrap();
        assert_eq!(*kept, [xattr("user.a", "2"), xattr("user.b", "3")]);
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let of = |name: usize, value: usize| vec![([b"user.", &*vec![b'n'; name - 5]].concat(), vec![0; value])];
        assert!(kept(of(255, VALUE_MAX)).is_ok());
        assert!(matches!(kept(of(256, 0)), Err(DraftError::LargeXattr(_))));
        assert!(matches!(kept(of(9, VALUE_MAX + 1)), Err(DraftError::LargeXattr(_))));
        let many = (0..4).map(|n| (format!("user.{n}").into_bytes(), vec![0; 60 << 10])).collect();
        assert!(matches!(kept(many), Err(DraftError::LargeXattr(_))));
    }
}
