//! Looks at the first message of a gRPC request without taking it away: what was read is put before the rest again.

use bytes::{Buf as _, Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::body::{Frame, Incoming};
use prost::Message as _;

use super::pulls::{Asked, Auth};

mod protocol {
    #![allow(unreachable_pub, clippy::all, clippy::pedantic)]
    include!(concat!(env!("OUT_DIR"), "/runtime.v1.rs"));
}

/// A request's body on its way to containerd.
pub(super) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// What a PullImage turned out to say.
pub(super) enum Seen {
    Asked(Asked),
    /// Why it is not understood. containerd will.
    Opaque(&'static str),
}

/// A reference, a login and a pod's sandbox take a few KiB.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

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
    Some(match protocol::PullImageRequest::decode(message.get(..length)?) {
        Ok(request) => asked(request),
        Err(_not_said_for_it_may_quote) => Seen::Opaque("it does not decode"),
    })
}

fn asked(request: protocol::PullImageRequest) -> Seen {
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
    Seen::Asked(Asked { image, auth: auth.filter(|auth| !auth.is_empty()) })
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
        let Some(Seen::Asked(asked)) = parse(&bytes) else { panic!("not understood") };
        let auth = Auth { username: "me".into(), password: "pw".into(), ..Auth::default() };
        assert_eq!(asked, Asked { image: "redis:7".into(), auth: Some(auth) });
        assert_eq!(format!("{asked:?}"), "Asked { image: \"redis:7\", auth: Some(Auth(..)) }");
        for cut in 0..bytes.len() {
            assert!(parse(&bytes[..cut]).is_none(), "cut at {cut}");
        }
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
