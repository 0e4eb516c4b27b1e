//! `[inputs.NAME]` and `[outputs.NAME]`: what people agreed on that inputs and outputs mean.

use std::collections::BTreeMap;
use std::ops::Range;

use modelyard_core::meaning::{Meaning, Meanings};
use modelyard_core::signature::{Signature, TensorSpec};

use super::Placed;
use super::reader::{Reader, Table};

const MEANING: [&str; 4] = ["description", "unit", "values", "columns"];

/// Most inputs, and most outputs, of which something is said; most codes, and most columns, of one.
const MOST: usize = 4_096;
/// Longest text, in bytes.
const LONGEST: usize = 500;

/// What is said, each with its place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    inputs: BTreeMap<String, Placed<Meaning>>,
    outputs: BTreeMap<String, Placed<Meaning>>,
}

impl Said {
    /// What is wrong with it beside a signature; one that describes nothing takes everything.
    pub(crate) fn wrong(&self, signature: &Signature) -> Vec<(Range<usize>, String)> {
        if signature.inputs.is_empty() && signature.outputs.is_empty() {
            return Vec::new();
        }
        let side = |side: &str,
                    said: &BTreeMap<String, Placed<Meaning>>,
                    specs: &[TensorSpec]|
         -> Vec<(Range<usize>, String)> {
            let one = |(name, said): (&String, &Placed<Meaning>)| {
                let Some(spec) = specs.iter().find(|spec| spec.name == *name) else {
                    let there: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).take(20).collect();
                    let what =
                        format!("the model has no {side} `{}`; it has {}", name.escape_debug(), there.join(", "));
                    return Some((said.at.clone(), what));
                };
                let columns = said.value.columns.len();
                let axis = spec.shape.last().copied().and_then(|axis| usize::try_from(axis).ok());
                let fits = columns == 0 || axis.is_none_or(|axis| axis == columns) && !spec.shape.is_empty();
                let what = || {
                    format!(
                        "`columns` names {columns}, and the last axis of `{name}` in {:?} has another length",
                        spec.shape
                    )
                };
                (!fits).then(|| (said.at.clone(), what()))
            };
            said.iter().filter_map(one).collect()
        };
        [side("input", &self.inputs, &signature.inputs), side("output", &self.outputs, &signature.outputs)].concat()
    }

    /// As the package keeps it.
    pub(crate) fn meanings(self) -> Meanings {
        let plain =
            |said: BTreeMap<String, Placed<Meaning>>| said.into_iter().map(|(name, said)| (name, said.value)).collect();
        Meanings { inputs: plain(self.inputs), outputs: plain(self.outputs) }
    }
}

pub(super) fn said(reader: &mut Reader<'_>, whole: &Table<'_>) -> Said {
    Said { inputs: side(reader, whole, "inputs"), outputs: side(reader, whole, "outputs") }
}

fn side(reader: &mut Reader<'_>, whole: &Table<'_>, key: &str) -> BTreeMap<String, Placed<Meaning>> {
    let Some(within) = reader.free_table(whole, key) else { return BTreeMap::new() };
    if within.entries.len() > MOST {
        reader.mistake(within.at.clone(), format!("`[{key}]` names more than {MOST}"));
        return BTreeMap::new();
    }
    let names: Vec<String> = within.entries.keys().map(|name| name.get_ref().to_string()).collect();
    let mut all = BTreeMap::new();
    for name in names {
        let Some(table) = reader.table(&within, &name, &MEANING) else { continue };
        let description = reader.text(&table, "description").and_then(|text| line(reader, "description", text));
        let unit = reader.text(&table, "unit").and_then(|text| line(reader, "unit", text));
        let written = reader.named_placed(&table, "values");
        let values: BTreeMap<String, String> =
            written.into_iter().filter_map(|(code, text)| Some((code, line(reader, "values", text)?))).collect();
        let columns = reader.texts(&table, "columns").unwrap_or_default();
        let columns: Vec<String> = columns.into_iter().filter_map(|text| line(reader, "columns", text)).collect();
        if values.len() > MOST || columns.len() > MOST {
            reader.mistake(table.at.clone(), format!("`values` and `columns` take {MOST} each at most"));
        }
        let value = Meaning { description: description.unwrap_or_default(), unit, values, columns };
        all.insert(name, Placed { value, at: table.at });
    }
    all
}

fn line(reader: &mut Reader<'_>, key: &str, text: Placed<String>) -> Option<String> {
    if text.value.trim().is_empty() || text.value.len() > LONGEST || text.value.chars().any(char::is_control) {
        reader.mistake(text.at, format!("`{key}` takes texts of one line, 1 to {LONGEST} bytes"));
        return None;
    }
    Some(text.value)
}
