//! Rows as they lie in a stage, masked, before they are columns.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use modelyard_core::ServiceName;
use modelyard_core::mirror::{ToldAnswer, ToldFeedback};
use modelyard_core::profile::Side;
use modelyard_core::service::Capture;
use serde::{Deserialize, Serialize};

use super::Form;
use super::mask::Masks;

/// One line of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// An answer.
    Answer(Box<Row>),
    /// Feedback.
    Feedback(Feedback),
    /// Everything before it belongs to segments up to this one.
    End(String),
}

/// An answer and what was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub id: String,
    pub at_ms: u64,
    pub service: String,
    pub revision: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub shadow: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    pub status: u16,
    pub latency_us: u64,
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    pub request: Body,
    pub response: Body,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// What the revision was in that rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
}

/// A body as far as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Body {
    /// Its length, when that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Its text: as it came, or as JSON where it came as tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What is neither: base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
}

/// Feedback as it was posted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    pub id: String,
    pub at_ms: u64,
    pub service: String,
    pub body: String,
}

impl Row {
    /// The row of an answer; its bodies masked, and left out where they are too long.
    pub fn new(
        service: &ServiceName,
        version: Option<String>,
        told: &ToldAnswer,
        rule: &Capture,
        masks: &Masks,
        form: Form<'_>,
    ) -> Self {
        let body = |side: Side, encoded: &Option<String>, bytes: Option<u64>| {
            let decoded = encoded.as_ref().and_then(|encoded| STANDARD.decode(encoded).ok());
            Body::new(told, side, decoded, bytes, rule.body_bytes, masks, form)
        };
        Self {
            id: told.id.clone(),
            at_ms: told.at_ms,
            service: service.to_string(),
            revision: told.revision.0,
            version,
            shadow: told.shadow,
            unit: told.unit.clone(),
            status: told.status,
            latency_us: told.micros,
            // A query may hold what nobody thought of masking.
            path: told.path.split('?').next().unwrap_or_default().to_owned(),
            content_type: Some(told.content_type.clone()).filter(|kind| !kind.is_empty()),
            request: body(Side::Input, &told.request, told.request_bytes),
            response: body(Side::Output, &told.response, told.response_bytes),
            rollout: None,
            arm: None,
        }
    }
}

impl Body {
    fn new(
        told: &ToldAnswer,
        side: Side,
        body: Option<Vec<u8>>,
        bytes: Option<u64>,
        limit: u64,
        masks: &Masks,
        form: Form<'_>,
    ) -> Self {
        let bytes = bytes.or_else(|| body.as_ref().map(|body| body.len() as u64));
        let sized = Self { bytes, text: None, raw: None };
        let Some(body) = body.filter(|body| body.len() as u64 <= limit) else { return sized };
        if masks.is_empty() {
            return match String::from_utf8(body) {
                Ok(text) => Self { text: Some(text), ..sized },
                Err(error) => match form(told, side, error.as_bytes()) {
                    Some(value) => Self { text: Some(value.to_string()), ..sized },
                    None => Self { raw: Some(STANDARD.encode(error.as_bytes())), ..sized },
                },
            };
        }
        // What has no parts cannot be masked in part: none of it is kept.
        let masked = form(told, side, &body).map(|mut value| {
            masks.apply(&mut value);
            value.to_string()
        });
        Self { text: masked, ..sized }
    }
}

impl Feedback {
    /// The row of feedback.
    pub fn new(service: &ServiceName, told: &ToldFeedback, masks: &Masks) -> Self {
        let mut body = told.body.clone();
        masks.apply(&mut body);
        Self { id: told.id.clone(), at_ms: told.at_ms, service: service.to_string(), body: body.to_string() }
    }
}
