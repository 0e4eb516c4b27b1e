//! Rows as columns of a Parquet file.
//!
//! Absent on purpose: Arrow. The low-level writer is all that fixed columns need, and a fraction of what there is to build.
//! Source: Apache Parquet format, logical types `STRING` and `TIMESTAMP(MILLIS, UTC)`; compressed with Snappy.

use std::fs::File;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use super::row::{Body, Feedback, Row};

const ANSWERS: &str = "message answers {
    required binary id (STRING);
    required int64 at (TIMESTAMP(MILLIS,true));
    required binary service (STRING);
    required int32 revision;
    optional binary version (STRING);
    required boolean shadow;
    optional binary unit (STRING);
    required int32 status;
    required int64 latency_us;
    required binary path (STRING);
    optional binary content_type (STRING);
    optional int64 request_bytes;
    optional int64 response_bytes;
    optional binary request (STRING);
    optional binary response (STRING);
    optional binary request_raw;
    optional binary response_raw;
    optional binary rollout (STRING);
    optional binary arm (STRING);
}";

const FEEDBACK: &str = "message feedback {
    required binary id (STRING);
    required int64 at (TIMESTAMP(MILLIS,true));
    required binary service (STRING);
    required binary feedback (STRING);
}";

/// A file that is being written.
pub struct Writer(SerializedFileWriter<File>);

impl Writer {
    /// A file of answers.
    pub fn answers(file: File) -> Result<Self> {
        Self::new(file, ANSWERS)
    }

    /// A file of feedback.
    pub fn feedback(file: File) -> Result<Self> {
        Self::new(file, FEEDBACK)
    }

    fn new(file: File, schema: &str) -> Result<Self> {
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("modelyard ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_statistics_enabled(EnabledStatistics::Chunk);
        // Nobody looks for the smallest body.
        for body in ["request", "response", "request_raw", "response_raw", "feedback"] {
            let path = ColumnPath::from(body);
            properties = properties.set_column_statistics_enabled(path, EnabledStatistics::None);
        }
        let schema = Arc::new(parse_message_type(schema)?);
        Ok(Self(SerializedFileWriter::new(file, schema, Arc::new(properties.build()))?))
    }

    /// Writes a group of answers.
    pub fn write_answers(&mut self, rows: &[Row]) -> Result<()> {
        let mut group = self.0.next_row_group()?;
        let mut next = 0;
        while let Some(mut column) = group.next_column()? {
            answer_column(next, rows, &mut column)?;
            column.close()?;
            next += 1;
        }
        group.close().map(drop)
    }

    /// Writes a group of feedback.
    pub fn write_feedback(&mut self, rows: &[Feedback]) -> Result<()> {
        let mut group = self.0.next_row_group()?;
        let mut next = 0;
        while let Some(mut column) = group.next_column()? {
            match next {
                0 => required::<ByteArrayType>(&mut column, each(rows, |row| text(&row.id))),
                1 => required::<Int64Type>(&mut column, each(rows, |row| whole(row.at_ms))),
                2 => required::<ByteArrayType>(&mut column, each(rows, |row| text(&row.service))),
                3 => required::<ByteArrayType>(&mut column, each(rows, |row| text(&row.body))),
                _ => Err(unknown(next)),
            }?;
            column.close()?;
            next += 1;
        }
        group.close().map(drop)
    }

    /// Completes the file, and gives it back.
    pub fn finish(self) -> Result<File> {
        self.0.into_inner()
    }
}

/// Columns in the order of [`ANSWERS`].
fn answer_column(number: usize, rows: &[Row], column: &mut SerializedColumnWriter<'_>) -> Result<()> {
    match number {
        0 => required::<ByteArrayType>(column, each(rows, |row| text(&row.id))),
        1 => required::<Int64Type>(column, each(rows, |row| whole(row.at_ms))),
        2 => required::<ByteArrayType>(column, each(rows, |row| text(&row.service))),
        3 => required::<Int32Type>(column, each(rows, |row| i32::try_from(row.revision).unwrap_or(i32::MAX))),
        4 => optional::<ByteArrayType>(column, each(rows, |row| row.version.as_deref().map(text))),
        5 => required::<BoolType>(column, each(rows, |row| row.shadow)),
        6 => optional::<ByteArrayType>(column, each(rows, |row| row.unit.as_deref().map(text))),
        7 => required::<Int32Type>(column, each(rows, |row| i32::from(row.status))),
        8 => required::<Int64Type>(column, each(rows, |row| whole(row.latency_us))),
        9 => required::<ByteArrayType>(column, each(rows, |row| text(&row.path))),
        10 => optional::<ByteArrayType>(column, each(rows, |row| row.content_type.as_deref().map(text))),
        11 => optional::<Int64Type>(column, each(rows, |row| row.request.bytes.map(whole))),
        12 => optional::<Int64Type>(column, each(rows, |row| row.response.bytes.map(whole))),
        13 => optional::<ByteArrayType>(column, each(rows, |row| row.request.text.as_deref().map(text))),
        14 => optional::<ByteArrayType>(column, each(rows, |row| row.response.text.as_deref().map(text))),
        15 => optional::<ByteArrayType>(column, each(rows, |row| raw(&row.request))),
        16 => optional::<ByteArrayType>(column, each(rows, |row| raw(&row.response))),
        17 => optional::<ByteArrayType>(column, each(rows, |row| row.rollout.as_deref().map(text))),
        18 => optional::<ByteArrayType>(column, each(rows, |row| row.arm.as_deref().map(text))),
        _ => Err(unknown(number)),
    }
}

fn unknown(number: usize) -> ParquetError {
    ParquetError::General(format!("nothing is known of column {number}"))
}

fn text(text: &str) -> ByteArray {
    ByteArray::from(text.as_bytes().to_vec())
}

fn raw(body: &Body) -> Option<ByteArray> {
    body.raw.as_ref().and_then(|raw| STANDARD.decode(raw).ok()).map(ByteArray::from)
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn required<T: DataType>(column: &mut SerializedColumnWriter<'_>, values: Vec<T::T>) -> Result<()> {
    column.typed::<T>().write_batch(&values, None, None).map(drop)
}

/// What is not there has level 0, and no value.
fn optional<T: DataType>(column: &mut SerializedColumnWriter<'_>, values: Vec<Option<T::T>>) -> Result<()> {
    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let values: Vec<T::T> = values.into_iter().flatten().collect();
    column.typed::<T>().write_batch(&values, Some(&levels), None).map(drop)
}

fn each<R, V>(rows: &[R], value: impl Fn(&R) -> V) -> Vec<V> {
    rows.iter().map(value).collect()
}
