//! What is asked: requests from a file or from a package's samples, with the true answer where it is known.

use std::io::Read as _;
use std::path::Path;

use miette::Diagnostic;
use modelyard_core::sample::Sample;
use serde_json::Value;

/// Largest file of rows in bytes: rows are held in memory while they are played.
const LARGEST: u64 = 256 << 20;

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Where it is posted, below the service; none for the usual place.
    pub path: Option<String>,
    /// The JSON body.
    pub body: Vec<u8>,
    /// The true answer.
    pub label: Option<Value>,
}

/// Why rows cannot be played.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("could not read rows from {path}: {why}")]
#[diagnostic(
    code(modelyard::traffic::rows),
    help(
        "write a JSON list or one JSON object a line: requests as the service takes them, or {{\"request\": …, \"label\": …}}"
    )
)]
pub struct Error {
    path: String,
    why: String,
}

/// Rows of a file: a JSON list, or one object a line. Each is `{"request": …, "label": …, "path": …}` (the last two may be left
/// out), or the request itself.
///
/// # Errors
/// [`Error`] when the file cannot be read, is too large, or a row is no object.
pub fn read(path: &Path) -> Result<Vec<Row>, Error> {
    let failed = |why: String| Error { path: path.display().to_string(), why };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > LARGEST {
        return Err(failed(format!("it is larger than {} MiB", LARGEST >> 20)));
    }
    let rows = match text.trim_start().starts_with('[') {
        true => {
            let list: Vec<Value> = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
            list.into_iter().enumerate().map(|(at, row)| (at + 1, row)).collect()
        }
        false => lines(&text).map_err(failed)?,
    };
    let rows: Result<Vec<Row>, Error> = rows
        .into_iter()
        .map(|(number, row)| row_of(row).ok_or_else(|| failed(format!("row {number} is no request"))))
        .collect();
    rows.and_then(|rows| if rows.is_empty() { Err(failed("there are none".to_owned())) } else { Ok(rows) })
}

fn lines(text: &str) -> Result<Vec<(usize, Value)>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(at, line)| match serde_json::from_str(line) {
            Ok(row) => Ok((at + 1, row)),
            Err(error) => Err(format!("line {}: {error}", at + 1)),
        })
        .collect()
}

fn row_of(row: Value) -> Option<Row> {
    let Value::Object(mut row) = row else { return None };
    let Some(request) = row.remove("request") else {
        return Some(Row { path: None, body: Value::Object(row).to_string().into_bytes(), label: None });
    };
    let path = match row.remove("path") {
        None | Some(Value::Null) => None,
        Some(Value::String(path)) if is_path(&path) => Some(path),
        Some(_) => return None,
    };
    Some(Row { path, body: request.to_string().into_bytes(), label: row.remove("label") })
}

/// Whether it can stand in a request line.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The requests of a package's samples.
pub fn of_samples(samples: &[Sample]) -> Vec<Row> {
    let row =
        |sample: &Sample| Row { path: sample.path.clone(), body: sample.request.to_string().into_bytes(), label: None };
    samples.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Result<Vec<Row>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path()).map_err(|error| error.why)
    }

    #[test]
    fn lists_lines_and_bare_requests_are_read() {
        let labelled = Row { path: None, body: b"{\"x\":1}".to_vec(), label: Some(Value::from(2)) };
        let bare = Row { path: None, body: b"{\"inputs\":[]}".to_vec(), label: None };
        let elsewhere = Row { path: Some("/predict".to_owned()), ..bare.clone() };
        let list = r#"[{"id": "a", "request": {"x": 1}, "label": 2}, {"inputs": []}]"#;
        assert_eq!(rows(list).unwrap(), [labelled.clone(), bare]);
        let lines =
            "{\"request\": {\"x\": 1}, \"label\": 2}\n\n{\"request\": {\"inputs\": []}, \"path\": \"/predict\"}\n";
        assert_eq!(rows(lines).unwrap(), [labelled, elsewhere]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("[]", "there are none"),
            ("", "there are none"),
            ("[{\"request\": {}}, 7]", "row 2 is no request"),
            ("{\"request\": {}}\n{", "line 2: EOF"),
            ("{\"request\": {}, \"path\": \"/a b\"}", "row 1 is no request"),
            ("{\"request\": {}, \"path\": \"x\"}", "row 1 is no request"),
        ] {
            assert!(rows(text).unwrap_err().starts_with(why), "{text}");
        }
        let missing = read(Path::new("/no/such/rows.json")).unwrap_err();
        assert!(missing.to_string().contains("/no/such/rows.json"), "{missing}");
    }
}
