//! A file's pieces as runs of whole blocks, and the runs as EROFS chunks.

use crate::index::tree::format::{BLOCK, CHUNK_BITS_MAX, ChunkIndex};
use crate::index::tree::write::{From, Piece, Refusal};

/// Blocks of a file that lie side by side in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first, counted in the file.
    pub(super) block: u64,
    pub(super) blocks: u64,
    pub(super) place: RunPlace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunPlace {
    /// From this block of the data file on.
    Data(u32),
    /// From this block on of those that the file has in the image.
    Own(u64),
    Hole,
}

/// A file's blocks from first to last, and how they are cut into chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunks {
    pub(super) runs: Vec<Run>,
    /// Blocks of a chunk, as a power of two.
    pub(super) bits: u32,
    pub(super) count: u64,
}

impl Chunks {
    pub(super) fn of(size: u64, pieces: &[Piece], data_bytes: u64) -> Result<Self, Refusal> {
        let runs = runs(size, pieces, data_bytes)?;
        let blocks = size.div_ceil(BLOCK);
        // Inside a run each chunk follows from the one before, so only the seams between runs must be chunks' too.
        let seams = runs.iter().skip(1).map(|run| run.block.trailing_zeros()).min();
        let whole = blocks.max(1).next_power_of_two().trailing_zeros();
        let bits = seams.unwrap_or(whole).min(CHUNK_BITS_MAX);
        Ok(Self { runs, bits, count: blocks.div_ceil(1 << bits) })
    }

    /// The indexes in order; `own` is the first block that the file has in the image.
    pub(super) fn indexes(&self, own: u32) -> impl Iterator<Item = ChunkIndex> {
        let step = 1 << self.bits;
        let in_run = move |run: &Run| {
            let run = *run;
            let chunks = run.blocks.div_ceil(step);
            (0..chunks).map(move |chunk| match run.place {
                // Both sums fit: the caller has checked the ends of the data file and of the image.
                RunPlace::Data(first) => ChunkIndex { device: ChunkIndex::DATA, block: first + (chunk * step) as u32 },
                RunPlace::Own(first) => {
                    ChunkIndex { device: ChunkIndex::IMAGE, block: own + (first + chunk * step) as u32 }
                }
                RunPlace::Hole => ChunkIndex::HOLE,
            })
        };
        self.runs.iter().flat_map(in_run)
    }

    /// The runs whose bytes lie in the image.
    pub(super) fn own(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| matches!(run.place, RunPlace::Own(_)))
    }
}

/// The runs being gathered, without a gap and in order.
struct Gathering {
    runs: Vec<Run>,
    /// The first block no run covers.
    next: u64,
    /// Blocks in the image so far.
    own: u64,
}

fn runs(size: u64, pieces: &[Piece], data_bytes: u64) -> Result<Vec<Run>, Refusal> {
    let mut gathering = Gathering { runs: Vec::with_capacity(pieces.len()), next: 0, own: 0 };
    let mut passed = 0;
    for piece in pieces.iter().filter(|piece| piece.len > 0) {
        let end = piece.at.checked_add(piece.len).filter(|end| *end <= size).ok_or(Refusal::Pieces)?;
        if piece.at < passed {
            return Err(Refusal::Pieces);
        }
        passed = end;
        match &piece.from {
            From::Data(offset) => {
                let aligned = piece.at % BLOCK == 0 && offset % BLOCK == 0 && (piece.len % BLOCK == 0 || end == size);
                if !aligned {
                    return Err(Refusal::Unaligned);
                }
                offset.checked_add(piece.len).filter(|end| *end <= data_bytes).ok_or(Refusal::OutsideData)?;
                let first = u32::try_from(offset / BLOCK).map_err(|_| Refusal::OutsideData)?;
                gathering.data(piece.at / BLOCK, end.div_ceil(BLOCK), first);
            }
            From::Bytes(bytes) if bytes.len() as u64 != piece.len => return Err(Refusal::Pieces),
            From::Bytes(_) => gathering.own(piece.at / BLOCK, end.div_ceil(BLOCK)),
        }
    }
    gathering.hole(size.div_ceil(BLOCK));
    Ok(gathering.runs)
}

impl Gathering {
    fn hole(&mut self, until: u64) {
        if until > self.next {
            self.runs.push(Run { block: self.next, blocks: until - self.next, place: RunPlace::Hole });
            self.next = until;
        }
    }

