//! What the database holds, and its bytes: a version, then fields, each with its length before it.
//!
//! ```text
//! record  version (1 byte), fields
//! field   length (4 bytes, little-endian), that many bytes; numbers are 8 bytes little-endian
//! ```
//!
//! A record of a version that this program does not know is an error, never a guess.

use crate::blob::Origin;
use crate::digest::Digest;

/// Version of all records; rises when one of them changes.
const VERSION: u8 = 1;

/// An image as it was last resolved: enough to mount it again with no network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Canonical text of the reference.
    pub reference: String,
    /// As in `linux/amd64`.
    pub platform: String,
    pub manifest_digest: Digest,
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub origin: Origin,
    /// When the registry was last asked, in seconds since 1970.
    pub seen_at_secs: u64,
}

/// What the database knows of a layer; everything else its directory says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerRecord {
    pub(super) slot: u32,
    /// Unknown for a layer that was found on disk without a record, until an image names it again.
    pub(super) origin: Option<Origin>,
}

/// Why bytes are no record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    #[error("a record of version {0}, this program knows {VERSION}")]
    Version(u8),
    #[error("a record ends early")]
    Short,
    #[error("a record goes on after its last field")]
    Long,
    #[error("a field of a record does not hold what it should")]
    Field,
}

/// Fields of a record on their way out.
struct Writer(Vec<u8>);

/// Fields of a record on their way in.
struct Reader<'a>(&'a [u8]);

// === impl ImageRecord ===

impl ImageRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        Writer::new()
            .field(self.reference.as_bytes())
            .field(self.platform.as_bytes())
            .field(self.manifest_digest.as_bytes())
            .field(&self.manifest)
            .field(&self.config)
            .field(self.origin.0.as_bytes())
            .number(self.seen_at_secs)
            .0
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut fields = Reader::new(bytes)?;
        let record = Self {
            reference: fields.text()?,
            platform: fields.text()?,
            manifest_digest: Digest::from_bytes(fields.field()?.try_into().map_err(|_| RecordError::Field)?),
            manifest: fields.field()?.to_vec(),
            config: fields.field()?.to_vec(),
            origin: Origin(fields.text()?),
            seen_at_secs: fields.number()?,
        };
        fields.end().map(|()| record)
    }
}

// === impl LayerRecord ===

impl LayerRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let origin = self.origin.as_ref().map_or("", |origin| origin.0.as_str());
        Writer::new().number(self.slot.into()).field(origin.as_bytes()).0
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut fields = Reader::new(bytes)?;
        let slot = u32::try_from(fields.number()?).map_err(|_| RecordError::Field)?;
        let origin = Some(fields.text()?).filter(|origin| !origin.is_empty()).map(Origin);
        fields.end().map(|()| Self { slot, origin })
    }
}

// === impl Writer ===

impl Writer {
    fn new() -> Self {
        Self(vec![VERSION])
    }

    fn field(mut self, bytes: &[u8]) -> Self {
        let len = u32::try_from(bytes.len()).expect("bug: manifests and configs are bounded far below 4 GiB");
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    fn number(self, number: u64) -> Self {
        self.field(&number.to_le_bytes())
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, RecordError> {
        match bytes.split_first() {
            Some((&VERSION, fields)) => Ok(Self(fields)),
            Some((&other, _)) => Err(RecordError::Version(other)),
            None => Err(RecordError::Short),
        }
    }

    fn field(&mut self) -> Result<&'a [u8], RecordError> {
        let (len, rest) = self.0.split_first_chunk().ok_or(RecordError::Short)?;
        let (field, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(RecordError::Short)?;
        self.0 = rest;
        Ok(field)
    }

    fn text(&mut self) -> Result<String, RecordError> {
        String::from_utf8(self.field()?.to_vec()).map_err(|_| RecordError::Field)
    }

    fn number(&mut self) -> Result<u64, RecordError> {
        self.field()?.try_into().map(u64::from_le_bytes).map_err(|_| RecordError::Field)
    }

    fn end(self) -> Result<(), RecordError> {
        if self.0.is_empty() { Ok(()) } else { Err(RecordError::Long) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image() -> ImageRecord {
        ImageRecord {
            reference: "docker.io/library/redis:7".into(),
            platform: "linux/amd64".into(),
            manifest_digest: Digest::of(b"manifest"),
            manifest: b"{}".to_vec(),
            config: vec![0xff, 0],
            origin: Origin("docker://docker.io/library/redis".into()),
            seen_at_secs: 1_700_000_000,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        assert_eq!(ImageRecord::decode(&image().encode()), Ok(image()));
        for origin in [None, Some(Origin("oci:/images".into()))] {
            let record = LayerRecord { slot: u32::MAX, origin };
            assert_eq!(LayerRecord::decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn another_version_and_every_truncation_are_refused() {
        let mut bytes = image().encode();
        for len in 0..bytes.len() {
            assert_eq!(ImageRecord::decode(&bytes[..len]), Err(RecordError::Short), "{len} bytes");
        }
        bytes.push(0);
        assert_eq!(ImageRecord::decode(&bytes), Err(RecordError::Long));
        bytes[0] = 2;
        assert_eq!(ImageRecord::decode(&bytes), Err(RecordError::Version(2)));
    }

    /// A version 1 record as it lies on disks: a change of the code must go on reading it.
    #[test]
    fn the_bytes_of_version_1_stay() {
        let record = LayerRecord { slot: 7, origin: Some(Origin("oci:/a".into())) };
        let bytes = b"\x01\x08\0\0\0\x07\0\0\0\0\0\0\0\x06\0\0\0oci:/a";
        assert_eq!(record.encode(), bytes);
        assert_eq!(LayerRecord::decode(bytes), Ok(record));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let _ = ImageRecord::decode(&bytes);
            let _ = LayerRecord::decode(&[&[VERSION], bytes.as_slice()].concat());
        }
    }
}
