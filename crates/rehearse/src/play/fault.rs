//! Faults as people say them: `candidate: error rate 3 % from minute 12`.
//!
//! Promises: whatever [`Fault`] shows, it reads again as the same fault; a sentence that is not understood is answered with one that is.

use std::fmt;
use std::str::FromStr;

use modelyard_core::Millis;

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// With which revision.
    pub whose: Whose,
    /// What.
    pub what: What,
    /// From when on, since the start of the rollout; from the first request, if nothing is said.
    pub from: Millis,
    /// Until when; for ever, if nothing is said.
    pub until: Option<Millis>,
}

/// With which revision something goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whose {
    /// The revision that runs before the rollout.
    Stable,
    /// The revision that is rolled out.
    #[default]
    Candidate,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// This share of answers are errors.
    ErrorRate(f64),
    /// Answers take this many times as long.
    Slower(f64),
    /// Answers take about this long.
    Latency(Millis),
    /// A metric has this value; and stable's that one.
    Metric {
        /// Its name.
        name: String,
        /// Its value.
        value: f64,
        /// Stable's value.
        against: Option<f64>,
    },
    /// This share of answers differs from stable's.
    Disagreement(f64),
    /// One instance ends by itself.
    Crash,
    /// Each instance ends by itself whenever it has lived this long.
    CrashEvery(Millis),
    /// One instance goes past its memory limit.
    OutOfMemory,
    /// Instances run but do not answer.
    Hang,
    /// Instances answer their samples wrongly.
    WrongAnswers,
    /// Instances take this long to start.
    StartsIn(Millis),
    /// Instances never become ready.
    NeverStarts,
}

/// The sentence was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{sentence}` is not understood: {why}")]
pub struct FaultError {
    /// The sentence.
    pub sentence: String,
    /// What is wrong, and what to write instead.
    pub why: String,
}

/// What can be said, for help.
pub const EXAMPLES: [&str; 12] = [
    "error rate 3 %",
    "latency x4",
    "latency 250ms",
    "accuracy 0.91 against 0.94",
    "disagreement 5 %",
    "crash",
    "crash every 20s",
    "out of memory",
    "hang",
    "wrong answers",
    "starts in 20s",
    "never starts",
];

impl Fault {
    /// A fault of the candidate from its first request on.
    pub fn of_candidate(what: What) -> Self {
        Self { whose: Whose::Candidate, what, from: Millis(0), until: None }
    }

    /// Whether it has begun and is not over.
    pub(super) fn is_active(&self, now: Millis) -> bool {
        self.from <= now && self.until.is_none_or(|until| now < until)
    }

    /// Whether whoever meets the revision meanwhile is hurt by it, metrics apart: they depend on which way is better.
    pub(super) const fn hurts(&self) -> bool {
        match self.what {
            What::ErrorRate(rate) => rate > 0.0,
            What::Slower(factor) => factor > 1.0,
            What::Latency(_) | What::CrashEvery(_) | What::Hang | What::WrongAnswers => true,
            What::Metric { .. } | What::Disagreement(_) => false,
            // A single end hurts those who are being answered, and the start of an instance nobody.
            What::Crash | What::OutOfMemory | What::StartsIn(_) | What::NeverStarts => false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.whose == Whose::Stable {
            f.write_str("stable: ")?;
        }
        write!(f, "{}", self.what)?;
        let event = matches!(self.what, What::Crash | What::OutOfMemory);
        match (self.from, event) {
            (Millis(0), _) => {}
            (from, true) => write!(f, " at {}", exact(from))?,
            (from, false) => write!(f, " from {}", exact(from))?,
        }
        self.until.map_or(Ok(()), |until| write!(f, " until {}", exact(until)))
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ErrorRate(rate) => write!(f, "error rate {} %", percent(*rate)),
            Self::Slower(factor) => write!(f, "latency x{factor}"),
            Self::Latency(span) => write!(f, "latency {}", exact(*span)),
            Self::Metric { name, value, against: Some(other) } => write!(f, "{name} {value} against {other}"),
            Self::Metric { name, value, against: None } => write!(f, "{name} {value}"),
            Self::Disagreement(share) => write!(f, "disagreement {} %", percent(*share)),
            Self::Crash => f.write_str("crash"),
            Self::CrashEvery(span) => write!(f, "crash every {}", exact(*span)),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Hang => f.write_str("hang"),
            Self::WrongAnswers => f.write_str("wrong answers"),
            Self::StartsIn(span) => write!(f, "starts in {}", exact(*span)),
            Self::NeverStarts => f.write_str("never starts"),
        }
    }
}

/// A share in percent, without the noise of binary fractions.
fn percent(share: f64) -> f64 {
    (share * 1e8).round() / 1e6
}

