//! `[lineage]`: what a model was made from, as it is written down.

use std::collections::BTreeMap;

use modelyard_core::Digest;
use modelyard_registry::{Reference, Selector};

use super::Placed;
use super::reader::{Reader, Table};
use super::tables;

const LINEAGE: [&str; 4] = ["built_from", "source", "revision", "datasets"];

/// Most packages and most data sets that are named, and longest text of the others, in bytes.
const MOST: usize = 64;
const LONGEST: usize = 500;

/// The table `[lineage]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Lineage {
    /// Packages, by version or digest.
    pub built_from: Vec<Placed<Reference>>,
    /// Where its source is.
    pub source: Option<String>,
    /// Which revision of it.
    pub revision: Option<String>,
    /// Data sets: files of the folder, or digests.
    pub datasets: BTreeMap<String, DataSet>,
}

/// A data set.
#[derive(Clone, Debug, PartialEq)]
pub enum DataSet {
    /// A file of the folder, whose digest is taken when the package is built.
    File(Placed<String>),
    /// Its digest.
    Digest(Digest),
}

pub(super) fn lineage(reader: &mut Reader<'_>, whole: &Table<'_>) -> Option<Lineage> {
    let table = reader.table(whole, "lineage", &LINEAGE)?;
    let named = reader.texts(&table, "built_from").unwrap_or_default();
    if named.len() > MOST {
        reader.mistake(table.at.clone(), format!("`built_from` names more than {MOST} packages"));
    }
    let built_from = named.into_iter().filter_map(|text| package(reader, &text)).collect();
    let mut text = |key| reader.text(&table, key).and_then(|text| line(reader, key, text));
    let (source, revision) = (text("source"), text("revision"));
    let written = reader.named_placed(&table, "datasets");
    if written.len() > MOST {
        reader.mistake(table.at.clone(), format!("`datasets` names more than {MOST} data sets"));
    }
    let mut datasets = BTreeMap::new();
    for (name, text) in written {
        let data = match text.value.parse::<Digest>() {
            Ok(digest) => DataSet::Digest(digest),
            Err(why) if text.value.starts_with("sha256:") => {
                reader.mistake(text.at, format!("`{}`: {why}", name.escape_debug()));
                continue;
            }
            Err(_) => {
                tables::path(reader, &name, &text);
                DataSet::File(text)
            }
        };
        datasets.insert(name, data);
    }
    Some(Lineage { built_from, source, revision, datasets })
}

/// One package. A name that moves would make the same folder another package tomorrow.
fn package(reader: &mut Reader<'_>, text: &Placed<String>) -> Option<Placed<Reference>> {
    let fixed = |reference: &Reference| matches!(reference.selector, Selector::Version(_) | Selector::Digest(_));
    match text.value.parse::<Reference>() {
        Ok(reference) if fixed(&reference) => Some(Placed { value: reference, at: text.at.clone() }),
        Ok(_) => {
            let what = "`built_from` names what moves; write NAME:VERSION or NAME@sha256:…".to_owned();
            reader.mistake(text.at.clone(), what);
            None
        }
        Err(why) => {
            reader.mistake(text.at.clone(), format!("`built_from`: {why}"));
            None
        }
    }
}

fn line(reader: &mut Reader<'_>, key: &str, text: Placed<String>) -> Option<String> {
    if text.value.is_empty() || text.value.len() > LONGEST || text.value.chars().any(char::is_control) {
        reader.mistake(text.at, format!("`{key}` is one line of 1 to {LONGEST} bytes"));
        return None;
    }
    Some(text.value)
}
