//! What is done with told answers beside counting them: drift, and capture as files.
//!
//! Promises: answers that were counted before are not looked at again; capture is told each segment once it is counted, and knows itself what it has.
//! Absent on purpose: what is drawn from it. Drift becomes part of the evidence; files are for people.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use modelyard_core::evidence::Drift;
use modelyard_core::mirror::{Told, ToldAnswer};
use modelyard_core::profile::Side;
use modelyard_core::{RevisionNumber, ServiceName, Timestamp};
use modelyard_monitor::capture::Captures;
use modelyard_monitor::drift::{Meter, Sampler};
use serde_json::Value;

use super::Following;
use super::reader::decoded;
use super::response;

/// What goes on beside counting.
#[derive(Debug)]
pub struct Aside {
    pub captures: Captures,
    meters: BTreeMap<ServiceName, (Meter, Sampler)>,
}

impl Aside {
    /// Captures into a folder.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn open(capture: PathBuf, span: Duration) -> io::Result<Self> {
        Ok(Self { captures: Captures::open(capture, span)?, meters: BTreeMap::new() })
    }

    /// Says what is wanted of a service from now on.
    pub fn follow(&mut self, service: &ServiceName, following: Option<&Following>, now: Timestamp) {
        self.captures.follow(service, following.and_then(|following| following.capture.clone()), now);
        match following.and_then(|following| following.drift.clone()) {
            Some(rule) => self.meters.entry(service.clone()).or_default().0.follow(rule),
            None => drop(self.meters.remove(service)),
        }
    }

    /// Takes in a segment that was counted; `is_new` says which of its lines were not known.
    pub fn take(&mut self, service: &ServiceName, segment: &str, told: &[Told], is_new: &[bool], now: Timestamp) {
        self.captures.take(service, segment, told, &form, now);
        let Some((meter, sampler)) = self.meters.get_mut(service) else { return };
        for (told, _) in told.iter().zip(is_new).filter(|(_, is_new)| **is_new) {
            let Told::Answer(told) = told else { continue };
            // A clock of another machine that is ahead must not empty the window.
            let at = Timestamp(told.at_ms).min(now);
            if told.status != 200 || !sampler.takes(told.revision, at) {
                continue;
            }
            let read = |side, body: &Option<String>| form(told, side, &decoded(body.as_ref())?);
            let (request, response) = (read(Side::Input, &told.request), read(Side::Output, &told.response));
            meter.observe(told.revision, at, request.as_ref(), response.as_ref());
        }
    }

    /// What the last hour says of each revision.
    pub fn drift(&self, service: &ServiceName, now: Timestamp) -> BTreeMap<RevisionNumber, Vec<Drift>> {
        self.meters.get(service).map(|(meter, _)| meter.drift(now)).unwrap_or_default()
    }
}

/// The JSON form of a body.
fn form(told: &ToldAnswer, side: Side, body: &[u8]) -> Option<Value> {
    match side {
        Side::Input => response::read_request(told, body),
        Side::Output => response::read(told, body),
    }
}