/// A span that reads again as itself: `90s`, `10m`, `1500ms`.
fn exact(span: Millis) -> String {
    match span.0 {
        ms if ms % 3_600_000 == 0 && ms > 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 && ms > 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(sentence: &str) -> Result<Self, FaultError> {
        let refuse = |why: String| FaultError { sentence: sentence.chars().take(120).collect(), why };
        let (whose, rest) = match sentence.split_once(':') {
            None => (Whose::Candidate, sentence),
            Some((who, rest)) => match who.trim().to_lowercase().as_str() {
                "candidate" => (Whose::Candidate, rest),
                "stable" => (Whose::Stable, rest),
                other => return Err(refuse(format!("before `:` stands `candidate` or `stable`, not `{other}`"))),
            },
        };
        let words = words(rest);
        let at = words.iter().position(|word| WHEN.contains(&word.as_str())).unwrap_or(words.len());
        let (what, when) = words.split_at(at);
        let what = read_what(what).map_err(&refuse)?;
        let (from, until) = read_when(when).map_err(&refuse)?;
        Ok(Self { whose, what, from, until })
    }
}

const WHEN: [&str; 5] = ["from", "at", "after", "until", "for"];

/// Lower-case words; numbers stand apart from `%`, `×` and the like.
fn words(text: &str) -> Vec<String> {
    let spaced = text.to_lowercase().replace('%', " % ").replace(['×', '*'], " x ").replace([',', '='], " ");
    let mut words: Vec<String> = Vec::new();
    for word in spaced.split_whitespace() {
        match word.strip_prefix('x') {
            Some(number) if number.parse::<f64>().is_ok() => words.extend(["x".to_owned(), number.to_owned()]),
            _ => words.push(word.to_owned()),
        }
    }
    words
}

fn read_what(words: &[String]) -> Result<What, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["error", "rate" | "rates", rest @ ..] | ["errors" | "error-rate", rest @ ..] => {
            share(rest).map(What::ErrorRate)
        }
        ["latency", "x", factor] | ["latency", factor, "x"] => match factor.parse::<f64>() {
            Ok(factor) if (0.01..=1e6).contains(&factor) => Ok(What::Slower(factor)),
            _ => Err(format!("`{factor}` is no factor; write `latency x4`")),
        },
        ["latency", rest @ ..] => span(rest).map(What::Latency),
        ["disagreement" | "disagrees", rest @ ..] => share(rest).map(What::Disagreement),
        ["crash" | "crashes"] => Ok(What::Crash),
        ["crash" | "crashes", "every", rest @ ..] => match span(rest)? {
            Millis(0..500) => Err("instances that live less than 0.5 s; write `never starts`".to_owned()),
            every => Ok(What::CrashEvery(every)),
        },
        ["out", "of", "memory"] | ["out-of-memory" | "oom"] => Ok(What::OutOfMemory),
        ["hang" | "hangs" | "unresponsive"] => Ok(What::Hang),
        ["wrong", "answers"] | ["wrong-answers"] => Ok(What::WrongAnswers),
        ["starts" | "start", "in", rest @ ..] => span(rest).map(What::StartsIn),
        ["never", "starts"] => Ok(What::NeverStarts),
        [name, value] => metric(name, value, None),
        [name, value, "against", other] => metric(name, value, Some(other)),
        [] => Err(format!("it says nothing; write, say, `{}`", EXAMPLES[0])),
        _ => Err(format!("write it as one of: {}", EXAMPLES.join("; "))),
    }
}

fn metric(name: &str, value: &str, against: Option<&str>) -> Result<What, String> {
    let number = |text: &str| {
        let read = text.parse::<f64>().ok().filter(|number| number.is_finite());
        read.ok_or_else(|| format!("`{text}` is no number; write it as one of: {}", EXAMPLES.join("; ")))
    };
    let known = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if !name.chars().all(known) {
        return Err(format!("`{name}` is no name of a metric"));
    }
    let (value, against) = (number(value)?, against.map(number).transpose()?);
    Ok(What::Metric { name: name.to_owned(), value, against })
}

/// `3 %`, or `0.03`.
fn share(words: &[&str]) -> Result<f64, String> {
    let (text, whole) = match words {
        [number, "%"] => (number, 100.0),
        [number] => (number, 1.0),
        _ => return Err("write a share such as `3 %`".to_owned()),
    };
    let share = text.parse::<f64>().map_err(|_| format!("`{text}` is no number; write a share such as `3 %`"))? / whole;
    match (0.0..=1.0).contains(&share) {
        true => Ok(share),
        false if whole == 1.0 => Err(format!("{text} is more than all; did you mean `{text} %`?")),
        false => Err(format!("{text} % is not between 0 % and 100 %")),
    }
}

