//! Flags against the model: which inputs they fill, which files they choose between.
//!
//! Promises: whatever value a revision gives, the model file is there, takes what the default one takes, and gets inputs that it can hold.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use modelyard_core::flags::variable;
use modelyard_core::package::{Flag, Runtime};
use modelyard_core::sample::Sample;
use modelyard_core::signature::{Signature, compatible};

use crate::description::Placed;
use crate::draft::{external, facts};
use crate::{Error, files};

type Flags = BTreeMap<String, Placed<Flag>>;
/// Mistakes and where they stand.
pub(crate) type Wrong = Vec<(Range<usize>, String)>;

/// What is wrong with flags before any model is read: files that are missing, variables that are the same, uses that the runtime has not.
pub(crate) fn check(folder: &Path, flags: &Flags, runtime: &Runtime) -> Wrong {
    let mut wrong = Wrong::new();
    let mut variables = BTreeMap::new();
    for (name, Placed { value: flag, at }) in flags {
        if let Some(other) = variables.insert(variable(name), name) {
            wrong.push((at.clone(), format!("the flags `{other}` and `{name}` are one variable, {}", variable(name))));
        }
        match runtime {
            Runtime::Command { .. } if flag.input().is_some() || !flag.files().is_empty() => {
                let what = "`input` and `files` are for ONNX models; a program finds its flags in its environment";
                wrong.push((at.clone(), what.to_owned()));
            }
            Runtime::Command { .. } => {}
            Runtime::None {} => {
                wrong.push((at.clone(), "nothing runs the package, so a flag has no meaning".to_owned()))
            }
            Runtime::Python { .. } if !flag.files().is_empty() => {
                let what = "`files` is for ONNX models; a function gets its flags as values and opens what it wants";
                wrong.push((at.clone(), what.to_owned()));
            }
            Runtime::Python { .. } => {}
            Runtime::Onnx { model } => {
                let missing = flag.files().values().filter_map(|path| files::length(folder, path).err());
                wrong.extend(missing.map(|why| (at.clone(), why)));
                wrong.extend(default_file_fault(flag, model).map(|why| (at.clone(), why)));
            }
        }
    }
    let mut choosing = flags.values().filter(|flag| !flag.value.files().is_empty()).skip(1);
    wrong.extend(choosing.next().map(|flag| {
        (flag.at.clone(), "another flag chooses the model file already: give one flag all the choices".to_owned())
    }));
    wrong
}

/// The model that the package names must be the one that the flag's default chooses: whoever knows nothing of flags runs that one.
fn default_file_fault(flag: &Flag, model: &str) -> Option<String> {
    let default = flag.default_value();
    let chosen = flag.files().get(default.as_str()?)?;
    (chosen != model).then(|| format!("its default chooses `{chosen}`, but [runtime] names `{model}`: write the same"))
}

/// Holds every further model file against the signature of the default one. Returns the files that hold weights.
///
/// # Errors
/// [`Error`] when a file is no usable model.
pub(crate) fn alternatives(
    folder: &Path,
    flags: &Flags,
    model: &str,
    signature: &Signature,
) -> Result<(BTreeSet<String>, Wrong), Error> {
    let (mut weights, mut wrong) = (BTreeSet::new(), Wrong::new());
    for Placed { value: flag, at } in flags.values() {
        for path in flag.files().values().filter(|path| *path != model) {
            let (facts, _) = facts(&folder.join(path))?;
            weights.extend(external(folder, path, &facts)?);
            weights.insert(path.clone());
            // Both ways: going from one value to another must not break callers.
            let ways = [(signature, &facts.signature), (&facts.signature, signature)];
            let differs = ways.into_iter().find_map(|(one, other)| compatible(one, other).err());
            wrong.extend(
                differs
                    .map(|why| (at.clone(), format!("`{path}` takes or gives something else than `{model}`: {why}"))),
            );
        }
    }
    Ok((weights, wrong))
}

/// Holds the inputs that flags fill against the signature, and marks them as optional.
pub(crate) fn bind(flags: &Flags, signature: &mut Signature) -> Wrong {
    let mut wrong = Wrong::new();
    let mut filled = BTreeMap::new();
    for (name, Placed { value: flag, at }) in flags {
        let Some(input) = flag.input() else { continue };
        if let Some(other) = filled.insert(input, name) {
            wrong.push((at.clone(), format!("the flag `{other}` fills the input `{input}` already")));
        }
        let names: Vec<String> = signature.inputs.iter().map(|spec| format!("`{}`", spec.name)).collect();
        let Some(spec) = signature.inputs.iter_mut().find(|spec| spec.name == input) else {
            let input: String = input.escape_debug().take(80).collect();
            wrong.push((at.clone(), format!("the model has no input `{input}`; it has {}", names.join(", "))));
            continue;
        };
        wrong.extend(flag.misfit_with(spec).map(|why| (at.clone(), why)));
        spec.optional = true;
    }
    let nothing_left =
        !filled.is_empty() && signature.inputs.iter().all(|spec| filled.contains_key(spec.name.as_str()));
    if let Some(flag) = flags.values().find(|flag| nothing_left && flag.value.input().is_some()) {
        wrong.push((flag.at.clone(), "flags fill every input: leave at least one to the callers".to_owned()));
    }
    wrong
}

/// Why the values that a sample names are none of the flags', if so.
pub(crate) fn sample_fault(flags: &Flags, sample: &Sample) -> Option<String> {
    sample.flags.iter().find_map(|(name, value)| match flags.get(name) {
        Some(flag) => flag.value.misfit(name, value).map(|why| format!("its `flags`: {why}")),
        None => Some(format!("its `flags`: there is no flag `{}`", name.escape_debug().take(80).collect::<String>())),
    })
}
