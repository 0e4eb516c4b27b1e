//! Zip archives that PyTorch and NumPy write: TorchScript, ExportedProgram, what `torch.save` makes, `.npz`.
//!
//! Promises: nothing is unpickled; the list of entries may have [`MAX_LISTED_BYTES`], and [`MAX_READ_BYTES`] are read of all entries together.
//! Source: PyTorch, `caffe2/serialize/inline_container.h`, `torch/serialization.py`, `torch/export/pt2_archive`.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::rc::Rc;

use modelyard_core::model_file::ModelKind;
use serde_json::{Value, json};
use zip::ZipArchive;
use zip::read::{ArchiveOffset, Config};

use super::pickle::{self, Seen};
use super::{Found, KindError, Source, told};

/// Names of some ten thousand tensors.
const MAX_LISTED_BYTES: u64 = 8 << 20;
const MAX_READ_BYTES: u64 = 64 << 20;
/// Entries that are looked into: pickles, small texts, arrays.
const MOST_ENTRIES: usize = 256;

/// Reads the file if it is an archive of a model.
pub(super) fn attempt(source: &mut dyn Source, _length: u64, start: &[u8]) -> Result<Option<Found>, KindError> {
    if !start.starts_with(b"PK\x03\x04") {
        return Ok(None);
    }
    // An archive that is no zip file after all may be anything; it only began like one.
    let left = Rc::new(Cell::new(MAX_LISTED_BYTES));
    // PyTorch's archives begin at the first byte; looking for another beginning would find that of an archive within.
    let config = Config { archive_offset: ArchiveOffset::Known(0) };
    let opened = ZipArchive::with_config(config, BufReader::new(Limited { source, left: left.clone() }));
    let Ok(archive) = opened else { return Ok(None) };
    left.set(MAX_READ_BYTES);
    let mut archive = Archive { archive, looked_into: 0 };
    let names: BTreeSet<String> =
        archive.archive.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect();
    let has = |end: &str| names.iter().any(|name| name.ends_with(end));
    let within = |part: &str| names.iter().any(|name| name.contains(part));
    Ok(if has("/constants.pkl") && within("/code/") {
        Some(script(&mut archive, &names))
    } else if has("/archive_format")
        || within("/models/") && has("/archive_version")
        || has("serialized_exported_program.json")
    {
        Some(export(&mut archive, &names))
    } else if has("/data.pkl") {
        Some(saved(&mut archive, &names))
    } else {
        arrays(&mut archive, &names)
    })
}

fn script(archive: &mut Archive<'_>, names: &BTreeSet<String>) -> Found {
    let files = names.iter().filter(|name| name.contains("/code/") && name.ends_with(".py")).count();
    let facts = archive.common(names, "/data/").into_iter().chain([("code_files", json!(files))]);
    let pickles = archive.pickles(names);
    let risk = format!("a TorchScript archive with code and {}: `torch.jit.load` runs its code", count(pickles.len()));
    Found::new(ModelKind::TorchScript, facts).at_risk(risk)
}

fn export(archive: &mut Archive<'_>, names: &BTreeSet<String>) -> Found {
    let facts = archive.common(names, "/data/weights/weight_");
    let nested: Vec<&String> = names.iter().filter(|name| name.ends_with(".pt")).collect();
    let pickles = archive.pickles(names).len() + nested.len();
    let found = Found::new(ModelKind::TorchExport, facts);
    match pickles {
        0 => found,
        some => found.at_risk(format!(
            "a PyTorch ExportedProgram with {} in it, which PyTorch unpickles: loading it may run whatever code is there",
            count(some)
        )),
    }
}

fn saved(archive: &mut Archive<'_>, names: &BTreeSet<String>) -> Found {
    let mut facts = archive.common(names, "/data/");
    let seen = archive.pickles(names);
    let called: BTreeSet<&String> = seen.iter().flat_map(|seen| &seen.names).collect();
    facts.push(("names", json!(called)));
    let risk = seen.first().map_or_else(|| Seen::default().risk(), Seen::risk);
    Found::new(ModelKind::Torch, facts).at_risk(format!("a PyTorch file with a pickle in it: {risk}"))
}

/// NumPy's `.npz`, which matters only if it holds Python objects.
fn arrays(archive: &mut Archive<'_>, names: &BTreeSet<String>) -> Option<Found> {
    let arrays = names.iter().filter(|name| name.ends_with(".npy"));
    let objects: Vec<&String> =
        arrays.filter(|name| archive.look(name, |entry| pickle::holds_objects(entry).ok()).unwrap_or(false)).collect();
    let risk = "NumPy arrays of Python objects, which are pickles: loading it with `allow_pickle=True` runs whatever code is in it";
    (!objects.is_empty()).then(|| Found::new(ModelKind::Pickle, [("within", json!("npz"))]).at_risk(risk))
}

fn count(pickles: usize) -> String {
    if pickles == 1 { "a pickle".to_owned() } else { format!("{pickles} pickles") }
}

/// An archive that is looked into.
struct Archive<'a> {
    archive: ZipArchive<BufReader<Limited<'a>>>,
    looked_into: usize,
}

impl Archive<'_> {
    /// What `look` makes of an entry; `None` when it cannot be read, or enough were looked into.
    fn look<T>(&mut self, name: &str, look: impl FnOnce(&mut dyn Read) -> Option<T>) -> Option<T> {
        self.looked_into += 1;
        if self.looked_into > MOST_ENTRIES {
            return None;
        }
        let mut entry = self.archive.by_name(name).ok()?;
        look(&mut (&mut entry as &mut dyn Read).take(MAX_READ_BYTES))
    }

    /// The text of a small entry.
    fn text(&mut self, names: &BTreeSet<String>, end: &str) -> Value {
        const MOST: u64 = 64;
        let Some(name) = names.iter().find(|name| name.ends_with(end)) else { return Value::Null };
        let text = self.look(name, |entry| {
            let mut bytes = Vec::new();
            entry.take(MOST).read_to_end(&mut bytes).ok()?;
            String::from_utf8(bytes).ok()
        });
        text.map_or(Value::Null, |text| told(&text))
    }

    /// What every archive of PyTorch says.
    fn common(&mut self, names: &BTreeSet<String>, tensors: &str) -> Vec<(&'static str, Value)> {
        let version = self.text(names, "/version");
        let byte_order = self.text(names, "/byteorder");
        let tensors = names.iter().filter(|name| name.contains(tensors) && !name.ends_with(".json")).count();
        vec![("archive_version", version), ("byte_order", byte_order), ("tensors", json!(tensors))]
    }

    fn pickles(&mut self, names: &BTreeSet<String>) -> Vec<Seen> {
        let called = names.iter().filter(|name| name.ends_with(".pkl"));
        called
            .map(|name| {
                let seen = self.look(name, |entry| pickle::look_through(BufReader::new(entry)).ok().flatten());
                seen.unwrap_or_default()
            })
            .collect()
    }
}

/// A source of which only so much is read: a list of entries may say that it is as long as memory.
struct Limited<'a> {
    source: &'a mut dyn Source,
    left: Rc<Cell<u64>>,
}

impl Read for Limited<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left.get() == 0 && !into.is_empty() {
            return Err(io::Error::other("more of the archive would have to be read than is allowed"));
        }
        let most = into.len().min(usize::try_from(self.left.get()).unwrap_or(usize::MAX));
        let read = self.source.read(&mut into[..most])?;
        self.left.set(self.left.get() - read as u64);
        Ok(read)
    }
}

impl Seek for Limited<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.source.seek(to)
    }
}
