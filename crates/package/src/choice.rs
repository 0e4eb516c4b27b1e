//! Which files of somebody's repository make a package: a model of a kind that is known, and what stands beside it.
//!
//! Promises: nothing that is loaded by unpickling is chosen unless that was allowed; of several models none is guessed.
//! Absent on purpose: fetching. Names decide what is fetched; what came is looked at again by its content ([`pickle_in`]).

use std::fs::File;
use std::path::Path;

use modelyard_core::model_file::ModelKind;

use crate::kinds::{self, is_called_like_a_pickle};

/// Endings of model files that hold no code.
const MODELS: [&str; 4] = [".onnx", ".safetensors", ".gguf", ".mlmodel"];
/// Endings of files whose loading may run code, though they are not called like a pickle: PyTorch's, and those that Keras unmarshals.
const RISKS: [&str; 11] = [".bin", ".pt", ".pth", ".pt2", ".ckpt", ".t7", ".h5", ".keras", ".npy", ".npz", ".pyc"];
/// What stands beside a model and is plain text, or a tokenizer's table.
const BESIDE: [&str; 9] = [".json", ".txt", ".md", ".yaml", ".yml", ".toml", ".model", ".vocab", ".jinja"];
/// Largest file that is taken because it stands beside a model, in bytes.
const MOST_BESIDE: u64 = 64 << 20;

/// A file that could be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered<'a> {
    /// Its path.
    pub path: &'a str,
    /// Its length.
    pub size_bytes: u64,
}

/// Why nothing was chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// There is no model.
    #[error("it holds no model file of a kind that is known (ONNX, safetensors, GGUF, Core ML)")]
    None,
    /// The only models are pickles.
    #[error("its only models run code when they are loaded: {}", .0.join(", "))]
    Risky(Vec<String>),
    /// There are several.
    #[error("it holds several models: {}", .0.join(", "))]
    Several(Vec<String>),
    /// A pattern fits nothing.
    #[error("no file fits `{0}`")]
    Nothing(String),
    /// A pattern asks for what is not allowed.
    #[error("loading these files may run code, so they are not taken: {}", .0.join(", "))]
    Forbidden(Vec<String>),
}

/// Whether loading a file of that name may run code.
pub fn is_risky(path: &str) -> bool {
    let path = path.to_lowercase();
    is_called_like_a_pickle(&path) || RISKS.iter().any(|ending| path.ends_with(ending))
}

/// Chooses what to take: what the patterns say, else the only model and what stands beside it; the card and the licence in any case.
///
/// In a pattern `*` stands for anything but `/`, `**` for anything, and `?` for one character; one without `/` is held against the last part of paths.
///
/// # Errors
/// [`ChoiceError`], with the files that there are to choose from.
pub fn choose<'a>(
    offered: &[Offered<'a>],
    patterns: &[String],
    allow_pickle: bool,
) -> Result<Vec<Offered<'a>>, ChoiceError> {
    let about = |file: &Offered<'_>| !file.path.contains('/') && is_about(file.path);
    if patterns.is_empty() {
        let model = only_model(offered, allow_pickle)?;
        let folder = model.rsplit_once('/').map_or("", |(folder, _)| folder);
        let beside = |file: &Offered<'_>| {
            let at = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            let weights = at == folder && is_weights_of(file.path, model);
            let text = (at == folder || at.is_empty()) && is_beside(file);
            group(file.path) == model || weights || text || about(file)
        };
        return Ok(offered.iter().filter(|file| beside(file)).copied().collect());
    }
    if let Some(pattern) = patterns.iter().find(|pattern| !offered.iter().any(|file| fits(pattern, file.path))) {
        return Err(ChoiceError::Nothing(pattern.clone()));
    }
    let asked = |file: &Offered<'_>| patterns.iter().any(|pattern| fits(pattern, file.path));
    let risky: Vec<String> = offered.iter().filter(|file| asked(file) && is_risky(file.path)).map(shown).collect();
    match risky.is_empty() || allow_pickle {
        true => Ok(offered.iter().filter(|file| asked(file) || about(file)).copied().collect()),
        false => Err(ChoiceError::Forbidden(risky)),
    }
}

