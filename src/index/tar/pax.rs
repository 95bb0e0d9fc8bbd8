//! Extended headers (POSIX pax, "pax Extended Header"): records `<length> <key>=<value>\n`, with the keys of
//! POSIX itself, of star and libarchive for extended attributes, and of GNU for sparse files. Read strictly: what
//! two readers could take differently is refused.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::index::tar::header::SparseMap;
use crate::index::tree::{Time, Xattrs};

const XATTR: &[u8] = b"SCHILY.xattr.";
const XATTR_OF_LIBARCHIVE: &[u8] = b"LIBARCHIVE.xattr.";

/// As libarchive writes it, which is without padding, or with it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What extended headers say about the next entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Xattrs,
    pub(super) sparse: Option<Sparse>,
}

/// GNU's keys for a sparse file, of formats 0.0, 0.1 and 1.0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    pub(super) version: (u64, u64),
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    count: Option<u64>,
    /// Offsets and lengths in turn; in format 1.0 they are in the payload instead.
    numbers: Vec<u64>,
}

/// Why an extended header cannot be taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PaxError {
    #[error("an extended header has a record that is not `<length> <key>=<value>`")]
    Record,
    #[error("the extended header's value of {0} cannot be meant")]
    Value(String),
    #[error("a global extended header sets {0}, which only a single entry can have")]
    Global(String),
    #[error("the extended header's sparse map does not have as many segments as it says")]
    SparseCount,
}

// === impl Pax ===

impl Pax {
    /// Adds the records of an entry's own header; they stand above the global ones already here.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), PaxError> {
        let mut of_libarchive = Xattrs::new();
        while !bytes.is_empty() {
            let (key, value) = next_record(&mut bytes)?;
            if let Some(name) = key.strip_prefix(XATTR_OF_LIBARCHIVE) {
                of_libarchive.push((percent_decoded(name), BASE64.decode(value).map_err(|_| wrong(key))?));
            } else if let Some(name) = key.strip_prefix(XATTR) {
                self.xattrs.push((name.to_vec(), value.to_vec()));
            } else {
                self.set(key, value)?;
            }
        }
        // bsdtar writes both; the plain ones come last and so count.
        self.xattrs.splice(0..0, of_libarchive);
        Ok(())
    }

    /// Adds the records of a global header, which act on all entries from here on.
    pub(super) fn read_global(&mut self, mut bytes: &[u8]) -> Result<(), PaxError> {
        while !bytes.is_empty() {
            let (key, value) = next_record(&mut bytes)?;
            let for_one = matches!(key, b"path" | b"linkpath" | b"size")
                || [XATTR, XATTR_OF_LIBARCHIVE, b"GNU.sparse."].iter().any(|keys| key.starts_with(keys));
            if for_one {
                return Err(PaxError::Global(key.escape_ascii().to_string()));
            }
            self.set(key, value)?;
        }
        Ok(())
    }

    /// An empty value takes back what an earlier header said (POSIX).
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), PaxError> {
        let is_set = !value.is_empty();
        match key {
            b"path" => self.path = is_set.then(|| value.to_vec()),
            b"linkpath" => self.link = is_set.then(|| value.to_vec()),
            b"size" => self.size = some(is_set, key, || decimal(value))?,
            b"uid" => self.uid = some(is_set, key, || decimal(value)?.try_into().ok())?,
            b"gid" => self.gid = some(is_set, key, || decimal(value)?.try_into().ok())?,
            b"mtime" => self.mtime = some(is_set, key, || time(value))?,
            _ => {
                if let Some(what) = key.strip_prefix(b"GNU.sparse.") {
                    let sparse = self.sparse.get_or_insert_default();
                    sparse.set(what, value).ok_or_else(|| wrong(key))?;
                }
            }
        }
        Ok(())
    }
}

/// The value if there is one; that it is there and cannot be read is an error.
fn some<T>(is_set: bool, key: &[u8], value: impl FnOnce() -> Option<T>) -> Result<Option<T>, PaxError> {
    if is_set { value().ok_or_else(|| wrong(key)).map(Some) } else { Ok(None) }
}

fn wrong(key: &[u8]) -> PaxError {
    PaxError::Value(key.get(..64).unwrap_or(key).escape_ascii().to_string())
}

// === impl Sparse ===

impl Sparse {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"major" => self.version.0 = decimal(value)?,
            b"minor" => self.version.1 = decimal(value)?,
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"numblocks" => self.count = Some(decimal(value)?),
            // Format 0.0 repeats these two keys, the offset always first.
            b"offset" if self.numbers.len().is_multiple_of(2) => self.numbers.push(decimal(value)?),
            b"numbytes" if !self.numbers.len().is_multiple_of(2) => self.numbers.push(decimal(value)?),
            b"map" if self.numbers.is_empty() => {
                let numbers = value.split(|byte| *byte == b',');
                self.numbers =
                    if value.is_empty() { Vec::new() } else { numbers.map(decimal).collect::<Option<_>>()? };
            }
            b"offset" | b"numbytes" | b"map" => return None,
            _ => {}
        }
        Some(())
    }

    /// Offsets and lengths, where the header itself holds them.
    pub(super) fn map(&self) -> Result<SparseMap, PaxError> {
        let (pairs, rest) = self.numbers.as_chunks::<2>();
        let count = pairs.len() as u64;
        if !rest.is_empty() || self.count.is_some_and(|said| said != count) {
            return Err(PaxError::SparseCount);
        }
        Ok(pairs.iter().map(|[at, len]| (*at, *len)).collect())
    }
}

// === reading ===

/// Takes a record off `bytes`.
fn next_record<'a>(bytes: &mut &'a [u8]) -> Result<(&'a [u8], &'a [u8]), PaxError> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or(PaxError::Record)?;
    let len = bytes.get(..space).and_then(decimal).and_then(|len| usize::try_from(len).ok());
    let (record, rest) = len.and_then(|len| bytes.split_at_checked(len)).ok_or(PaxError::Record)?;
    let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n")).ok_or(PaxError::Record)?;
    let equals = record.iter().position(|byte| *byte == b'=').ok_or(PaxError::Record)?;
    let (key, value) = record.split_at_checked(equals).ok_or(PaxError::Record)?;
    if key.is_empty() || key.contains(&0) {
        return Err(PaxError::Record);
    }
    *bytes = rest;
    Ok((key, value.get(1..).unwrap_or_default()))
}

/// Decimal digits and nothing else.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Seconds with an optional sign and fraction; what is finer than a nanosecond is cut off.
fn time(value: &[u8]) -> Option<Time> {
    let (is_negative, value) = value.strip_prefix(b"-").map_or((false, value), |value| (true, value));
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let whole = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanos = digits.fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    Some(match (is_negative, nanos) {
        (false, _) => Time { seconds: whole, nanos },
        (true, 0) => Time { seconds: -whole, nanos: 0 },
        // -0.25 is a quarter before 1970: three quarters after the second before.
        (true, _) => Time { seconds: -whole - 1, nanos: 1_000_000_000 - nanos },
    })
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        rest = match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high << 4 | low) as u8);
                after.get(2..).unwrap_or_default()
            }
            _ => {
                decoded.push(*first);
                after
            }
        };
    }
    decoded
}

#[cfg(test)]
mod tests;
