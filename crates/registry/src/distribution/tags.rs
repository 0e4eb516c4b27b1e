//! Lists of tags and repositories, page by page.

use axum::response::IntoResponse;
use http::{HeaderValue, header};
use serde_json::json;

use super::Distribution;
use super::answer::{Answer, Code, Refusal};
use crate::address::Query;

/// Entries of a page unless fewer are asked for.
// 10 000: about a megabyte of JSON.
const PAGE: usize = 10_000;

impl Distribution {
    pub(super) fn tags(&self, name: &str, query: &Query) -> Answer {
        let (most, last) = page(query)?;
        let mut tags = self.inner.meta.tags(name, last, most.saturating_add(1))?;
        let local = self.local_tags(name)?;
        if tags.is_empty() && local.is_none() && !self.inner.meta.has_repository(name)? {
            return Err(Refusal::new(Code::NameUnknown, format!("there is no repository `{name}`")));
        }
        tags.extend(local.into_iter().flatten().filter(|tag| tag.as_str() > last));
        Ok(listed("tags", tags, most, &format!("/v2/{name}/tags/list"), &[("name", name.into())]))
    }

    pub(super) fn catalog(&self, query: &Query) -> Answer {
        let (most, last) = page(query)?;
        let mut names = self.inner.meta.repositories(last, most.saturating_add(1))?;
        names.extend(
            self.inner.store.models()?.into_iter().map(|model| model.to_string()).filter(|name| name.as_str() > last),
        );
        Ok(listed("repositories", names, most, "/v2/_catalog", &[]))
    }
}

fn page(query: &Query) -> Result<(usize, &str), Refusal> {
    let most = match query.get("n") {
        None => PAGE,
        Some(text) => text.parse::<usize>().map(|n| n.min(PAGE)).map_err(|_| {
            Refusal::new(Code::Unsupported, "`n` is a number of entries").with(http::StatusCode::BAD_REQUEST)
        })?,
    };
    Ok((most, query.get("last").unwrap_or_default()))
}

/// One page, sorted, with a link to the next one if there is more.
fn listed(
    key: &str,
    mut entries: Vec<String>,
    most: usize,
    path: &str,
    besides: &[(&str, serde_json::Value)],
) -> axum::response::Response {
    entries.sort_unstable();
    entries.dedup();
    let more = entries.len() > most;
    entries.truncate(most);
    let next = entries.last().filter(|_| more).map(|last| format!("<{path}?n={most}&last={last}>; rel=\"next\""));
    let mut body = json!({ key: entries });
    for (name, value) in besides {
        body[*name] = value.clone();
    }
    let mut response = axum::Json(body).into_response();
    if let Some(link) = next.and_then(|link| HeaderValue::from_str(&link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}
