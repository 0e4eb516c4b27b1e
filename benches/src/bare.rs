//! The bare prototype: hyper, the engine and JSON on one thread, and nothing else. The limit for a server that does more.
//!
//! With a constant instead of a model it is the limit of the HTTP stack itself.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use crate::engine::Engine;

/// What answers.
enum Answerer {
    Constant(Bytes),
    Model(RefCell<Engine>),
}

/// Serves a model, or a constant if there is none, until the process ends.
pub fn serve(address: SocketAddr, model: Option<(&Path, &Path)>) -> Result<()> {
    let answerer = match model {
        Some((library, model)) => Answerer::Model(RefCell::new(Engine::load(library, model)?)),
        None => Answerer::Constant(Bytes::from_static(
            b"{\"model_name\":\"constant\",\"outputs\":[{\"name\":\"label\",\"datatype\":\"INT64\",\"shape\":[1],\"data\":[1]}]}",
        )),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, accept(address, Rc::new(answerer)))
}

async fn accept(address: SocketAddr, answerer: Rc<Answerer>) -> Result<()> {
    let listener =
        tokio::net::TcpListener::bind(address).await.with_context(|| format!("could not listen on {address}"))?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answerer = answerer.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| answer(answerer.clone(), request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(answerer: Rc<Answerer>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes());
    let answer = match (&*answerer, body) {
        (Answerer::Constant(answer), Ok(_)) => Ok(answer.clone()),
        (Answerer::Model(engine), Ok(body)) => infer(&mut engine.borrow_mut(), &body),
        (_, Err(error)) => Err(error.into()),
    };
    let (status, body) = match answer {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => {
            (StatusCode::BAD_REQUEST, Bytes::from(serde_json::json!({"error": format!("{error:#}")}).to_string()))
        }
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    Ok(response)
}

fn infer(engine: &mut Engine, body: &[u8]) -> Result<Bytes> {
    Ok(engine.answer(serde_json::from_slice(body)?)?.into())
}
