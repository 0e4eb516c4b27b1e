//! `modelyard feedback SERVICE FILE`: true labels and rewards in bulk, joined to earlier answers by request id.
//!
//! Promises: a file of any length is sent in parts, each kept whole or not at all; sending a file again changes nothing.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use modelyard_core::ServiceName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::Connect;
use crate::context::Context;
use crate::exit::{Exit, Failed};

/// Bytes of one part: half of what the control plane takes.
const PART: usize = 4 << 20;
/// Items of one part, less than the control plane takes.
const ITEMS: usize = 50_000;

/// Arguments of `feedback`.
#[derive(Debug, Args)]
pub struct Feedback {
    /// The service.
    service: ServiceName,
    /// The file: CSV that begins with `id,label`, one JSON object a line, or a JSON list; `-` reads stdin.
    file: PathBuf,
    /// What the file is, when its name does not tell.
    #[arg(long, value_enum)]
    format: Option<Form>,
    #[command(flatten)]
    connect: Connect,
}

/// What a file of feedback is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// A table with a header line.
    Csv,
    /// One JSON object a line.
    Ndjson,
    /// A JSON list, or one object.
    Json,
}

impl Form {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv",
            Self::Ndjson => "application/x-ndjson",
            Self::Json => "application/json",
        }
    }
}

/// What became of it, as the control plane answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Receipt {
    accepted: u64,
    joined: u64,
    orphaned: u64,
}

impl Feedback {
    /// Sends the file.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let unknown = || {
            Failed::new(
                format!("`{}` does not tell what it is", self.file.display()),
                "add `--format csv`, `ndjson` or `json`",
            )
        };
        let form = self.format.or_else(|| Form::of(&self.file)).ok_or_else(unknown)?;
        let text = read(&self.file)?;
        let client = context.client(&self.connect)?;
        let path = format!("/api/services/{}/feedback", self.service);
        let mut whole = Receipt::default();
        for part in parts(&text, form)? {
            let receipt: Receipt = client.post_text(&path, form.content_type(), &part)?;
            whole.accepted += receipt.accepted;
            whole.joined += receipt.joined;
            whole.orphaned += receipt.orphaned;
        }
        context.print(&whole, || {
            let waits = match whole.orphaned {
                0 => String::new(),
                orphaned => format!("; {orphaned} wait for their answer (a wrong id waits until it is too old)"),
            };
            format!("{} taken, {} joined to their answer{waits}", whole.accepted, whole.joined)
        })?;
        Ok(Exit::Done)
    }
}

fn read(path: &Path) -> Result<String, Failed> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    text.map_err(|error| Failed::from(error, format!("could not read {}", path.display()), "name a text file in UTF-8"))
}

/// Parts that the control plane takes, each a document of its own.
fn parts(text: &str, form: Form) -> Result<Vec<String>, Failed> {
    match form {
        Form::Ndjson => Ok(joined(text.split_inclusive('\n'), "")),
        Form::Csv => {
            let mut records = records(text).into_iter();
            let header = records.next().unwrap_or_default();
            let header = if header.ends_with('\n') { header.to_owned() } else { format!("{header}\n") };
            let parts = joined(records, &header);
            // A table without lines: the control plane says what is wrong with it.
            Ok(if parts.is_empty() { vec![header] } else { parts })
        }
        Form::Json => {
            let document: Value = serde_json::from_str(text).map_err(|error| {
                Failed::from(error, "the file is no JSON", "for one object a line, add `--format ndjson`")
            })?;
            let Value::Array(items) = document else { return Ok(vec![text.to_owned()]) };
            let lines: Vec<String> = items.iter().map(|item| format!("{item},")).collect();
            let list = |part: String| format!("[{}]", part.trim_end_matches(','));
            let parts: Vec<String> = joined(lines.iter().map(String::as_str), "").into_iter().map(list).collect();
            Ok(if parts.is_empty() { vec![text.to_owned()] } else { parts })
        }
    }
}

/// Lines put together to parts, each after `header`.
fn joined<'a>(lines: impl Iterator<Item = &'a str>, header: &str) -> Vec<String> {
    let mut parts: Vec<(String, usize)> = Vec::new();
    for line in lines {
        match parts.last_mut() {
            Some((part, items)) if part.len() + line.len() <= PART && *items < ITEMS => {
                part.push_str(line);
                *items += 1;
            }
            _ => parts.push((format!("{header}{line}"), 1)),
        }
    }
    parts.into_iter().map(|(part, _)| part).collect()
}

/// Records of a table: lines, but for line ends within quotes.
fn records(text: &str) -> Vec<&str> {
    let (mut records, mut from, mut quoted) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => {
                records.push(&text[from..=at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    if from < text.len() {
        records.push(&text[from..]);
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_a_file_is() {
        for (name, form) in
            [("a.csv", Form::Csv), ("a.JSONL", Form::Ndjson), ("a.ndjson", Form::Ndjson), ("a.json", Form::Json)]
        {
            assert_eq!(Form::of(Path::new(name)), Some(form), "{name}");
        }
        assert_eq!((Form::of(Path::new("labels")), Form::of(Path::new("-"))), (None, None));
    }

    #[test]
    fn long_files_are_sent_in_parts_that_stand_alone() {
        let line = format!("id-0123456789,\"{}\n\"\n", "x".repeat(1_000));
        let table = format!("id,label\n{}", line.repeat(9_000));
        let cut = parts(&table, Form::Csv).unwrap();
        assert!(cut.len() == 3 && cut.iter().all(|part| part.starts_with("id,label\nid-") && part.len() <= PART + 9));
        assert_eq!(cut.iter().map(|part| part.len() - 9).sum::<usize>(), table.len() - 9);
        assert!(cut.iter().all(|part| part.ends_with("\n\"\n")), "no record is torn");

        let lines = "{\"id\":\"a\",\"label\":1}\n".repeat(120_000);
        let cut = parts(&lines, Form::Ndjson).unwrap();
        assert_eq!((cut.len(), cut.concat()), (3, lines));

        let list = format!("[{}{{\"id\":\"b\",\"label\":2}}]", "{\"id\":\"a\",\"label\":1},".repeat(60_000));
        let cut = parts(&list, Form::Json).unwrap();
        let items: usize = cut.iter().map(|part| serde_json::from_str::<Vec<Value>>(part).unwrap().len()).sum();
        assert_eq!((cut.len(), items), (2, 60_001));
        assert_eq!(parts("{\"id\":\"a\",\"label\":1}", Form::Json).unwrap().len(), 1);
        assert!(parts("id,label", Form::Json).unwrap_err().help.contains("ndjson"));
        assert_eq!(parts("id,label", Form::Csv).unwrap(), ["id,label\n"]);
    }
}
