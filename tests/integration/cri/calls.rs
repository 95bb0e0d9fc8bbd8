//! gRPC calls whose messages are bytes: by tonic, so that somebody else's idea of the protocol judges ours.

use std::path::Path;

use bytes::{Buf as _, BufMut as _, Bytes};
use futures::Stream;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

/// Messages as they are on the wire.
#[derive(Default, Clone, Copy)]
pub(super) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A call: its method and what metadata goes with it.
pub(super) struct Call {
    path: &'static str,
    metadata: Vec<(&'static str, &'static str)>,
}

impl Call {
    pub(super) fn to(path: &'static str) -> Self {
        Self { path, metadata: Vec::new() }
    }

    pub(super) fn with(mut self, key: &'static str, value: &'static str) -> Self {
        self.metadata.push((key, value));
        self
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        for (key, value) in &self.metadata {
            request.metadata_mut().insert(*key, value.parse().unwrap());
        }
        request
    }
}

/// A client with a connection of its own.
#[derive(Clone)]
pub(super) struct Caller {
    channel: Channel,
}

/// containerd takes and sends messages up to this.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

impl Caller {
    pub(super) fn at(socket: &Path) -> Self {
        let socket = socket.to_owned();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // As Go's clients do: a stream that nobody reads is no reason to stop reading the others.
        let endpoint = Endpoint::from_static("http://localhost")
            .initial_stream_window_size(64 << 10)
            .initial_connection_window_size(64 << 20);
        Self { channel: endpoint.connect_with_connector_lazy(connect) }
    }

    async fn grpc(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc = grpc.max_decoding_message_size(2 * MESSAGE_BYTES_MAX).max_encoding_message_size(2 * MESSAGE_BYTES_MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(format!("not connected: {error}")))?;
        Ok(grpc)
    }

    pub(super) async fn unary(&self, call: &Call, message: impl Into<Bytes>) -> Result<Response<Bytes>, Status> {
        self.grpc().await?.unary(call.request(message.into()), call.path.parse().unwrap(), Raw).await
    }

    pub(super) async fn streams(
        &self,
        call: &Call,
        messages: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Response<Streaming<Bytes>>, Status> {
        self.grpc().await?.streaming(call.request(messages), call.path.parse().unwrap(), Raw).await
    }

    /// Pulls, as kubelet does.
    pub(super) async fn pull(&self, image: &str, auth: Option<(&str, &str)>) -> Result<Bytes, Status> {
        let call = Call::to("/runtime.v1.ImageService/PullImage");
        self.unary(&call, frame_of_pull(image, auth)).await.map(Response::into_inner)
    }
}

/// A PullImageRequest, written by hand of the published numbers: image 1 {image 1, user_specified_image 18}, auth 2
/// {username 1, password 2}, sandbox_config 3 {metadata 1 {name 1}}.
pub(super) fn frame_of_pull(image: &str, auth: Option<(&str, &str)>) -> Bytes {
    let mut request = field(1, &[field(1, image.as_bytes()), field(18, image.as_bytes())].concat());
    if let Some((user, password)) = auth {
        request.extend(field(2, &[field(1, user.as_bytes()), field(2, password.as_bytes())].concat()));
    }
    request.extend(field(3, &field(1, &field(1, b"a-pod"))));
    request.into()
}

/// A field of bytes.
pub(super) fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    for mut value in [number << 3 | 2, bytes.len() as u64] {
        while value >= 0x80 {
            field.push(value as u8 | 0x80);
            value >>= 7;
        }
        field.push(value as u8);
    }
    field.extend(bytes);
    field
}
