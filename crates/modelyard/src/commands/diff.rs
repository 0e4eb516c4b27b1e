//! `modelyard diff A B`: what differs between two packages.

use clap::Args;
use modelyard_registry::catalog::{Diff as Found, Difference, diff};
use serde_json::{Value, json};

use super::package::size;
use crate::context::Context;
use crate::exit::Exit;
use crate::terminal::{Paint, columns};

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// The one: a package (`wine:2.0.0`, `wine@champion`), a model folder, or an ONNX file.
    #[arg(value_name = "A")]
    one: String,
    /// The other.
    #[arg(value_name = "B")]
    other: String,
}

impl Diff {
    /// Prints it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let (one, other) =
            (super::inspect::laid_out(context, &self.one)?, super::inspect::laid_out(context, &self.other)?);
        let found = diff(&one.package, &other.package);
        context.print(&json!(found), || text(&found, Paint::stdout()))?;
        Ok(Exit::Done)
    }
}

fn text(found: &Found, paint: Paint) -> String {
    let mut lines = Vec::new();
    for (respect, changes) in &found.changes {
        lines.push(paint.bold(respect));
        let row = |(name, change): (&String, &Difference)| match (&change.before, &change.after) {
            (Some(before), Some(after)) => {
                vec![
                    paint.warn("  ~"),
                    name.clone(),
                    short(before),
                    "→".to_owned(),
                    format!("{}{}", short(after), delta(before, after)),
                ]
            }
            (None, Some(after)) => vec![paint.good("  +"), name.clone(), String::new(), String::new(), short(after)],
            (before, _) => vec![paint.bad("  -"), name.clone(), before.as_ref().map(short).unwrap_or_default()],
        };
        lines.extend(columns(&changes.iter().map(row).collect::<Vec<_>>()));
    }
    if lines.is_empty() {
        return "they say the same of themselves".to_owned();
    }
    if !found.breaks.is_empty() {
        lines.push(paint.bad(&format!("callers of the first would break: {}", found.breaks.join("; "))));
    }
    if !found.misread.is_empty() {
        lines.push(paint.bad(&format!("callers of the first would misread: {}", found.misread.join("; "))));
    }
    lines.join("\n")
}

/// A value on one line.
fn short(value: &Value) -> String {
    match value {
        Value::Object(object) if object.contains_key("digest") && object.contains_key("size_bytes") => {
            let digest: String = value["digest"].as_str().unwrap_or_default().chars().skip(7).take(12).collect();
            format!("{digest} {}", size(value["size_bytes"].as_u64().unwrap_or_default()))
        }
        Value::Object(object) if object.contains_key("datatype") => {
            format!("{} {}", value["datatype"].as_str().unwrap_or("?"), value["shape"])
        }
        Value::String(text) => text.chars().take(60).collect(),
        other => other.to_string().chars().take(60).collect(),
    }
}

fn delta(before: &Value, after: &Value) -> String {
    match (before.as_f64(), after.as_f64()) {
        (Some(before), Some(after)) => format!("  ({:+.4})", after - before),
        _ => String::new(),
    }
}
