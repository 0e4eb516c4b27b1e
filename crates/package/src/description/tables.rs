//! The tables of `modelyard.toml` that have rules of their own: `[runtime]`, `[flags]`, `[resources]`.

use std::collections::BTreeMap;
use std::ops::Range;

use modelyard_core::flags::RESERVED;
use modelyard_core::nearest;
use modelyard_core::package::{Entry, Flag, Resources, Runtime};
use modelyard_registry::paths;
use toml::de::DeValue;

use super::Placed;
use super::reader::{Reader, Table};

const RUNTIMES: [&str; 4] = ["onnx", "command", "python", "none"];
pub(super) const RUNTIME: [&str; 10] = [
    "kind",
    "model",
    "command",
    "health",
    "environment",
    "entry",
    "requirements",
    "batch",
    "workers",
    "timeout_seconds",
];
const OF_COMMAND: [&str; 3] = ["command", "health", "environment"];
const OF_PYTHON: [&str; 5] = ["entry", "requirements", "batch", "workers", "timeout_seconds"];

/// Most worker processes of one instance.
const MOST_WORKERS: f64 = 64.0;
/// Longest time of one call: an hour.
const MOST_SECONDS: f64 = 3_600.0;
/// What a call may take unless the package says otherwise.
const TIMEOUT_SECONDS: u32 = 30;
const FLAGS: [&str; 3] = ["boolean", "number", "string"];
pub(super) const RESOURCES: [&str; 2] = ["memory", "cpu"];

/// The runtime, and where its model or its command stands in the text.
pub(super) fn runtime(reader: &mut Reader<'_>, within: &Table<'_>) -> Option<(Runtime, Range<usize>)> {
    let table = reader.table(within, "runtime", &RUNTIME)?;
    let kind = reader.required(&table, "kind", "\"onnx\"")?;
    let foreign = |reader: &mut Reader<'_>, keys: &[&str]| {
        for key in keys.iter().filter(|key| table.entries.contains_key(**key)) {
            reader.mistake(table.at.clone(), format!("`{key}` has no meaning for the runtime `{}`", kind.value));
        }
    };
    match kind.value.as_str() {
        "onnx" => {
            foreign(reader, &OF_COMMAND);
            foreign(reader, &OF_PYTHON);
            let model = reader.required(&table, "model", "\"model.onnx\"")?;
            path(reader, "model", &model);
            Some((Runtime::Onnx { model: model.value }, model.at))
        }
        "command" => {
            foreign(reader, &OF_PYTHON);
            command(reader, &table)
        }
        "python" => {
            foreign(reader, &OF_COMMAND);
            python(reader, &table)
        }
        "none" => {
            foreign(reader, &OF_COMMAND);
            foreign(reader, &OF_PYTHON);
            Some((Runtime::None {}, kind.at))
        }
        other => {
            let meant = nearest(other, RUNTIMES).map(|near| format!("did you mean \"{near}\"? "));
            let what = format!(
                "there is no runtime `{}`; {}known are onnx, command, python and none",
                other.escape_debug(),
                meant.unwrap_or_default()
            );
            reader.mistake(kind.at, what);
            None
        }
    }
}

/// The model file that a program, a function or nothing is packaged with; an `onnx` package runs its own.
pub(super) fn model_file(reader: &mut Reader<'_>, within: &Table<'_>) -> Option<Placed<String>> {
    // Its mistakes were told when the runtime was read.
    let DeValue::Table(entries) = within.entries.get("runtime")?.get_ref() else { return None };
    let kind = entries.get("kind").and_then(|kind| kind.get_ref().as_str());
    if kind == Some("onnx") {
        return None;
    }
    let table = Table { name: "runtime".to_owned(), at: 0..0, entries, known: &RUNTIME };
    let model = reader.text(&table, "model")?;
    path(reader, "model", &model);
    Some(model)
}

/// Reports a path that may not stand in a package.
pub(super) fn path(reader: &mut Reader<'_>, key: &str, path: &Placed<String>) {
    if let Some(why) = paths::fault(&path.value) {
        let what = format!("`{key}`: the path `{}` is refused: {why}", path.value.escape_debug());
        reader.mistake(path.at.clone(), what);
    }
}