/// The only model, as [`group`] names it.
fn only_model<'a>(offered: &[Offered<'a>], allow_pickle: bool) -> Result<&'a str, ChoiceError> {
    let models = |is_model: &dyn Fn(&str) -> bool| {
        let mut found: Vec<Offered<'a>> = offered.iter().filter(|file| is_model(file.path)).copied().collect();
        found.dedup_by_key(|file| group(file.path));
        found
    };
    let safe = models(&|path| MODELS.iter().any(|ending| path.to_lowercase().ends_with(ending)));
    let risky = models(&is_risky);
    match (safe.as_slice(), risky.as_slice()) {
        ([one], _) => Ok(group(one.path)),
        ([], [one]) if allow_pickle => Ok(group(one.path)),
        ([], []) => Err(ChoiceError::None),
        ([], several) if allow_pickle => Err(ChoiceError::Several(several.iter().map(shown).collect())),
        ([], risky) => Err(ChoiceError::Risky(risky.iter().map(shown).collect())),
        (several, _) => Err(ChoiceError::Several(several.iter().map(shown).collect())),
    }
}

fn shown(file: &Offered<'_>) -> String {
    let path: String = file.path.chars().flat_map(char::escape_debug).collect();
    match file.size_bytes {
        bytes if bytes < 1 << 20 => format!("{path} ({} KiB)", bytes.div_ceil(1 << 10)),
        bytes => format!("{path} ({} MiB)", bytes.div_ceil(1 << 20)),
    }
}

/// What all parts of one model have in common: `model-00001-of-00003.safetensors` is `model` in parts.
fn group(path: &str) -> &str {
    let stem = path.rsplit_once('.').map_or(path, |(stem, _)| stem);
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = stem.rsplitn(4, '-');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(all), Some("of"), Some(number), Some(name)) if digits(all) && digits(number) => name,
        _ => path,
    }
}

/// Weights that an ONNX file keeps outside: `model.onnx_data`, `model.onnx.data`, and their further parts.
fn is_weights_of(path: &str, model: &str) -> bool {
    model.ends_with(".onnx") && path.strip_prefix(model).is_some_and(|rest| rest.starts_with(['_', '.']))
}

fn is_beside(file: &Offered<'_>) -> bool {
    let path = file.path.to_lowercase();
    file.size_bytes <= MOST_BESIDE && BESIDE.iter().any(|ending| path.ends_with(ending))
}

/// The card, and what the licence demands to be kept.
fn is_about(name: &str) -> bool {
    let name = name.to_lowercase();
    name == "readme.md" || ["license", "licence", "notice"].iter().any(|word| name.starts_with(word))
}

/// Whether a path fits a pattern.
fn fits(pattern: &str, path: &str) -> bool {
    let path = if pattern.contains('/') { path } else { path.rsplit('/').next().unwrap_or(path) };
    let (pattern, path): (Vec<char>, Vec<char>) = (pattern.chars().collect(), path.chars().collect());
    // Row by row over the pattern: which beginnings of the path it may have eaten so far.
    let mut eaten = vec![false; path.len() + 1];
    eaten[0] = true;
    let mut at = 0;
    while at < pattern.len() {
        let deep = pattern[at] == '*' && pattern.get(at + 1) == Some(&'*');
        let mut next = vec![false; path.len() + 1];
        for index in 0..=path.len() {
            next[index] = match pattern[at] {
                '*' => eaten[index] || index > 0 && next[index - 1] && (deep || path[index - 1] != '/'),
                '?' => index > 0 && eaten[index - 1] && path[index - 1] != '/',
                letter => index > 0 && eaten[index - 1] && path[index - 1] == letter,
            };
        }
        eaten = next;
        at += if deep { 2 } else { 1 };
    }
    eaten[path.len()]
}

