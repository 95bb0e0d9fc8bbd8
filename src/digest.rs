//! Digests, and bytes that have been checked against one.
//!
//! [`Checked`] is how "no byte reaches a reader before its digest matched" is kept: the store makes a frame
//! resident only from a `Checked`, and only this file makes one.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest, written `sha256:<64 lower-case hex digits>` (OCI image specification, "Digests").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// The digest of a layer's blob as the registry stores it (compressed).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerDigest(pub Digest);

/// The digest of a layer's uncompressed tar.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

/// The identity of layers `0..=n` applied in order (OCI image specification, "Layer ChainID").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

/// How much of a file is in memory while it is hashed.
const FILE_READ_BYTES: usize = 256 << 10;

/// The digest of one frame's decoded bytes; it never leaves the node's own index files.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameDigest {
    /// What a scan notes.
    Blake3([u8; 32]),
    /// What an index that somebody else made says.
    Sha256([u8; 32]),
    /// Of the source's bytes, SHA-256: what they unpack to follows from them.
    Source([u8; 32]),
}

/// Why a text is no digest.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ParseDigestError {
    #[error("a digest is written sha256:<64 hex digits>, this one has no colon")]
    NoAlgorithm,
    #[error("digest algorithm {0:?} is not supported, only sha256 is")]
    Algorithm(String),
    #[error("a sha256 digest has 64 lower-case hex digits")]
    Hex,
}

/// Bytes whose digest is not the promised one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("digest mismatch: expected {want}, got {got}")]
pub struct Mismatch {
    pub want: String,
    pub got: String,
}

/// Content whose digest has matched, or what follows from it. Only this file makes one.
#[derive(Debug)]
pub struct Checked<T>(T);

/// A SHA-256 in the making.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

/// A writer that hashes a frame's bytes on their way.
pub struct FrameHashing<W> {
    inner: W,
    hasher: FrameHasher,
    want: FrameDigest,
}

/// A reader that hashes a frame's source on its way.
pub struct SourceHashing<R> {
    inner: R,
    hasher: Sha256,
}

/// Of the kind that is wanted.
enum FrameHasher {
    Blake3(Box<blake3::Hasher>),
    Sha256(Sha256),
}

// === impl Digest ===

impl Digest {
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits, without the algorithm: the name of files and directories.
    pub fn hex(&self) -> String {
        to_hex(&self.0)
    }

    /// The inverse of [`Digest::hex`].
    pub fn from_hex(hex: &str) -> Result<Self, ParseDigestError> {
        let hex = hex.as_bytes();
        if hex.len() != 64 {
            return Err(ParseDigestError::Hex);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = match pair {
                [high, low] => hex_value(*high)? << 4 | hex_value(*low)?,
                _ => return Err(ParseDigestError::Hex),
            };
        }
        Ok(Self(bytes))
    }
}

fn hex_value(digit: u8) -> Result<u8, ParseDigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(ParseDigestError::Hex),
    }
}

fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}"); // writing to a String cannot fail
        hex
    })
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (algorithm, hex) = text.split_once(':').ok_or(ParseDigestError::NoAlgorithm)?;
        if algorithm != "sha256" {
            return Err(ParseDigestError::Algorithm(algorithm.chars().take(32).collect()));
        }
        Self::from_hex(hex)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

// === impl LayerDigest, DiffId, ChainId, FrameDigest ===

macro_rules! shown_as_its_digest {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )*};
}

shown_as_its_digest!(LayerDigest, DiffId, ChainId);

impl ChainId {
    /// The chain id of `diff_ids` applied in order, bottom first; of no layers there is none.
    pub fn of(diff_ids: &[DiffId]) -> Option<Self> {
        let (first, rest) = diff_ids.split_first()?;
        Some(rest.iter().fold(Self(first.0), Self::below))
    }

    /// Of each prefix of `diff_ids`, the shortest first.
    pub fn of_prefixes(diff_ids: &[DiffId]) -> Vec<Self> {
        let next = |chain: &mut Option<Self>, diff: &DiffId| {
            *chain = Some(chain.map_or(Self(diff.0), |chain| chain.below(diff)));
            *chain
        };
        diff_ids.iter().scan(None, next).collect()
    }

    /// The chain with one more layer on top.
    fn below(self, diff: &DiffId) -> Self {
        Self(Digest::of(format!("{self} {diff}").as_bytes()))
    }
}

impl FrameDigest {
    /// As a scan notes it.
    pub fn of(bytes: &[u8]) -> Self {
        Self::Blake3(*blake3::hash(bytes).as_bytes())
    }

