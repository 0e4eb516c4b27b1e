//! A stage: the lines of one service that are no Parquet file yet.
//!
//! A stage is a file `{number}.jsonl` in the folder `.open` of the service; its number is the moment at which it was begun, in milliseconds. It begins and
//! ends with the name of the last segment that it holds, so that another life neither loses one nor takes one twice.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use modelyard_core::Timestamp;

use super::row::Line;

/// Name of the folder of stages; tools that read a folder of Parquet files leave out what begins with a dot.
const OPEN: &str = ".open";

/// One service's stage.
#[derive(Debug)]
pub struct Stage {
    folder: PathBuf,
    open: Option<Open>,
    /// The segment that was taken in last.
    last: Option<String>,
    /// Number of the newest stage.
    newest: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    number: u64,
    bytes: u64,
    rows: u64,
}

impl Stage {
    /// The stage of a service's folder, which is made when something is written. The newest stage that an earlier life left goes on.
    pub fn new(folder: PathBuf) -> Self {
        let newest = numbers(&folder.join(OPEN)).last().copied();
        let mut stage = Self { folder, open: None, last: None, newest: newest.unwrap_or(0) };
        let Some(number) = newest else { return stage };
        match go_on(&stage.folder, number) {
            Ok((open, last)) => (stage.open, stage.last) = (Some(open), last),
            Err(error) => {
                tracing::error!(folder = %stage.folder.display(), %error, "what an earlier life captured cannot be read");
            }
        }
        stage
    }

    /// The service's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Number of the newest stage: the moment when it was begun.
    pub const fn newest(&self) -> u64 {
        self.newest
    }

    /// Appends what a segment gave, or what came by another way. Says whether it was new.
    ///
    /// # Errors
    /// When it cannot be written; then nothing of it stays.
    pub fn append(&mut self, segment: Option<&str>, rows: &[Line], now: Timestamp) -> io::Result<bool> {
        if segment.is_some() && self.last.as_deref() == segment {
            return Ok(false);
        }
        let last = segment.map(str::to_owned).or_else(|| self.last.clone());
        if rows.is_empty() {
            // Of a segment without rows nothing can be taken twice.
            self.last = last;
            return Ok(true);
        }
        let end = Line::End(last.clone().unwrap_or_default());
        let mut lines = Vec::new();
        for line in rows.iter().chain([&end]) {
            serde_json::to_writer(&mut lines, line)?;
            lines.push(b'\n');
        }
        let open = match &mut self.open {
            Some(open) if open.rows > 0 => open,
            // One that only says what came last may be days old: its rows shall not seem to be.
            _ => {
                let open = begin(&self.folder, self.newest, self.last.as_deref(), now)?;
                self.newest = open.number;
                self.open.insert(open)
            }
        };
        if let Err(error) = open.file.write_all(&lines) {
            // Half a segment would be counted again with the next one.
            if open.file.set_len(open.bytes).and_then(|()| open.file.seek(SeekFrom::End(0))).is_err() {
                self.open = None;
            }
            return Err(error);
        }
        open.bytes += lines.len() as u64;
        open.rows += rows.len() as u64;
        self.last = last;
        Ok(true)
    }

    /// Whether the stage is long or old enough, or of another day.
    pub fn is_due(&self, now: Timestamp, span: Duration, bytes: u64) -> bool {
        let Some(open) = self.open.as_ref().filter(|open| open.rows > 0) else { return false };
        let age = now.0.saturating_sub(open.number);
        open.bytes >= bytes || u128::from(age) >= span.as_millis() || day(now.0) != day(open.number)
    }

    /// Ends the open stage. Stages before the number that is returned are complete.
    ///
    /// # Errors
    /// When the next one cannot be begun; the open one stays then.
    pub fn turn(&mut self, now: Timestamp) -> io::Result<u64> {
        if self.open.as_ref().is_some_and(|open| open.rows > 0) {
            let next = begin(&self.folder, self.newest, self.last.as_deref(), now)?;
            self.newest = next.number;
            self.open = Some(next);
        }
        Ok(self.open.as_ref().map_or(u64::MAX, |open| open.number))
    }
}

