//! A model folder that was read and found right: nothing is stored before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use miette::NamedSource;
use modelyard_core::package::{Graph, Runtime};
use modelyard_core::profile::Profile;
use modelyard_core::sample::Sample;
use modelyard_core::signature::{Datatype, Signature};
use modelyard_registry::{MAX_DOCUMENT_BYTES, paths};
use serde_json::Value;

use crate::description::{DataSet, Description, Mistake, Model, Placed, Samples};
use crate::{DESCRIPTION, Error, files, flags, kinds, onnx, profile, python, samples};

/// How a file looked: what was read of it before must be what is stored of it after.
pub(crate) type Look = (u64, Option<SystemTime>);

pub(crate) fn look(facts: &fs::Metadata) -> Look {
    (facts.len(), facts.modified().ok())
}

/// A folder that was read and found right.
pub(crate) struct Draft {
    pub(crate) description: Description,
    pub(crate) signature: Signature,
    pub(crate) graph: Option<Graph>,
    pub(crate) samples: Vec<Sample>,
    /// How the reference data is spread, and what is probably not meant of it.
    pub(crate) profile: Option<Arc<Profile>>,
    profile_warnings: Vec<String>,
    /// Every file of the package.
    pub(crate) paths: BTreeSet<String>,
    /// Those of them that hold weights for certain.
    pub(crate) weights: BTreeSet<String>,
    /// How each model file looked when it was read.
    pub(crate) looks: BTreeMap<String, Look>,
    /// The model files that were recognised, and what loading them may do.
    pub(crate) recognised: kinds::Recognised,
}

impl Draft {
    /// Reads the folder.
    pub(crate) fn new(folder: &Path, allow_unlocked: bool) -> Result<Self, Error> {
        let path = folder.join(DESCRIPTION);
        if !path.is_file() {
            return Err(Error::NoDescription(path));
        }
        let text = String::from_utf8(read(&path)?);
        let text = text.map_err(|_| Error::Path { path: DESCRIPTION.to_owned(), why: "it is not UTF-8".to_owned() })?;
        let refuse = |mistakes| Error::Description {
            text: NamedSource::new(path.display().to_string(), text.clone()),
            mistakes,
        };
        let description = Description::parse(&text).map_err(refuse)?;
        let refuse =
            |wrong: flags::Wrong| refuse(wrong.into_iter().map(|(at, what)| Mistake::new(&text, at, what)).collect());
        let gathered = gather(folder, &description).map_err(refuse)?;
        let unlocked = python::unlocked(folder, &description)?;
        if let Some(why) = unlocked.as_ref().filter(|_| !allow_unlocked) {
            return Err(Error::Lock(why.clone()));
        }
        let mut draft = Self::from(folder, description, gathered, refuse)?;
        if let Runtime::Python { requirements: Some(_), locked, .. } = &mut draft.description.runtime.value {
            *locked = unlocked.is_none();
            let warning =
                |why| format!("the package is not locked, so that tomorrow it may run with other dependencies: {why}");
            draft.profile_warnings.extend(unlocked.map(warning));
        }
        Ok(draft)
    }

    /// Reads a bare ONNX file, which says nothing of itself but its signature; `model` is what it is called.
    pub(crate) fn of_model(folder: &Path, file: &str, model: Model) -> Result<Self, Error> {
        let refuse = |why| Error::Path { path: file.to_owned(), why };
        files::length(folder, file).map_err(refuse)?;
        let description = Description::of(model, Runtime::Onnx { model: file.to_owned() });
        Self::from(folder, description, BTreeSet::new(), |wrong| refuse(in_words(wrong)))
    }

