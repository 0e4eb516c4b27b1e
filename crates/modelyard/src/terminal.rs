//! What a person looks at: colour, aligned columns, a block of lines that is drawn again and again.
//!
//! Promises: without a terminal, or with `NO_COLOR`, no escape code is ever written.

use std::io::{IsTerminal as _, Write as _};

/// Colours that a line may use; without a terminal they do nothing.
#[derive(Clone, Copy, Debug)]
pub struct Paint(bool);

impl Paint {
    /// Colours if stdout is a terminal that wants them.
    pub fn stdout() -> Self {
        Self(std::io::stdout().is_terminal() && wanted())
    }

    /// Colours if stderr is a terminal that wants them.
    pub fn stderr() -> Self {
        Self(std::io::stderr().is_terminal() && wanted())
    }

    /// No colours.
    #[cfg(test)]
    pub const fn plain() -> Self {
        Self(false)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// What matters.
    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// What may be overlooked.
    pub fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    /// What went well.
    pub fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    /// What went wrong.
    pub fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    /// The candidate, and whatever is under way.
    pub fn candidate(self, text: &str) -> String {
        self.with("36", text)
    }

    /// What wants attention.
    pub fn warn(self, text: &str) -> String {
        self.with("33", text)
    }
}

fn wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var("TERM").map_or(true, |terminal| terminal != "dumb")
}

/// Columns and rows of the terminal at stderr; 80 × 24 when there is none.
pub fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 => (usize::from(size.ws_col), usize::from(size.ws_row).max(4)),
        _ => (80, 24),
    }
}

/// Aligned columns. Cells may be painted: escape codes take no room.
pub fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| seen_width(cell)).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let mut text = String::new();
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                text.push_str(&" ".repeat(widths[column] - seen_width(cell) + 2));
            }
        }
        text.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Aligned columns under a heading, as one text.
pub fn table(heading: &[&str], rows: Vec<Vec<String>>, paint: Paint) -> String {
    let mut all = vec![heading.iter().map(|title| paint.dim(title)).collect()];
    all.extend(rows);
    columns(&all).join("\n")
}

/// How many columns `text` takes: escape codes take none, and nothing that we print is wider than one.
fn seen_width(text: &str) -> usize {
    let mut width = 0;
    let mut in_code = false;
    for letter in text.chars() {
        match (in_code, letter) {
            (false, '\x1b') => in_code = true,
            (false, _) => width += 1,
            (true, 'm') => in_code = false,
            (true, _) => {}
        }
    }
    width
}

/// `text` cut to `width` columns; escape codes are kept whole.
fn cut(text: &str, width: usize) -> String {
    let (mut kept, mut seen, mut in_code) = (String::new(), 0, false);
    for letter in text.chars() {
        match (in_code, letter) {
            (false, '\x1b') => in_code = true,
            (false, _) if seen >= width => continue,
            (false, _) => seen += 1,
            (true, 'm') => in_code = false,
            (true, _) => {}
        }
        kept.push(letter);
    }
    kept
}

/// A block of lines on stderr that is drawn in place.
#[derive(Debug, Default)]
pub struct Canvas {
    drawn: usize,
}

impl Canvas {
    /// Whether drawing in place is possible.
    pub fn possible() -> bool {
        std::io::stderr().is_terminal() && std::env::var("TERM").map_or(true, |terminal| terminal != "dumb")
    }

    /// Replaces what was drawn by `lines`, cut to the terminal.
    pub fn draw(&mut self, lines: &[String]) {
        let (width, height) = size();
        let fitting = &lines[..lines.len().min(height - 1)];
        let mut out = self.back();
        for line in fitting {
            out.push_str(&cut(line, width.saturating_sub(1)));
            out.push_str("\x1b[K\n");
        }
        out.push_str("\x1b[J");
        self.drawn = fitting.len();
        let mut stderr = std::io::stderr().lock();
        let _ = stderr.write_all(out.as_bytes()).and_then(|()| stderr.flush());
    }

    fn back(&self) -> String {
        if self.drawn == 0 { "\r".to_owned() } else { format!("\x1b[{}A\r", self.drawn) }
    }
}

/// A share as a bar of `width` cells.
pub fn bar(share: f64, width: usize) -> String {
    let filled = ((share.clamp(0.0, 1.0) * width as f64).round() as usize).min(width);
    // A share that is not nothing is seen.
    let filled = if share > 0.0 { filled.max(1) } else { 0 };
    format!("{}{}", "█".repeat(filled), "░".repeat(width - filled))
}

/// Something that takes a while. A person sees it turn, and nothing of it once it is done.
#[derive(Debug)]
pub struct Busy(Option<indicatif::ProgressBar>);

impl Busy {
    /// Shows `doing` while this value lives; without a terminal nothing is shown.
    pub fn with(doing: &str) -> Self {
        let shown = Canvas::possible().then(|| {
            let bar = indicatif::ProgressBar::new_spinner().with_message(doing.to_owned());
            bar.enable_steady_tick(std::time::Duration::from_millis(100));
            bar
        });
        Self(shown)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Says `line` on stderr.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_though_cells_are_painted() {
        let rows = vec![vec!["\x1b[1mab\x1b[0m".to_owned(), "x".to_owned()], vec!["abcd".to_owned(), "y".to_owned()]];
        assert_eq!(columns(&rows), ["\x1b[1mab\x1b[0m    x", "abcd  y"]);
    }

    #[test]
    fn cutting_keeps_codes_whole() {
        assert_eq!(cut("\x1b[1mabc\x1b[0md", 2), "\x1b[1mab\x1b[0m");
        assert_eq!(cut("plain", 80), "plain");
    }

    #[test]
    fn bars_show_what_is_not_nothing() {
        assert_eq!(bar(0.0, 4), "░░░░");
        assert_eq!(bar(0.01, 4), "█░░░");
        assert_eq!(bar(1.0, 4), "████");
    }

    #[test]
    fn without_a_terminal_nothing_is_painted() {
        assert_eq!(Paint::plain().bad("x"), "x");
    }
}
