//! `modelyard drift S`: each input and output against its reference, by every measure.

use clap::Args;
use modelyard_core::ServiceName;
use serde_json::Value;

use crate::cli::Connect;
use crate::context::Context;
use crate::exit::Exit;
use crate::terminal::{Paint, table};

/// Arguments of `drift`.
#[derive(Debug, Args)]
pub struct Drift {
    /// The service.
    service: ServiceName,
    #[command(flatten)]
    connect: Connect,
}

impl Drift {
    /// Prints it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let client = context.client(&self.connect)?;
        let document: Value = client.get(&format!("/api/services/{}/drift", self.service))?;
        context.print(&document, || text(&document, Paint::stdout()))?;
        Ok(Exit::Done)
    }
}

fn text(document: &Value, paint: Paint) -> String {
    let service = document["service"].as_str().unwrap_or_default();
    let revisions = document["revisions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if document["watched"] != true {
        return format!(
            "drift of {service} is not looked at; write `max-psi` or `[[quality.drift]]` into `[quality]` of its service.toml"
        );
    }
    if revisions.is_empty() {
        return format!(
            "nothing is known of {service} yet; answers are counted about a second after they were given, against the package's `[reference]` or \
             stable's own answers"
        );
    }
    let shown = |revision: &Value| {
        let measures = revision["measures"].as_array().into_iter().flatten();
        let rows = measures.map(|measure| row(measure, paint)).collect();
        let heading = ["field", "measure", "value", "limit", "values", "against", "verdict"];
        let role = revision["role"].as_str().unwrap_or_default();
        format!("r{} ({role})\n{}", revision["revision"], table(&heading, rows, paint))
    };
    revisions.iter().map(shown).collect::<Vec<_>>().join("\n\n")
}

fn row(measure: &Value, paint: Paint) -> Vec<String> {
    let word = |key: &str| measure[key].as_str().unwrap_or("–").to_owned();
    let seen = measure["seen"].as_u64().unwrap_or_default();
    let verdict = match measure["verdict"].as_str() {
        Some("fail") => paint.bad("drift"),
        Some("pass") => paint.good("pass"),
        Some("inconclusive") => {
            let least = measure["least"].as_u64().unwrap_or_default();
            let why =
                if seen < least { format!("inconclusive, {least} values needed") } else { "inconclusive".to_owned() };
            paint.warn(&why)
        }
        _ => paint.dim("–"),
    };
    vec![
        word("field"),
        word("measure"),
        number(&measure["value"]),
        number(&measure["limit"]),
        seen.to_string(),
        word("reference"),
        verdict,
    ]
}

/// A figure in a few letters; tiny ones by their power of ten.
fn number(value: &Value) -> String {
    match value.as_f64() {
        None => "–".to_owned(),
        Some(value) if value != 0.0 && value.abs() < 0.001 => format!("{value:.0e}"),
        Some(value) => format!("{value:.3}"),
    }
}