fn begin(folder: &Path, newest: u64, last: Option<&str>, now: Timestamp) -> io::Result<Open> {
    make_folder(&folder.join(OPEN))?;
    let number = now.0.max(newest + 1);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path(folder, number))?;
    let mut bytes = 0;
    if let Some(last) = last {
        let mut line = serde_json::to_vec(&Line::End(last.to_owned()))?;
        line.push(b'\n');
        file.write_all(&line)?;
        bytes = line.len() as u64;
    }
    Ok(Open { file, number, bytes, rows: 0 })
}

/// Makes a folder that only its owner reads: what is captured may be anybody's.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The day (UTC) of a number.
pub fn day(number: u64) -> String {
    crate::time::rfc3339(Timestamp(number)).chars().take(10).collect()
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(OPEN).join(format!("{number}.jsonl"))
}

fn numbers(open: &Path) -> Vec<u64> {
    let entries = fs::read_dir(open).into_iter().flatten().flatten();
    let mut numbers: Vec<u64> =
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".jsonl")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// Services' folders that have stages.
pub fn folders(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|folder| !numbers(&folder.join(OPEN)).is_empty()).collect();
    folders.sort_unstable();
    folders
}

/// Stages of a service's folder with a number below `before`, oldest first.
pub fn complete(folder: &Path, before: u64) -> Vec<(u64, PathBuf)> {
    let numbers = numbers(&folder.join(OPEN)).into_iter().filter(|number| *number < before);
    numbers.map(|number| (number, path(folder, number))).collect()
}

/// Gives the rows of a stage, as far as whole segments of them are there.
///
/// # Errors
/// When the stage cannot be read.
pub fn read(stage: &Path, mut take: impl FnMut(Line) -> io::Result<()>) -> io::Result<()> {
    let whole = whole(stage)?;
    let mut lines = BufReader::new(File::open(stage)?.take(whole.bytes));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        match serde_json::from_slice(&line) {
            Ok(Line::End(_)) => {}
            Ok(line) => take(line)?,
            Err(error) => tracing::warn!(stage = %stage.display(), %error, "a captured row cannot be read"),
        }
        line.clear();
    }
    Ok(())
}

/// What there is of a stage up to the end of its last segment; what follows was torn off by the end of a process, and comes again.
#[derive(Debug, Default)]
struct Whole {
    bytes: u64,
    rows: u64,
    last: Option<String>,
}

fn whole(stage: &Path) -> io::Result<Whole> {
    let (mut reader, mut line) = (BufReader::new(File::open(stage)?), Vec::new());
    let (mut at, mut rows, mut whole) = (0, 0, Whole::default());
    loop {
        line.clear();
        at += reader.read_until(b'\n', &mut line)? as u64;
        if line.last() != Some(&b'\n') {
            return Ok(whole);
        }
        match line.starts_with(b"{\"end\":").then(|| serde_json::from_slice(&line)) {
            Some(Ok(Line::End(segment))) => whole = Whole { bytes: at, rows, last: Some(segment) },
            _ => rows += 1,
        }
    }
}

/// The newest stage of an earlier life, cut after its last whole segment.
fn go_on(folder: &Path, number: u64) -> io::Result<(Open, Option<String>)> {
    let path = path(folder, number);
    let Whole { bytes, rows, last } = whole(&path)?;
    let mut file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(bytes)?;
    file.seek(SeekFrom::End(0))?;
    // A life that ended between two stages left a new one without its first line.
    let before = || complete(folder, number).iter().rev().find_map(|(_, path)| whole(path).ok()?.last);
    let last = last.or_else(before);
    Ok((Open { file, number, bytes, rows }, last))
}
