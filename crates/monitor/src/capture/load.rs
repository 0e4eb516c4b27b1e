//! Captured answers read back: when callers asked, and how they were answered. Bodies are not touched.
//!
//! Promises: bounded by the number of answers alone; copies for shadows are left out; a file that is no capture is named.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use parquet::basic::Type;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type as SchemaType;

/// Most answers that are read: a year at a request a second and a half.
const MOST: usize = 50_000_000;
/// The columns that are read.
const COLUMNS: [&str; 4] = ["at", "shadow", "status", "latency_us"];

/// Why captured answers cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder or file cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is no capture.
    #[error("{} is no file of captured answers", path.display())]
    Parquet {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: ParquetError,
    },
    /// There is too much.
    #[error("more than 50 million answers; name the folder of a day, or of one service")]
    Many,
}

/// One answer that a caller got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// HTTP status; 0 when the connection broke.
    pub status: u16,
    /// Time to the answer in µs.
    pub micros: u64,
}

/// Every answer that callers got, of one file or of all files below a folder, in no order.
///
/// # Errors
/// [`Error`] with the file that cannot be read.
pub fn answers(path: &Path) -> Result<Vec<Answered>, Error> {
    let mut answers = Vec::new();
    for file in files(path)? {
        read(&file, &mut answers)?;
        if answers.len() > MOST {
            return Err(Error::Many);
        }
    }
    Ok(answers)
}

/// Files of answers below a folder; a service's folder has one folder a day.
fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.starts_with('.') || name.starts_with("feedback-") {
            continue; // what is being written, and what is no answer
        }
        // A link could lead in circles.
        if entry.file_type().map_err(failed)?.is_dir() {
            found.extend(files(&path)?);
        } else if name.ends_with(".parquet") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path, answers: &mut Vec<Answered>) -> Result<(), Error> {
    let file = File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let foreign = |source| Error::Parquet { path: path.to_owned(), source };
    let reader = SerializedFileReader::new(file).map_err(foreign)?;
    let root = reader.metadata().file_metadata().schema();
    let wanted = root.get_fields().iter().filter(|field| COLUMNS.contains(&field.name())).cloned().collect::<Vec<_>>();
    if wanted.len() != COLUMNS.len() {
        let missing = ParquetError::General(format!("its columns are not those of answers: {}", COLUMNS.join(", ")));
        return Err(foreign(missing));
    }
    debug_assert!(wanted.iter().all(|field| field.is_primitive() && field.get_physical_type() != Type::BYTE_ARRAY));
    let projection = SchemaType::group_type_builder(root.name()).with_fields(wanted).build().map_err(foreign)?;
    for row in reader.get_row_iter(Some(projection)).map_err(foreign)? {
        let (mut answer, mut is_shadow) = (Answered { at_ms: 0, status: 0, micros: 0 }, false);
        for (name, field) in row.map_err(foreign)?.get_column_iter() {
            match (name.as_str(), field) {
                ("at", Field::TimestampMillis(at) | Field::Long(at)) => answer.at_ms = u64::try_from(*at).unwrap_or(0),
                ("shadow", Field::Bool(shadow)) => is_shadow = *shadow,
                ("status", Field::Int(status)) => answer.status = u16::try_from(*status).unwrap_or(0),
                ("latency_us", Field::Long(micros)) => answer.micros = u64::try_from(*micros).unwrap_or(0),
                _ => {}
            }
        }
        if !is_shadow {
            answers.push(answer);
        }
    }
    Ok(())
}
