//! What the name of an entry means: a place in the tree, or a whiteout in the image specification's spelling
//! (image-spec layer.md, "Whiteouts"). Pure text; looks nothing up.

use crate::index::tree::draft::DraftError;

/// An entry's name, read. Parents may still have empty and `.` components; a walk skips them.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Named<'a> {
    Root,
    Node {
        parent: &'a [u8],
        name: &'a [u8],
    },
    /// `.wh.NAME`: hides NAME of the layers below.
    Whiteout {
        parent: &'a [u8],
        hides: &'a [u8],
    },
    /// `.wh..wh..opq`: hides all that the layers below have in the directory.
    Opaque {
        parent: &'a [u8],
    },
    /// Other `.wh..wh.*`: aufs's own notes, which old images carry along.
    Ignored,
}

const WHITEOUT: &[u8] = b".wh.";
const NOTES: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

const COMPONENT_MAX: usize = 255;
const PATH_MAX: usize = 4096;
pub(super) const DEPTH_MAX: usize = 1024;

/// What an entry of the name `path` is about.
pub(super) fn read(path: &[u8]) -> Result<Named<'_>, DraftError> {
    if path.len() > PATH_MAX {
        return Err(DraftError::LongPath);
    }
    if path.contains(&0) {
        return Err(DraftError::ZeroByte);
    }
    let (mut rest, mut depth, mut last) = (path, 0, None);
    while let Some(component) = next_component(&mut rest) {
        if let Some((_, above)) = last {
            check_directory(above)?;
        }
        if component == b".." {
            return Err(DraftError::Upwards);
        }
        if component.starts_with(NOTES) && component != OPAQUE {
            return Ok(Named::Ignored);
        }
        depth += 1;
        last = Some((path.len() - rest.len() - component.len(), component));
    }
    let Some((at, name)) = last else { return Ok(Named::Root) };
    if depth > DEPTH_MAX {
        return Err(DraftError::LongPath);
    }
    let parent = path.get(..at).unwrap_or_default();
    match name.strip_prefix(WHITEOUT) {
        _ if name == OPAQUE => Ok(Named::Opaque { parent }),
        Some(b"" | b"." | b"..") => Err(DraftError::EmptyWhiteout),
        // The file it hides may have a name of 255 bytes; the whiteout exists in the tar alone.
        Some(hides) if hides.len() > COMPONENT_MAX => Err(DraftError::LongComponent),
        Some(hides) => Ok(Named::Whiteout { parent, hides }),
        None if name.len() > COMPONENT_MAX => Err(DraftError::LongComponent),
        None => Ok(Named::Node { parent, name }),
    }
}

/// Whether a directory can have this name in a layer.
pub(super) fn check_directory(component: &[u8]) -> Result<(), DraftError> {
    if component.len() > COMPONENT_MAX {
        return Err(DraftError::LongComponent);
    }
    if component.starts_with(WHITEOUT) { Err(DraftError::BelowWhiteout) } else { Ok(()) }
}

/// Takes the next component off `rest`, passing over slashes and `.`.
pub(super) fn next_component<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    loop {
        let start = rest.iter().position(|byte| *byte != b'/')?;
        let (_, named) = rest.split_at_checked(start)?;
        let end = named.iter().position(|byte| *byte == b'/').unwrap_or(named.len());
        let (component, after) = named.split_at_checked(end)?;
        *rest = after;
        if component != b"." {
            return Some(component);
        }
    }
}

/// A path as it may stand in an error: escaped, and cut where nobody would read on.
pub(crate) fn shown(path: &[u8]) -> String {
    const SHOWN_MAX: usize = 256;
    match path.get(..SHOWN_MAX) {
        Some(start) if path.len() > SHOWN_MAX => format!("{}...", start.escape_ascii()),
        _ => path.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_the_same_however_it_is_prefixed() {
        for path in ["a/b", "/a/b", "./a/b", "//a//b", "././a/./b", "a/b/", "a/b/.", "/./a/b//"] {
            let Named::Node { mut parent, name } = read(path.as_bytes()).unwrap() else { panic!("{path}") };
            assert_eq!(name, b"b", "{path}");
            assert_eq!(next_component(&mut parent), Some(&b"a"[..]), "{path}");
            assert_eq!(next_component(&mut parent), None, "{path}");
        }
    }

    #[test]
    fn what_has_no_component_is_the_root() {
        for path in ["", "/", ".", "./", "//", "/./."] {
            assert_eq!(read(path.as_bytes()), Ok(Named::Root), "{path:?}");
        }
    }

    #[test]
    fn what_could_lead_out_or_be_cut_short_is_refused() {
        for path in ["..", "a/..", "../a", "/..", "a/../b", "./.."] {
            assert_eq!(read(path.as_bytes()), Err(DraftError::Upwards), "{path}");
        }
        assert_eq!(read(b"a\0b"), Err(DraftError::ZeroByte));
        assert_eq!(read(&[b'n'; 256]), Err(DraftError::LongComponent));
        assert!(read(&[b'n'; 255]).is_ok());
        assert_eq!(read(&[&[b'n'; 256][..], b"/a"].concat()), Err(DraftError::LongComponent));
        assert_eq!(read("a/".repeat(1025).as_bytes()), Err(DraftError::LongPath));
        assert!(read("a/".repeat(1024).as_bytes()).is_ok());
        assert_eq!(read("/".repeat(4097).as_bytes()), Err(DraftError::LongPath));
        assert!(read(b"...").is_ok());
    }

    #[test]
    fn whiteouts_are_told_from_names_and_notes() {
        assert_eq!(read(b"a/.wh.b"), Ok(Named::Whiteout { parent: b"a/", hides: b"b" }));
        assert_eq!(read(b".wh..b"), Ok(Named::Whiteout { parent: b"", hides: b".b" }));
        assert_eq!(read(b".wh.x/"), Ok(Named::Whiteout { parent: b"", hides: b"x" }));
        assert_eq!(read(b"a/.wh..wh..opq"), Ok(Named::Opaque { parent: b"a/" }));
        assert_eq!(read(b".whx"), Ok(Named::Node { parent: b"", name: b".whx" }));
        for ignored in ["a/.wh..wh.aufs", ".wh..wh.plnk/17.42", ".wh..wh.", ".wh..wh..opq.d"] {
            assert_eq!(read(ignored.as_bytes()), Ok(Named::Ignored), "{ignored}");
        }
        for empty in [".wh.", "a/.wh..", ".wh..."] {
            assert_eq!(read(empty.as_bytes()), Err(DraftError::EmptyWhiteout), "{empty}");
        }
        assert_eq!(read(b".wh.a/b"), Err(DraftError::BelowWhiteout));
        assert_eq!(read(b".wh..wh..opq/b"), Err(DraftError::BelowWhiteout));
        assert!(read(&[WHITEOUT, &[b'n'; 255]].concat()).is_ok());
        assert_eq!(read(&[WHITEOUT, &[b'n'; 256]].concat()), Err(DraftError::LongComponent));
    }

    #[test]
    fn an_error_never_prints_raw_or_endless_names() {
        assert_eq!(shown(b"a\x1b[2J\xff"), "a\\x1b[2J\\xff");
        assert!(shown(&[b'n'; 4000]).len() < 300);
    }
}
