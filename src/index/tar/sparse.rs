//! Sparse files: a map says where the stretches of a payload belong in the file; the rest are holes. Turns maps
//! into pieces, keeping a copy of those that the kernel could not map because they are not whole aligned blocks.

use crate::index::tar::header::{BLOCK, SparseMap};
use crate::index::tree::write::{From, Piece};

/// Why a map cannot be that of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SparseError {
    #[error("its sparse map overlaps or goes backwards")]
    Order,
    #[error("its sparse map goes beyond the file's size")]
    Beyond,
    #[error("its sparse map speaks of {mapped} bytes, its payload has {payload}")]
    Payload { mapped: u64, payload: u64 },
    #[error("its sparse map is not numbers on lines")]
    Text,
    #[error("its sparse map goes on after the payload's end")]
    NoEnd,
    #[error("its sparse format {0}.{1} is not known")]
    Version(u64, u64),
    #[error("its extended header does not say the sparse file's size")]
    NoSize,
}

/// A sparse file's pieces while its payload passes.
#[derive(Debug)]
pub(super) struct Pieces {
    all: Vec<Piece>,
    /// Which of them keep their bytes, and where in the tar those begin; ascending.
    kept: Vec<(usize, u64)>,
    /// The first of `kept` that is not complete.
    next: usize,
}

/// The map at the start of a payload of format 1.0: the number of segments, then offset and length of each, one
/// decimal number a line.
#[derive(Debug, Default)]
pub(super) struct MapText {
    numbers: Vec<u64>,
    /// The digits of a line that is not complete.
    line: Option<u64>,
}

// === impl Pieces ===

impl Pieces {
    /// The pieces of a file of `size` bytes whose payload, `payload` bytes long, begins at `start` of the tar.
    pub(super) fn new(map: &[(u64, u64)], size: u64, start: u64, payload: u64) -> Result<Self, SparseError> {
        let mut pieces = Self { all: Vec::new(), kept: Vec::new(), next: 0 };
        let (mut mapped, mut from) = (0_u64, 0_u64);
        for &(at, len) in map {
            if at < from {
                return Err(SparseError::Order);
            }
            from = at.checked_add(len).filter(|end| *end <= size).ok_or(SparseError::Beyond)?;
            pieces.cut(at, len, start + mapped, from == size);
            mapped = mapped.saturating_add(len);
            if mapped > payload {
                break;
            }
        }
        if mapped == payload { Ok(pieces) } else { Err(SparseError::Payload { mapped, payload }) }
    }

    /// Cuts a segment into a head up to a block's edge, whole blocks, and a tail. Where file and tar are not
    /// aligned alike there are no whole blocks. The tail may stay in the data file if the file ends with it:
    /// nobody sees what follows.
    fn cut(&mut self, at: u64, len: u64, in_tar: u64, ends_file: bool) {
        let block = BLOCK as u64;
        if at % block != in_tar % block {
            return self.keep(at, len, in_tar);
        }
        let head = (block - at % block) % block;
        if head >= len && head > 0 {
            return self.keep(at, len, in_tar);
        }
        let tail = if ends_file { 0 } else { (len - head) % block };
        let whole = len - head - tail;
        self.keep(at, head, in_tar);
        self.map(at + head, whole, in_tar + head);
        self.keep(at + head + whole, tail, in_tar + head + whole);
    }

    fn keep(&mut self, at: u64, len: u64, in_tar: u64) {
        if len > 0 {
            self.kept.push((self.all.len(), in_tar));
            self.all.push(Piece { at, len, from: From::Bytes(Vec::new()) });
        }
    }

    fn map(&mut self, at: u64, len: u64, in_tar: u64) {
        if len == 0 {
            return;
        }
        if let Some(Piece { at: last_at, len: last_len, from: From::Data(data) }) = self.all.last_mut()
            && *last_at + *last_len == at
            && *data + *last_len == in_tar
        {
            *last_len += len;
        } else {
            self.all.push(Piece { at, len, from: From::Data(in_tar) });
        }
    }

    /// How many bytes it will keep.
    pub(super) fn kept_bytes(&self) -> u64 {
        let lens = self.kept.iter().filter_map(|(index, _)| self.all.get(*index)).map(|piece| piece.len);
        lens.fold(0, u64::saturating_add)
    }

    /// Takes what it keeps of `bytes`, which begin at `offset` of the tar. They come in order.
    pub(super) fn pass(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        while let Some(&(index, in_tar)) = self.kept.get(self.next) {
            let Some(Piece { len, from: From::Bytes(taken), .. }) = self.all.get_mut(index) else { return };
            let from = in_tar + taken.len() as u64;
            let to = in_tar + *len;
            if from >= end {
                return;
            }
            // Both lie inside `bytes`, so they fit a usize.
            let (start, stop) = (from.saturating_sub(offset) as usize, (to.min(end) - offset) as usize);
            taken.extend_from_slice(bytes.get(start..stop).unwrap_or_default());
            if to > end {
                return;
            }
            self.next += 1;
        }
    }

    pub(super) fn finish(self) -> Vec<Piece> {
        self.all
    }
}

// === impl MapText ===

impl MapText {
    /// Reads the map's next block. Gives the map if it ends there; what follows in the block is padding.
    pub(super) fn read(&mut self, block: &[u8; BLOCK], segments_max: u64) -> Result<Option<SparseMap>, SparseError> {
        for byte in block {
            match byte {
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    let number = self.line.unwrap_or(0).checked_mul(10).and_then(|number| number.checked_add(digit));
                    self.line = Some(number.ok_or(SparseError::Text)?);
                }
                b'\n' => self.numbers.push(self.line.take().ok_or(SparseError::Text)?),
                _ => return Err(SparseError::Text),
            }
            let Some((count, numbers)) = self.numbers.split_first() else { continue };
            if *count > segments_max {
                return Err(SparseError::Text);
            }
            if *byte == b'\n' && numbers.len() as u64 == 2 * count {
                let (pairs, _) = numbers.as_chunks::<2>();
                return Ok(Some(pairs.iter().map(|[at, len]| (*at, *len)).collect()));
            }
        }
        Ok(None)
    }
}
