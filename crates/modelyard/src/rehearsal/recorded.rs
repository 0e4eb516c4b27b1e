//! Recorded requests, read from a file (a timestamp per request, or a number of requests per interval) or from a folder of captured answers.
//!
//! Promises: bounded memory per line; the first line that cannot be read is named. Timestamps may be RFC 3339, or seconds, milliseconds,
//! microseconds or nanoseconds since 1970; which of them is told by their size.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use modelyard_monitor::capture::load::{self, Answered};
use modelyard_rehearse::play::Recorded;
use serde_json::Value;

/// Why recorded requests cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("could not read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line is none.
    #[error("line {line} of {} {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// Captured answers cannot be read.
    #[error("the capture cannot be used: {}", chain(.0))]
    Capture(#[source] load::Error),
    /// There is nothing to play.
    #[error("{} holds no requests that make a recording of at most 400 days", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Longest line: whoever logs bodies logs something else.
const LONGEST_LINE: u64 = 1 << 20;
/// Most lines; beyond that, numbers per interval serve as well.
const MOST_LINES: usize = 50_000_000;
/// Answers of a capture before its errors and latency are taken for those of stable.
const LEAST_ANSWERS: usize = 100;
/// Names of the column or field that holds the moment.
const MOMENT: [&str; 7] = ["timestamp", "time", "at", "ts", "@timestamp", "date", "at_ms"];
/// Names of the column or field that holds a number of requests.
const COUNT: [&str; 3] = ["requests", "count", "n"];
/// Names of the column or field that holds requests per second.
const RATE: [&str; 3] = ["rate", "rps", "per_second"];

/// One line: when, and how many.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    at: f64,
    count: Count,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Count {
    One,
    Many(f64),
    PerSecond(f64),
}

/// What a capture tells beside the moments: what stable is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Share of answers that are errors.
    pub error_rate: f64,
    /// Median latency in milliseconds.
    pub latency_ms: f64,
    /// Standard deviation of the latency's logarithm.
    pub spread: f64,
}

/// Whether this is a capture: a folder of Parquet files, or one of them.
pub fn is_capture(path: &Path) -> bool {
    path.is_dir() || path.extension().is_some_and(|ending| ending == "parquet")
}

/// Reads captured answers, of which `share` (above 0, up to 1) of all requests were kept.
pub fn capture(path: &Path, share: f64) -> Result<(Recorded, Option<Measured>), Error> {
    let answers = load::answers(path).map_err(Error::Capture)?;
    let counts: Vec<(f64, f64)> = answers.iter().map(|answer| (answer.at_ms as f64 / 1e3, 1.0 / share)).collect();
    let recorded = Recorded::from_rates(&counts, 1.0).filter(|recorded| recorded.requests() > 0);
    Ok((recorded.ok_or_else(|| Error::Empty { path: path.to_owned() })?, measured(&answers)))
}

/// None with too few answers to tell.
fn measured(answers: &[Answered]) -> Option<Measured> {
    let good: Vec<f64> = answers
        .iter()
        .filter(|answer| (200..400).contains(&answer.status))
        .map(|answer| answer.micros.max(1) as f64 / 1e3)
        .collect();
    if good.len() < LEAST_ANSWERS {
        return None;
    }
    let is_error = |answer: &&Answered| answer.status == 0 || answer.status >= 500;
    let errors = answers.iter().filter(is_error).count();
    let mut sorted = good.clone();
    sorted.sort_by(f64::total_cmp);
    let at = |quantile: f64| sorted[((sorted.len() - 1) as f64 * quantile) as usize];
    let median = at(0.5);
    // The upper half alone: what is faster than usual hurts nobody, and p95 is what objectives are about. 1.645 is the normal quantile of 0.95.
    let spread = ((at(0.95) / median).ln() / 1.645).clamp(0.0, 3.0);
    Some(Measured { error_rate: errors as f64 / answers.len() as f64, latency_ms: median, spread })
}

fn chain(error: &load::Error) -> String {
    let source = std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    format!("{error}{source}")
}

