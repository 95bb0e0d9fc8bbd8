//! What the database holds, and its bytes: a version, then fields, each with its length before it.
//!
//! ```text
//! record  version (1 byte), fields
//! field   length (4 bytes, little-endian), that many bytes; numbers are 8 bytes little-endian
//! ```
//!
//! A record of a version that this program does not know is an error, never a guess. Version 2 of an image's record says
//! whether it is kept; those of version 1 were all made for a user, and are.

use crate::blob::Origin;
use crate::digest::Digest;

/// Version of records that have not changed since the first.
const VERSION: u8 = 1;
/// Version of images' records.
const IMAGE_VERSION: u8 = 2;

/// More of a cause is not for people.
const CAUSE_CHARS_MAX: usize = 500;

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
    /// A user asked for it (`oncefs pull`, `oncefs mount`). What only containerd asked for may go when it is done with it.
    pub kept: bool,
}

/// What the database knows of a layer; everything else its directory says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerRecord {
    pub(super) slot: u32,
    /// Unknown for a layer that was found on disk without a record, until an image names it again.
    pub(super) origin: Option<Origin>,
}

/// What was found out about a layer when its blob had passed as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VerdictRecord {
    /// The layer's that it is about: one that takes its place is another.
    pub(super) slot: u32,
    pub(super) kind: VerdictKind,
    /// Why it is bad.
    pub(super) cause: String,
    /// In seconds since 1970.
    pub(super) at_secs: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VerdictKind {
    /// The blob has its digest.
    Blob,
    /// And its content is what the index says.
    Content,
    /// One of the two is not so.
    Bad,
}

/// Why bytes are no record.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    #[error("a record of version {0}, which this program does not know")]
    Version(u8),
    #[error("a record ends early")]
    Short,
    #[error("a record goes on after its last field")]
    Long,
    #[error("a field of a record does not hold what it should")]
    Field,
}

/// Fields of a record on their way out.
pub(super) struct Writer(Vec<u8>);

/// Fields of a record on their way in.
pub(super) struct Reader<'a>(&'a [u8]);

// === impl ImageRecord ===

impl ImageRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        Writer::new(IMAGE_VERSION)
            .field(self.reference.as_bytes())
            .field(self.platform.as_bytes())
            .field(self.manifest_digest.as_bytes())
            .field(&self.manifest)
            .field(&self.config)
            .field(self.origin.0.as_bytes())
            .number(self.seen_at_secs)
            .number(self.kept.into())
            .0
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (version, mut fields) = Reader::new(bytes, IMAGE_VERSION)?;
        let record = Self {
            reference: fields.text()?,
            platform: fields.text()?,
            manifest_digest: Digest::from_bytes(fields.field()?.try_into().map_err(|_| RecordError::Field)?),
            manifest: fields.field()?.to_vec(),
            config: fields.field()?.to_vec(),
            origin: Origin(fields.text()?),
            seen_at_secs: fields.number()?,
            kept: version < 2 || fields.flag()?,
        };
        fields.end().map(|()| record)
    }
}

// === impl LayerRecord ===

impl LayerRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let origin = self.origin.as_ref().map_or("", |origin| origin.0.as_str());
        Writer::new(VERSION).number(self.slot.into()).field(origin.as_bytes()).0
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (_, mut fields) = Reader::new(bytes, VERSION)?;
        let slot = u32::try_from(fields.number()?).map_err(|_| RecordError::Field)?;
        let origin = Some(fields.text()?).filter(|origin| !origin.is_empty()).map(Origin);
        fields.end().map(|()| Self { slot, origin })
    }
}

// === impl VerdictRecord ===

impl VerdictRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            VerdictKind::Blob => 1,
            VerdictKind::Content => 2,
            VerdictKind::Bad => 3,
        };
        // A cause may name a path of the layer, which may be long.
        let cause: String = self.cause.chars().take(CAUSE_CHARS_MAX).collect();
        Writer::new(VERSION).number(self.slot.into()).number(kind).field(cause.as_bytes()).number(self.at_secs).0
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (_, mut fields) = Reader::new(bytes, VERSION)?;
        let slot = u32::try_from(fields.number()?).map_err(|_| RecordError::Field)?;
        let kind = match fields.number()? {
            1 => VerdictKind::Blob,
            2 => VerdictKind::Content,
            3 => VerdictKind::Bad,
            _ => return Err(RecordError::Field),
        };
        let record = Self { slot, kind, cause: fields.text()?, at_secs: fields.number()? };
        fields.end().map(|()| record)
    }
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(version: u8) -> Self {
        Self(vec![version])
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn field(mut self, bytes: &[u8]) -> Self {
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
    /// The record's version, of which this program knows those up to `newest`, and its fields.
    pub(super) fn new(bytes: &'a [u8], newest: u8) -> Result<(u8, Self), RecordError> {
        match bytes.split_first() {
            Some((version, fields)) if (1..=newest).contains(version) => Ok((*version, Self(fields))),
            Some((other, _)) => Err(RecordError::Version(*other)),
            None => Err(RecordError::Short),
        }
    }

    pub(super) fn field(&mut self) -> Result<&'a [u8], RecordError> {
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

    fn flag(&mut self) -> Result<bool, RecordError> {
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(RecordError::Field),
        }
    }

    pub(super) fn end(self) -> Result<(), RecordError> {
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
            kept: false,
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for kept in [false, true] {
            let image = ImageRecord { kept, ..image() };
            assert_eq!(ImageRecord::decode(&image.encode()), Ok(image));
        }
        for origin in [None, Some(Origin("oci:/images".into()))] {
            let record = LayerRecord { slot: u32::MAX, origin };
            assert_eq!(LayerRecord::decode(&record.encode()), Ok(record));
        }
        for kind in [VerdictKind::Blob, VerdictKind::Content, VerdictKind::Bad] {
            let record = VerdictRecord { slot: 7, kind, cause: "it lies".into(), at_secs: 1 };
            assert_eq!(VerdictRecord::decode(&record.encode()), Ok(record));
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
        for version in [0, 3] {
            bytes[0] = version;
            assert_eq!(ImageRecord::decode(&bytes), Err(RecordError::Version(version)));
        }
    }

    /// A version 1 record as it lies on disks: a change of the code must go on reading it.
    #[test]
    fn the_bytes_of_version_1_stay() {
        let record = LayerRecord { slot: 7, origin: Some(Origin("oci:/a".into())) };
        let bytes = b"\x01\x08\0\0\0\x07\0\0\0\0\0\0\0\x06\0\0\0oci:/a";
        assert_eq!(record.encode(), bytes);
        assert_eq!(LayerRecord::decode(bytes), Ok(record));
    }

    /// Such records were made before containerd could ask for an image.
    #[test]
    fn an_image_of_version_1_is_kept() {
        let field = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
        let image = ImageRecord { kept: true, ..image() };
        let fields = [
            image.reference.as_bytes(),
            image.platform.as_bytes(),
            image.manifest_digest.as_bytes(),
            &image.manifest,
            &image.config,
            image.origin.0.as_bytes(),
            &image.seen_at_secs.to_le_bytes(),
        ];
        let bytes = [vec![1], fields.map(field).concat()].concat();
        assert_eq!(ImageRecord::decode(&bytes), Ok(image));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let _ = ImageRecord::decode(&[&[IMAGE_VERSION], bytes.as_slice()].concat());
            let _ = LayerRecord::decode(&[&[VERSION], bytes.as_slice()].concat());
            let _ = VerdictRecord::decode(&[&[VERSION], bytes.as_slice()].concat());
        }
    }
}
