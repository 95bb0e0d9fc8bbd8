//! Looks at the first message of a gRPC request without taking it away: what was read is put before the rest again.

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::body::{Frame, Incoming};
use prost::Message as _;
use prost::encoding::{self, DecodeContext, WireType};

use super::pulls::{Asked, Auth};

mod protocol {
    #![allow(unreachable_pub, clippy::all, clippy::pedantic)]
    include!(concat!(env!("OUT_DIR"), "/runtime.v1.rs"));
}

/// A request's body on its way to containerd.
pub(super) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// What a PullImage turned out to say.
pub(super) enum Seen {
    Asked(Asked, Alike),
    /// Why it is not understood. containerd will.
    Opaque(&'static str),
}

/// What PullImages have in common that may share one answer of containerd's: every field but the pod's, as it came, and of the pod's
/// what chooses a snapshotter.
pub(super) type Alike = Vec<u8>;

/// Of PullImageRequest, and of PodSandboxConfig.
const POD: u32 = 3;
const POD_ANNOTATIONS: u32 = 7;
/// By this one containerd (`snapshotterFromPodSandboxConfig`) finds the snapshotter of the pod's runtime.
const RUNTIME_HANDLER: &[u8] = b"io.containerd.cri.runtime-handler";

/// A reference, a login and a pod's sandbox take a few KiB.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The name of a repository has 255 bytes at most, tag and digest 200 together. What is longer would only fill the log.
const REFERENCE_BYTES_MAX: usize = 1024;

/// A flag for compression and four bytes of length stand before each message.
const PREFIX_BYTES: usize = 5;

/// The first message of `body`, and the body as if nobody had looked.
///
/// # Errors
/// Fails where the client goes away.
pub(super) async fn look(mut body: Incoming) -> Result<(Seen, Body), hyper::Error> {
    let (mut read, mut bytes) = (Vec::new(), BytesMut::new());
    let seen = loop {
        if let Some(seen) = parse(&bytes) {
            break seen;
        }
        match body.frame().await {
            None => break Seen::Opaque("it ends in the middle"),
            Some(frame) => {
                let frame = frame?;
                if let Some(data) = frame.data_ref() {
                    bytes.extend_from_slice(data);
                }
                read.push(Ok(frame));
            }
        }
    };
    let again: Vec<Result<Frame<Bytes>, hyper::Error>> = read;
    let whole = StreamBody::new(stream::iter(again).chain(BodyStream::new(body)));
    Ok((seen, whole.boxed_unsync()))
}

/// `None` until there is enough of it.
fn parse(bytes: &[u8]) -> Option<Seen> {
    let (mut prefix, message) = bytes.split_at_checked(PREFIX_BYTES)?;
    if prefix.get_u8() != 0 {
        return Some(Seen::Opaque("it is compressed"));
    }
    let length = prefix.get_u32() as usize;
    if length > MESSAGE_BYTES_MAX {
        return Some(Seen::Opaque("it is too large"));
    }
    let message = message.get(..length)?;
    Some(match (protocol::PullImageRequest::decode(message), alike(message)) {
        (Ok(request), Some(alike)) => asked(request, alike),
        _not_said_why_for_it_may_quote => Seen::Opaque("it does not decode"),
    })
}

/// `None` where the message is none.
fn alike(message: &[u8]) -> Option<Alike> {
    let mut alike = Vec::with_capacity(message.len());
    for (number, field) in fields(message)? {
        if number == POD {
            let annotations = fields(content(field)?)?.into_iter().filter(|(number, _)| *number == POD_ANNOTATIONS);
            let of_handler =
                |annotation: &&[u8]| annotation.windows(RUNTIME_HANDLER.len()).any(|key| key == RUNTIME_HANDLER);
            annotations
                .map(|(_, annotation)| annotation)
                .filter(of_handler)
                .for_each(|one| alike.extend_from_slice(one));
        } else {
            alike.extend_from_slice(field);
        }
    }
    Some(alike)
}

/// The fields of a message with their numbers, each with its key.
fn fields(message: &[u8]) -> Option<Vec<(u32, &[u8])>> {
    let (mut rest, mut found) = (message, Vec::new());
    while !rest.is_empty() {
        let whole = rest;
        let (number, wire_type) = encoding::decode_key(&mut rest).ok()?;
        encoding::skip_field(wire_type, number, &mut rest, DecodeContext::default()).ok()?;
        found.push((number, whole.get(..whole.len() - rest.len())?));
    }
    Some(found)
}

/// What is in a field that is a message.
fn content(mut field: &[u8]) -> Option<&[u8]> {
    let (_, wire_type) = encoding::decode_key(&mut field).ok()?;
    (wire_type == WireType::LengthDelimited).then_some(())?;
    let length = encoding::decode_varint(&mut field).ok()?;
    field.get(..usize::try_from(length).ok()?)
}

fn asked(request: protocol::PullImageRequest, alike: Alike) -> Seen {
    let image = request.image.map(|spec| spec.image).unwrap_or_default();
    if image.is_empty() {
        return Seen::Opaque("it names no image");
    }
    if image.len() > REFERENCE_BYTES_MAX {
        return Seen::Opaque("its image's name is too long");
    }
    let auth = request.auth.map(|auth| Auth {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    });
    Seen::Asked(Asked { image, auth: auth.filter(|auth| !auth.is_empty()) }, alike)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        [&[flag][..], &(message.len() as u32).to_be_bytes(), message].concat()
    }

