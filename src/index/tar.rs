//! Reads a layer's tar as it streams by: ustar, GNU and pax, sparse files included. Bytes are pushed in whatever
//! pieces they come; each entry goes into a [`Draft`]. Payloads are passed over, never copied (but for the
//! misaligned ends of sparse pieces), since the data file has them at the same offsets.
//!
//! Strict where two readers could understand different things; every length is checked against a limit before
//! anything is kept. The `tar` crate's headers say where fields are; nothing else of it is used.

mod entry;
mod fault;
mod header;
mod pax;
mod sole;
mod sparse;

use std::mem;

use crate::index::tar::entry::{Announced, Described, Makes};
pub use crate::index::tar::fault::{Fault, TarError};
pub use crate::index::tar::header::BadField;
use crate::index::tar::header::{BLOCK, Block, SparseMap, sparse_extension, until_zero};
pub use crate::index::tar::pax::PaxError;
pub(in crate::index) use crate::index::tar::sole::sole_file;
pub use crate::index::tar::sparse::SparseError;
use crate::index::tar::sparse::{MapText, Pieces};
use crate::index::tree::draft::{Attributes, Draft, Entry, What, shown};

/// What one tar may cost, beside what the draft limits.
#[derive(Debug, Clone, Copy)]
pub struct TarLimits {
    /// Bytes of the whole tar that may be contents.
    pub data_bytes_max: u64,
    /// Bytes of one extended header, pax or GNU; they are kept until their entry is read.
    pub extended_bytes_max: u64,
    /// Size of one sparse file, holes included: a tree needs a word for each of its chunks.
    pub sparse_bytes_max: u64,
    /// Segments of all sparse files of the layer.
    pub sparse_segments_max: u64,
    /// Bytes of all sparse files that are not aligned to blocks and so are kept in the tree.
    pub unaligned_bytes_max: u64,
}

/// A tar being read.
#[derive(Debug)]
pub struct Parser {
    limits: TarLimits,
    /// Bytes of the tar pushed so far.
    offset: u64,
    state: State,
    /// The part of a block that has come.
    block: Vec<u8>,
    announced: Announced,
    /// Of the entry, or the extended header, that is being read: where its header began, and what it is called.
    at: u64,
    name: Option<Vec<u8>>,
    segments: u64,
    unaligned: u64,
}

#[derive(Debug)]
enum State {
    /// The next block is a header, or zeros.
    Header,
    /// The next block is zeros too, or this is no end.
    FirstZeros,
    /// The payload of an extended header.
    Extended { typeflag: u8, bytes: Vec<u8>, left: u64 },
    /// The next block goes on with the map of an old GNU sparse file.
    Extension { file: Sparse, map: SparseMap },
    /// The next block is one of a map in a payload; `left` counts the payload from there.
    Map { file: Sparse, text: MapText, left: u64 },
    /// A payload that nobody needs to see, or a sparse file's.
    Payload { size: u64, left: u64, sparse: Option<(Sparse, Pieces)> },
    /// Up to the next block.
    Padding,
    /// Whatever follows the end is no part of the archive.
    End,
}

/// A sparse file whose map or payload is passing.
#[derive(Debug)]
struct Sparse {
    attributes: Attributes,
    size: u64,
    payload: u64,
}

// === impl TarLimits ===

impl Default for TarLimits {
    fn default() -> Self {
        Self {
            data_bytes_max: 256 << 30,
            extended_bytes_max: 1 << 20,
            sparse_bytes_max: 1 << 40,
            sparse_segments_max: 1 << 20,
            unaligned_bytes_max: 16 << 20,
        }
    }
}

// === impl Parser ===

impl Parser {
    pub fn new(limits: TarLimits) -> Self {
        Self {
            limits,
            offset: 0,
            state: State::Header,
            block: Vec::with_capacity(BLOCK),
            announced: Announced::default(),
            at: 0,
            name: None,
            segments: 0,
            unaligned: 0,
        }
    }