fn command(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<(Runtime, Range<usize>)> {
    let at = table.entries.get("command").map_or(table.at.clone(), |value| value.span());
    let command = reader.texts(table, "command");
    if command
        .as_ref()
        .map_or(!table.entries.contains_key("command"), |words| words.first().is_none_or(|word| word.value.is_empty()))
    {
        reader.mistake(
            at.clone(),
            "`command` is empty: write the program and its arguments, such as [\"python3\", \"main.py\"]",
        );
    }
    let health = reader.required(table, "health", "\"/health\"");
    if let Some(health) = &health
        && let Some(why) = request_path_fault(&health.value)
    {
        reader.mistake(health.at.clone(), format!("`health`: {why}"));
    }
    let environment = reader.named_texts(table, "environment");
    for name in environment.keys() {
        let rest = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(rest) || name.starts_with(|c: char| c.is_ascii_digit()) {
            reader.mistake(
                table.at.clone(),
                format!("`environment`: `{}` is no name of a variable", name.escape_debug()),
            );
        } else if name == "PORT" || name.starts_with("MODELYARD_") {
            reader.mistake(table.at.clone(), format!("`environment`: `{name}` is set by Modelyard itself"));
        }
    }
    let command = command?.into_iter().map(|word| word.value).collect();
    Some((Runtime::Command { command, health: health?.value, environment }, at))
}

fn python(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<(Runtime, Range<usize>)> {
    let entry: Option<Entry> = reader.parsed(table, "entry", "\"predict:predict\"");
    let requirements = reader.text(table, "requirements");
    requirements.iter().for_each(|file| path(reader, "requirements", file));
    let batch = truth(reader, table, "batch");
    let workers = count(reader, table, "workers", MOST_WORKERS).unwrap_or(1);
    let timeout_seconds = count(reader, table, "timeout_seconds", MOST_SECONDS).unwrap_or(TIMEOUT_SECONDS);
    let at = table.entries.get("entry").map_or(table.at.clone(), |value| value.span());
    let requirements = requirements.map(|file| file.value);
    let workers = u16::try_from(workers).unwrap_or(1);
    Some((Runtime::Python { entry: entry?, requirements, locked: false, batch, workers, timeout_seconds }, at))
}

/// A whole number from 1 to `most`.
fn count(reader: &mut Reader<'_>, table: &Table<'_>, key: &str, most: f64) -> Option<u32> {
    let number = reader.number(table, key)?;
    if number.value.fract() != 0.0 || !(1.0..=most).contains(&number.value) {
        reader.mistake(number.at, format!("`{key}`: write a whole number from 1 to {most}"));
        return None;
    }
    Some(number.value as u32)
}

/// Why a text is no path of a request, if so. It is sent as it is, so nothing may end the request's first line.
pub(crate) fn request_path_fault(path: &str) -> Option<String> {
    let fits = path.starts_with('/')
        && path.len() <= 2_048
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let shown: String = path.escape_debug().take(80).collect();
    (!fits).then(|| {
        format!("`{shown}` is no path: write one that starts with `/`, without spaces, `#` or other than ASCII letters")
    })
}

pub(super) fn flags(reader: &mut Reader<'_>, within: &Table<'_>) -> BTreeMap<String, Placed<Flag>> {
    let Some(table) = reader.free_table(within, "flags") else { return BTreeMap::new() };
    let mut flags = BTreeMap::new();
    for key in table.entries.keys() {
        let name = key.get_ref().as_ref();
        if name.is_empty() || name.len() > 128 || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        {
            let rule = "use 1 to 128 letters, digits, `-`, `_` and `.`";
            reader.mistake(key.span(), format!("`{}` is no name of a flag: {rule}", name.escape_debug()));
        } else if name.starts_with(RESERVED) {
            reader.mistake(key.span(), format!("`{name}`: names that begin with `{RESERVED}` are Modelyard's own"));
        }
        let placed = |value| (name.to_owned(), Placed { value, at: key.span() });
        flags.extend(flag(reader, &table, name).map(placed));
    }
    flags
}

fn flag(reader: &mut Reader<'_>, within: &Table<'_>, name: &str) -> Option<Flag> {
    let table = reader.free_table(within, name)?;
    let kind = reader.required(&table, "type", "\"boolean\"")?;
    let known: &[&str] = match kind.value.as_str() {
        "boolean" => &["type", "default", "input"],
        "number" => &["type", "default", "minimum", "maximum", "whole", "input"],
        "string" => &["type", "default", "one_of", "input", "files"],
        other => {
            let what = format!("there is no type `{}` of flags; known are {}", other.escape_debug(), FLAGS.join(", "));
            reader.mistake(kind.at, what);
            return None;
        }
    };
    reader.refuse_unknown(&table, known);
    let Some(default) = table.entries.get("default") else {
        reader.mistake(
            table.at.clone(),
            format!("`default` is missing in `[{}]`: a flag always has a value", table.name),
        );
        return None;
    };
    let at = default.span();
    let input = reader.text(&table, "input").map(|name| name.value);
    let flag = match (kind.value.as_str(), default.get_ref()) {
        ("boolean", DeValue::Boolean(default)) => Flag::Boolean { default: *default, input },
        ("boolean", _) => return refuse(reader, at, "`default`: write true or false"),
        ("number", _) => Flag::Number {
            default: reader.number(&table, "default")?.value,
            minimum: reader.number(&table, "minimum").map(|limit| limit.value),
            maximum: reader.number(&table, "maximum").map(|limit| limit.value),
            whole: truth(reader, &table, "whole"),
            input,
        },
        _ => Flag::String {
            default: reader.text(&table, "default")?.value,
            one_of: reader.texts(&table, "one_of").into_iter().flatten().map(|text| text.value).collect(),
            input,
            files: reader.named_texts(&table, "files"),
        },
    };
    if let Some(why) = flag_fault(&flag) {
        reader.mistake(at, why);
    }
    for path in flag.files().values() {
        if let Some(why) = paths::fault(path) {
            reader.mistake(table.at.clone(), format!("`files`: the path `{}` is refused: {why}", path.escape_debug()));
        }
    }
    Some(flag)
}

pub(super) fn truth(reader: &mut Reader<'_>, table: &Table<'_>, key: &str) -> bool {
    match table.entries.get(key).map(|value| (value.get_ref(), value.span())) {
        None => false,
        Some((DeValue::Boolean(flag), _)) => *flag,
        Some((_, at)) => {
            reader.mistake(at, format!("`{key}`: write true or false"));
            false
        }
    }
}

fn refuse<T>(reader: &mut Reader<'_>, at: Range<usize>, what: &str) -> Option<T> {
    reader.mistake(at, what);
    None
}

/// What is wrong with a flag by itself.
fn flag_fault(flag: &Flag) -> Option<String> {
    match flag {
        Flag::Boolean { .. } => None,
        Flag::Number { minimum: Some(low), maximum: Some(high), .. } if low > high => {
            Some(format!("its `minimum` {low} is above its `maximum` {high}"))
        }
        Flag::Number { default, whole: true, .. } if default.fract() != 0.0 => {
            Some(format!("the default {default} is no whole number"))
        }
        Flag::Number { default, minimum, maximum, .. } => {
            let inside = minimum.is_none_or(|low| low <= *default) && maximum.is_none_or(|high| *default <= high);
            (!inside).then(|| format!("the default {default} is outside its limits"))
        }
        Flag::String { default, one_of, files, .. } => {
            let unknown = one_of.iter().filter(|_| !files.is_empty()).find(|value| !files.contains_key(*value));
            if let Some(value) = unknown.or(files.keys().find(|key| !one_of.is_empty() && !one_of.contains(key))) {
                return Some(format!("`one_of` and `files` differ in `{}`: leave `one_of` out", value.escape_debug()));
            }
            let why = flag.misfit("default", &default.as_str().into())?;
            let known: Vec<&str> = one_of.iter().chain(files.keys()).map(String::as_str).collect();
            match known.is_empty() {
                true => Some(why),
                false => Some(format!("the default `{}` is not among {}", default.escape_debug(), known.join(", "))),
            }
        }
    }
}

pub(super) fn resources(reader: &mut Reader<'_>, within: &Table<'_>) -> Resources {
    let mut read = Resources::default();
    let Some(table) = reader.table(within, "resources", &RESOURCES) else { return read };
    if let Some(value) = table.entries.get("memory") {
        read.memory_bytes = match value.get_ref() {
            DeValue::String(text) => bytes_of(text),
            DeValue::Integer(bytes) => bytes_of(bytes.as_str()),
            _ => None,
        };
        if read.memory_bytes.is_none() {
            reader.mistake(value.span(), "`memory`: write a size such as \"96MiB\" or \"2GiB\", or bytes");
        }
    }
    if let Some(value) = table.entries.get("cpu") {
        read.cpu_millis = match value.get_ref() {
            DeValue::String(text) => millis_of(text),
            DeValue::Integer(number) => millis_of(number.as_str()),
            DeValue::Float(number) => millis_of(number.as_str()),
            _ => None,
        };
        if read.cpu_millis.is_none() {
            reader.mistake(value.span(), "`cpu`: write a number of cores such as 0.5, or thousandths such as \"500m\"");
        }
    }
    read
}

/// `96MiB`, `2 GiB`, `500kB`, `4096` as bytes.
fn bytes_of(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    let bytes = number.trim().replace('_', "").parse::<f64>().ok()? * factor as f64;
    (1.0..1e18).contains(&bytes).then_some(bytes.round() as u64)
}

/// `0.5`, `2`, `500m` as thousandths of a core.
fn millis_of(text: &str) -> Option<u32> {
    let text = text.trim();
    let (number, factor) = text.strip_suffix('m').map_or((text, 1_000.0), |millis| (millis, 1.0));
    let millis = (number.replace('_', "").parse::<f64>().ok()? * factor).round();
    (1.0..=1_024_000.0).contains(&millis).then_some(millis as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_shares_read_as_people_write_them() {
        for (text, bytes) in
            [("96MiB", Some(96 << 20)), ("2 GiB", Some(2 << 30)), ("1.5kB", Some(1_500)), ("4_096", Some(4_096))]
        {
            assert_eq!(bytes_of(text), bytes, "{text}");
        }
        for bad in ["", "lots", "-1", "0", "nan", "inf", "1 mile", "1e30"] {
            assert_eq!((bytes_of(bad), millis_of(bad)), (None, None), "{bad}");
        }
        for (text, millis) in [("0.5", Some(500)), ("500m", Some(500)), ("2", Some(2_000)), ("5000", None)] {
            assert_eq!(millis_of(text), millis, "{text}");
        }
    }

    #[test]
    fn paths_that_would_break_a_request_are_refused() {
        for bad in ["", "health", "/a b", "/a\r\nHost: x", "/ä", "/#x", &format!("/{}", "x".repeat(3_000))] {
            assert!(request_path_fault(bad).is_some(), "{bad:?}");
        }
        assert_eq!(request_path_fault("/v2/models/m/infer?x=%20"), None);
    }
}
