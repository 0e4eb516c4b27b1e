//! One service's spool: a folder of segments, each a file of lines.
//!
//! A segment is written as `{number}.open` and renamed to `{number}.jsonl` when it is complete: at 1 MiB, or after a second. Numbers have 20 digits and
//! only grow, also across restarts (they start at the microseconds since 1970), so that a reader knows what it has read.
//! Promises: a complete segment has whole lines only. An open one is locked by whoever writes it, so that a gateway finishes what a dead one
//! left and leaves alone what a predecessor still writes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FlockOperation, flock};

/// Length at which a segment is complete.
const SEGMENT: u64 = 1 << 20;
/// Age at which a segment is complete.
pub const AGE: Duration = Duration::from_secs(1);
// 250 ms: a full spool notices soon that it was read, without a look at the folder per line.
const LOOK: Duration = Duration::from_millis(250);

/// One service's spool.
pub struct Spool {
    folder: PathBuf,
    open: Option<Segment>,
    /// Number of the last segment.
    last: u64,
    /// Bytes that lie in the folder, as far as is known.
    unread: u64,
    looked: Option<Instant>,
}

struct Segment {
    file: File,
    number: u64,
    bytes: u64,
    since: Instant,
    /// Whether the folder was flushed since the file is in it.
    is_listed: bool,
}

impl Spool {
    /// The spool in a folder, which is made when something is written.
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder, open: None, last: 0, unread: 0, looked: None }
    }

    /// Whether `more` bytes fit within `limit`.
    pub fn has_room(&mut self, more: u64, limit: u64) -> bool {
        let look = match self.looked {
            None => true,
            Some(looked) => self.unread + more > limit && looked.elapsed() >= LOOK,
        };
        if look {
            self.unread = unread(&self.folder);
            self.looked = Some(Instant::now());
        }
        self.unread + more <= limit
    }

    /// Appends whole lines.
    ///
    /// # Errors
    /// When they cannot be written; then nothing of them stays.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let segment = match &mut self.open {
            Some(segment) => segment,
            None => {
                let segment = Segment::create(&self.folder, self.last)?;
                self.last = segment.number;
                self.open.insert(segment)
            }
        };
        if let Err(error) = segment.file.write_all(lines) {
            // What went in of these lines goes out again: a segment has whole lines only.
            let whole = segment.file.set_len(segment.bytes);
            if whole.is_err() {
                self.open = None; // to be finished as a leftover
            }
            return Err(error);
        }
        segment.bytes += lines.len() as u64;
        self.unread += lines.len() as u64;
        Ok(())
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// When that cannot be had.
    pub fn sync(&mut self) -> io::Result<()> {
        let Some(segment) = &mut self.open else { return Ok(()) };
        segment.file.sync_data()?;
        if !segment.is_listed {
            File::open(&self.folder)?.sync_all()?;
            // The folder itself is new at most once; its parent is flushed with it.
            if let Some(parent) = self.folder.parent() {
                File::open(parent)?.sync_all()?;
            }
            segment.is_listed = true;
        }
        Ok(())
    }

    /// Completes the open segment if it is long or old enough. Returns whether one is still open.
    pub fn turn(&mut self) -> bool {
        if self.open.as_ref().is_some_and(|segment| segment.bytes >= SEGMENT || segment.since.elapsed() >= AGE) {
            self.finish();
        }
        self.open.is_some()
    }

    /// Completes the open segment.
    pub fn finish(&mut self) {
        let Some(segment) = self.open.take() else { return };
        let (from, to) = (path(&self.folder, segment.number, "open"), path(&self.folder, segment.number, "jsonl"));
        if let Err(error) = fs::rename(&from, &to) {
            tracing::warn!(path = %from.display(), %error, "a segment of the tap cannot be completed now");
        }
    }
}

impl Segment {
    fn create(folder: &Path, last: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let known = numbers(folder).max().unwrap_or(0);
        let mut number = now_micros().max(known + 1).max(last + 1);
        // Locked before it has its name: nobody takes it for a leftover in between.
        let beside = folder.join(format!("{number:020}.{}.new", std::process::id()));
        let file = OpenOptions::new().append(true).create(true).open(&beside)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        loop {
            match fs::hard_link(&beside, path(folder, number, "open")) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => {
                    let _ = fs::remove_file(&beside); // the first error says more
                    return Err(error);
                }
            }
        }
        fs::remove_file(&beside)?;
        Ok(Self { file, number, bytes: 0, since: Instant::now(), is_listed: false })
    }
}

