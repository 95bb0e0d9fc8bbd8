//! A layer's blob in a registry: whole as a stream that goes on where it broke, or any range of it.
//!
//! What a server promises is held against what it sends: a range other than the one asked for, more bytes or fewer,
//! is an error. Whether they are the right bytes is the reader's to check.

use std::ops::Range;

use bytes::{Buf as _, Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use reqwest::header::CONTENT_RANGE;
use reqwest::{StatusCode, Url};

use crate::blob::{Blob, BlobError};
use crate::digest::LayerDigest;
use crate::gate::Urgency;
use crate::registry::ask::{Access, Ask};
use crate::registry::client::{Answer, Tries};
use crate::registry::clients::Clients;
use crate::registry::counters::add;
use crate::registry::error::RegistryError;
use crate::registry::reference::Repository;
use crate::registry::transport::{Body, Weight};
use crate::sync::{Arc, Mutex};

/// One layer's blob; asks for nothing until it is read.
pub(super) struct LayerBlob {
    place: Arc<Place>,
}

struct Place {
    clients: Clients,
    repository: Repository,
    digest: LayerDigest,
    size: u64,
    /// Where the registry sent us last time. Such addresses are signed and run out; then the registry is asked again.
    moved_to: Mutex<Option<Url>>,
    /// The mirror that gave bytes last.
    mirror: Mutex<Option<String>>,
    /// Who answered last.
    host: Mutex<Option<String>>,
}

/// A stretch of the blob on its way, across as many answers as it takes.
struct Stretch {
    place: Arc<Place>,
    weight: Weight,
    at: u64,
    end: u64,
    flow: Option<Flow>,
    /// The mirror that gave the last answer.
    mirror: Option<String>,
    /// The tries since it last got on.
    tries: Option<Tries>,
    got_since: u64,
}

/// One answer's body.
struct Flow {
    body: Body,
    /// Bytes before the stretch, from a server that knows no ranges.
    skip: u64,
    /// Whether the body must end where the stretch does.
    is_exact: bool,
}

/// Who gets this far between two breaks gets on: the tries count anew.
const PROGRESS_BYTES: u64 = 1 << 20;
/// What is thrown away at most to get at a range of a server that sends everything.
const SKIP_BYTES_MAX: u64 = 1 << 30;

// === impl LayerBlob ===

impl LayerBlob {
    pub(super) fn new(clients: Clients, repository: Repository, digest: LayerDigest, size: u64) -> Self {
        Self {
            place: Arc::new(Place {
                clients,
                repository,
                digest,
                size,
                moved_to: Mutex::default(),
                mirror: Mutex::default(),
                host: Mutex::default(),
            }),
        }
    }
}

impl Blob for LayerBlob {
    fn size(&self) -> u64 {
        self.place.size
    }

    fn was_wrong(&self) -> bool {
        let place = &self.place;
        *place.moved_to.lock() = None;
        place.clients.now().distrust(place.mirror.lock().take().as_deref(), &place.path())
    }

    fn carries(&self) -> u64 {
        let host = self.place.host.lock().clone();
        self.place.clients.now().carries(host.as_deref().unwrap_or(self.place.repository.host()))
    }

    fn range(&self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        self.range_for(range, &Urgency::reader())
    }

    fn range_for(&self, range: Range<u64>, urgency: &Urgency) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        let weight = Weight::Part(urgency.clone());
        Box::pin(async move {
            if range.start > range.end || range.end > self.place.size {
                return Err(BlobError::Size { has: self.place.size, want: range.end });
            }
            Ok(Stretch::new(self.place.clone(), range, weight).whole().await?)
        })
    }

    fn stream(&self) -> BoxStream<'static, Result<Bytes, BlobError>> {
        let stretch = Stretch::new(self.place.clone(), 0..self.place.size, Weight::Heavy);
        stream::try_unfold(stretch, |mut stretch| async move {
            let piece = stretch.next().await?;
            Ok(piece.map(|piece| (piece, stretch)))
        })
        .boxed()
    }
}

// === impl Place ===

