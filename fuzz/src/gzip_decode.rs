//! Arbitrary bytes unpacked as a blob, and arbitrary bytes decoded as one frame. What unpacks must come out of its
//! frames again.

use oncefs::digest::FrameDigest;
use oncefs::index::codec::{Codec, Cut, Sink, Stopped, UnpackError, Unpacker, decode};
use oncefs::index::frames::{Frame, Start};

/// More than a few frames, far less than a bomb makes.
const TAR_BYTES_MAX: usize = 4 << 20;

pub(crate) fn fuzz(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 4 {
        0 => unpack(Codec::Gzip, rest),
        1 => unpack(Codec::Zstd, rest),
        2 => decode_one(Start::Member, rest),
        _ => {
            let (window, source) = rest.split_at(rest.len() / 2);
            decode_one(Start::Block { bits: mode / 4 % 9, window: window.to_vec() }, source);
        }
    }
}

struct Memory {
    room: Vec<u8>,
    tar: Vec<u8>,
    from: usize,
    start: (u64, Start),
    frames: Vec<Frame>,
}

impl Sink for Memory {
    fn room(&mut self) -> Result<&mut [u8], Stopped> {
        if self.tar.len() > TAR_BYTES_MAX { Err(Stopped) } else { Ok(&mut self.room) }
    }

    fn filled(&mut self, count: usize) -> Result<(), Stopped> {
        self.tar.extend_from_slice(&self.room[..count]);
        Ok(())
    }

    fn cut(&mut self, cut: Cut) -> Result<(), Stopped> {
        let next = cut.next.unwrap_or((cut.end, Start::Plain));
        let (source_start, start) = std::mem::replace(&mut self.start, next);
        if self.from < self.tar.len() {
            let digest = FrameDigest::of(&self.tar[self.from..]);
            let data = self.from as u64..self.tar.len() as u64;
            self.frames.push(Frame { source: source_start..cut.end, data, start, digest });
        }
        self.from = self.tar.len();
        Ok(())
    }

    fn thinned(&mut self, thin: Vec<u8>) {
        if let (_, Start::Block { window, .. }) = &mut self.start {
            *window = thin;
        }
    }
}

fn unpack(codec: Codec, blob: &[u8]) {
    let mut unpacker = Unpacker::new(codec).unwrap();
    let start = (0, unpacker.first());
    let mut memory = Memory { room: vec![0; 4096], tar: Vec::new(), from: 0, start, frames: Vec::new() };
    let outcome: Result<(), UnpackError> = blob.chunks(1000).try_for_each(|piece| unpacker.push(piece, &mut memory));
    if outcome.is_err() || unpacker.finish(&mut memory).is_err() {
        return;
    }
    for frame in &memory.frames {
        let mut source = &blob[frame.source.start as usize..frame.source.end as usize];
        let mut out = Vec::new();
        decode(frame, &mut source, &mut out).unwrap();
        assert_eq!(FrameDigest::of(&out), frame.digest);
    }
}

fn decode_one(start: Start, source: &[u8]) {
    for len in [0, 1, 1000, 100_000] {
        let frame = Frame {
            source: 0..source.len() as u64,
            data: 0..len,
            start: start.clone(),
            digest: FrameDigest::Blake3([0; 32]),
        };
        let (mut source, mut out) = (source, Vec::new());
        if decode(&frame, &mut source, &mut out).is_ok() {
            assert_eq!(out.len() as u64, len);
        }
        assert!(out.len() as u64 <= len);
    }
}