fn path(folder: &Path, number: u64, ending: &str) -> PathBuf {
    folder.join(format!("{number:020}.{ending}"))
}

fn now_micros() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_micros() as u64)
}

/// Files of a folder; none if there is no such folder.
fn files(folder: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok)
}

fn numbers(folder: &Path) -> impl Iterator<Item = u64> {
    files(folder).filter_map(|file| file.file_name().to_str()?.get(..20)?.parse().ok())
}

fn unread(folder: &Path) -> u64 {
    files(folder).filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Completes open segments of whoever died: cut after the last whole line, removed if there is none.
pub fn finish_leftovers(folder: &Path) {
    for service in files(folder) {
        for file in files(&service.path()) {
            let path = file.path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            if !matches!(ending, Some("open" | "new")) {
                continue;
            }
            if let Err(error) = finish_leftover(&path) {
                tracing::warn!(path = %path.display(), %error, "a leftover of the tap cannot be completed");
            }
        }
    }
}

fn finish_leftover(path: &Path) -> io::Result<()> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()), // completed meanwhile
        Err(error) => return Err(error),
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()), // somebody writes it
        Err(error) => return Err(error.into()),
    }
    let mut lines = Vec::new();
    file.read_to_end(&mut lines)?;
    let whole = lines.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    if whole == 0 || path.extension().is_some_and(|ending| ending == "new") {
        return fs::remove_file(path);
    }
    if whole < lines.len() {
        file.set_len(whole as u64)?;
    }
    fs::rename(path, path.with_extension("jsonl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = files(folder).map(|file| file.file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn segments_are_open_then_complete_and_numbers_grow() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wine");
        let mut spool = Spool::new(path.clone());
        spool.append(b"one\n").unwrap();
        spool.sync().unwrap();
        let open = names(&path);
        assert!(open.len() == 1 && open[0].len() == 25 && open[0].ends_with(".open"), "{open:?}");
        assert!(spool.turn(), "too young and too short");
        spool.append(&vec![b'\n'; SEGMENT as usize]).unwrap();
        assert!(!spool.turn());
        spool.append(b"two\n").unwrap();
        spool.finish();
        let done = names(&path);
        assert!(done.len() == 2 && done.iter().all(|name| name.ends_with(".jsonl")), "{done:?}");
        assert_eq!(fs::read(path.join(&done[1])).unwrap(), b"two\n");
        let mut next = Spool::new(path.clone());
        next.append(b"three\n").unwrap();
        next.finish();
        assert_eq!(names(&path)[..2], done[..], "another life goes on behind");
    }

    #[test]
    fn a_full_spool_has_room_once_it_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wine");
        let mut spool = Spool::new(path.clone());
        assert!(spool.has_room(10, 10) && !spool.has_room(11, 10));
        spool.append(b"123456789\n").unwrap();
        spool.finish();
        assert!(!spool.has_room(1, 10));
        fs::remove_file(path.join(&names(&path)[0])).unwrap();
        spool.looked = Instant::now().checked_sub(LOOK);
        assert!(spool.has_room(1, 10));
    }

    #[test]
    fn leftovers_are_cut_after_the_last_whole_line_but_not_under_a_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wine");
        fs::create_dir_all(&path).unwrap();
        for (number, text) in [(1, "a\nb\nhal"), (2, "hal")] {
            fs::write(path.join(format!("{number:020}.open")), text).unwrap();
        }
        fs::write(path.join(format!("{:020}.77.new", 3)), "").unwrap();
        let mut writing = Spool::new(path.clone());
        writing.append(b"mine\n").unwrap();
        finish_leftovers(folder.path());
        let found = names(&path);
        assert!(found.len() == 2 && found[1].ends_with(".open"), "{found:?}");
        assert_eq!(fs::read(path.join(format!("{:020}.jsonl", 1))).unwrap(), b"a\nb\n");
    }
}
