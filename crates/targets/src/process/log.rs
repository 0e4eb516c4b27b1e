//! The log of one instance: bounded on disk, safe to show.
//!
//! Promises: at most twice [`FILE_BYTES`] on disk, whatever the program writes; a full disk costs lines, never the program.
//! What is read out holds no control characters, so that a hostile program cannot drive the terminal of who reads it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Size at which a log file is set aside; the one set aside before is dropped.
pub(crate) const FILE_BYTES: u64 = 4 << 20;

/// Most characters of one line that are shown.
const LINE_CHARS: usize = 4_096;

/// Most lines that are given out at once.
const MAX_LINES: usize = 10_000;

/// Where the older part of a log is.
pub(crate) fn older(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Writes a log.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    file: Option<File>,
    written: u64,
    limit: u64,
}

impl Writer {
    /// Goes on with the log at `path`, or starts it.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let file = append(&path)?;
        let written = file.metadata()?.len();
        Ok(Self { path, file: Some(file), written, limit: FILE_BYTES })
    }

    /// Appends bytes. What cannot be written is dropped: the program must not wait for a disk.
    pub fn write(&mut self, bytes: &[u8]) {
        if self.written + bytes.len() as u64 > self.limit && self.written > 0 {
            self.rotate();
        }
        if let Some(file) = &mut self.file
            && file.write_all(bytes).is_ok()
        {
            self.written += bytes.len() as u64;
        }
    }

    fn rotate(&mut self) {
        let _ = fs::rename(&self.path, older(&self.path));
        self.file = append(&self.path).ok();
        self.written = 0;
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// The last `lines` lines of a log, oldest first; `None` if there is no such log.
pub(crate) fn tail(log: &Path, lines: usize) -> io::Result<Option<Vec<String>>> {
    let lines = lines.min(MAX_LINES);
    let Some(mut bytes) = read_end(log)? else { return Ok(None) };
    if bytes.iter().filter(|&&byte| byte == b'\n').count() <= lines {
        // The file was started a moment ago: its beginning is in the one before.
        let mut whole = read_end(&older(log))?.unwrap_or_default();
        whole.append(&mut bytes);
        bytes = whole;
    }
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    if text.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let mut last: Vec<String> = text.rsplit(|&byte| byte == b'\n').take(lines).map(clean).collect();
    last.reverse();
    Ok(Some(last))
}

fn read_end(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(FILE_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// A line that is safe to show: control characters and those that reorder text are written out, and the length is bounded.
pub(crate) fn clean(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // Four bytes make a character at most: what lies beyond is not looked at.
    let text = String::from_utf8_lossy(&line[..line.len().min(LINE_CHARS * 4)]);
    let mut shown = String::with_capacity(text.len());
    for (index, character) in text.chars().enumerate() {
        if index == LINE_CHARS {
            shown.push_str(" … (line shortened)");
            break;
        }
        match character {
            '\t' => shown.push('\t'),
            hidden if hidden.is_control() || reorders(hidden) => shown.extend(hidden.escape_unicode()),
            visible => shown.push(visible),
        }
    }
    shown
}

/// Marks that change the direction of text or hide in it.
fn reorders(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_stay_bounded_and_their_end_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = Writer { limit: 1_000, ..Writer::open(path.clone()).unwrap() };
        for number in 0..500 {
            writer.write(format!("line {number}\n").as_bytes());
        }
        let sizes = [path.clone(), older(&path)].map(|path| fs::metadata(path).unwrap().len());
        assert!(sizes.iter().all(|&size| size <= 1_000), "{sizes:?}");
        let last = tail(&path, 60).unwrap().unwrap();
        assert_eq!((last.len(), last[0].as_str(), last[59].as_str()), (60, "line 440", "line 499"));
        assert_eq!(tail(&path, usize::MAX).unwrap().unwrap().last().unwrap(), "line 499");
        assert_eq!(tail(&path, 0).unwrap().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_log_goes_on_where_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(tail(&path, 5).unwrap(), None);
        Writer::open(path.clone()).unwrap().write(b"");
        assert_eq!(tail(&path, 5).unwrap().unwrap(), Vec::<String>::new());
        Writer::open(path.clone()).unwrap().write(b"one\ntw");
        Writer::open(path.clone()).unwrap().write(b"o\nthree");
        assert_eq!(tail(&path, 5).unwrap().unwrap(), ["one", "two", "three"]);
    }

    #[test]
    fn hostile_lines_cannot_drive_a_terminal() {
        assert_eq!(clean(b"\x1b[2Jgone\x07\r"), "\\u{1b}[2Jgone\\u{7}");
        assert_eq!(clean("a\u{202e}b\tc".as_bytes()), "a\\u{202e}b\tc");
        assert_eq!(clean(b"\xff\x00"), "\u{fffd}\\u{0}");
        let long = clean(&vec![b'x'; 1 << 20]);
        assert!(long.len() < 5_000 && long.ends_with("(line shortened)"), "{}", long.len());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_give_control_characters(bytes: Vec<u8>) {
            let shown = clean(&bytes);
            proptest::prop_assert!(shown.chars().all(|c| c == '\t' || !(c.is_control() || reorders(c))));
        }
    }
}
