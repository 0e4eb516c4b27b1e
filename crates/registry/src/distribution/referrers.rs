//! Referrers: what was said of a manifest (signatures, bills of materials, provenance).

use std::collections::BTreeMap;

use axum::response::IntoResponse;
use http::{HeaderName, HeaderValue, header};
use serde_json::{Value, json};

use super::Distribution;
use super::answer::Answer;
use super::blobs::parse;
use super::meta::Known;
use crate::address::Query;
use crate::manifest::INDEX;

impl Distribution {
    pub(super) fn referrers(&self, name: &str, digest: &str, query: &Query) -> Answer {
        let subject = parse(digest)?;
        let wanted = query.get("artifactType");
        let found = self.inner.meta.referrers(name, &subject)?;
        let fits = |known: &&Known| wanted.is_none_or(|wanted| known.artifact_type.as_deref() == Some(wanted));
        let manifests: Vec<Value> = found.iter().filter(fits).map(descriptor).collect();
        let body = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        let mut response = axum::Json(body).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(INDEX));
        if wanted.is_some() {
            let filters = HeaderName::from_static("oci-filters-applied");
            response.headers_mut().insert(filters, HeaderValue::from_static("artifactType"));
        }
        Ok(response)
    }
}

fn descriptor(known: &Known) -> Value {
    let annotations: BTreeMap<String, Value> = serde_json::from_str(&known.annotations).unwrap_or_default();
    let mut descriptor =
        json!({ "mediaType": known.media_type, "digest": known.digest.to_string(), "size": known.size });
    if let Some(kind) = &known.artifact_type {
        descriptor["artifactType"] = json!(kind);
    }
    if !annotations.is_empty() {
        descriptor["annotations"] = json!(annotations);
    }
    descriptor
}
