//! Reference data as JSON: a list, or a row per line.
//!
//! A row is `{"inputs": …, "outputs": …}` or, as recorded traffic has it, `{"request": {"inputs": …}, "response": {"outputs": …}}`; other keys (`id`,
//! `label`) are left alone.

use std::fmt;
use std::io::{BufRead, Read};

use modelyard_core::profile::{Side, tensors};
use serde::de::{self, Deserializer as _, SeqAccess, Visitor};
use serde_json::Value;

use super::Gathering;

/// Longest row of a file with a row per line.
const LINE: u64 = 16 << 20;

/// Reads a list without holding it.
pub(super) fn list(file: impl Read, into: &mut Gathering<'_>) -> Result<(), String> {
    let mut reader = serde_json::Deserializer::from_reader(file);
    reader.deserialize_seq(Rows { into, count: 0 }).and_then(|()| reader.end()).map_err(|error| {
        let place = if error.is_data() { String::new() } else { "it is no JSON list: ".to_owned() };
        format!("{place}{error}")
    })
}

struct Rows<'a, 'm> {
    into: &'a mut Gathering<'m>,
    count: usize,
}

impl<'de> Visitor<'de> for Rows<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut rows: A) -> Result<(), A::Error> {
        while let Some(row) = rows.next_element::<Value>()? {
            self.count += 1;
            let count = self.count;
            take(&row, self.into).map_err(|why| de::Error::custom(format!("row {count}: {why}")))?;
        }
        Ok(())
    }
}

/// Reads a row per line.
pub(super) fn lines(mut file: impl BufRead, into: &mut Gathering<'_>) -> Result<(), String> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = (&mut file).take(LINE).read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
        if read == 0 {
            break;
        }
        if line.len() as u64 == LINE {
            return Err(format!("line {number} is longer than {LINE} bytes"));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let row: Value = serde_json::from_slice(&line).map_err(|_| format!("line {number} is no JSON"))?;
        take(&row, into).map_err(|why| format!("line {number}: {why}"))?;
    }
    Ok(())
}

fn take(row: &Value, into: &mut Gathering<'_>) -> Result<(), String> {
    let request = row.get("request").unwrap_or(row);
    let response = row.get("response").unwrap_or(row);
    into.row(tensors(Side::Input, request), tensors(Side::Output, response))
}