impl Place {
    /// Asks for bytes `at..end`, where they were last time or else at the registry.
    async fn ask(&self, at: u64, end: u64, weight: Weight) -> Result<Answer, RegistryError> {
        let is_whole = at == 0 && end == self.size;
        let ask = Ask {
            repository: self.repository.clone(),
            path: self.path(),
            what: self.to_string(),
            accept: None,
            range: (!is_whole).then(|| (at, end.saturating_sub(1))),
            only_head: false,
            weight,
            access: Access::Pull,
            change: None,
        };
        let moved_to = self.moved_to.lock().clone();
        if let Some(url) = moved_to {
            match self.clients.now().get_moved(&ask, &url).await {
                Ok(answer) => return Ok(answer),
                Err(error) => tracing::debug!(error = %error, "asking the registry again where the blob is"),
            }
            *self.moved_to.lock() = None;
        }
        let answer = self.clients.now().get(&ask).await.map_err(|error| self.range_refused(error))?;
        self.moved_to.lock().clone_from(&answer.moved_to);
        self.mirror.lock().clone_from(&answer.mirror);
        Ok(answer)
    }

    fn path(&self) -> String {
        format!("blobs/{}", self.digest)
    }

    fn range_refused(&self, error: RegistryError) -> RegistryError {
        match error {
            RegistryError::Status { host, what, status: 416, .. } => {
                let cause = format!("it has fewer than the {} bytes of the manifest (416)", self.size);
                RegistryError::Protocol { host, what, cause }
            }
            other => other,
        }
    }

    fn protocol(&self, cause: String) -> RegistryError {
        RegistryError::Protocol { host: self.repository.host().to_owned(), what: self.to_string(), cause }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "layer {} of {}", self.digest, self.repository)
    }
}

// === impl Stretch ===

impl Stretch {
    fn new(place: Arc<Place>, range: Range<u64>, weight: Weight) -> Self {
        Self { place, weight, at: range.start, end: range.end, flow: None, mirror: None, tries: None, got_since: 0 }
    }