/// Reads recorded requests: CSV, or JSON line by line.
pub fn read(path: &Path) -> Result<Recorded, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let (mut rows, mut columns, mut text) = (Vec::new(), None, String::new());
    for line in 1..=MOST_LINES {
        text.clear();
        let read = reader.by_ref().take(LONGEST_LINE).read_line(&mut text).map_err(failed)?;
        if read == 0 {
            break;
        }
        let wrong = |why: String| Error::Line { path: path.to_owned(), line, why };
        if read as u64 == LONGEST_LINE {
            return Err(wrong("is longer than 1 MiB".to_owned()));
        }
        let content = text.trim().trim_start_matches('\u{feff}');
        if content.is_empty() {
            continue;
        }
        let row = match content.starts_with(['{', '"', '[']) && columns.is_none() && is_json(content) {
            true => json(content).map_err(wrong)?,
            false => match csv(content, &mut columns).map_err(wrong)? {
                Some(row) => row,
                None => continue, // the heading
            },
        };
        rows.push(row);
    }
    recording(&rows).ok_or_else(|| Error::Empty { path: path.to_owned() })
}

fn is_json(content: &str) -> bool {
    content.starts_with('{') || serde_json::from_str::<Value>(content).is_ok()
}

fn json(content: &str) -> Result<Row, String> {
    let value: Value = serde_json::from_str(content).map_err(|error| format!("is no JSON: {error}"))?;
    let Value::Object(fields) = value else {
        return moment_of(&value).map(|at| Row { at, count: Count::One });
    };
    let field = |names: &[&str]| names.iter().find_map(|name| fields.get(*name));
    let at = moment_of(field(&MOMENT).ok_or_else(|| format!("has no moment; name it one of {}", MOMENT.join(", ")))?)?;
    let number = |names: &[&str]| field(names).and_then(Value::as_f64);
    let count = match (number(&COUNT), number(&RATE)) {
        (Some(count), _) => Count::Many(count),
        (None, Some(rate)) => Count::PerSecond(rate),
        (None, None) => Count::One,
    };
    Ok(Row { at, count })
}

/// Which columns hold what.
#[derive(Clone, Copy, Debug)]
struct Columns {
    at: usize,
    count: Option<usize>,
    rate: Option<usize>,
}

fn csv(content: &str, columns: &mut Option<Columns>) -> Result<Option<Row>, String> {
    let separator = if content.contains(';') && !content.contains(',') { ';' } else { ',' };
    let cells: Vec<&str> = content.split(separator).map(|cell| cell.trim().trim_matches('"')).collect();
    let known = match columns {
        Some(known) => *known,
        None => {
            let place = |names: &[&str]| cells.iter().position(|cell| names.contains(&cell.to_lowercase().as_str()));
            if let Some(at) = place(&MOMENT) {
                *columns = Some(Columns { at, count: place(&COUNT), rate: place(&RATE) });
                return Ok(None);
            }
            if moment(cells[0]).is_none() {
                return Err(format!("is neither a moment nor a heading with one of {}", MOMENT.join(", ")));
            }
            *columns.insert(Columns { at: 0, count: (cells.len() == 2).then_some(1), rate: None })
        }
    };
    let cell = |index: usize| cells.get(index).copied().unwrap_or_default();
    let number = |index: usize| {
        let read = cell(index).parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
        read.ok_or_else(|| format!("has `{}` where a number of requests should be", shown(cell(index))))
    };
    let at =
        moment(cell(known.at)).ok_or_else(|| format!("has `{}` where a moment should be", shown(cell(known.at))))?;
    let count = match (known.count, known.rate) {
        (Some(index), _) => Count::Many(number(index)?),
        (None, Some(index)) => Count::PerSecond(number(index)?),
        (None, None) => Count::One,
    };
    Ok(Some(Row { at, count }))
}

fn shown(cell: &str) -> String {
    cell.chars().filter(|letter| !letter.is_control()).take(60).collect()
}

fn moment_of(value: &Value) -> Result<f64, String> {
    let read = match value {
        Value::Number(number) => number.as_f64().and_then(in_seconds),
        Value::String(text) => moment(text),
        _ => None,
    };
    read.ok_or_else(|| format!("has {} where a moment should be", shown(&value.to_string())))
}

/// Seconds since 1970 (or any other origin).
fn moment(text: &str) -> Option<f64> {
    if let Ok(number) = text.parse::<f64>() {
        return in_seconds(number);
    }
    let instant = text.parse::<jiff::Timestamp>().ok().or_else(|| {
        let civil = text.parse::<jiff::civil::DateTime>().ok()?;
        jiff::tz::Offset::UTC.to_timestamp(civil).ok()
    })?;
    Some(instant.as_millisecond() as f64 / 1e3)
}

/// A number whose unit its size tells: seconds reach 1e11 in the year 5138, milliseconds had passed it in 1973.
fn in_seconds(number: f64) -> Option<f64> {
    (number.is_finite() && number >= 0.0).then(|| match number {
        n if n < 1e11 => n,
        n if n < 1e14 => n / 1e3,
        n if n < 1e17 => n / 1e6,
        n => n / 1e9,
    })
}

