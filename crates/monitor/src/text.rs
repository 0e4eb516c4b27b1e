//! Text from outside, made safe to show.

/// One line of at most `limit` characters, without control characters or marks that reorder text.
pub(crate) fn one_line(text: &str, limit: usize) -> String {
    let mut shown = String::new();
    for (index, character) in text.trim().chars().enumerate() {
        if index == limit {
            shown.push('…');
            break;
        }
        shown.push(match character {
            hidden if hidden.is_control() || reorders(hidden) => ' ',
            visible => visible,
        });
    }
    shown
}

/// Several lines, each safe; tabs stay.
pub(crate) fn lines(text: &str) -> String {
    let safe = |line: &str| line.split('\t').map(visible).collect::<Vec<_>>().join("\t");
    text.lines().map(safe).collect::<Vec<_>>().join("\n")
}

fn visible(text: &str) -> String {
    text.chars()
        .map(|character| if character.is_control() || reorders(character) { '\u{fffd}' } else { character })
        .collect()
}

fn reorders(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}')
}

/// Markdown that shows the text as it is.
pub(crate) fn markdown(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in one_line(text, 2_000).chars() {
        if matches!(character, '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#' | '|' | '!' | '~' | '&' | '{' | '}')
        {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// A fenced block whose fence no content can close.
pub(crate) fn fenced(text: &str) -> String {
    let safe = lines(text);
    let longest = safe.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{safe}\n{fence}\n")
}

/// A full stop, unless the text ends with one.
pub(crate) fn sentence(text: &str) -> String {
    match text.chars().last() {
        Some('.' | '!' | '?' | '…') => text.to_owned(),
        _ => format!("{text}."),
    }
}

/// A count with thin spaces between thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push('\u{202f}');
        }
        shown.push(digit);
    }
    shown
}

/// `1 request`, `2 requests`.
pub(crate) fn counted(number: u64, one: &str) -> String {
    format!("{} {one}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A latency given in µs.
pub(crate) fn latency(micros: f64) -> String {
    match micros {
        m if m < 1_000.0 => format!("{m:.0} µs"),
        m if m < 10_000.0 => format!("{:.2} ms", m / 1e3),
        m if m < 1_000_000.0 => format!("{:.1} ms", m / 1e3),
        m => format!("{:.2} s", m / 1e6),
    }
}

/// A share of 0 to 1 in percent.
pub(crate) fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0 %".to_owned(),
        p if p < 0.01 => "< 0.01 %".to_owned(),
        p if p < 10.0 => format!("{p:.2} %"),
        p => format!("{p:.1} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_escapes() {
        assert_eq!(one_line("a\nb\x1b[2J\u{202e}c", 80), "a b [2J c");
        assert_eq!(one_line(&"x".repeat(100), 3), "xxx…");
        assert_eq!(markdown("*a* [b](c) <d> |"), r"\*a\* \[b\](c) \<d\> \|");
        let block = fenced("``` inside\n````` five");
        assert!(block.starts_with("``````text\n") && block.ends_with("\n``````\n"), "{block}");
    }

    #[test]
    fn figures_read_well() {
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!([counted(1, "request"), counted(0, "request")], ["1 request", "0 requests"]);
        let shown: Vec<_> = [12.0, 1_234.0, 45_600.0, 2.5e6].map(latency).into();
        assert_eq!(shown, ["12 µs", "1.23 ms", "45.6 ms", "2.50 s"]);
        assert_eq!(
            [percent(0.0), percent(0.00001), percent(0.034), percent(0.5)],
            ["0 %", "< 0.01 %", "3.40 %", "50.0 %"]
        );
    }
}
