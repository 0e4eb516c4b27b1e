//! A request's way to an instance, and to another one if that fails before it answered.
//!
//! Promises: an instance is chosen per request; a request is sent at most `1 + retries` times, within the budget; what was refused a
//! connection was not sent and costs nothing; a request that took too long is not sent again.

pub mod attempt;
mod choose;
pub mod flight;
pub mod grpc;
mod park;
mod receive;

use std::rc::Rc;
use std::time::Instant;

use http::{HeaderValue, Method, Response, StatusCode, header, request};
use hyper::body::Incoming;
use modelyard_core::RevisionNumber;
use modelyard_core::api::path;

use crate::affinity::Place;
use crate::body::{Answer, Payload};
use crate::grpc::Blame;
use crate::headers;
use crate::incoming::{Caller, Refusal, shorten};
use crate::local;
use crate::mirror::Asked;
use crate::policy::ejection::Outcome;
use crate::table::{Instance, Pool, PoolMemory, Service};
use crate::trace::TraceParent;
use crate::upstream::Failure;
use crate::versions::Notice;
use crate::worker::Worker;

use attempt::{Attempt, Passed};
use choose::{Among, choose};
use flight::{Flight, blame};
use park::Parking;

/// A caller's request, apart from its body.
pub struct Call<'a> {
    /// Method, path, fields.
    pub parts: &'a request::Parts,
    /// Who asks.
    pub caller: &'a Caller,
    /// Trace context to pass on.
    pub trace: TraceParent,
    /// The request's id.
    pub request_id: &'a HeaderValue,
    /// Whether it is a gRPC call.
    pub is_grpc: bool,
}

/// What a request is aimed at.
#[derive(Clone, Copy)]
pub struct Aim<'a> {
    /// The service.
    pub service: &'a str,
    /// The API version, if one is named.
    pub api: Option<u16>,
    /// The revision, if one is named.
    pub revision: Option<RevisionNumber>,
    /// The path to pass on.
    pub path: &'a str,
}

/// Receives the body and forwards.
pub async fn call(worker: &Rc<Worker>, call: &Call<'_>, aim: Aim<'_>, body: Incoming) -> Response<Answer> {
    let notice = match find(worker, aim) {
        Ok((service, _)) => service.notice.clone(),
        Err(refusal) => return local::refuse(&refusal, call.is_grpc),
    };
    let response = match receive::payload(call.parts, body).await {
        Ok(payload) => forward(worker, call, aim, &payload).await,
        Err(refusal) => local::refuse(&refusal, call.is_grpc),
    };
    told(response, notice)
}

/// The answer with what callers of a deprecated API version are told.
pub fn told(mut response: Response<Answer>, notice: Option<Rc<Notice>>) -> Response<Answer> {
    if let Some(notice) = notice {
        notice.tell(response.headers_mut());
    }
    response
}

/// The service, and which of its pools may answer.
pub fn find(worker: &Worker, aim: Aim<'_>) -> Result<(Rc<Service>, Among), Refusal> {
    let Some(service) = worker.tables.service(aim.service, aim.api) else { return Err(nobody(worker, aim.service)) };
    let not_found = |why: String| Err(Refusal::new(StatusCode::NOT_FOUND, why));
    let api = aim.api.unwrap_or(service.default_api);
    match aim.revision {
        Some(revision) if !service.pools.contains_key(&revision) => {
            not_found(format!("revision {revision} of `{}` does not run", service.name))
        }
        Some(revision) => Ok((service, Among::Revision(revision))),
        None if service.has(api) => Ok((service, Among::Api(api))),
        None => not_found(format!("`{}` has no API version {api}", service.name)),
    }
}

/// Why nobody answers a name.
pub fn nobody(worker: &Worker, name: &str) -> Refusal {
    let table = worker.tables.current();
    if table.generation == 0 {
        let why = "the gateway has no route table yet; try again shortly";
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why);
    }
    let name = shorten(name);
    let left: Vec<String> = table.versions.all_further(&name).map(|(api, _)| path(&name, api)).collect();
    let why = match left.is_empty() {
        true => format!("no service is named `{name}`"),
        false => format!("`{name}` is gone; of its API versions there are {}", left.join(", ")),
    };
    Refusal::new(StatusCode::NOT_FOUND, why)
}