    /// The same of all that is in a file, from its beginning.
    pub fn of_file(file: &File) -> io::Result<Self> {
        let (mut hasher, mut buffer, mut at) = (blake3::Hasher::new(), vec![0; FILE_READ_BYTES], 0);
        loop {
            let len = file.read_at(&mut buffer, at)?;
            match buffer.get(..len) {
                Some([]) | None => return Ok(Self::Blake3(*hasher.finalize().as_bytes())),
                Some(piece) => hasher.update(piece),
            };
            at += len as u64;
        }
    }

    /// Whether it is compared with the frame's source, before that is decoded.
    pub fn is_of_source(&self) -> bool {
        matches!(self, Self::Source(_))
    }

    /// Of `bytes`, to be compared with this one.
    fn same_of(&self, bytes: &[u8]) -> Self {
        match self {
            Self::Blake3(_) => Self::of(bytes),
            Self::Sha256(_) => Self::Sha256(Sha256::digest(bytes).into()),
            Self::Source(_) => Self::Source(Sha256::digest(bytes).into()),
        }
    }
}

impl From<Digest> for FrameDigest {
    fn from(digest: Digest) -> Self {
        Self::Sha256(digest.0)
    }
}

impl fmt::Display for FrameDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blake3(bytes) => write!(f, "blake3:{}", to_hex(bytes)),
            Self::Sha256(bytes) | Self::Source(bytes) => write!(f, "sha256:{}", to_hex(bytes)),
        }
    }
}

impl fmt::Debug for FrameDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Hasher ===

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

// === impl Checked ===

impl<T> Checked<T> {
    pub fn get(&self) -> &T {
        &self.0
    }

    pub fn into_inner(self) -> T {
        self.0
    }

    /// What follows from these bytes and nothing else is as they are.
    pub fn derive<U, E>(self, make: impl FnOnce(T) -> Result<U, E>) -> Result<Checked<U>, E> {
        make(self.0).map(Checked)
    }
}

// === impl SourceHashing ===

impl<R: Read> SourceHashing<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    /// What was made of the source alone, as checked, if the digest of all of the source is `want`. Reads it to its end.
    pub fn finish<T>(mut self, made: T, want: &FrameDigest) -> io::Result<Result<Checked<T>, Mismatch>> {
        io::copy(&mut self, &mut io::sink())?;
        let got = FrameDigest::Source(self.hasher.finalize().into());
        let is_right = got == *want;
        Ok(if is_right { Ok(Checked(made)) } else { Err(Mismatch { want: want.to_string(), got: got.to_string() }) })
    }
}

impl<R: Read> Read for SourceHashing<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.hasher.update(into.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// Gives `bytes` back as checked if their SHA-256 is `want`.
pub fn check<T: AsRef<[u8]>>(bytes: T, want: &Digest) -> Result<Checked<T>, Mismatch> {
    let got = Digest::of(bytes.as_ref());
    if got == *want { Ok(Checked(bytes)) } else { Err(Mismatch { want: want.to_string(), got: got.to_string() }) }
}

/// Gives `bytes` back as checked if their digest is `want`.
pub fn check_frame<T: AsRef<[u8]>>(bytes: T, want: &FrameDigest) -> Result<Checked<T>, Mismatch> {
    let got = want.same_of(bytes.as_ref());
    if got == *want { Ok(Checked(bytes)) } else { Err(Mismatch { want: want.to_string(), got: got.to_string() }) }
}

// === impl FrameHashing ===

impl<W: Write> FrameHashing<W> {
    /// For bytes whose digest is to be `want`.
    pub fn new(inner: W, want: &FrameDigest) -> Self {
        let hasher = match want {
            FrameDigest::Blake3(_) => FrameHasher::Blake3(Box::default()),
            FrameDigest::Sha256(_) | FrameDigest::Source(_) => FrameHasher::Sha256(Sha256::new()),
        };
        Self { inner, hasher, want: *want }
    }

    /// What was written, as checked, if its digest is the one that was wanted.
    pub fn finish(self) -> Result<Checked<W>, Mismatch> {
        let got = match self.hasher {
            FrameHasher::Blake3(hasher) => FrameDigest::Blake3(*hasher.finalize().as_bytes()),
            FrameHasher::Sha256(hasher) => FrameDigest::Sha256(hasher.finalize().into()),
        };
        if got == self.want {
            Ok(Checked(self.inner))
        } else {
            Err(Mismatch { want: self.want.to_string(), got: got.to_string() })
        }
    }
}

impl<W: Write> Write for FrameHashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        let taken = bytes.get(..written).unwrap_or(bytes);
        match &mut self.hasher {
            FrameHasher::Blake3(hasher) => drop(hasher.update(taken)),
            FrameHasher::Sha256(hasher) => hasher.update(taken),
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
