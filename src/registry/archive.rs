//! Where the members of an `oci-archive:` tar are: its headers, read once, without its contents.
//!
//! Only what layouts consist of is found: `oci-layout`, `index.json` and `blobs/sha256/<digest>`. Other names, links
//! and folders are passed over; nothing is ever unpacked. ustar with GNU and PAX long names and sizes.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::digest::Digest;
use crate::registry::error::RegistryError;
use crate::sync::Arc;

/// Places in the archive as (offset, length).
#[derive(Debug, Default)]
pub(super) struct Members {
    named: HashMap<String, (u64, u64)>,
    blobs: HashMap<Digest, (u64, u64)>,
}

/// A walk over the archive's headers.
struct Walk<'a> {
    file: &'a File,
    path: &'a Path,
    end: u64,
    at: u64,
}

/// What the headers before a member say of it.
#[derive(Default)]
struct Said {
    name: Option<String>,
    size: Option<u64>,
}

const BLOCK: u64 = 512;
/// An archive of 512 layers has some 520 members; one of many images some thousands.
const MEMBERS_MAX: usize = 100_000;
/// Names in layouts are short; what is longer is passed over.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;
const TOP: &[&str] = &["oci-layout", "index.json", "manifest.json"];
/// Compressed files by their first bytes.
const COMPRESSED: &[(&[u8], &str)] =
    &[(b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz")];

// === impl Members ===

impl Members {
    pub(super) fn read(file: &File, path: &Path) -> Result<Self, RegistryError> {
        let end = file.metadata().map_err(|error| io_failed(path, error))?.len();
        let mut walk = Walk { file, path, end, at: 0 };
        let mut members = Self::default();
        let mut said = Said::default();
        for _ in 0..MEMBERS_MAX {
            let Some(header) = walk.header()? else {
                return members.complete(path);
            };
            walk.member(&header, &mut said, &mut members)?;
        }
        Err(no_layout(path, "it has more than 100000 members"))
    }

    /// A member at the top of the layout.
    pub(super) fn named(&self, name: &str) -> Option<(u64, u64)> {
        self.named.get(name).copied()
    }

    pub(super) fn blob(&self, digest: &Digest) -> Option<(u64, u64)> {
        self.blobs.get(digest).copied()
    }

    fn complete(self, path: &Path) -> Result<Self, RegistryError> {
        if !self.named.contains_key("index.json") && self.named.contains_key("manifest.json") {
            let cause = "it is an archive in docker's own form; write an OCI one with 'skopeo copy docker-archive:FILE oci-archive:NEW'";
            return Err(no_layout(path, cause));
        }
        Ok(self)
    }

    /// The last of two members with one name is the one that counts, as with every tar.
    fn keep(&mut self, name: &str, at: u64, size: u64) {
        let name = name.trim_start_matches("./");
        if TOP.contains(&name) {
            self.named.insert(name.to_owned(), (at, size));
        } else if let Some(hex) = name.strip_prefix("blobs/sha256/")
            && let Ok(digest) = Digest::from_hex(hex)
        {
            self.blobs.insert(digest, (at, size));
        }
    }
}

// === impl Walk ===

impl Walk<'_> {
    /// The next header; `None` at the end mark or, as other programs allow, at the end of the file.
    fn header(&mut self) -> Result<Option<[u8; BLOCK as usize]>, RegistryError> {
        if self.at == self.end && self.at > 0 {
            return Ok(None);
        }
        let mut header = [0; BLOCK as usize];
        if self.end < self.at + BLOCK {
            self.refuse_compressed()?;
            return Err(self.broken());
        }
        self.file.read_exact_at(&mut header, self.at).map_err(|error| io_failed(self.path, error))?;
        if self.at == 0 {
            self.refuse_compressed()?;
        }
        self.at += BLOCK;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if sum(&header) == octal(field(&header, 148, 8)) { Ok(Some(header)) } else { Err(self.broken()) }
    }

    fn refuse_compressed(&self) -> Result<(), RegistryError> {
        let mut first = [0; 6];
        let read = self.file.read_at(&mut first, 0).map_err(|error| io_failed(self.path, error))?;
        let first = first.get(..read).unwrap_or_default();
        match COMPRESSED.iter().find(|(magic, _)| first.starts_with(magic)) {
            Some((_, kind)) => {
                let cause =
                    format!("it is compressed with {kind}, and its parts must be found at random; unpack it first");
                Err(no_layout(self.path, &cause))
            }
            None => Ok(()),
        }
    }

    fn member(
        &mut self,
        header: &[u8; BLOCK as usize],
        said: &mut Said,
        into: &mut Members,
    ) -> Result<(), RegistryError> {
        let size = number(field(header, 124, 12)).ok_or_else(|| self.broken())?;
        let kind = field(header, 156, 1);
        match kind {
            b"x" => said.read_pax(&self.extension(size)?),
            b"L" => said.name = Some(text(&self.extension(size)?)),
            _ => {
                let said = std::mem::take(said);
                // Only files have contents; a link's size field means nothing.
                let size = if matches!(kind, b"0" | b"\0" | b"7") { said.size.unwrap_or(size) } else { 0 };
                let at = self.at;
                self.skip(size)?;
                if matches!(kind, b"0" | b"\0") {
                    into.keep(&said.name.unwrap_or_else(|| ustar_name(header)), at, size);
                }
                return Ok(());
            }
        }
        self.skip(size)
    }

    /// The contents of a header's extension; of one too long to matter, nothing.
    fn extension(&self, size: u64) -> Result<Vec<u8>, RegistryError> {
        if size > EXTENSION_BYTES_MAX {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        self.file.read_exact_at(&mut bytes, self.at).map_err(|_| self.broken())?;
        Ok(bytes)
    }

    fn skip(&mut self, size: u64) -> Result<(), RegistryError> {
        // The last member's padding may be missing, its bytes may not.
        if self.at.checked_add(size).is_none_or(|end| end > self.end) {
            return Err(self.broken());
        }
        self.at = (self.at + size.next_multiple_of(BLOCK)).min(self.end);
        Ok(())
    }

    fn broken(&self) -> RegistryError {
        no_layout(self.path, &format!("it is no tar, or it is cut short or damaged at byte {}", self.at))
    }
}

// === impl Said ===

impl Said {
    /// PAX records: `LENGTH KEY=VALUE\n`. What cannot be understood ends the reading; nothing depends on the rest.
    fn read_pax(&mut self, mut bytes: &[u8]) {
        while let Some(space) = bytes.iter().position(|byte| *byte == b' ') {
            let length = bytes.get(..space).and_then(|digits| str::from_utf8(digits).ok()?.parse::<usize>().ok());
            let Some(record) = length.and_then(|length| bytes.get(space + 1..length)) else { return };
            let record = String::from_utf8_lossy(record);
            match record.trim_end_matches('\n').split_once('=') {
                Some(("path", value)) => self.name = Some(value.to_owned()),
                Some(("size", value)) => self.size = value.parse().ok(),
                _ => {}
            }
            bytes = length.and_then(|length| bytes.get(length..)).unwrap_or_default();
        }
    }
}

fn field(header: &[u8; BLOCK as usize], at: usize, len: usize) -> &[u8] {
    header.get(at..at + len).unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

fn ustar_name(header: &[u8; BLOCK as usize]) -> String {
    let (name, prefix) = (text(field(header, 0, 100)), text(field(header, 345, 155)));
    // GNU's own header has other fields where ustar's prefix is.
    let is_ustar = field(header, 257, 6) == b"ustar\0";
    if is_ustar && !prefix.is_empty() { format!("{prefix}/{name}") } else { name }
}

fn octal(bytes: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(bytes).ok()?.trim_matches(['\0', ' ']);
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

/// Octal, or with the first bit set base 256.
fn number(bytes: &[u8]) -> Option<u64> {
    match bytes.split_first() {
        Some((0x80, rest)) => rest.iter().try_fold(0u64, |sum, byte| Some(sum.checked_mul(256)? + u64::from(*byte))),
        _ => octal(bytes),
    }
}

/// The header's checksum: the sum of its bytes, its own field taken as spaces.
fn sum(header: &[u8; BLOCK as usize]) -> Option<u64> {
    let all: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
    let own: u64 = field(header, 148, 8).iter().map(|byte| u64::from(*byte)).sum();
    Some(all - own + 8 * u64::from(b' '))
}

fn no_layout(path: &Path, cause: &str) -> RegistryError {
    RegistryError::NoLayout { path: path.to_path_buf(), cause: cause.to_owned() }
}

fn io_failed(path: &Path, source: std::io::Error) -> RegistryError {
    RegistryError::Io { path: path.to_path_buf(), source: Arc::new(source) }
}
