//! The unpacking thread: takes the blob's pieces, recognises their codec, unpacks into buffers, holds the limits.

use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;

use tokio::sync::mpsc::Receiver;

use super::buffers::{BUFFER_BYTES, Filled, Pool};
use super::keep::Kept;
use super::pipeline::{Hashed, Job};
use super::{Piece, ScanError};
use crate::index::codec::{Codec, Cut, DecodeError, RECOGNISE_BYTES, Sink, Stopped, UnpackError, Unpacker, recognise};
use crate::index::frames::Start;
use crate::sync::Arc;

/// Hands on what the unpacker makes, and counts it.
pub(super) struct Feed<'a> {
    job: &'a Job,
    hash: SyncSender<Hashed>,
    keep: SyncSender<Kept>,
    pool: Pool,
    /// The buffer being filled, how far it is, and how far it may be: buffers end where a multiple of their size ends in
    /// the data file, since file systems take aligned writes in larger pieces.
    room: Vec<u8>,
    filled: usize,
    full: usize,
    /// Bytes of tar so far, and where the current frame begins in it.
    data: u64,
    frame_data: u64,
    frame: (u64, Start),
    /// A tar that is its own blob needs no second hash.
    hash_tar: bool,
    /// The blob's last piece has come.
    over: bool,
    refused: Option<ScanError>,
}

/// How the unpacking went.
pub(super) enum Unpacked {
    Whole {
        codec: Codec,
    },
    /// It cannot be unpacked, but was hashed to its end.
    Broken(DecodeError),
    /// It ended early, and no digest is complete.
    Ended(ScanError),
}

// === impl Feed ===

impl<'a> Feed<'a> {
    pub(super) fn new(job: &'a Job, hash: SyncSender<Hashed>, keep: SyncSender<Kept>) -> Self {
        Self {
            job,
            hash,
            keep,
            pool: Pool::new(),
            room: Vec::new(),
            filled: 0,
            full: 0,
            data: 0,
            frame_data: 0,
            frame: (0, Start::Plain),
            hash_tar: true,
            over: false,
            refused: None,
        }
    }

    /// Unpacks the whole blob. What cannot be unpacked is hashed to its end all the same: only then is it known
    /// whether the network damaged it or the image is broken.
    pub(super) fn run(mut self, pieces: &mut Receiver<Piece>) -> Unpacked {
        let outcome = match self.unpack(pieces) {
            Ok(codec) => return Unpacked::Whole { codec },
            Err(UnpackError::Decode(error)) => self.hash_rest(pieces).map(|()| error),
            Err(UnpackError::Stopped) => Err(Stopped),
        };
        match outcome {
            Ok(error) => Unpacked::Broken(error),
            Err(Stopped) => {
                let layer = self.job.layer.digest;
                Unpacked::Ended(self.refused.unwrap_or(ScanError::Stopped { layer }))
            }
        }
    }

    fn unpack(&mut self, pieces: &mut Receiver<Piece>) -> Result<Codec, UnpackError> {
        let mut head = Vec::new();
        let mut more = true;
        while more && head.len() < RECOGNISE_BYTES {
            more = self.receive(pieces, |_, piece| {
                head.extend_from_slice(piece);
                Ok(())
            })?;
        }
        let codec = recognise(head.get(..RECOGNISE_BYTES).unwrap_or(&head), &self.job.layer.media_type)?;
        let mut unpacker = Unpacker::new(codec)?;
        self.frame = (0, unpacker.first());
        self.hash_tar = codec != Codec::Plain;
        unpacker.push(&head, self)?;
        drop(head);
        while more {
            more = self.receive(pieces, |feed, piece| unpacker.push(piece, feed))?;
        }
        unpacker.finish(self)?;
        self.keep.send(Kept::End { codec }).map_err(|_| UnpackError::Stopped)?;
        Ok(codec)
    }

