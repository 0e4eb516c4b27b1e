//! Feedback as a table: CSV with a header line, `id` and what is learnt (`label`, `reward`, …).
//!
//! Promises: all or nothing; an error names the line. Numbers and `true`/`false` are read as such, empty fields are left out, the rest is text.
//! Source: RFC 4180, with any line ending.

use modelyard_core::feedback::{Feedback, ID, ITEMS};
use serde_json::{Map, Value};

/// Reads a table.
///
/// # Errors
/// What is wrong with which line, and what to write instead.
pub fn parse(text: &str) -> Result<Vec<Feedback>, String> {
    let mut records = Records { rest: text.strip_prefix('\u{feff}').unwrap_or(text), line: 1 };
    let Some((_, names)) = records.next().transpose()? else { return Err("the file is empty".into()) };
    let names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
    let Some(id_at) = names.iter().position(|name| name == "id") else {
        return Err(format!(
            "line 1 names no column `id` (it has {}); begin with a line such as `id,label`",
            list(&names)
        ));
    };
    if names.len() < 2 {
        return Err("line 1 names `id` alone; add a column `label` or `reward`".into());
    }
    let mut items = Vec::new();
    for record in records {
        let (line, fields) = record?;
        if items.len() == ITEMS {
            return Err(format!("the file has more than {ITEMS} lines; send it in parts"));
        }
        items.push(item(line, &names, id_at, fields)?);
    }
    if items.is_empty() { Err("the file has no line after its header".into()) } else { Ok(items) }
}

fn item(line: usize, names: &[String], id_at: usize, fields: Vec<String>) -> Result<Feedback, String> {
    if fields.len() != names.len() {
        return Err(format!("line {line} has {} fields where the header names {}", fields.len(), names.len()));
    }
    let id = fields[id_at].trim().to_owned();
    if id.is_empty() || id.len() > ID || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("line {line} has no usable id; it is the x-request-id of the answer"));
    }
    let mut body = Map::from_iter([("id".to_owned(), Value::from(id.clone()))]);
    let others = names.iter().zip(fields).enumerate().filter(|(at, _)| *at != id_at);
    body.extend(others.filter_map(|(_, (name, field))| Some((name.clone(), value(&field)?))));
    if body.len() < 2 {
        return Err(format!("line {line} says nothing but its id"));
    }
    Ok(Feedback { id, body: Value::Object(body) })
}

fn value(field: &str) -> Option<Value> {
    let text = field.trim();
    match serde_json::from_str(text) {
        _ if text.is_empty() => None,
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => Some(value),
        _ => Some(Value::from(text)),
    }
}

fn list(names: &[String]) -> String {
    names
        .iter()
        .take(8)
        .map(|name| format!("`{}`", name.chars().take(40).collect::<String>()))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Records with the line that they begin at; blank lines are left out.
struct Records<'a> {
    rest: &'a str,
    line: usize,
}

impl Iterator for Records<'_> {
    type Item = Result<(usize, Vec<String>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let skipped = self.rest.len() - self.rest.trim_start_matches(['\r', '\n']).len();
            self.line += self.rest[..skipped].matches('\n').count();
            self.rest = &self.rest[skipped..];
            if self.rest.is_empty() {
                return None;
            }
            let line = self.line;
            let record = self.record();
            match &record {
                Ok(fields) if fields.len() == 1 && fields[0].trim().is_empty() => {}
                _ => return Some(record.map(|fields| (line, fields))),
            }
        }
    }
}

impl Records<'_> {
    fn record(&mut self) -> Result<Vec<String>, String> {
        let mut fields = Vec::new();
        loop {
            let (field, rest) = match self.rest.strip_prefix('"') {
                Some(quoted) => self.quoted(quoted)?,
                None => {
                    let end = self.rest.find([',', '\n', '\r']).unwrap_or(self.rest.len());
                    (self.rest[..end].to_owned(), &self.rest[end..])
                }
            };
            fields.push(field);
            match rest.strip_prefix(',') {
                Some(more) => self.rest = more,
                None if rest.is_empty() || rest.starts_with(['\n', '\r']) => {
                    self.rest = rest;
                    return Ok(fields);
                }
                None => {
                    let line = self.line;
                    self.rest = "";
                    return Err(format!(
                        "line {line} goes on after a closing quote; write a comma, or double the quote"
                    ));
                }
            }
        }
    }

    /// A field in quotes, from after the first; two quotes inside stand for one.
    fn quoted<'b>(&mut self, text: &'b str) -> Result<(String, &'b str), String> {
        let (mut field, mut rest) = (String::new(), text);
        loop {
            let Some(end) = rest.find('"') else {
                let line = self.line;
                self.rest = "";
                return Err(format!("line {line} opens a quote that is never closed"));
            };
            field.push_str(&rest[..end]);
            self.line += rest[..end].matches('\n').count();
            rest = &rest[end + 1..];
            match rest.strip_prefix('"') {
                Some(more) => {
                    field.push('"');
                    rest = more;
                }
                None => return Ok((field, rest)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_are_read_as_people_write_them() {
        let bodies = |text: &str| -> Vec<Value> { parse(text).unwrap().into_iter().map(|item| item.body).collect() };
        assert_eq!(
            bodies("\u{feff}id,label\r\na,1\r\n\r\nb,true\n c ,red\n"),
            [json!({"id": "a", "label": 1}), json!({"id": "b", "label": true}), json!({"id": "c", "label": "red"})]
        );
        assert_eq!(
            bodies("label,id,reward\n\"say \"\"hi\"\", twice\",a,\n,b,0.5"),
            [json!({"id": "a", "label": "say \"hi\", twice"}), json!({"id": "b", "reward": 0.5})]
        );
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, part) in [
            ("", "empty"),
            ("name,label\na,1", "no column `id`"),
            ("id\na", "`id` alone"),
            ("id,label\n", "no line after"),
            ("id,label\na,1\nb", "line 3 has 1 fields"),
            ("id,label\n,1", "line 2 has no usable id"),
            ("id,label\na,", "line 2 says nothing"),
            ("id,label\na,\"1", "line 2 opens a quote"),
            ("id,label\n\"a\"b,1", "line 2 goes on after"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(part), "{text:?}: {why}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z,\"\r\n ]{0,60}") {
            let _ = parse(&text);
            let _ = parse(&format!("id,label\n{text}"));
        }
    }
}
