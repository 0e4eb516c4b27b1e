//! Request bodies, whole and limited.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, HeaderMap};

use crate::refusal::{Kind, Refusal};

/// How long the next piece of a body may take.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a body needs to be read.
pub(super) struct Whole {
    pub(super) body: Bytes,
    /// The header `Inference-Header-Content-Length`.
    pub(super) json_length: Option<usize>,
}

/// Reads the body of a request.
pub(super) async fn read(request: Request<Incoming>, limit: usize) -> Result<Whole, Refusal> {
    let json_length = json_length(request.headers())?;
    let encoded = request.headers().get(CONTENT_ENCODING).is_some_and(|value| value != "identity");
    if encoded {
        return Err(Refusal::new(
            Kind::Unsupported,
            "compressed request bodies are not taken; send them without Content-Encoding",
        ));
    }
    let body = collect(request.into_body(), limit).await?;
    Ok(Whole { body, json_length })
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let Some(value) = headers.get("inference-header-content-length") else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| Refusal::invalid("Inference-Header-Content-Length is no number of bytes"))
}

async fn collect(mut body: Incoming, limit: usize) -> Result<Bytes, Refusal> {
    let too_large =
        || Refusal::new(Kind::TooLarge, format!("the request body is larger than the limit of {limit} bytes"));
    let announced = body.size_hint().exact();
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let Some(first) = piece(&mut body).await? else { return Ok(Bytes::new()) };
    if announced == Some(first.len() as u64) {
        return Ok(first);
    }
    // Memory grows with what has arrived, not with what was announced.
    let mut whole = BytesMut::with_capacity(first.len() * 2);
    whole.extend_from_slice(&first);
    while let Some(next) = piece(&mut body).await? {
        if whole.len() + next.len() > limit {
            return Err(too_large());
        }
        whole.extend_from_slice(&next);
    }
    match whole.len() > limit {
        true => Err(too_large()),
        false => Ok(whole.freeze()),
    }
}

/// The next piece of data; `None` at the end.
async fn piece(body: &mut Incoming) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = match tokio::time::timeout(PIECE_TIMEOUT, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err(Refusal::invalid("the request body ended early or is not framed rightly")),
            Ok(None) => return Ok(None),
            Err(_) => return Err(Refusal::new(Kind::TooSlow, "the request body came too slowly")),
        };
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}
