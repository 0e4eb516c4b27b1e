//! Where a process's own log goes: JSON lines or text, to a bounded file or to stderr.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::rotate::RotatingFile;

/// Size at which a log file is set aside: hours of a busy control plane, and little enough for any editor.
const FILE_BYTES: u64 = 16 << 20;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line, for collectors.
    #[default]
    Json,
    /// For people.
    Text,
}

/// The text is no log format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a log format: use json or text")]
pub struct FormatError(String);

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            other => Err(FormatError(crate::text::one_line(other, 80))),
        }
    }
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be written.
    #[error("cannot write the log file {}; check that its folder may be written to", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error beneath.
        #[source]
        source: io::Error,
    },
    /// The filter is not one.
    #[error("`{filter}` is not a log filter; write levels like `info` or `modelyard_gateway=debug,info`")]
    Filter {
        /// The refused text.
        filter: String,
        /// The error beneath.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Another log was set up in this process before.
    #[error("the log of this process is set up already")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sets up the log of this process: lines that `filter` lets through (`info`, `modelyard_gateway=debug,info`) go to `file`, or to stderr.
/// Panics are logged too, with their place, before the usual message.
///
/// # Errors
/// [`Error`]; nothing was set up then.
pub fn init(format: Format, filter: &str, file: Option<&Path>) -> Result<(), Error> {
    let filter = EnvFilter::try_new(filter).map_err(|source| Error::Filter { filter: filter.to_owned(), source })?;
    let writer = match file {
        Some(path) => {
            let file =
                RotatingFile::open(path, FILE_BYTES).map_err(|source| Error::File { path: path.to_owned(), source })?;
            BoxMakeWriter::new(file)
        }
        None => BoxMakeWriter::new(io::stderr),
    };
    // Entry and exit of every span that the filter lets through: `info` shows what is done seldom (a package built, an instance started, an
    // order taken), `debug` every step and request.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false);
    let builder = builder.with_span_events(FmtSpan::NEW | FmtSpan::CLOSE);
    match format {
        Format::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
        Format::Text => builder.try_init(),
    }
    .map_err(Error::Twice)?;
    log_panics();
    Ok(())
}

fn log_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("a value that is no text");
        tracing::error!(place, message, "a thread panicked");
        usual(panic);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_filters_and_files_that_are_none_are_refused() {
        assert_eq!("json".parse(), Ok(Format::Json));
        let refused = "yaml\n".parse::<Format>().unwrap_err().to_string();
        assert_eq!(refused, "`yaml` is not a log format: use json or text");
        assert!(matches!(init(Format::Json, "modelyard=loud", None), Err(Error::Filter { .. })));
        assert!(matches!(init(Format::Json, "info", Some(Path::new("/proc/none/log"))), Err(Error::File { .. })));
    }

    #[test]
    fn lines_are_json_objects_with_their_span() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.log");
        init(Format::Json, "info", Some(&path)).unwrap();
        tracing::info_span!("reconcile", service = "wine")
            .in_scope(|| tracing::info!(instance = "wine-r1-1", "started"));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [entry, line, exit] = lines.as_slice() else { panic!("{text}") };
        assert_eq!((&line["message"], &line["instance"]), (&"started".into(), &"wine-r1-1".into()), "{text}");
        assert_eq!(line["span"]["service"], "wine", "{text}");
        assert_eq!((&entry["message"], &exit["message"]), (&"new".into(), &"close".into()), "{text}");
        assert!(exit["time.busy"].is_string(), "{text}");
        assert!(matches!(init(Format::Text, "info", None), Err(Error::Twice(_))));
    }
}
