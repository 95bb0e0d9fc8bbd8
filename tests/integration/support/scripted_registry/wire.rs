//! HTTP as the script has it: requests as they come, answers as they should not.

use super::*;

/// Gives a document, rightly or as `act` has it.
pub(super) async fn give<S: AsyncWrite + Unpin>(
    stream: &mut S,
    request: &Seen,
    act: Option<Act>,
    media_type: &str,
    bytes: Bytes,
) -> Option<Next> {
    let bytes = if let Some(Act::Bytes(other)) = &act { other.clone() } else { bytes };
    let mut headers = vec![("Content-Type", media_type.to_owned())];
    if let Some(Act::Header(name, value)) = &act {
        headers.push((name, value.clone()));
    }
    if let Some(Act::Chunked(len, more)) = &act {
        return chunked(stream, &bytes[..*len], more).await;
    }
    let range = request.headers.get("range").filter(|_| !matches!(act, Some(Act::Whole)));
    let (status, body) = match range.and_then(|text| parse_range(text)) {
        Some((first, last)) if last < bytes.len() => {
            let off = usize::from(matches!(act, Some(Act::OtherRange)));
            if !matches!(act, Some(Act::NoRange)) {
                let value = format!("bytes {}-{}/{}", first + off, last + off, bytes.len());
                headers.push(("Content-Range", value));
            }
            (206, bytes.slice(first..=last))
        }
        Some(_) => return respond(stream, 416, &[("Content-Range", format!("bytes */{}", bytes.len()))], b"").await,
        None => (200, bytes),
    };
    match act {
        Some(Act::CutAfter(len)) => {
            head(stream, status, &headers, body.len()).await?;
            stream.write_all(&body[..len.min(body.len())]).await.ok()?;
            Some(Next::Close)
        }
        Some(Act::StallAfter(len)) => {
            head(stream, status, &headers, body.len()).await?;
            stream.write_all(&body[..len]).await.ok()?;
            stream.flush().await.ok()?;
            std::future::pending().await
        }
        _ => respond(stream, status, &headers, &body).await,
    }
}

pub(super) async fn head<S: AsyncWrite + Unpin>(
    stream: &mut S,
    status: u16,
    headers: &[(&str, String)],
    len: usize,
) -> Option<()> {
    let mut text = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: {len}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes()).await.ok()
}

pub(super) async fn respond<S: AsyncWrite + Unpin>(
    stream: &mut S,
    status: u16,
    headers: &[(&str, String)],
    body: &[u8],
) -> Option<Next> {
    head(stream, status, headers, body.len()).await?;
    stream.write_all(body).await.ok()?;
    stream.flush().await.ok()?;
    Some(Next::KeepAlive)
}

pub(super) async fn chunked<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8], more: &[u8]) -> Option<Next> {
    stream.write_all(b"HTTP/1.1 200 Scripted\r\nTransfer-Encoding: chunked\r\n\r\n").await.ok()?;
    for piece in [bytes, more].iter().filter(|piece| !piece.is_empty()) {
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.ok()?;
        stream.write_all(piece).await.ok()?;
        stream.write_all(b"\r\n").await.ok()?;
    }
    stream.write_all(b"0\r\n\r\n").await.ok()?;
    stream.flush().await.ok()?;
    Some(Next::KeepAlive)
}

pub(super) async fn read_request<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        let is_text = buffer.first().is_none_or(u8::is_ascii_uppercase);
        (is_text && stream.read_buf(buffer).await.ok()? > 0).then_some(())?;
    };
    let text = String::from_utf8(buffer.drain(..end).collect()).ok()?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while buffer.len() < length {
        (stream.read_buf(buffer).await.ok()? > 0).then_some(())?;
    }
    let body = String::from_utf8_lossy(&buffer.drain(..length).collect::<Vec<u8>>()).into_owned();
    Some(Seen { method, target, headers, body })
}

pub(super) fn parse_range(text: &str) -> Option<(usize, usize)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}