    /// Takes the next pieces: to be hashed, and to `take`. False after the last.
    fn receive(
        &mut self,
        pieces: &mut Receiver<Piece>,
        mut take: impl FnMut(&mut Self, &[u8]) -> Result<(), UnpackError>,
    ) -> Result<bool, UnpackError> {
        if self.over {
            return Ok(false);
        }
        let batch = match pieces.blocking_recv() {
            Some(Piece::Bytes(batch)) => batch,
            Some(Piece::End) => {
                self.over = true;
                return Ok(false);
            }
            None => return Err(UnpackError::Stopped),
        };
        self.hash.send(Hashed::Blob(batch.clone())).map_err(|_| UnpackError::Stopped)?;
        batch.iter().try_for_each(|piece| take(self, piece))?;
        Ok(true)
    }

    fn hash_rest(&mut self, pieces: &mut Receiver<Piece>) -> Result<(), Stopped> {
        loop {
            match self.receive(pieces, |_, _: &[u8]| Ok(())) {
                Ok(true) => self.check_stop()?,
                Ok(false) => return Ok(()),
                Err(_) => return Err(Stopped),
            }
        }
    }

    fn check_stop(&self) -> Result<(), Stopped> {
        if self.job.stop.load(Ordering::Relaxed) { Err(Stopped) } else { Ok(()) }
    }

    fn check_limits(&mut self) -> Result<(), Stopped> {
        let (limits, layer) = (&self.job.limits, &self.job.layer);
        if self.data > limits.data_bytes_max {
            self.refused = Some(ScanError::TooLarge { layer: layer.digest, max: limits.data_bytes_max });
        } else if self.data > limits.ratio_from_bytes && self.data / limits.ratio_max.max(1) > layer.size {
            self.refused =
                Some(ScanError::Ratio { layer: layer.digest, blob_bytes: layer.size, ratio_max: limits.ratio_max });
        }
        if self.refused.is_some() { Err(Stopped) } else { Ok(()) }
    }

    /// Hands the buffer on, full or not.
    fn flush(&mut self) -> Result<(), Stopped> {
        if self.filled == 0 {
            return Ok(());
        }
        let bytes: Arc<Filled> = Arc::new(self.pool.filled(std::mem::take(&mut self.room), self.filled));
        self.filled = 0;
        if self.hash_tar {
            self.hash.send(Hashed::Tar(Arc::clone(&bytes))).map_err(|_| Stopped)?;
        }
        self.keep.send(Kept::Data(bytes)).map_err(|_| Stopped)?;
        self.job.progress.data.store(self.data, Ordering::Relaxed);
        Ok(())
    }
}

impl Sink for Feed<'_> {
    fn room(&mut self) -> Result<&mut [u8], Stopped> {
        if self.room.is_empty() {
            self.check_stop()?;
            self.room = self.pool.take();
            self.full = BUFFER_BYTES - (self.data % BUFFER_BYTES as u64) as usize;
        }
        Ok(self.room.get_mut(self.filled..self.full).unwrap_or_default())
    }

    fn filled(&mut self, count: usize) -> Result<(), Stopped> {
        self.filled += count;
        self.data += count as u64;
        self.check_limits()?;
        if self.filled >= self.full { self.flush() } else { Ok(()) }
    }

    fn cut(&mut self, cut: Cut) -> Result<(), Stopped> {
        self.flush()?;
        let data = self.frame_data..self.data;
        self.frame_data = self.data;
        let (next, last) = (cut.next.unwrap_or((cut.end, Start::Plain)), &mut self.frame);
        let (source_start, start) = std::mem::replace(last, next);
        if data.is_empty() {
            return Ok(());
        }
        self.keep.send(Kept::Frame { source: source_start..cut.end, data, start }).map_err(|_| Stopped)
    }

    fn thinned(&mut self, thin: Vec<u8>) {
        if let (_, Start::Block { window, .. }) = &mut self.frame {
            *window = thin;
        }
    }
}