    /// Reads a bare model file or folder of another kind, which nothing of ours runs.
    pub(crate) fn of_kept(folder: &Path, path: &str, model: Model) -> Result<Self, Error> {
        let refuse = |why| Error::Path { path: path.to_owned(), why };
        let mut paths = BTreeSet::new();
        files::expand(folder, path, &mut paths).map_err(refuse)?;
        let description = Description::of(model, Runtime::None {});
        let mut draft = Self::from(folder, description, paths, |wrong| refuse(in_words(wrong)))?;
        if !draft.recognised.models.contains_key(path) {
            return Err(Error::NoModel(folder.join(path)));
        }
        // A model that does not say what it takes is kept all the same.
        if let Ok((signature, _)) = draft.recognised.signature(path) {
            draft.description.model_file = Some(Placed { value: path.to_owned(), at: 0..0 });
            draft.signature = signature;
        }
        Ok(draft)
    }

    fn from(
        folder: &Path,
        mut description: Description,
        mut paths: BTreeSet<String>,
        refuse: impl Fn(flags::Wrong) -> Error,
    ) -> Result<Self, Error> {
        let (mut signature, mut graph, mut unshaped) = (Signature::default(), None, BTreeSet::new());
        let (mut weights, mut looks) = (BTreeSet::new(), BTreeMap::new());
        if let Runtime::Onnx { model: path } = &description.runtime.value {
            let (facts, look) = facts(&folder.join(path))?;
            weights = external(folder, path, &facts)?;
            weights.insert(path.clone());
            (signature, graph, unshaped) = (facts.signature, Some(facts.graph), facts.unshaped);
            looks.insert(path.clone(), look);
            let (further, mut wrong) = flags::alternatives(folder, &description.flags, path, &signature)?;
            weights.extend(further);
            paths.extend(weights.iter().cloned());
            wrong.extend(flags::bind(&description.flags, &mut signature));
            if !wrong.is_empty() {
                return Err(refuse(wrong));
            }
        }
        if let Some((path, why)) = paths::clash(paths.iter().map(String::as_str)) {
            return Err(Error::Path { path: path.to_owned(), why: why.to_owned() });
        }
        let recognised = kinds::recognise(folder, &paths, &weights)?;
        if let Some(model) = &description.model_file {
            let runtime = &description.runtime.value;
            let read = recognised.signature(&model.value).and_then(|read| carried(runtime, read));
            (signature, unshaped) = read.map_err(|why| refuse(vec![(model.at.clone(), why)]))?;
        }
        if let Runtime::Python { .. } = &description.runtime.value {
            signature = description.signature.take().map_or(signature, |placed| placed.value);
            let wrong = flags::bind(&description.flags, &mut signature);
            if !wrong.is_empty() {
                return Err(refuse(wrong));
            }
        }
        let wrong = description.meanings.wrong(&signature);
        if !wrong.is_empty() {
            return Err(refuse(wrong));
        }
        let list = sample_list(folder, description.samples.take().map(|samples| samples.value))?;
        let against = samples::Model {
            runtime: &description.runtime.value,
            signature: &signature,
            unshaped: &unshaped,
            flags: &description.flags,
        };
        let samples = samples::read(list, &against).map_err(|faults| Error::Samples { faults })?;
        let (profile, profile_warnings) = match &description.reference {
            None => (None, Vec::new()),
            Some(data) => {
                let against = profile::Model { signature: &signature, unshaped: &unshaped };
                let read = profile::read(&folder.join(&data.value), &against);
                let refuse = |why| Error::Reference { path: PathBuf::from(&data.value), why };
                read.map(|(profile, warnings)| (Some(Arc::new(profile)), warnings)).map_err(refuse)?
            }
        };
        weights.extend(recognised.weights(&paths));
        looks.extend(recognised.looks.clone());
        Ok(Self {
            description,
            signature,
            graph,
            samples,
            profile,
            profile_warnings,
            paths,
            weights,
            looks,
            recognised,
        })
    }

