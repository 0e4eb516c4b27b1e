//! The simple API: which projects there are, which files each has, and the files.
//!
//! Promises: every address in a page is relative, so the index may stand behind any prefix; whatever a file says of itself is escaped.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::meta::Entry;
use super::negotiate::{Form, choose};
use super::refusal::Refusal;
use super::{Index, normalise};
use crate::digest::AnyDigest;
use crate::storage::Source;
use crate::storage::body::file_body;

const API_VERSION: &str = "1.1";

/// A form that is asked for in the address.
#[derive(Deserialize)]
pub struct Asked {
    format: Option<String>,
}

fn form(headers: &HeaderMap, asked: &Asked) -> Result<Form, Refusal> {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let accept = asked.format.clone().unwrap_or_else(|| accept.collect::<Vec<_>>().join(","));
    choose(Some(&accept)).ok_or_else(|| {
        let offered = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html or text/html";
        Refusal::new(StatusCode::NOT_ACCEPTABLE, format!("this index answers as {offered}"))
    })
}

fn page(form: Form, body: String) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn moved(to: &str) -> Response {
    // A normalised name is ASCII without spaces: the fallback is never seen.
    let to = HeaderValue::from_str(to).unwrap_or_else(|_| HeaderValue::from_static("/simple/"));
    (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, to)]).into_response()
}

fn normal(project: &str) -> Result<String, Refusal> {
    normalise(project).ok_or_else(|| Refusal::unknown("that is no name of a project"))
}

/// `/simple`.
pub async fn to_root() -> Response {
    moved("simple/")
}

/// `/simple/NAME`.
pub async fn to_project(Path(project): Path<String>) -> Result<Response, Refusal> {
    normal(&project).map(|normal| moved(&format!("{normal}/")))
}

/// `/simple/`.
pub async fn root(
    State(index): State<Index>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Result<Response, Refusal> {
    let form = form(&headers, &asked)?;
    let projects = index.inner.meta.projects()?;
    if form == Form::Json {
        let projects: Vec<Value> = projects.iter().map(|name| json!({ "name": name })).collect();
        let document = json!({ "meta": { "api-version": API_VERSION }, "projects": projects });
        return Ok(page(form, document.to_string()));
    }
    let anchors = projects.iter().fold(String::new(), |mut lines, name| {
        let _ = writeln!(lines, "<a href=\"{name}/\">{name}</a><br>");
        lines
    });
    Ok(page(form, html("Simple index", &anchors)))
}

/// `/simple/NAME/`.
pub async fn project(
    State(index): State<Index>,
    Path(project): Path<String>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Result<Response, Refusal> {
    let normal = normal(&project)?;
    if normal != project {
        return Ok(moved(&format!("../{normal}/")));
    }
    let form = form(&headers, &asked)?;
    let files = index.inner.meta.files(&normal)?;
    if files.is_empty() {
        return Err(Refusal::unknown(format!("this index has no project `{normal}`")));
    }
    let body = if form == Form::Json { json_page(&normal, &files).to_string() } else { html_page(&normal, &files) };
    Ok(page(form, body))
}

/// The address of a file as seen from its project's page.
fn address(file: &Entry) -> String {
    // Of the letters that a file name may hold these two alone mean something in an address.
    format!("../../files/{}", file.filename.replace('+', "%2B").replace('!', "%21"))
}

fn json_page(project: &str, files: &[Entry]) -> Value {
    let versions: BTreeSet<&str> = files.iter().map(|file| file.version.as_str()).collect();
    let files: Vec<Value> = files.iter().map(json_file).collect();
    json!({ "meta": { "api-version": API_VERSION }, "name": project, "versions": versions, "files": files })
}

fn json_file(file: &Entry) -> Value {
    let mut shown = json!({
        "filename": file.filename, "url": address(file), "hashes": { "sha256": file.digest.hex() }, "size": file.size,
        "yanked": file.yanked.as_deref().map_or(json!(false), |why| if why.is_empty() { json!(true) } else { json!(why) }),
    });
    if let Ok(uploaded) = jiff::Timestamp::from_second(file.uploaded) {
        shown["upload-time"] = json!(uploaded.to_string());
    }
    if let Some(requires) = &file.requires_python {
        shown["requires-python"] = json!(requires);
    }
    if let Some(metadata) = file.metadata {
        let hashes = json!({ "sha256": metadata.hex() });
        shown["core-metadata"] = hashes.clone();
        shown["dist-info-metadata"] = hashes;
    }
    shown
}

fn html_page(project: &str, files: &[Entry]) -> String {
    let mut lines = String::new();
    for file in files {
        let _ = write!(lines, "<a href=\"{}#sha256={}\"", address(file), file.digest.hex());
        let mut attribute = |name: &str, value: &str| {
            let _ = write!(lines, " {name}=\"{}\"", escaped(value));
        };
        if let Some(requires) = &file.requires_python {
            attribute("data-requires-python", requires);
        }
        if let Some(metadata) = file.metadata {
            let hash = format!("sha256={}", metadata.hex());
            attribute("data-core-metadata", &hash);
            attribute("data-dist-info-metadata", &hash);
        }
        if let Some(why) = &file.yanked {
            attribute("data-yanked", why);
        }
        let _ = writeln!(lines, ">{}</a><br>", escaped(&file.filename));
    }
    html(&format!("Links for {project}"), &lines)
}

fn html(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html>\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"pypi:repository-version\" content=\"{API_VERSION}\">\n\
         <title>{title}</title>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// `/files/NAME` and `/files/NAME.metadata`.
pub async fn file(State(index): State<Index>, Path(name): Path<String>) -> Result<Response, Refusal> {
    let unknown = || Refusal::unknown("this index has no such file");
    let found = index.inner.meta.file(&name)?;
    let (digest, kind) = match (found, name.strip_suffix(".metadata")) {
        (Some(entry), _) => (entry.digest, "application/octet-stream"),
        (None, Some(of)) => {
            let entry = index.inner.meta.file(of)?.ok_or_else(unknown)?;
            (entry.metadata.ok_or_else(unknown)?, "text/plain; charset=utf-8")
        }
        (None, None) => return Err(unknown()),
    };
    let (kept, digest) = (&index.inner.kept, AnyDigest::from(&digest));
    let size = kept.size(&digest)?.ok_or_else(|| Refusal::unknown("this index has lost that file; upload it again"))?;
    let head = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::CONTENT_LENGTH, size.to_string()),
        (header::ETAG, format!("\"{digest}\"")),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    let body = match kept.open(&digest)? {
        Source::File(file) => {
            let check = index.inner.verified.check(&file, &digest);
            file_body(file, 0, size, check)
        }
        Source::Bucket(bucket) => bucket.body(&digest, 0, size, size),
    };
    Ok((head, body).into_response())
}
