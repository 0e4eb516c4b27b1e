//! The thread that turns complete stages into Parquet files, and removes the oldest files.
//!
//! Promises: a file has its name once it is whole and on the disk; doing it again does no harm. A stage that cannot be turned into a file stays, and
//! is tried again with the next one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use modelyard_core::{Millis, Timestamp};

use super::Counts;
use super::file::Writer;
use super::row::{Feedback, Line, Row};
use super::stage::{self, day, make_folder};

/// Rows of a group, and about how many bytes of bodies: what is held in memory at once.
const GROUP_ROWS: usize = 8_192;
const GROUP_BYTES: usize = 16 << 20;

/// What the thread is asked.
#[derive(Debug)]
pub enum Job {
    /// Stages with a number below `before` become files.
    Seal { folder: PathBuf, before: u64 },
    /// Old files go.
    Retain { folder: PathBuf, before: u64, limit_bytes: u64, age: Millis, now: Timestamp },
}

/// The way to the thread.
#[derive(Debug)]
pub struct Sealer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Sealer {
    /// Starts the thread.
    pub fn start(counts: Arc<Counts>) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let work = move || queue.iter().for_each(|job| run(&job, &counts));
        let thread = std::thread::Builder::new().name("capture".into()).spawn(work)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Asks for something.
    pub fn send(&self, job: Job) {
        // A thread that is gone has said why; what it leaves is completed by the next life.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(job));
    }

    /// Waits until everything that was asked for is done.
    pub fn finish(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic has said so already.
            let _ = thread.join();
        }
    }
}

fn run(job: &Job, counts: &Counts) {
    match job {
        Job::Seal { folder, before } => {
            for (number, stage) in stage::complete(folder, *before) {
                match seal(folder, number, &stage) {
                    Ok(files) => add(&counts.files, files),
                    Err(error) => {
                        tracing::error!(stage = %stage.display(), %error, "captured requests cannot be made a file now");
                    }
                }
            }
        }
        Job::Retain { folder, before, limit_bytes, age, now } => {
            // Stages that could not become files count as well.
            let stages = stage::complete(folder, *before).into_iter().filter_map(|(number, path)| sized(number, path));
            let files = files(folder).into_iter().chain(stages).collect();
            add(&counts.removed, retain(files, *limit_bytes, *age, *now));
        }
    }
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// Makes the files of one stage, and removes it. How many files it gave.
fn seal(folder: &Path, number: u64, stage: &Path) -> io::Result<u64> {
    let day = folder.join(day(number));
    let mut answers = Part::<Row>::new(day.join(format!("{number}.parquet")), |row| {
        let body = |body: &super::row::Body| {
            body.text.as_ref().map_or(0, String::len) + body.raw.as_ref().map_or(0, String::len)
        };
        body(&row.request) + body(&row.response)
    });
    let mut feedback = Part::<Feedback>::new(day.join(format!("feedback-{number}.parquet")), |row| row.body.len());
    stage::read(stage, |line| match line {
        Line::Answer(row) => answers.push(*row),
        Line::Feedback(row) => feedback.push(row),
        Line::End(_) => Ok(()),
    })?;
    let files = answers.finish()? + feedback.finish()?;
    fs::remove_file(stage)?;
    Ok(files)
}

/// What can be written in groups.
trait Group: Sized {
    fn begin(file: File) -> parquet::errors::Result<Writer>;
    fn write(rows: &[Self], into: &mut Writer) -> parquet::errors::Result<()>;
}

impl Group for Row {
    fn begin(file: File) -> parquet::errors::Result<Writer> {
        Writer::answers(file)
    }

    fn write(rows: &[Self], into: &mut Writer) -> parquet::errors::Result<()> {
        into.write_answers(rows)
    }
}

impl Group for Feedback {
    fn begin(file: File) -> parquet::errors::Result<Writer> {
        Writer::feedback(file)
    }

    fn write(rows: &[Self], into: &mut Writer) -> parquet::errors::Result<()> {
        into.write_feedback(rows)
    }
}

/// One file to be: begun with its first row, so that there is none without rows.
struct Part<R> {
    path: PathBuf,
    writer: Option<Writer>,
    rows: Vec<R>,
    bytes: usize,
    size: fn(&R) -> usize,
}

impl<R: Group> Part<R> {
    const fn new(path: PathBuf, size: fn(&R) -> usize) -> Self {
        Self { path, writer: None, rows: Vec::new(), bytes: 0, size }
    }

    fn push(&mut self, row: R) -> io::Result<()> {
        self.bytes += (self.size)(&row);
        self.rows.push(row);
        if self.rows.len() >= GROUP_ROWS || self.bytes >= GROUP_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let folder = self.path.parent().unwrap_or(Path::new("."));
                make_folder(folder)?;
                let temporary = temporary(&self.path);
                let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(temporary)?;
                self.writer.insert(R::begin(file).map_err(io::Error::other)?)
            }
        };
        R::write(&self.rows, writer).map_err(io::Error::other)?;
        self.rows.clear();
        self.bytes = 0;
        Ok(())
    }

    /// Completes the file, if there is one: on the disk first, then under its name.
    fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        let Some(writer) = self.writer.take() else { return Ok(0) };
        let file = writer.finish().map_err(io::Error::other)?;
        file.sync_all()?;
        fs::rename(temporary(&self.path), &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(1)
    }
}

/// Begins with a dot: tools that read a folder leave it out.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    path.with_file_name(format!(".{name}.new"))
}

/// Removes the oldest files until what is left is young and small enough. How many went.
fn retain(mut files: Vec<(u64, PathBuf, u64)>, limit_bytes: u64, age: Millis, now: Timestamp) -> u64 {
    files.sort_unstable();
    let mut bytes: u64 = files.iter().map(|(_, _, size)| size).sum();
    let mut removed = 0;
    for (number, path, size) in files {
        let is_old = now.0.saturating_sub(number) > age.0;
        if !is_old && bytes <= limit_bytes {
            break;
        }
        if let Err(error) = fs::remove_file(&path) {
            tracing::error!(path = %path.display(), %error, "a file of captured requests cannot be removed");
            continue;
        }
        bytes -= size;
        removed += 1;
        if let Some(day) = path.parent() {
            // Fails as long as there is something in it.
            let _ = fs::remove_dir(day);
        }
    }
    removed
}

/// Parquet files of a service with their numbers and lengths.
fn files(folder: &Path) -> Vec<(u64, PathBuf, u64)> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let days =
        entries(folder).filter(|day| day.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b".")));
    days.flat_map(|day| entries(&day))
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix(".parquet")?;
            let number = name.strip_prefix("feedback-").unwrap_or(name).parse().ok()?;
            sized(number, path.clone())
        })
        .collect()
}

fn sized(number: u64, path: PathBuf) -> Option<(u64, PathBuf, u64)> {
    let size = fs::metadata(&path).ok()?.len();
    Some((number, path, size))
}