    async fn whole(mut self) -> Result<Bytes, RegistryError> {
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        let Some(second) = self.next().await? else { return Ok(first) };
        let rest = usize::try_from(self.end - self.at).unwrap_or_default();
        let mut all = BytesMut::with_capacity(first.len() + second.len() + rest);
        all.extend_from_slice(&first);
        all.extend_from_slice(&second);
        while let Some(piece) = self.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// The next piece, never empty; `None` when the stretch is complete. A mirror that breaks off and goes on breaking off, or answers
    /// another thing than it was asked, is left: the next place has the rest.
    async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            match self.next_here().await {
                Err(error) if self.leaves_mirror() => tracing::info!(error = %error, "the next place is asked"),
                next => return next,
            }
        }
    }

    /// Says whether what answered last was a mirror. It is not asked for this blob again.
    fn leaves_mirror(&mut self) -> bool {
        let mirror = self.mirror.take();
        (self.flow, self.tries) = (None, None);
        self.place.clients.now().distrust(mirror.as_deref(), &self.place.path())
    }

    async fn next_here(&mut self) -> Result<Option<Bytes>, RegistryError> {
        while self.at < self.end {
            let Some(flow) = &mut self.flow else {
                match self.open().await {
                    Ok(flow) => self.flow = Some(flow),
                    Err(error) => self.broke(error).await?,
                }
                continue;
            };
            match flow.body.next().await {
                Ok(Some(piece)) => {
                    let piece = self.take(piece)?;
                    if !piece.is_empty() {
                        return Ok(Some(piece));
                    }
                }
                Ok(None) => return Err(self.wrong_size(self.at)),
                Err(error) => self.broke(error).await?,
            }
        }
        self.finish().await.map(|()| None)
    }

    /// What of a piece belongs to the stretch.
    fn take(&mut self, mut piece: Bytes) -> Result<Bytes, RegistryError> {
        add(&self.place.clients.now().counters().blob_bytes, piece.len() as u64);
        let Some(flow) = &mut self.flow else { return Ok(Bytes::new()) };
        let skipped = flow.skip.min(piece.len() as u64);
        flow.skip -= skipped;
        piece.advance(usize::try_from(skipped).unwrap_or_default());
        let (length, left) = (piece.len() as u64, self.end - self.at);
        if length > left {
            if flow.is_exact {
                return Err(self.wrong_size(self.at + length));
            }
            piece.truncate(usize::try_from(left).unwrap_or_default());
        }
        self.at += piece.len() as u64;
        self.got_since += piece.len() as u64;
        Ok(piece)
    }

    /// All bytes are here; a body that should end here must not go on.
    async fn finish(&mut self) -> Result<(), RegistryError> {
        match self.flow.take() {
            Some(mut flow) if flow.is_exact => match flow.body.next().await {
                Ok(Some(more)) if !more.is_empty() => Err(self.wrong_size(self.end + more.len() as u64)),
                // Whatever breaks now breaks nothing.
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Waits before going on after `error`, or gives it back: if nothing ever came, `error` has been retried already.
    async fn broke(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let was_flowing = self.flow.take().is_some();
        if !was_flowing && self.tries.is_none() {
            return Err(error);
        }
        if self.got_since >= PROGRESS_BYTES {
            self.tries = None;
        }
        self.got_since = 0;
        let client = self.place.clients.now();
        let tries = self.tries.get_or_insert_with(|| Tries::new(&client));
        tries.after_break(error).await?;
        add(&client.counters().resumed, 1);
        Ok(())
    }

    async fn open(&mut self) -> Result<Flow, RegistryError> {
        self.mirror = None; // a failure to come is not that one's
        let Answer { reply, mirror, .. } = self.place.ask(self.at, self.end, self.weight.clone()).await?;
        self.mirror = mirror;
        *self.place.host.lock() = Some(reply.body.host().to_owned());
        add(&self.place.clients.now().counters().blob_requests, 1);
        let is_whole = self.at == 0 && self.end == self.place.size;
        let length = reply.body.length();
        match reply.status {
            StatusCode::PARTIAL_CONTENT if !is_whole => {
                self.check_range(reply.header(CONTENT_RANGE))?;
                self.check_length(length, self.end - self.at, self.at)?;
                Ok(Flow { body: reply.body, skip: 0, is_exact: true })
            }
            StatusCode::OK => {
                self.check_length(length, self.place.size, 0)?;
                if self.at > SKIP_BYTES_MAX {
                    let cause =
                        "it does not answer requests for a range, and the layer is too large without".to_owned();
                    return Err(self.place.protocol(cause));
                }
                Ok(Flow { body: reply.body, skip: self.at, is_exact: self.end == self.place.size })
            }
            status => Err(self.place.protocol(format!("status {}", status.as_u16()))),
        }
    }

    /// `Content-Range: bytes FIRST-LAST/TOTAL` must be the range that was asked for (RFC 9110, 14.4).
    fn check_range(&self, header: Option<&str>) -> Result<(), RegistryError> {
        let is_right = header.and_then(parse_content_range).is_some_and(|(first, last, total)| {
            first == self.at && last == self.end - 1 && total.is_none_or(|total| total == self.place.size)
        });
        if is_right {
            return Ok(());
        }
        let want = format!("bytes {}-{} of {}", self.at, self.end - 1, self.place.size);
        Err(self.place.protocol(match header.and_then(parse_content_range) {
            Some((first, last, Some(total))) => format!("asked for {want}, it sent bytes {first}-{last} of {total}"),
            Some((first, last, None)) => format!("asked for {want}, it sent bytes {first}-{last}"),
            None => format!("asked for {want}, it does not say what it sent"),
        }))
    }

    fn check_length(&self, length: Option<u64>, want: u64, before: u64) -> Result<(), RegistryError> {
        match length {
            Some(length) if length != want => Err(self.wrong_size(before.saturating_add(length))),
            _ => Ok(()),
        }
    }

    fn wrong_size(&self, has: u64) -> RegistryError {
        RegistryError::Size { what: self.place.to_string(), has, want: self.end }
    }
}

/// First, last and, if it is said, the total.
fn parse_content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((first.parse().ok()?, last.parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_understood_or_not_at_all() {
        let cases = [
            ("bytes 0-9/10", Some((0, 9, Some(10)))),
            ("bytes 5-9/*", Some((5, 9, None))),
            ("bytes */10", None),
            ("items 0-9/10", None),
            ("bytes 0-9", None),
            ("bytes -1-9/10", None),
            ("", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse_content_range(text), want, "{text:?}");
        }
    }
}