/// How the last attempt ended.
enum Last {
    Answer(Box<Response<Answer>>, Rc<PoolMemory>),
    Refusal(Refusal),
}

/// What became of a request so far.
#[derive(Default)]
struct Journey {
    tried: Vec<Rc<Instance>>,
    failed_at: Vec<Rc<PoolMemory>>,
    /// How often the request was sent.
    sent: u32,
    last: Option<Last>,
    /// What the caller is to keep, once an instance answered.
    cookie: Option<HeaderValue>,
}

/// Forwards a request until somebody answers or nobody is left.
pub async fn forward(worker: &Rc<Worker>, call: &Call<'_>, aim: Aim<'_>, payload: &Payload) -> Response<Answer> {
    let (mut journey, mut parking) = (Journey::default(), Parking::default());
    let (mut counted, mut place) = (false, None);
    let mut asked: Option<Asked> = None;
    // What is done beside the request, if anything is, begins with its answer.
    let attend = |asked: Option<Asked>, response| match asked {
        Some(asked) => asked.attend(&worker.aside, call, aim.path, payload, response),
        None => response,
    };
    loop {
        let (service, among) = match find(worker, aim) {
            Ok(found) => found,
            Err(refusal) => return local::refuse(&refusal, call.is_grpc),
        };
        let now = Instant::now();
        let now_ms = worker.ms_at(now);
        if !std::mem::replace(&mut counted, true) {
            service.memory.requests.set(service.memory.requests.get() + 1);
            service.memory.budget.borrow_mut().request(now_ms);
        }
        // Once, so that a retry is answered by the same arm; anew after a wait, since another table may have another salt.
        let (point, session) = *place.get_or_insert_with(|| {
            let Place { point, session, cookie } = service.sessions.place(call, aim.revision.is_some());
            journey.cookie = cookie;
            (point, session)
        });
        let may_send = journey.sent == 0 || journey.may_retry(&service, payload);
        let Some((pool, instance)) = choose(&service, among, point, &journey.tried, now_ms).filter(|_| may_send) else {
            if may_send
                && !matches!(journey.last, Some(Last::Answer(..)))
                && Box::pin(parking.wait(worker, &service)).await
            {
                journey.tried.clear();
                place = None;
                continue;
            }
            return attend(asked, journey.give_up(&service, call));
        };
        if journey.sent > 0 && !service.memory.budget.borrow_mut().grant(service.routing.retry_budget_percent, now_ms) {
            return attend(asked, journey.give_up(&service, call));
        }
        journey.forget_last();
        if let Some(watch) = service.watch.as_ref().filter(|_| aim.revision.is_none()) {
            asked = Some(Asked::new(watch.clone(), pool.revision, session, now));
        }
        let flight = Flight::start(pool.clone(), instance);
        let passed = Passed { path: aim.path, session, sent: now };
        let attempt = attempt::run(worker, call, passed, &service, flight, payload).await;
        if let Some(response) = journey.take(worker, call, &service, &pool, attempt, payload) {
            return attend(asked, response);
        }
    }
}

impl Journey {
    fn may_retry(&self, service: &Service, payload: &Payload) -> bool {
        self.sent <= service.routing.retries && payload.can_replay()
    }