/// What a file holds that runs code when it is loaded, whatever it is called; none if there is no such thing, or nothing of it can be read.
pub fn pickle_in(path: &Path) -> Option<ModelKind> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let kind = match kinds::read_from(&mut file, length, &path.to_string_lossy()) {
        Ok(found) => found?.file.kind,
        Err(kinds::KindError::Broken { kind, .. }) => kind,
        Err(_) => return None,
    };
    let runs = matches!(kind, ModelKind::Pickle | ModelKind::Torch | ModelKind::TorchScript | ModelKind::TorchExport);
    runs.then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chosen(files: &[&'static str], patterns: &[&str], allow: bool) -> Result<Vec<&'static str>, ChoiceError> {
        let offered: Vec<_> = files.iter().map(|path| Offered { path, size_bytes: 3 << 20 }).collect();
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        choose(&offered, &patterns, allow).map(|files| files.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn the_only_model_is_taken_with_what_stands_beside_it() {
        let files = [
            ".gitattributes",
            "LICENSE",
            "README.md",
            "config.json",
            "onnx/config.json",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "openvino/config.json",
            "pytorch_model.bin",
            "run.py",
            "sub/notes.txt",
            "tokenizer.model",
        ];
        let wanted = [
            "LICENSE",
            "README.md",
            "config.json",
            "onnx/config.json",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "tokenizer.model",
        ];
        assert_eq!(chosen(&files, &[], false).unwrap(), wanted);
        let parts =
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"];
        assert_eq!(chosen(&parts, &[], false).unwrap(), parts);
    }

    #[test]
    fn of_several_none_is_guessed_and_patterns_choose() {
        let files = ["README.md", "model.safetensors", "onnx/model.onnx", "onnx/model_int8.onnx"];
        let Err(ChoiceError::Several(found)) = chosen(&files, &[], false) else { panic!() };
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], "model.safetensors (3 MiB)");
        assert_eq!(chosen(&files, &["onnx/model.onnx"], false).unwrap(), ["README.md", "onnx/model.onnx"]);
        assert_eq!(
            chosen(&files, &["*.onnx"], false).unwrap(),
            ["README.md", "onnx/model.onnx", "onnx/model_int8.onnx"]
        );
        assert_eq!(chosen(&files, &["**/*int?.onnx"], false).unwrap(), ["README.md", "onnx/model_int8.onnx"]);
        assert_eq!(chosen(&files, &["*.gguf"], false), Err(ChoiceError::Nothing("*.gguf".into())));
        assert_eq!(chosen(&["README.md"], &[], true), Err(ChoiceError::None));
    }

    #[test]
    fn pickles_are_only_taken_when_that_is_said() {
        let files = ["config.json", "pytorch_model.bin"];
        assert!(matches!(chosen(&files, &[], false), Err(ChoiceError::Risky(found)) if found.len() == 1));
        assert_eq!(chosen(&files, &[], true).unwrap(), files);
        for name in ["a.pkl", "A.PTH", "x.joblib", "w.npz", "m.h5"] {
            assert!(matches!(chosen(&[name], &["*"], false), Err(ChoiceError::Forbidden(_))), "{name}");
        }
    }

    #[test]
    fn a_pickle_by_another_name_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            pickle_in(&path)
        };
        assert_eq!(at("model.safetensors.index.json", b"{}"), None);
        assert_eq!(at("vocab.txt", b"\x80\x04\x8c\x05posix\x8c\x06system\x93."), Some(ModelKind::Pickle));
    }

    proptest! {
        #[test]
        fn patterns_without_stars_fit_themselves_only(one in "[a-c/.]{0,6}", other in "[a-c/.]{0,6}") {
            let last = |text: &str| text.rsplit('/').next().unwrap().to_owned();
            let same = if one.contains('/') { one == other } else { one == last(&other) };
            prop_assert_eq!(fits(&one, &other), same);
            let below = format!("x/{other}");
            prop_assert!(fits("**/*", &below) && fits("*", &other));
        }
    }
}
