//! Gives back the pages of programs that only a start needs.
//!
//! A start runs through most of the engine's library (it registers thousands of kernels) and much of this program; an answer needs a
//! twentieth of that. The kernel leaves all of it mapped and counts it as resident. Here the mappings of program text are let go once the
//! model is warm: what is needed comes back from the page cache, a minor fault for sixteen pages, and the rest stays away.
//! Absent on purpose: heap, stacks and data, which have no other copy.

#[cfg(target_os = "linux")]
pub(crate) use linux::give_back;

/// Does nothing where the system does not tell which pages are a file's alone.
#[cfg(not(target_os = "linux"))]
pub(crate) fn give_back() {}

#[cfg(target_os = "linux")]
mod linux {
    use std::io::{self, BufRead, BufReader};
    use std::ops::Range;

    use rustix::mm::{Advice, madvise};

    /// Lets go of the pages of program text of this process; how many bytes were mapped goes to the log. What cannot be let go stays.
    pub(crate) fn give_back() {
        match std::fs::File::open("/proc/self/smaps").map(BufReader::new).and_then(texts) {
            Ok(texts) => {
                let resident: u64 = texts.into_iter().filter(|text| let_go(&text.at)).map(|text| text.resident).sum();
                tracing::debug!(resident, "the pages of the start are given back");
            }
            Err(error) => tracing::debug!(%error, "the pages of the start stay: what is mapped cannot be read"),
        }
    }

    /// Program text that a file has as well.
    #[derive(Debug, PartialEq)]
    struct Text {
        at: Range<usize>,
        /// Bytes in memory.
        resident: u64,
    }

    #[expect(unsafe_code, reason = "advice on a mapping is given by address")]
    fn let_go(at: &Range<usize>) -> bool {
        let start = std::ptr::without_provenance_mut(at.start);
        // SAFETY: the range is a private mapping of a file, read from /proc/self/smaps: it can be read and run but not written, and none of its
        // pages is a copy (`Anonymous: 0`). MADV_DONTNEED makes such pages come from the file again at the next access, with the same bytes, so
        // nobody can tell, whoever runs there meanwhile. The range cannot have become another mapping: libraries are loaded before the model is
        // warm and never unloaded, and mappings of data are never executable here.
        unsafe { madvise(start, at.len(), Advice::LinuxDontNeed) }.is_ok()
    }

    /// The mappings of program text without a page of their own, from the format of `/proc/PID/smaps` (proc(5)).
    fn texts(smaps: impl BufRead) -> io::Result<Vec<Text>> {
        let mut found: Vec<Text> = Vec::new();
        let mut is_text = false;
        for line in smaps.lines() {
            let line = line?;
            if let Some(at) = range(&line) {
                is_text = is_program(&line);
                if is_text {
                    found.push(Text { at, resident: 0 });
                }
            } else if is_text && let (Some(last), Some((key, value))) = (found.last_mut(), line.split_once(':')) {
                match (key, kilobytes(value)) {
                    ("Rss", Some(size)) => last.resident = size << 10,
                    ("Anonymous" | "Swap", Some(0)) => {}
                    ("Anonymous" | "Swap", _) => {
                        found.pop();
                        is_text = false;
                    }
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// The range of a mapping, if the line begins one: `55d0c0a00000-55d0c0b00000 r-xp …`.
    fn range(line: &str) -> Option<Range<usize>> {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let hexadecimal = |text| usize::from_str_radix(text, 16).ok();
        Some(hexadecimal(start)?..hexadecimal(end)?)
    }

    /// Whether the mapping is private, runs, cannot be written, and is a file's.
    fn is_program(line: &str) -> bool {
        let mut words = line.split_ascii_whitespace().skip(1);
        words.next() == Some("r-xp") && words.nth(3).is_some_and(|path| path.starts_with('/'))
    }

    fn kilobytes(value: &str) -> Option<u64> {
        value.trim().strip_suffix(" kB")?.parse().ok()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        const SMAPS: &str = "\
1000-3000 r-xp 00001000 fe:00 17 /usr/bin/modelyard
Size:                  8 kB
Rss:                   8 kB
Anonymous:             0 kB
Swap:                  0 kB
3000-4000 r--p 00003000 fe:00 17 /usr/bin/modelyard
Rss:                   4 kB
Anonymous:             0 kB
5000-6000 r-xp 00001000 fe:00 18 /usr/lib/with breakpoints.so
Rss:                   4 kB
Anonymous:             4 kB
Swap:                  0 kB
6000-7000 rw-p 00000000 00:00 0
Rss:                   4 kB
7000-8000 r-xp 00000000 00:00 0 [vdso]
Rss:                   4 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me de sd
";

        #[test]
        fn only_text_that_a_file_has_as_well_is_found() {
            let found = texts(SMAPS.as_bytes()).expect("read from memory");
            assert_eq!(found, [Text { at: 0x1000..0x3000, resident: 8 << 10 }]);
        }

        #[test]
        fn what_was_given_back_is_there_again_when_it_runs() {
            let resident = || -> u64 {
                let smaps = std::fs::File::open("/proc/self/smaps").expect("proc is mounted");
                texts(BufReader::new(smaps)).expect("smaps").iter().map(|text| text.resident).sum()
            };
            // Touches more text than the rest of this test needs.
            let parsed: serde_json::Value = serde_json::from_str(r#"{"a": [1, 2.5, "three"]}"#).expect("JSON");
            let before = resident();
            give_back();
            let after = resident();
            assert!(after < before, "{after} of {before} bytes");
            assert_eq!(serde_json::to_string(&parsed).expect("JSON"), r#"{"a":[1,2.5,"three"]}"#);
        }
    }
}