    /// What is allowed but probably not meant.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.profile_warnings.clone();
        if self.samples.is_empty() && self.description.runtime.value != (Runtime::None {}) {
            let what = "the package has no samples: nothing can tell whether an instance answers correctly";
            warnings.push(what.to_owned());
        }
        for (path, risk) in self.recognised.risks() {
            warnings.push(format!("`{path}` is {risk}"));
        }
        if let Runtime::None {} = self.description.runtime.value {
            let what = "nothing runs this package: it is kept, moved and compared; `[runtime]` with a `command` or a `python` function runs it \
                        (docs/guide/kinds.md)";
            warnings.push(what.to_owned());
        }
        if let Runtime::Command { command, .. } = &self.description.runtime.value
            && let Some(program) = command.first().filter(|program| program.starts_with('/'))
        {
            warnings.push(format!("the program `{program}` must be on every machine that the package shall run on"));
        }
        warnings
    }
}

/// The files that the description names, or everything that is wrong with them and where it is named.
fn gather(folder: &Path, description: &Description) -> Result<BTreeSet<String>, Vec<(Range<usize>, String)>> {
    let (mut paths, mut wrong) = (BTreeSet::new(), Vec::new());
    for pattern in description.files.iter().chain(&description.model.card) {
        if let Err(why) = files::expand(folder, &pattern.value, &mut paths) {
            wrong.push((pattern.at.clone(), why));
        }
    }
    let samples = description.samples.as_ref().and_then(|samples| match &samples.value {
        Samples::File(path) => Some((path, &samples.at)),
        Samples::Inline(_) => None,
    });
    if let Some((path, at)) = samples
        && let Err(why) = files::length(folder, path)
    {
        wrong.push((at.clone(), why));
    }
    if let Some(data) = &description.reference
        && let Err(why) = files::length(folder, &data.value)
    {
        wrong.push((data.at.clone(), why));
    }
    for data in description.lineage.iter().flat_map(|lineage| lineage.datasets.values()) {
        if let DataSet::File(path) = data
            && let Err(why) = files::length(folder, &path.value)
        {
            wrong.push((path.at.clone(), why));
        }
    }
    if let Some(model) = &description.model_file
        && let Err(why) = files::expand(folder, &model.value, &mut paths)
    {
        wrong.push((model.at.clone(), why));
    }
    let (runtime, at) = (&description.runtime.value, &description.runtime.at);
    match runtime {
        Runtime::Onnx { model } => wrong.extend(files::length(folder, model).err().map(|why| (at.clone(), why))),
        Runtime::Command { command, .. } => {
            wrong.extend(everything_unless_listed(folder, description, &mut paths));
            wrong.extend(command_faults(folder, command, &paths).into_iter().map(|why| (at.clone(), why)));
        }
        Runtime::None {} => wrong.extend(everything_unless_listed(folder, description, &mut paths)),
        Runtime::Python { entry, requirements, .. } => {
            wrong.extend(everything_unless_listed(folder, description, &mut paths));
            wrong.extend(
                python::gather(folder, entry, requirements.as_deref(), &mut paths).map(|why| (at.clone(), why)),
            );
        }
    }
    wrong.extend(flags::check(folder, &description.flags, runtime));
    paths.remove(DESCRIPTION);
    wrong.sort_by_key(|(at, _)| at.start);
    if wrong.is_empty() { Ok(paths) } else { Err(wrong) }
}

/// A program may read anything beside it: without a list, everything in the folder belongs to the package.
fn everything_unless_listed(
    folder: &Path,
    description: &Description,
    paths: &mut BTreeSet<String>,
) -> Option<(Range<usize>, String)> {
    if !description.files.is_empty() {
        return None;
    }
    let refused = files::everything(folder, paths).err();
    if let Some(Samples::File(path)) = description.samples.as_ref().map(|samples| &samples.value) {
        paths.remove(path);
    }
    if let Some(data) = &description.reference {
        paths.remove(&data.value);
    }
    for data in description.lineage.iter().flat_map(|lineage| lineage.datasets.values()) {
        if let DataSet::File(path) = data {
            paths.remove(&path.value);
        }
    }
    refused.map(|why| (description.runtime.at.clone(), why))
}

