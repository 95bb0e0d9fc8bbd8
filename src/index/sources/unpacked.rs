//! Small packed things, whole.

use super::Fault;
use crate::index::codec::{Codec, Cut, Sink, Stopped, UnpackError, Unpacker};

/// Takes all that comes, up to a limit.
struct Whole {
    bytes: Vec<u8>,
    room: Vec<u8>,
    max: u64,
}

const ROOM_BYTES: usize = 64 << 10;

/// What `packed` holds, which must be complete and not more than `max` bytes.
pub(super) fn unpack(codec: Codec, packed: &[u8], max: u64) -> Result<Vec<u8>, Fault> {
    let mut whole = Whole { bytes: Vec::new(), room: vec![0; ROOM_BYTES], max };
    let unpack = |whole: &mut Whole| {
        let mut unpacker = Unpacker::new(codec)?;
        unpacker.push(packed, whole)?;
        unpacker.finish(whole)
    };
    match unpack(&mut whole) {
        Ok(()) => Ok(whole.bytes),
        Err(UnpackError::Stopped) => Err(Fault::TooLarge(max)),
        Err(UnpackError::Decode(_)) => Err(Fault::Format("it cannot be unpacked")),
    }
}

impl Sink for Whole {
    fn room(&mut self) -> Result<&mut [u8], Stopped> {
        Ok(&mut self.room)
    }

    fn filled(&mut self, count: usize) -> Result<(), Stopped> {
        self.bytes.extend_from_slice(self.room.get(..count).unwrap_or_default());
        if self.bytes.len() as u64 > self.max { Err(Stopped) } else { Ok(()) }
    }

    fn cut(&mut self, _: Cut) -> Result<(), Stopped> {
        Ok(())
    }
}
