//! The page at `/`: which services there are. A dashboard comes later.

use std::fmt::Write;

use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse};

use super::App;
use crate::store::fold::ServiceState;

const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Modelyard</title>\
<meta name=\"viewport\" content=\"width=device-width\"><style>body{font:16px system-ui;margin:2rem auto;max-width:60rem;padding:0 1rem}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.4rem .8rem;border-bottom:1px solid #8884}\
:root{color-scheme:light dark}</style><h1>Modelyard</h1>";

/// `GET /`
pub async fn page(State(app): State<App>) -> impl IntoResponse {
    let world = app.ledger.world();
    let mut text = HEAD.to_owned();
    let mut services = world.present().peekable();
    if services.peek().is_none() {
        text.push_str("<p>No service yet. Start one with <code>modelyard deploy DIR</code>.</p>");
    } else {
        text.push_str("<table><tr><th>service<th>stable<th>live<th>rollout</tr>");
        services.for_each(|state| row(&mut text, state));
        text.push_str("</table>");
    }
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(text))
}

/// Names hold nothing that HTML would read as markup; phases and versions are escaped all the same.
fn row(text: &mut String, state: &ServiceState) {
    let stable = state.stable.and_then(|number| state.revisions.get(&number));
    let stable = stable.map_or_else(|| "–".to_owned(), |r| format!("r{} ({} {})", r.number, r.model, r.version));
    let live = state.instances.values().filter(|instance| instance.live_since.is_some() && instance.stays()).count();
    let rollout = state.open.as_ref().map_or_else(|| "–".to_owned(), |open| open.machine.describe());
    let (name, stable, rollout) = (&state.name, escape(&stable), escape(&rollout));
    let link = format!("<a href=\"/api/services/{name}\">{name}</a>");
    let _ = write!(text, "<tr><td>{link}<td>{stable}<td>{live} of {}<td>{rollout}</tr>", state.instances.len());
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
