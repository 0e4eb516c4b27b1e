//! Inference over REST: in the protocol's form, in the plain one, and in those of contracts.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode};

use super::reply::{self, Body, refuse};
use super::request::{self, Whole};
use crate::batch::{Reply, Slice, rows};
use crate::body::{answer, infer, plain};
use crate::contract::{self, Media};
use crate::model::{Question, Wanted};
use crate::refusal::{Kind, Refusal};
use crate::server::{Loaded, Thread};
use crate::stats::Protocol;

/// Bodies and answers above this are read and written on a helper thread: the other connections would wait for them.
const LARGE: usize = 256 << 10;

/// How a request is to be read, and its answer written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Speech {
    /// Open Inference Protocol.
    Protocol,
    Plain,
    Contract(contract::Route, Media),
}

impl Speech {
    fn counted(self) -> Protocol {
        match self {
            Self::Protocol => Protocol::Rest,
            Self::Plain => Protocol::Plain,
            Self::Contract(..) => Protocol::Contract,
        }
    }

    fn refuse(self, refusal: &Refusal) -> Response<Body> {
        match self {
            Self::Protocol | Self::Plain => refuse(refusal),
            Self::Contract(route, _) => super::contract::refuse(route, refusal),
        }
    }
}

/// The form of an answer.
#[derive(Clone, Copy, Debug)]
enum Form {
    Protocol,
    Plain,
    Contract(contract::Form),
}

/// Answers one inference request. `named` says whether it is meant for this model.
pub(super) async fn answer(
    thread: &Thread,
    request: Request<Incoming>,
    speech: Speech,
    named: Result<(), Refusal>,
) -> Response<Body> {
    let open = thread.shared.counts[thread.index].begin(speech.counted());
    // The body is read even if it is for nothing: an HTTP/1.1 connection can only be used again behind it.
    let outcome = match request::read(request, thread.shared.max_body).await {
        Ok(whole) => match named {
            Ok(()) => infer(thread, whole, speech).await,
            Err(refusal) => Err(refusal),
        },
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok((response, slice, rows)) => {
            open.end(200, Some((&slice, rows)));
            response
        }
        Err(refusal) => {
            open.end(reply::status(refusal.kind).as_u16(), None);
            speech.refuse(&refusal)
        }
    }
}

async fn infer(thread: &Thread, whole: Whole, speech: Speech) -> Result<(Response<Body>, Slice, usize), Refusal> {
    let loaded = thread.shared.loaded()?;
    let large = whole.body.len() > LARGE;
    let (question, form) = match large {
        false => read(loaded, &whole, speech)?,
        true => aside(thread, move |loaded| read(loaded, &whole, speech)).await??,
    };
    let rows = rows(&question.inputs).unwrap_or(1);
    let reply = loaded.ask(thread.index, question.inputs)?;
    let slice = received(reply.await)?;
    let wanted = question.wanted;
    let size: usize =
        wanted.outputs.iter().map(|&(index, _)| slice.output(index)).map(|part| part.end - part.start).sum();
    let response = match size * 4 > LARGE {
        false => write(loaded, &wanted, &slice, form)?,
        true => {
            let slice = slice.clone();
            aside(thread, move |loaded| write(loaded, &wanted, &slice, form)).await??
        }
    };
    Ok((response, slice, rows))
}

/// What came back from the engine.
pub(crate) fn received(reply: Result<Reply, tokio::sync::oneshot::error::RecvError>) -> Result<Slice, Refusal> {
    reply.unwrap_or_else(|_| Err(Refusal::new(Kind::Engine, "the engine gave up on this request")))
}

fn read(loaded: &Loaded, whole: &Whole, speech: Speech) -> Result<(Question, Form), Refusal> {
    let model = &loaded.model;
    match speech {
        Speech::Plain => Ok((plain::read(model, &whole.body)?, Form::Plain)),
        Speech::Protocol => Ok((infer::read(model, &whole.body, whole.json_length)?, Form::Protocol)),
        Speech::Contract(route, media) => {
            let (question, form) = contract::read(model, route, media, &whole.body)?;
            Ok((question, Form::Contract(form)))
        }
    }
}

fn write(loaded: &Loaded, wanted: &Wanted, slice: &Slice, form: Form) -> Result<Response<Body>, Refusal> {
    let json = |body: Vec<u8>| reply::bytes(StatusCode::OK, "application/json", body.into());
    let written = match form {
        Form::Plain => return Ok(json(plain::write(&loaded.model, wanted, slice))),
        Form::Contract(form) => return contract::write(&loaded.model, wanted, slice, form).map(json),
        Form::Protocol => answer::write(&loaded.model, wanted, slice),
    };
    Ok(match written.json_length {
        None => json(written.body),
        Some(length) => {
            let body = Bytes::from(written.body);
            let mut response = reply::bytes(StatusCode::OK, "application/octet-stream", body);
            response.headers_mut().insert("inference-header-content-length", HeaderValue::from(length));
            response
        }
    })
}

/// Runs something long on a helper thread.
async fn aside<T: Send + 'static>(
    thread: &Thread,
    work: impl FnOnce(&Loaded) -> T + Send + 'static,
) -> Result<T, Refusal> {
    let shared = thread.shared.clone();
    let work = move || shared.loaded().map(work);
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Refusal::new(Kind::Engine, "the server failed to read or write this request")))
}
