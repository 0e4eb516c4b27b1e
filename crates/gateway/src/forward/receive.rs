//! The caller's body: what is small is received whole, what is large is passed on as it comes.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header, request};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::body::{BodyError, Payload, Replay};
use crate::incoming::Refusal;
use crate::limits;

/// Receives a request's body as far as that is worth it.
///
/// # Errors
/// A [`Refusal`] when it is too large, breaks off, or does not come.
pub async fn payload(parts: &request::Parts, body: Incoming) -> Result<Payload, Refusal> {
    if body.is_end_stream() {
        return Ok(Payload::Empty);
    }
    let length = body.size_hint().exact().or_else(|| told_length(parts));
    match length {
        Some(length) if length > limits::BODY => Err(refusal(&BodyError::TooLarge)),
        Some(length) if length <= limits::WHOLE => whole(body, length as usize).await.map(Payload::Whole),
        length => Ok(Payload::Stream(Rc::new(RefCell::new(Replay::new(body))), length)),
    }
}

fn told_length(parts: &request::Parts) -> Option<u64> {
    let value: &HeaderValue = parts.headers.get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}

async fn whole(mut body: Incoming, length: usize) -> Result<Bytes, Refusal> {
    // Usually all of it came with the head: no timer, no copy.
    let mut ready = std::pin::pin!(body.frame());
    let first = std::future::poll_fn(|cx| std::task::Poll::Ready(ready.as_mut().poll(cx))).await;
    let mut bytes = match first {
        std::task::Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
            Ok(data) if data.len() == length => return Ok(data),
            Ok(data) => BytesMut::from(data),
            Err(_) => return Ok(Bytes::new()),
        },
        std::task::Poll::Ready(Some(Err(error))) => return Err(refusal(&BodyError::Caller(error))),
        std::task::Poll::Ready(None) => return Ok(Bytes::new()),
        std::task::Poll::Pending => BytesMut::with_capacity(length),
    };
    let rest = Box::pin(async {
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(BodyError::Caller)?.into_data() {
                bytes.extend_from_slice(&data);
            }
        }
        Ok(bytes.freeze())
    });
    match tokio::time::timeout(limits::BODY_TIME, rest).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(refusal(&error)),
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request's body did not come in time")),
    }
}

/// What a caller is told whose body failed.
pub fn refusal(error: &BodyError) -> Refusal {
    match error {
        BodyError::TooLarge => Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the request's {error}")),
        BodyError::Caller(_) | BodyError::Instance(_) => {
            Refusal::new(StatusCode::BAD_REQUEST, "the request's body broke off or is framed wrongly")
        }
    }
}