/// What is wrong with a file that has no description to point into.
fn in_words(wrong: flags::Wrong) -> String {
    wrong.into_iter().map(|(_, what)| what).collect::<Vec<_>>().join("; ")
}

/// A signature that was read from a model file, if the runtime can answer with it.
fn carried(
    runtime: &Runtime,
    (signature, unshaped): (Signature, BTreeSet<String>),
) -> Result<(Signature, BTreeSet<String>), String> {
    let Runtime::Python { .. } = runtime else { return Ok((signature, unshaped)) };
    let write = "write `[signature]` instead of `model`";
    if let Some(name) = unshaped.first() {
        return Err(format!("the model does not say which shape its output `{}` has: {write}", name.escape_debug()));
    }
    let mut specs = signature.inputs.iter().chain(&signature.outputs);
    match specs.find(|spec| spec.datatype == Datatype::Bf16) {
        Some(spec) => Err(format!("`{}` is BF16, which NumPy has not: {write}", spec.name.escape_debug())),
        None => Ok((signature, unshaped)),
    }
}

/// Files that the command names and instances would not find.
fn command_faults(folder: &Path, command: &[String], paths: &BTreeSet<String>) -> Vec<String> {
    let is_script =
        |path: &str| [".py", ".sh", ".js", ".mjs", ".jar", ".rb", ".R"].iter().any(|end| path.ends_with(end));
    let mut wrong = Vec::new();
    for (index, word) in command.iter().enumerate() {
        let path = word.trim_start_matches("./");
        let names_a_file = if index == 0 { word.contains('/') } else { is_script(path) || folder.join(path).is_file() };
        if word.starts_with(['/', '-']) || !names_a_file || paths::fault(path).is_some() || paths.contains(path) {
            continue;
        }
        wrong.push(match files::length(folder, path) {
            Ok(_) => format!("`{word}` is in the folder but not in `files`, so instances would not find it"),
            Err(why) => format!("the command names `{word}`: {why}"),
        });
    }
    wrong
}

/// Reads a file that ends up in the package document, so it cannot be longer than one.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(Error::file("could not read", path))?;
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES { Err(Error::TooLong(path.to_owned())) } else { Ok(bytes) }
}

fn sample_list(folder: &Path, samples: Option<Samples>) -> Result<Vec<Value>, Error> {
    let path = match samples {
        None => return Ok(Vec::new()),
        Some(Samples::Inline(list)) => return Ok(list),
        Some(Samples::File(path)) => path,
    };
    let list = serde_json::from_slice(&read(&folder.join(&path))?);
    list.map_err(|source| Error::SampleFile { path: PathBuf::from(path), source })
}

/// What the model file says, and how the file looked.
pub(crate) fn facts(path: &Path) -> Result<(onnx::Facts, Look), Error> {
    let cannot = |source| Error::File { doing: "could not read", path: path.to_owned(), source };
    let file = File::open(path).map_err(cannot)?;
    let before = file.metadata().map_err(cannot)?;
    let facts = onnx::read_from(file, before.len());
    let facts = facts.map_err(|source| Error::Onnx { path: path.to_owned(), source })?;
    Ok((facts, look(&before)))
}

/// Files beside the model that hold weights of it: they must be there, and long enough.
pub(crate) fn external(folder: &Path, model: &str, facts: &onnx::Facts) -> Result<BTreeSet<String>, Error> {
    let beside = |location: &str| match model.rsplit_once('/') {
        Some((parent, _)) => format!("{parent}/{location}"),
        None => location.to_owned(),
    };
    let mut found = BTreeSet::new();
    for (location, least) in &facts.external {
        let path = beside(location);
        let refuse = |why| Error::Weights { model: model.to_owned(), why };
        let length = files::length(folder, &path).map_err(refuse)?;
        if length < *least {
            return Err(refuse(format!("`{path}` has {length} bytes, and the model's weights end at {least}")));
        }
        found.insert(path);
    }
    Ok(found)
}