    fn data(&mut self, block: u64, end: u64, first: u32) {
        self.hole(block);
        match self.runs.last_mut() {
            Some(Run { blocks, place: RunPlace::Data(start), .. })
                if u64::from(*start) + *blocks == u64::from(first) =>
            {
                *blocks += end - block;
            }
            _ => self.runs.push(Run { block, blocks: end - block, place: RunPlace::Data(first) }),
        }
        self.next = end;
    }

    /// Blocks of bytes: the first may be the last that the piece before has begun.
    fn own(&mut self, block: u64, end: u64) {
        self.hole(block);
        let more = end - self.next;
        match self.runs.last_mut() {
            Some(Run { blocks, place: RunPlace::Own(_), .. }) => *blocks += more,
            _ => self.runs.push(Run { block, blocks: more, place: RunPlace::Own(self.own) }),
        }
        self.own += more;
        self.next = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(at: u64, len: u64, offset: u64) -> Piece {
        Piece { at, len, from: From::Data(offset) }
    }

    fn bytes(at: u64, len: u64) -> Piece {
        Piece { at, len, from: From::Bytes(vec![7; len as usize]) }
    }

    fn chunks(size: u64, pieces: &[Piece]) -> Result<Chunks, Refusal> {
        Chunks::of(size, pieces, 1 << 40)
    }

    #[test]
    fn a_contiguous_file_is_one_chunk_whatever_its_size() {
        for size in [1, 511, 512, 513, 1 << 20, (1 << 30) + 1] {
            let chunks = chunks(size, &[data(0, size, 4096)]).unwrap();
            assert_eq!(chunks.count, 1, "{size}");
            assert_eq!(chunks.indexes(0).collect::<Vec<_>>(), [ChunkIndex { device: 1, block: 8 }]);
        }
    }

    #[test]
    fn pieces_that_follow_each_other_in_the_data_file_are_one_run() {
        let chunks = chunks(1024, &[data(0, 512, 512), data(512, 512, 1024)]).unwrap();
        assert_eq!(chunks.runs, [Run { block: 0, blocks: 2, place: RunPlace::Data(1) }]);
    }

    #[test]
    fn chunks_are_as_large_as_the_seams_allow() {
        let sparse = chunks(1 << 20, &[data(0, 8192, 0), data(65536, 4096, 8192)]).unwrap();
        assert_eq!((sparse.bits, sparse.count), (3, 256)); // seams at 8192, 65536 and 69632
        assert_eq!(sparse.indexes(0).count(), 256);
    }

    #[test]
    fn bytes_that_share_a_block_share_it_in_the_image_too() {
        let chunks = chunks(2048, &[bytes(100, 50), bytes(200, 400), data(1024, 512, 512)]).unwrap();
        let own = Run { block: 0, blocks: 2, place: RunPlace::Own(0) };
        let data = Run { block: 2, blocks: 1, place: RunPlace::Data(1) };
        assert_eq!(chunks.runs, [own, data, Run { block: 3, blocks: 1, place: RunPlace::Hole }]);
    }

    #[test]
    fn what_would_show_a_neighbours_bytes_is_refused() {
        assert_eq!(chunks(2048, &[data(0, 700, 0)]), Err(Refusal::Unaligned)); // a hole follows inside the block
        assert_eq!(chunks(700, &[data(0, 700, 100)]), Err(Refusal::Unaligned));
        assert_eq!(chunks(1000, &[data(488, 512, 0)]), Err(Refusal::Unaligned));
        assert!(chunks(700, &[data(0, 700, 0)]).is_ok());
    }

    #[test]
    fn pieces_out_of_order_or_place_are_refused() {
        assert_eq!(chunks(2048, &[data(512, 512, 0), data(0, 512, 0)]), Err(Refusal::Pieces));
        assert_eq!(chunks(2048, &[bytes(0, 100), bytes(99, 100)]), Err(Refusal::Pieces));
        assert_eq!(chunks(512, &[data(0, 1024, 0)]), Err(Refusal::Pieces));
        assert_eq!(chunks(512, &[bytes(u64::MAX, 3)]), Err(Refusal::Pieces));
        assert_eq!(chunks(512, &[data(0, 512, 1 << 40)]), Err(Refusal::OutsideData));
    }
}