    /// Reads the tar's next bytes. After an error the parser is of no more use.
    pub fn push(&mut self, mut bytes: &[u8], into: &mut Draft) -> Result<(), TarError> {
        while !bytes.is_empty() {
            let taken = match &self.state {
                State::End => bytes.len(),
                State::Padding => self.pad(bytes),
                State::Payload { .. } => self.pass(bytes, into).map_err(|fault| self.error(fault))?,
                State::Extended { .. } => self.collect(bytes).map_err(|fault| self.error(fault))?,
                State::Header | State::FirstZeros | State::Extension { .. } | State::Map { .. } => {
                    self.gather(bytes, into).map_err(|fault| self.error(fault))?
                }
            };
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Says that the tar is over. Blocks of zeros at its end may be missing (Go's writer leaves them out unless it
    /// is closed), and so may the last payload's padding.
    pub fn finish(mut self) -> Result<(), TarError> {
        let fault = match &self.state {
            State::Header | State::FirstZeros if !self.block.is_empty() => {
                self.at = self.offset - self.block.len() as u64;
                self.name = None;
                Fault::EndsInHeader(self.block.len() as u64)
            }
            State::Header | State::FirstZeros | State::Padding | State::End if self.announced.is_empty() => {
                return Ok(());
            }
            State::Header | State::FirstZeros | State::Padding | State::End => Fault::EndsAfterExtended,
            State::Extended { bytes, left, .. } => {
                Fault::EndsInPayload { size: bytes.len() as u64 + left, had: bytes.len() as u64 }
            }
            State::Extension { .. } => Fault::EndsInHeader(self.offset - self.at),
            State::Map { file, left, .. } => {
                Fault::EndsInPayload { size: file.payload, had: file.payload - left + self.block.len() as u64 }
            }
            State::Payload { size, left, .. } => Fault::EndsInPayload { size: *size, had: size - left },
        };
        Err(self.error(fault))
    }

    fn error(&self, fault: Fault) -> TarError {
        TarError { entry: self.name.as_deref().map(shown), at: self.at, fault }
    }

    fn pad(&mut self, bytes: &[u8]) -> usize {
        let block = BLOCK as u64;
        let missing = (block - self.offset % block) % block;
        let taken = bytes.len().min(missing as usize);
        self.offset += taken as u64;
        if taken as u64 == missing {
            self.state = State::Header;
        }
        taken
    }

    /// Fills a block, and acts once it is complete.
    fn gather(&mut self, bytes: &[u8], into: &mut Draft) -> Result<usize, Fault> {
        let taken = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        self.offset += taken as u64;
        let Ok(block) = <[u8; BLOCK]>::try_from(self.block.as_slice()) else { return Ok(taken) };
        self.block.clear();
        match mem::replace(&mut self.state, State::End) {
            State::FirstZeros if is_zeros(&block) => {}
            State::FirstZeros => return Err(Fault::LoneZeroBlock),
            State::Extension { file, map } => self.extension(&block, file, map, into)?,
            State::Map { file, text, left } => self.map(&block, file, text, left, into)?,
            _ if is_zeros(&block) => self.state = State::FirstZeros,
            _ => self.header(&block, into)?,
        }
        Ok(taken)
    }

    fn header(&mut self, block: &[u8; BLOCK], into: &mut Draft) -> Result<(), Fault> {
        self.at = self.offset - BLOCK as u64;
        self.name = None;
        let block = Block::read(block).ok_or(Fault::Checksum)?;
        match block.typeflag() {
            typeflag @ (b'x' | b'g' | b'L' | b'K') => self.extended(typeflag, block.size()?),
            _ => self.entry(&block, into),
        }
    }

    fn extended(&mut self, typeflag: u8, size: u64) -> Result<(), Fault> {
        let max = self.limits.extended_bytes_max;
        if size > max {
            return Err(Fault::LargeExtended { size, max });
        }
        self.state = State::Extended { typeflag, bytes: Vec::new(), left: size };
        if size == 0 { self.collect(&[]).map(|_| ()) } else { Ok(()) }
    }

    /// Keeps an extended header's payload, and reads it once it is complete.
    fn collect(&mut self, from: &[u8]) -> Result<usize, Fault> {
        let State::Extended { typeflag, bytes, left } = &mut self.state else { return Ok(0) };
        let taken = from.get(..usize::try_from(*left).unwrap_or(usize::MAX)).unwrap_or(from);
        bytes.extend_from_slice(taken);
        *left -= taken.len() as u64;
        self.offset += taken.len() as u64;
        if *left > 0 {
            return Ok(taken.len());
        }
        let (typeflag, bytes) = (*typeflag, mem::take(bytes));
        self.state = State::Padding;
        self.pad(&[]);
        self.announce(typeflag, bytes)?;
        Ok(taken.len())
    }

    fn announce(&mut self, typeflag: u8, mut bytes: Vec<u8>) -> Result<(), Fault> {
        match typeflag {
            b'g' => self.announced.global.read_global(&bytes)?,
            b'x' if self.announced.pax.is_some() => return Err(Fault::ExtendedTwice),
            b'x' => {
                let mut pax = self.announced.global.clone();
                pax.read(&bytes)?;
                self.announced.pax = Some(pax);
            }
            _ => {
                bytes.truncate(until_zero(&bytes).len());
                let long = if typeflag == b'L' { &mut self.announced.long_name } else { &mut self.announced.long_link };
                if long.replace(bytes).is_some() {
                    return Err(Fault::ExtendedTwice);
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, block: &Block, into: &mut Draft) -> Result<(), Fault> {
        let mut announced = self.announced.take();
        let name = announced.name(block)?;
        self.name = Some(name.clone());
        let Described { attributes, makes, payload } = announced.describe(block, &name)?;
        let room = self.limits.data_bytes_max.saturating_sub(self.offset);
        if payload > room {
            return Err(Fault::TooLarge { size: payload, max: self.limits.data_bytes_max });
        }
        let what = match &makes {
            Makes::Nothing => None,
            Makes::OldSparse { .. } | Makes::Sparse { .. } | Makes::MappedInPayload { .. } => {
                return self.sparse(attributes, makes, payload, into);
            }
            Makes::Directory => Some(What::Directory),
            Makes::File => Some(What::File { size: payload, at: self.offset }),
            Makes::Symlink(target) => Some(What::Symlink(target)),
            Makes::HardLink(target) => Some(What::HardLink(target)),
            Makes::CharDevice(major, minor) => Some(What::CharDevice(*major, *minor)),
            Makes::BlockDevice(major, minor) => Some(What::BlockDevice(*major, *minor)),
            Makes::Fifo => Some(What::Fifo),
        };
        if let Some(what) = what {
            into.apply(Entry { path: &name, attributes, what })?;
        }
        self.payload(payload, None, into)
    }

    fn sparse(&mut self, attributes: Attributes, makes: Makes, payload: u64, into: &mut Draft) -> Result<(), Fault> {
        let (Makes::OldSparse { size, .. } | Makes::Sparse { size, .. } | Makes::MappedInPayload { size }) = makes
        else {
            return Ok(());
        };
        let max = self.limits.sparse_bytes_max;
        if size > max {
            return Err(Fault::LargeSparse { size, max });
        }
        let file = Sparse { attributes, size, payload };
        match makes {
            Makes::OldSparse { map, goes_on: true, .. } => {
                self.state = State::Extension { file, map };
                Ok(())
            }
            Makes::OldSparse { map, .. } | Makes::Sparse { map, .. } => self.mapped(file, &map, payload, into),
            _ => {
                self.state = State::Map { file, text: MapText::default(), left: payload };
                if payload < BLOCK as u64 { Err(SparseError::NoEnd.into()) } else { Ok(()) }
            }
        }
    }

    fn extension(
        &mut self,
        block: &[u8; BLOCK],
        file: Sparse,
        mut map: SparseMap,
        into: &mut Draft,
    ) -> Result<(), Fault> {
        let (more, goes_on) = sparse_extension(block)?;
        map.extend(more);
        self.check_segments(map.len() as u64)?;
        if goes_on {
            self.state = State::Extension { file, map };
            return Ok(());
        }
        let payload = file.payload;
        self.mapped(file, &map, payload, into)
    }

    fn map(
        &mut self,
        block: &[u8; BLOCK],
        file: Sparse,
        mut text: MapText,
        left: u64,
        into: &mut Draft,
    ) -> Result<(), Fault> {
        let left = left - BLOCK as u64; // checked before the block was waited for
        match text.read(block, self.limits.sparse_segments_max)? {
            Some(map) => self.mapped(file, &map, left, into),
            None if left < BLOCK as u64 => Err(SparseError::NoEnd.into()),
            None => {
                self.state = State::Map { file, text, left };
                Ok(())
            }
        }
    }

    /// A sparse file's map is known, and `left` bytes of its payload follow.
    fn mapped(&mut self, file: Sparse, map: &[(u64, u64)], left: u64, into: &mut Draft) -> Result<(), Fault> {
        self.check_segments(map.len() as u64)?;
        self.segments += map.len() as u64;
        let pieces = Pieces::new(map, file.size, self.offset, left)?;
        self.unaligned = self.unaligned.saturating_add(pieces.kept_bytes());
        if self.unaligned > self.limits.unaligned_bytes_max {
            return Err(Fault::Unaligned(self.limits.unaligned_bytes_max));
        }
        self.payload(left, Some((file, pieces)), into)
    }

    fn check_segments(&self, more: u64) -> Result<(), Fault> {
        let max = self.limits.sparse_segments_max;
        if self.segments.saturating_add(more) > max { Err(Fault::TooManySegments(max)) } else { Ok(()) }
    }

    fn payload(&mut self, size: u64, sparse: Option<(Sparse, Pieces)>, into: &mut Draft) -> Result<(), Fault> {
        self.state = State::Payload { size, left: size, sparse };
        if size == 0 { self.pass(&[], into).map(|_| ()) } else { Ok(()) }
    }

    /// Passes over a payload; a sparse file is complete, and applied, at its end.
    fn pass(&mut self, bytes: &[u8], into: &mut Draft) -> Result<usize, Fault> {
        let State::Payload { left, sparse, .. } = &mut self.state else { return Ok(0) };
        let passing = bytes.get(..usize::try_from(*left).unwrap_or(usize::MAX)).unwrap_or(bytes);
        if let Some((_, pieces)) = sparse {
            pieces.pass(self.offset, passing);
        }
        *left -= passing.len() as u64;
        self.offset += passing.len() as u64;
        if *left > 0 {
            return Ok(passing.len());
        }
        if let Some((Sparse { attributes, size, .. }, pieces)) = sparse.take() {
            let path = self.name.as_deref().unwrap_or_default();
            into.apply(Entry { path, attributes, what: What::Sparse { size, pieces: pieces.finish() } })?;
        }
        self.state = State::Padding;
        self.pad(&[]);
        Ok(passing.len())
    }
}

fn is_zeros(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests;