    /// Notes how an attempt ended; the response if that is the end.
    fn take(
        &mut self,
        worker: &Worker,
        call: &Call<'_>,
        service: &Service,
        pool: &Rc<Pool>,
        attempt: Attempt,
        payload: &Payload,
    ) -> Option<Response<Answer>> {
        match attempt {
            Attempt::Answered(mut response) => {
                self.sent += 1;
                let map = response.headers_mut();
                map.insert(headers::REVISION, pool.revision_value.clone());
                map.insert(headers::VERSION, pool.version_value.clone());
                if !is_worth_another(&response) {
                    return Some(self.arrive(service, call, response));
                }
                // The instance's answer is kept until another one is found to ask.
                let flight = response.body().instance()?.clone();
                self.tried.push(flight);
                self.last = Some(Last::Answer(Box::new(response), pool.memory.clone()));
                None
            }
            Attempt::TooLong(mut flight) => {
                if !payload.has_ended() {
                    let refusal = Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request's body did not come in time");
                    return Some(local::refuse(&refusal, call.is_grpc));
                }
                flight.failed(service, Outcome::Bad, worker.now_ms());
                let why = format!(
                    "`{}` revision {} did not answer within {}",
                    service.name, pool.revision, service.routing.timeout
                );
                self.last = Some(Last::Refusal(Refusal::new(StatusCode::GATEWAY_TIMEOUT, why)));
                Some(self.give_up(service, call))
            }
            Attempt::Failed(_, Failure::Caller(error)) => Some(local::refuse(&receive::refusal(&error), call.is_grpc)),
            Attempt::Failed(mut flight, failure) => {
                let refused = matches!(failure, Failure::Connect(_));
                let outcome = if refused { Outcome::Refused } else { Outcome::Bad };
                flight.failed(service, outcome, worker.now_ms());
                tracing::debug!(service = %service.name, instance = %flight.instance().id, %failure, "an attempt failed");
                self.sent += u32::from(!refused);
                self.tried.push(flight.instance().clone());
                self.failed_at.push(pool.memory.clone());
                let (status, why) = match failure {
                    Failure::Connect(_) => (StatusCode::SERVICE_UNAVAILABLE, "cannot be reached"),
                    Failure::Protocol(_) => (StatusCode::BAD_GATEWAY, "gave an answer that is no valid HTTP"),
                    _ => (StatusCode::BAD_GATEWAY, "closed the connection before it answered"),
                };
                let why = format!("an instance of `{}` revision {} {why}", service.name, pool.revision);
                self.last = Some(Last::Refusal(Refusal::new(status, why)));
                None
            }
        }
    }

    /// Another instance is asked: what the last one said is not told.
    fn forget_last(&mut self) {
        if let Some(Last::Answer(_, memory)) = self.last.take() {
            self.failed_at.push(memory);
        }
    }

    /// The answer goes to the caller.
    fn arrive(&mut self, service: &Service, call: &Call<'_>, mut response: Response<Answer>) -> Response<Answer> {
        if let Some(cookie) = self.cookie.take() {
            response.headers_mut().append(header::SET_COOKIE, cookie);
            if call.parts.method == Method::GET || call.parts.method == Method::HEAD {
                // A shared cache would give one caller's cookie to all (RFC 9111, section 7.3).
                response.headers_mut().append(header::CACHE_CONTROL, HeaderValue::from_static("private"));
            }
        }
        if blame(response.status(), response.headers()) == Blame::Model {
            service.memory.failed.set(service.memory.failed.get() + 1);
        } else {
            for memory in self.failed_at.drain(..) {
                memory.counters.borrow_mut().retried += 1;
            }
        }
        response
    }

    /// Nobody is left to ask: the last answer or failure is what the caller gets.
    fn give_up(&mut self, service: &Service, call: &Call<'_>) -> Response<Answer> {
        match self.last.take() {
            Some(Last::Answer(response, _)) => self.arrive(service, call, *response),
            Some(Last::Refusal(refusal)) => self.refuse(service, &refusal, call),
            None => {
                let why = format!("nothing serves `{}` right now", service.name);
                self.refuse(service, &Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why), call)
            }
        }
    }

    fn refuse(&self, service: &Service, refusal: &Refusal, call: &Call<'_>) -> Response<Answer> {
        service.memory.failed.set(service.memory.failed.get() + 1);
        tracing::debug!(service = %service.name, why = refusal.why, sent = self.sent, "a request failed");
        local::refuse(refusal, call.is_grpc)
    }
}

/// Whether another instance might do better: server errors, and what gRPC has for them. Not "took too long".
fn is_worth_another(response: &Response<Answer>) -> bool {
    match response.status().as_u16() {
        500 | 502 | 503 | 504 => true,
        200 => {
            let status = response.headers().get("grpc-status").map(HeaderValue::as_bytes);
            matches!(status, Some(b"2" | b"13" | b"14" | b"15"))
        }
        _ => false,
    }
}