fn recording(rows: &[Row]) -> Option<Recorded> {
    if rows.iter().all(|row| row.count == Count::One) {
        return Recorded::from_moments(&rows.iter().map(|row| row.at).collect::<Vec<_>>());
    }
    let mut moments: Vec<f64> = rows.iter().map(|row| row.at).collect();
    moments.sort_by(f64::total_cmp);
    let mut gaps: Vec<f64> = moments.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap > 0.0).collect();
    gaps.sort_by(f64::total_cmp);
    // The usual distance; holes in the recording are larger.
    let interval = gaps.get(gaps.len().saturating_sub(1) / 2).copied().unwrap_or(60.0).max(1.0);
    let counted = rows.iter().map(|row| match row.count {
        Count::One => (row.at, 1.0),
        Count::Many(count) => (row.at, count),
        Count::PerSecond(rate) => (row.at, rate * interval),
    });
    Recorded::from_rates(&counted.collect::<Vec<_>>(), interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, text: &str) -> Result<Recorded, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn all_forms_of_the_same_requests_read_alike() {
        let forms = [
            ("a.csv", "timestamp,path\n2026-11-23T10:00:00Z,/a\n2026-11-23T10:00:00.5Z,/b\n2026-11-23T10:00:02Z,/c\n"),
            ("b.csv", "1795428000\n1795428000.5\n1795428002\n"),
            ("c.csv", "at_ms\n1795428000000\n1795428000500\n1795428002000\n"),
            (
                "d.ndjson",
                "{\"ts\": 1795428000, \"x\": 1}\n{\"ts\": \"2026-11-23T10:00:00.5Z\"}\n\n{\"ts\": 1795428002}\n",
            ),
            ("e.csv", "time;requests\n2026-11-23T10:00:00;2\n2026-11-23T10:00:01;0\n2026-11-23T10:00:02;1\n"),
            (
                "f.ndjson",
                "{\"at\": 1795428000, \"rps\": 2}\n{\"at\": 1795428001, \"rps\": 0}\n{\"at\": 1795428002, \"rps\": 1}\n",
            ),
            ("g.csv", "1795428000,2\n1795428001,0\n1795428002,1\n"),
        ];
        for (name, text) in forms {
            let recorded = written(name, text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!((recorded.begins, recorded.seconds.as_slice()), (36_000, &[2, 0, 1][..]), "{name}");
        }
        let minutes = written("m.csv", "time,requests\n0,60\n60,120\n180,60\n").unwrap();
        assert_eq!((minutes.seconds.len(), minutes.requests()), (240, 240), "a hole of a minute stays one");
    }

    #[test]
    fn a_capture_tells_what_stable_is_like() {
        let answer = |n: u64| Answered {
            at_ms: n,
            status: if n.is_multiple_of(50) { 503 } else { 200 },
            micros: 1_000 * (1 + n % 20),
        };
        let found = measured(&(0..1_000).map(answer).collect::<Vec<_>>()).unwrap();
        assert!((found.error_rate - 0.02).abs() < 1e-9 && (9.0..12.0).contains(&found.latency_ms), "{found:?}");
        assert!((0.3..0.5).contains(&found.spread), "p95 is about twice the median: {found:?}");
        assert_eq!(measured(&(0..50).map(answer).collect::<Vec<_>>()), None, "too few to tell");
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_line() {
        for (text, told) in [
            ("timestamp\n1\nsoon\n", "line 3"),
            ("hello,world\n", "neither a moment nor a heading"),
            ("{\"a\": 1}\n", "has no moment"),
            ("{\"ts\": \n", "no JSON"),
            ("time,requests\n1,many\n", "`many` where a number"),
            ("time,requests\n1,-4\n", "`-4` where a number"),
            ("", "holds no requests"),
            ("1\n90000000000\n", "400 days"),
        ] {
            let error = written("x.csv", text).unwrap_err().to_string();
            assert!(error.contains(told), "{text:?}: {error}");
        }
        let text = tempfile::tempdir().unwrap();
        std::fs::write(text.path().join("a.parquet"), "no Parquet").unwrap();
        assert!(
            capture(text.path(), 1.0).unwrap_err().to_string().contains("a.parquet is no file of captured answers")
        );
        assert!(read(Path::new("/nowhere.csv")).unwrap_err().to_string().contains("could not read"));
    }
}