    fn opaque(bytes: &[u8]) -> Option<&'static str> {
        match parse(bytes) {
            Some(Seen::Opaque(why)) => Some(why),
            _ => None,
        }
    }

    #[test]
    fn a_request_says_who_pulls_what() {
        // Field by field as the published protocol numbers them: image{1: "redis:7"}, auth{1: user, 2: password}, a sandbox.
        let message = b"\x0a\x09\x0a\x07redis:7\x12\x08\x0a\x02me\x12\x02pw\x1a\x04\x0a\x02\x0a\x00";
        let bytes = framed(0, message);
        let Some(Seen::Asked(asked, _)) = parse(&bytes) else { panic!("not understood") };
        let auth = Auth { username: "me".into(), password: "pw".into(), ..Auth::default() };
        assert_eq!(asked, Asked { image: "redis:7".into(), auth: Some(auth) });
        assert_eq!(format!("{asked:?}"), "Asked { image: \"redis:7\", auth: Some(Auth(..)) }");
        for cut in 0..bytes.len() {
            assert!(parse(&bytes[..cut]).is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn pulls_are_alike_whatever_pod_wants_them_but_not_for_another_runtime() {
        // image{1: "redis:7"}, then sandbox{1: metadata{..}}, sandbox{7: {1: "io.containerd.cri.runtime-handler", 2: "kata"}}.
        let image = b"\x0a\x09\x0a\x07redis:7";
        let pod = |name: u8| [&image[..], b"\x1a\x05\x0a\x03\x0a\x01", &[name]].concat();
        let annotation = [b"\x0a\x21", RUNTIME_HANDLER, b"\x12\x04kata"].concat();
        let handled =
            [&image[..], &[0x1a, annotation.len() as u8 + 2, 0x3a, annotation.len() as u8], &annotation].concat();
        assert_eq!(alike(&pod(b'a')).unwrap(), image);
        assert_eq!(alike(&pod(b'a')), alike(&pod(b'b')));
        assert_ne!(alike(&handled), alike(&pod(b'a')));
        // What is not known matters.
        assert_ne!(alike(&[&image[..], b"\x20\x01"].concat()), alike(image));
        assert_eq!(alike(b"\x0a\xff"), None);
    }

    #[test]
    fn what_is_not_understood_is_left_to_containerd() {
        assert_eq!(opaque(&framed(1, b"x")), Some("it is compressed"));
        assert_eq!(opaque(&[0, 0xff, 0xff, 0xff, 0xff]), Some("it is too large"));
        assert_eq!(opaque(&framed(0, b"\x0a\xff")), Some("it does not decode"));
        assert_eq!(opaque(&framed(0, b"")), Some("it names no image"));
        assert_eq!(opaque(&framed(0, b"\x12\x04\x0a\x02me")), Some("it names no image"));
    }
}
