//! What a `python` package runs: a function of a module, or an MLflow model.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest entry in bytes.
const MOST_BYTES: usize = 256;

/// What MLflow models are told by.
const MLFLOW: &str = "mlflow:";

/// What is called. Written `module:function`, or `mlflow:FOLDER`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Entry {
    /// A function of a module that is looked up in the package first.
    Function {
        /// Dotted name of the module.
        module: String,
        /// Dotted name of the function within it.
        function: String,
    },
    /// A folder of the package with an `MLmodel` file that has the `python_function` flavour; `.` is the package itself.
    Mlflow {
        /// The folder, with `/`.
        folder: String,
    },
}

/// Why a text is no [`Entry`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no function: write \"module:function\", or \"mlflow:FOLDER\" for an MLflow model")]
pub struct EntryError(String);

impl FromStr for Entry {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        let refuse = || EntryError(text.escape_debug().take(80).collect());
        if text.len() > MOST_BYTES {
            return Err(refuse());
        }
        if let Some(folder) = text.strip_prefix(MLFLOW) {
            return match is_folder(folder) {
                true => Ok(Self::Mlflow { folder: folder.to_owned() }),
                false => Err(refuse()),
            };
        }
        let (module, function) = text.split_once(':').ok_or_else(refuse)?;
        match is_dotted(module) && is_dotted(function) {
            true => Ok(Self::Function { module: module.to_owned(), function: function.to_owned() }),
            false => Err(refuse()),
        }
    }
}

/// Names as Python has them, ASCII only, with dots between.
fn is_dotted(text: &str) -> bool {
    text.split('.').all(|name| {
        name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    })
}

/// A relative path that stays within.
fn is_folder(text: &str) -> bool {
    let fine = |part: &str| !part.is_empty() && part != "." && part != "..";
    text == "." || (text.split('/').all(fine) && !text.contains(['\\', '\0']) && !text.chars().any(char::is_control))
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function { module, function } => write!(f, "{module}:{function}"),
            Self::Mlflow { folder } => write!(f, "{MLFLOW}{folder}"),
        }
    }
}

impl TryFrom<String> for Entry {
    type Error = EntryError;

    fn try_from(text: String) -> Result<Self, EntryError> {
        text.parse()
    }
}

impl From<Entry> for String {
    fn from(entry: Entry) -> Self {
        entry.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_and_mlflow_folders_are_read_and_written_the_same() {
        for text in ["predict:predict", "wine.model:Model.answer", "mlflow:model", "mlflow:.", "mlflow:a/b"] {
            assert_eq!(text.parse::<Entry>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_names_no_function_is_refused() {
        for text in [
            "",
            "predict",
            ":f",
            "m:",
            "1m:f",
            "m:f()",
            "m/x:f",
            "a b:f",
            "mlflow:",
            "mlflow:/etc",
            "mlflow:../x",
            "m:f:g",
        ] {
            assert!(text.parse::<Entry>().is_err(), "{text}");
        }
        assert!(format!("m:{}", "f".repeat(300)).parse::<Entry>().is_err());
    }
}
