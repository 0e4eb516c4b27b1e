//! What a request leaves behind for shadows and the tap: decided when its answer comes, gathered while that is passed on.
//!
//! Promises: nothing is copied but references to bytes that pass anyway; a caller who leaves early ends the gathering.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request};
use http_body::{Body, Frame};
use modelyard_core::RevisionNumber;

use super::aside::{Aside, Hearing};
use super::micros_since;
use super::shadow::{Permit, Plan, Shadow};
use crate::affinity::Session;
use crate::body::{Answer, BodyError, Payload};
use crate::compare::{BODY, Said};
use crate::forward::Call;
use crate::tap;
use crate::trace::TraceParent;

/// What is to be done beside the requests of one service.
pub struct Watch {
    /// Its shadows.
    pub(super) ways: Vec<Way>,
    /// What is told of its answers.
    pub tap: Option<Arc<tap::Route>>,
}

/// The way to one shadow.
pub(super) struct Way {
    pub shadow: Arc<Shadow>,
    pub plan: Arc<Plan>,
}

/// An attempt whose end is of interest.
pub struct Asked {
    watch: Rc<Watch>,
    revision: RevisionNumber,
    session: Option<Session>,
    sent: Instant,
}

/// What a request leaves behind.
pub(super) struct Left {
    pub watch: Rc<Watch>,
    pub is_told: bool,
    pub shadows: Vec<(Permit, Arc<Plan>)>,
    /// The request's head, if it is to be sent again.
    pub parts: Option<request::Parts>,
    pub path: String,
    pub query: Option<String>,
    pub from: String,
    pub trace: TraceParent,
    pub id: HeaderValue,
    pub session: Option<Session>,
    pub is_grpc: bool,
    pub payload: Payload,
    pub revision: RevisionNumber,
    pub micros: u64,
    pub at_ms: u64,
    pub said: Hearing,
}

impl Asked {
    /// An attempt at a revision, begun at `sent`.
    pub const fn new(watch: Rc<Watch>, revision: RevisionNumber, session: Option<Session>, sent: Instant) -> Self {
        Self { watch, revision, session, sent }
    }

    /// Has a look at the answer that the caller gets, and gathers what is wanted of it while it passes.
    pub fn attend(
        self,
        aside: &Rc<Aside>,
        call: &Call<'_>,
        path: &str,
        payload: &Payload,
        response: Response<Answer>,
    ) -> Response<Answer> {
        if !is_prediction(&call.parts.method, path, call.is_grpc) {
            return response;
        }
        // One draw for all: shadows with equal shares, and the tap, see the same requests. Not the one that chose the arm.
        let draw = fastrand::u16(..10_000);
        let is_told = self.watch.tap.as_ref().is_some_and(|tap| draw < tap.rule.share.basis_points());
        let is_answered = response.body().instance().is_some();
        let shadows = if is_answered { self.shadows(draw) } else { Vec::new() };
        if !is_told && shadows.is_empty() {
            return response;
        }
        let micros = micros_since(self.sent);
        let told_bytes = self.watch.tap.as_ref().filter(|_| is_told).map_or(0, |tap| tap.response_bytes());
        let limit = if shadows.is_empty() { usize::try_from(told_bytes).unwrap_or(BODY).min(BODY) } else { BODY };
        let mut said = said(response.status(), response.headers(), call.is_grpc);
        if !is_answered {
            said.status = 0;
        }
        let left = Left {
            is_told,
            parts: (!shadows.is_empty()).then(|| call.parts.clone()),
            shadows,
            path: path.to_owned(),
            query: call.parts.uri.query().map(str::to_owned),
            from: call.caller.address.clone(),
            trace: call.trace,
            id: call.request_id.clone(),
            session: self.session,
            is_grpc: call.is_grpc,
            payload: payload.clone(),
            revision: self.revision,
            micros,
            at_ms: now_ms(),
            said: Hearing::new(said, limit),
            watch: self.watch,
        };
        let mut tee = Tee { aside: aside.clone(), left: Some(Box::new(left)) };
        if !is_answered || response.body().is_end_stream() {
            tee.end();
        }
        response.map(|body| body.with_tee(tee))
    }