/// `20s`, `20 s`, `minute 12`, `12 minutes`, `1 h`.
fn span(words: &[&str]) -> Result<Millis, String> {
    let unit = |unit: &str| match unit.trim_end_matches('s') {
        "minute" | "min" | "m" => "m".to_owned(),
        "second" | "sec" | "" => "s".to_owned(),
        "hour" | "h" => "h".to_owned(),
        "m " | "millisecond" => "ms".to_owned(),
        _ => unit.to_owned(),
    };
    let text = match words {
        [one] => (*one).to_owned(),
        [number, "ms"] => format!("{number}ms"),
        [number, named] if number.parse::<f64>().is_ok() => format!("{number}{}", unit(named)),
        [named, number] => format!("{number}{}", unit(named)),
        _ => return Err("write a span of time such as `20s`, `12m` or `minute 12`".to_owned()),
    };
    text.parse().map_err(|error: modelyard_core::time::MillisError| error.to_string())
}

/// `from 12m`, `at minute 3`, `after 20s`, `until 1h`, `for 10m`, and two of them.
fn read_when(words: &[String]) -> Result<(Millis, Option<Millis>), String> {
    let (mut from, mut until, mut lasts) = (Millis(0), None, None);
    let mut rest = words;
    while let Some((word, after)) = rest.split_first() {
        let end = after.iter().position(|word| WHEN.contains(&word.as_str())).unwrap_or(after.len());
        let (given, next) = after.split_at(end);
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let start = given == ["the", "start"] || given == ["start"] || given == ["the", "first", "request"];
        let span = if start { Millis(0) } else { span(&given)? };
        match word.as_str() {
            "until" => until = Some(span),
            "for" => lasts = Some(span),
            _ => from = span,
        }
        rest = next;
    }
    let until = lasts.map(|lasts| Millis(from.0.saturating_add(lasts.0))).or(until);
    match until.is_some_and(|until| until <= from) {
        true => Err("it is over before it begins".to_owned()),
        false => Ok((from, until)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(what: What, from: u64, until: Option<u64>) -> Fault {
        Fault { from: Millis::seconds(from), until: until.map(Millis::seconds), ..Fault::of_candidate(what) }
    }

    #[test]
    fn sentences_are_read_as_people_write_them() {
        let accuracy = |value, against| What::Metric { name: "accuracy".to_owned(), value, against };
        for (sentence, meant) in [
            ("candidate: error rate 3 % from minute 12", fault(What::ErrorRate(0.03), 720, None)),
            ("error rate 3%", fault(What::ErrorRate(0.03), 0, None)),
            ("errors 0.03 from 12m until 20m", fault(What::ErrorRate(0.03), 720, Some(1_200))),
            ("latency × 4", fault(What::Slower(4.0), 0, None)),
            ("latency x4 after 30 s", fault(What::Slower(4.0), 30, None)),
            ("latency 250 ms", fault(What::Latency(Millis(250)), 0, None)),
            ("accuracy 0.91 against 0.94", fault(accuracy(0.91, Some(0.94)), 0, None)),
            ("Accuracy 0.91", fault(accuracy(0.91, None), 0, None)),
            ("crash at minute 3", fault(What::Crash, 180, None)),
            ("crashes every 20s", fault(What::CrashEvery(Millis::seconds(20)), 0, None)),
            ("starts in 20 s", fault(What::StartsIn(Millis::seconds(20)), 0, None)),
            ("out of memory at 90s", fault(What::OutOfMemory, 90, None)),
            ("hang from the start for 10 minutes", fault(What::Hang, 0, Some(600))),
            ("disagreement 5 %", fault(What::Disagreement(0.05), 0, None)),
        ] {
            assert_eq!(sentence.parse::<Fault>().as_ref(), Ok(&meant), "{sentence}");
            assert_eq!(meant.to_string().parse::<Fault>().as_ref(), Ok(&meant), "{meant} reads again");
        }
        let stable: Fault = "stable: crash at 10s".parse().unwrap();
        assert_eq!((stable.whose, stable.to_string().as_str()), (Whose::Stable, "stable: crash at 10s"));
        assert!(EXAMPLES.iter().all(|example| example.parse::<Fault>().is_ok()));
    }

    #[test]
    fn what_is_not_understood_is_answered_with_what_would_be() {
        for (sentence, answer) in [
            ("error rate 5", "did you mean `5 %`"),
            ("error rate 500 %", "between 0 % and 100 %"),
            ("canary: crash", "`candidate` or `stable`"),
            ("explode", "error rate 3 %"),
            ("", "it says nothing"),
            ("latency xx", "250ms"),
            ("crash at noon", "not a span of time"),
            ("hang from 10m until 5m", "over before it begins"),
            ("crash every 1ms", "never starts"),
            ("accuracy nan", "no number"),
        ] {
            let told = sentence.parse::<Fault>().unwrap_err().to_string();
            assert!(told.contains(answer), "{sentence}: {told}");
        }
    }
}