    /// Shadows that get a copy. What is over a limit is counted as shed.
    fn shadows(&self, draw: u16) -> Vec<(Permit, Arc<Plan>)> {
        let is_compared =
            |plan: &Plan| plan.revision != self.revision && plan.against.is_none_or(|against| against == self.revision);
        let drawn = self.watch.ways.iter().filter(|way| draw < way.plan.share && is_compared(&way.plan));
        drawn
            .filter_map(|way| {
                let limit = if way.plan.instances.is_empty() { 0 } else { way.plan.limit };
                let permit = way.shadow.permit(limit);
                if permit.is_none() {
                    way.shadow.shed();
                }
                Some((permit?, way.plan.clone()))
            })
            .collect()
    }
}

/// Gathers an answer while it passes; hands over what the request leaves behind when it is dropped.
pub struct Tee {
    aside: Rc<Aside>,
    left: Option<Box<Left>>,
}

impl Tee {
    /// A frame passes; `None` is the end.
    pub fn frame(&mut self, frame: Option<&Result<Frame<Bytes>, BodyError>>) {
        let Some(left) = &mut self.left else { return };
        match frame {
            Some(Ok(frame)) => match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => left.said.data(data),
                (None, Some(trailers)) => {
                    left.said.trailers(trailers);
                    left.said.end();
                }
                (None, None) => {}
            },
            Some(Err(_)) => left.said.broke_off(),
            None => left.said.end(),
        }
    }

    /// The body is complete.
    pub fn end(&mut self) {
        if let Some(left) = &mut self.left {
            left.said.end();
        }
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        if let Some(left) = self.left.take() {
            self.aside.leave(left);
        }
    }
}

/// Whether a request asks for a prediction rather than about the model: nobody learns from comparing metadata.
fn is_prediction(method: &Method, path: &str, is_grpc: bool) -> bool {
    if is_grpc {
        let inference = path.strip_prefix("/inference.GRPCInferenceService/");
        return inference.is_none_or(|method| matches!(method, "ModelInfer" | "ModelStreamInfer"));
    }
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => {
            !(path == "/v2" || path.starts_with("/v2/") || path.is_empty() || path == "/")
        }
        _ => true,
    }
}

/// The head of an answer, as far as it is compared and told.
pub(super) fn said(status: StatusCode, map: &HeaderMap, is_grpc: bool) -> Said {
    let text = |name: &str| map.get(name).and_then(|value| value.to_str().ok());
    let content_type: String = text("content-type").unwrap_or_default().chars().take(256).collect();
    Said {
        status: status.as_u16(),
        grpc_status: grpc_status(map).filter(|_| is_grpc),
        content_type: content_type.to_ascii_lowercase(),
        encoded: map.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity"),
        header_length: text("inference-header-content-length").and_then(|length| length.parse().ok()),
        body: None,
    }
}

/// `grpc-status`, in head or trailers.
pub(super) fn grpc_status(map: &HeaderMap) -> Option<u16> {
    map.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// A path as it is told.
pub(super) fn told_path(path: &str, query: Option<&str>) -> String {
    query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_predictions_are_copied_and_told() {
        let asks = |method: Method, path: &str| is_prediction(&method, path, false);
        assert!(asks(Method::POST, "/v2/models/wine/infer") && asks(Method::GET, "/score?a=1"));
        assert!(
            !asks(Method::GET, "/v2/models/wine")
                && !asks(Method::GET, "/v2/models/wine/ready")
                && !asks(Method::GET, "/")
        );
        let grpc = |path: &str| is_prediction(&Method::POST, path, true);
        assert!(grpc("/inference.GRPCInferenceService/ModelInfer") && grpc("/own.Service/Score"));
        assert!(!grpc("/inference.GRPCInferenceService/ModelMetadata"));
    }
}
