//! `rehearse.toml`: what a rollout is rehearsed with.
//!
//! Promises: every mistake is reported at once, with its place and what to write instead. Without a file everything has a default.

use std::ops::Range;
use std::path::{Path, PathBuf};

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};
use modelyard_core::service::ServiceSpec;
use modelyard_core::strategy::Strategy;
use modelyard_core::{Millis, nearest};
use modelyard_rehearse::play::{Behaviour, Case, Decides, Described, Fault, Scenario, Traffic, shape};
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::{keys, recorded};
use crate::service_file::check::{Mistake, read};

/// Why a scenario was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Mistakes, all of them.
    #[error("{} has {} mistake{}: {}", name, mistakes.len(), if mistakes.len() == 1 { "" } else { "s" }, list(mistakes))]
    Mistakes {
        /// Name of the text, for people.
        name: String,
        /// The text.
        source_code: NamedSource<String>,
        /// What is wrong.
        mistakes: Vec<Mistake>,
    },
}

fn list(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|mistake| mistake.what.as_str()).collect::<Vec<_>>().join("; ")
}

impl Diagnostic for Error {
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new(match self {
            Self::Read { .. } => "modelyard::rehearse::read",
            Self::Mistakes { .. } => "modelyard::rehearse::mistakes",
        }))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new("every key and every fault is described in docs/guide/rehearse.md; nothing was played"))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        match self {
            Self::Mistakes { source_code, .. } => Some(source_code),
            Self::Read { .. } => None,
        }
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        match self {
            Self::Mistakes { mistakes, .. } => Some(Box::new(
                mistakes
                    .iter()
                    .map(|mistake| LabeledSpan::new_with_span(Some(mistake.what.clone()), mistake.at.clone())),
            )),
            Self::Read { .. } => None,
        }
    }
}

/// A scenario, and what a file says beside it.
#[derive(Clone, Debug)]
pub struct Read {
    /// The scenario.
    pub scenario: Scenario,
    /// Strategies to play beside the service's own; empty if nothing was said.
    pub strategies: Vec<String>,
    /// What was recorded, if traffic was: the file.
    pub recorded: Option<PathBuf>,
}

/// Reads the scenario at `path`, for this service.
pub fn scenario(path: &Path, spec: &ServiceSpec) -> Result<Read, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    parse(&path.display().to_string(), &text, path.parent().unwrap_or(Path::new("")), spec)
}

/// Reads a scenario; files that it names are relative to `folder`.
pub fn parse(name: &str, text: &str, folder: &Path, spec: &ServiceSpec) -> Result<Read, Error> {
    let (table, mut mistakes) = read(text, keys::SCENARIO);
    let (document, _) = DeTable::parse_recoverable(text);
    let mut reader = Reader { measured: None, document: document.get_ref(), mistakes: Vec::new(), folder, spec };
    let read = reader.scenario(&table);
    mistakes.append(&mut reader.mistakes);
    mistakes.sort_by_key(|mistake| mistake.at.start);
    match mistakes.is_empty() {
        true => Ok(read),
        false => Err(Error::Mistakes {
            name: name.to_owned(),
            source_code: NamedSource::new(name, text.to_owned()),
            mistakes,
        }),
    }
}

struct Reader<'a> {
    /// What a capture says of stable.
    measured: Option<recorded::Measured>,
    document: &'a DeTable<'a>,
    mistakes: Vec<Mistake>,
    folder: &'a Path,
    spec: &'a ServiceSpec,
}

impl Reader<'_> {
    fn mistake(&mut self, place: &[&str], what: String) {
        let at = find(self.document, place).unwrap_or(0..0);
        self.mistakes.push(Mistake { what, at });
    }

    fn scenario(&mut self, table: &Table) -> Read {
        let mut scenario = Scenario::usual(self.spec);
        let mut recorded = None;
        if let Some(traffic) = table.get("traffic").and_then(Value::as_table) {
            (scenario.traffic, recorded) = self.traffic(traffic);
        }
        if let Some(measured) = self.measured {
            scenario.stable.error_rate = measured.error_rate;
            scenario.stable.latency_ms = measured.latency_ms;
            scenario.stable.spread = measured.spread;
        }
        scenario.start = scenario.traffic.usual_start();
        if let Some(text) = text(table, "start") {
            match minutes(text) {
                Some(minutes) => scenario.start = u64::from(minutes) * 60,
                None => self.mistake(&["start"], format!("`start` is `{text}`; write a time of day such as \"09:30\"")),
            }
        }
        let span = |table: &Table, key: &str| text(table, key).and_then(|text| text.parse::<Millis>().ok());
        scenario.longest = span(table, "longest").unwrap_or(scenario.longest);
        if scenario.longest == Millis(0) || scenario.longest > MOST {
            self.mistake(&["longest"], "`longest` is from 1ms to 30d".to_owned());
            scenario.longest = Scenario::usual(self.spec).longest;
        }
        scenario.seed = whole(table, "seed").unwrap_or(scenario.seed);
        if let Some(stable) = table.get("stable").and_then(Value::as_table) {
            self.behaviour(&mut scenario.stable, stable, "stable");
        }
        // A candidate is like stable but for what is said of it; values of metrics are found by name later.
        scenario.candidate = scenario.stable.clone();
        if let Some(candidate) = table.get("candidate").and_then(Value::as_table) {
            self.behaviour(&mut scenario.candidate, candidate, "candidate");
        }
        if let Some(labels) = table.get("labels").and_then(Value::as_table) {
            scenario.labels.share = float(labels, "share").unwrap_or(scenario.labels.share);
            scenario.labels.delay = span(labels, "delay").unwrap_or(scenario.labels.delay);
        }
        if let Some(person) = table.get("person").and_then(Value::as_table) {
            scenario.person.reacts = span(person, "reacts").unwrap_or(scenario.person.reacts);
            scenario.person.notices = span(person, "notices").unwrap_or(scenario.person.notices);
            scenario.person.decides = match text(person, "decides") {
                Some("promote") => Decides::Promote,
                Some("nothing") => Decides::Nothing,
                _ => Decides::Abort,
            };
        }
        if let Some(cases) = table.get("cases").and_then(Value::as_array) {
            scenario.cases = self.cases(cases);
        }
        Read { scenario, strategies: self.strategies(table), recorded }
    }

    fn traffic(&mut self, table: &Table) -> (Traffic, Option<PathBuf>) {
        if let Some(named) = text(table, "recorded") {
            let path = self.folder.join(named);
            for key in ["rate", "shape", "hours", "quiet"].iter().filter(|key| table.contains_key(**key)) {
                self.mistake(
                    &["traffic", key],
                    format!("`{key}` says nothing beside `recorded`: leave one of them out"),
                );
            }
            // A capture keeps a share of the requests; the service says which, unless the file knows better.
            let kept = self.spec.capture.as_ref().map_or(1.0, |capture| f64::from(capture.share.basis_points()) / 1e4);
            let share = float(table, "captured-share").unwrap_or(kept);
            let read = match recorded::is_capture(&path) {
                true => recorded::capture(&path, share.clamp(1e-4, 1.0)),
                false => recorded::read(&path).map(|recorded| (recorded, None)),
            };
            return match read {
                Ok((recorded, measured)) => {
                    self.measured = measured;
                    (Traffic::Recorded(recorded), Some(path))
                }
                Err(why) => {
                    self.mistake(&["traffic", "recorded"], why.to_string());
                    (Traffic::Described(Described::steady(1.0)), None)
                }
            };
        }
        let mut described = Described::steady(float(table, "rate").unwrap_or(50.0));
        described.hours = text(table, "shape").and_then(shape).unwrap_or(described.hours);
        if let Some(hours) = table.get("hours") {
            match hours_of(hours) {
                Some(own) => described.hours = own,
                None => self.mistake(
                    &["traffic", "hours"],
                    "`hours` must be 24 numbers from 0 to 1, the first for midnight".to_owned(),
                ),
            }
        }
        for (index, text) in texts(table, "quiet").into_iter().enumerate() {
            match text.split_once('-').and_then(|(from, to)| Some((minutes(from)?, minutes(to)?))) {
                Some(span) => described.quiet.push(span),
                None => self.mistake(
                    &["traffic", "quiet", &index.to_string()],
                    format!("`quiet` has `{text}`; write a span of the day such as \"22:00-06:00\""),
                ),
            }
        }
        (Traffic::Described(described), None)
    }

    fn behaviour(&mut self, behaviour: &mut Behaviour, table: &Table, whose: &str) {
        let numbers = [
            ("error-rate", &mut behaviour.error_rate),
            ("latency-ms", &mut behaviour.latency_ms),
            ("spread", &mut behaviour.spread),
            ("disagreement", &mut behaviour.disagreement),
        ];
        for (key, value) in numbers {
            *value = float(table, key).unwrap_or(*value);
        }
        for (key, value) in [("starts-in", &mut behaviour.starts_in), ("stops-in", &mut behaviour.stops_in)] {
            *value = text(table, key).and_then(|text| text.parse().ok()).unwrap_or(*value);
        }
        for (key, values) in [("metrics", &mut behaviour.metrics), ("deviations", &mut behaviour.deviations)] {
            let named = table.get(key).and_then(Value::as_table).into_iter().flatten();
            for (name, value) in named {
                if !self.spec.metrics.iter().any(|metric| metric.name == *name) {
                    let what = unknown_metric(self.spec, name);
                    self.mistake(&[whose, key, name], what);
                }
                values.extend(value.as_float().map(|value| (name.clone(), value)));
            }
        }
    }

    fn cases(&mut self, cases: &[Value]) -> Vec<Case> {
        let mut read = Vec::new();
        for (index, case) in cases.iter().enumerate() {
            let mut faults = Vec::new();
            let Some(table) = case.as_table() else { continue };
            for (nth, sentence) in texts(table, "faults").into_iter().enumerate() {
                match sentence.parse::<Fault>() {
                    Ok(fault) => faults.push(fault),
                    Err(error) => {
                        self.mistake(&["cases", &index.to_string(), "faults", &nth.to_string()], error.to_string());
                    }
                }
            }
            read.push(named(text(table, "name"), faults));
        }
        read
    }

    fn strategies(&mut self, table: &Table) -> Vec<String> {
        let named = texts(table, "strategies");
        for (index, name) in named.iter().enumerate() {
            if Strategy::from_name(name).is_none() {
                let known = Strategy::NAMES;
                let what = match nearest(name, known) {
                    Some(meant) => format!("`{name}` is no strategy; did you mean `{meant}`?"),
                    None => format!("`{name}` is no strategy; there are {}", known.join(", ")),
                };
                self.mistake(&["strategies", &index.to_string()], what);
            }
        }
        named
    }
}

/// 30 days: a rehearsal that takes longer is a typing error.
const MOST: Millis = Millis::seconds(30 * 86_400);

/// A case; without a name it is called by its faults.
pub fn named(name: Option<&str>, faults: Vec<Fault>) -> Case {
    let by_faults = || match faults.is_empty() {
        true => "healthy".to_owned(),
        false => faults.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    Case { name: name.map_or_else(by_faults, str::to_owned), faults }
}

fn unknown_metric(spec: &ServiceSpec, name: &str) -> String {
    let known: Vec<&str> = spec.metrics.iter().map(|metric| metric.name.as_str()).collect();
    match (nearest(name, known.iter().copied()), known.is_empty()) {
        (Some(meant), _) => format!("`{name}` is no metric of the service; did you mean `{meant}`?"),
        (None, true) => format!("`{name}` is no metric of the service; it has none, declare it in its `[[metrics]]`"),
        (None, false) => format!("`{name}` is no metric of the service; it has {}", known.join(", ")),
    }
}

/// `09:30` as minutes after midnight.
pub fn minutes(text: &str) -> Option<u32> {
    let (hour, minute) = text.trim().split_once(':')?;
    let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}

fn hours_of(value: &Value) -> Option<[f64; 24]> {
    let list = value.as_array()?;
    let number = |value: &Value| value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64));
    let hours: Vec<f64> = list.iter().filter_map(number).filter(|share| (0.0..=1.0).contains(share)).collect();
    if list.len() == 24 { hours.try_into().ok() } else { None }
}

fn text<'t>(table: &'t Table, key: &str) -> Option<&'t str> {
    table.get(key).and_then(Value::as_str)
}

fn texts(table: &Table, key: &str) -> Vec<String> {
    let list = table.get(key).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn float(table: &Table, key: &str) -> Option<f64> {
    table.get(key).and_then(Value::as_float)
}

fn whole(table: &Table, key: &str) -> Option<u64> {
    table.get(key).and_then(Value::as_integer).and_then(|number| u64::try_from(number).ok())
}

/// Bytes of the text at which a value stands.
fn find(table: &DeTable<'_>, place: &[&str]) -> Option<Range<usize>> {
    let (first, rest) = place.split_first()?;
    let (_, value) = table.iter().find(|(name, _)| name.get_ref().as_ref() == *first)?;
    within(value, rest)
}

fn within(value: &Spanned<DeValue<'_>>, place: &[&str]) -> Option<Range<usize>> {
    let Some((first, rest)) = place.split_first() else { return Some(value.span()) };
    match value.get_ref() {
        DeValue::Table(_) if rest.is_empty() && first.is_empty() => Some(value.span()),
        DeValue::Table(table) => find(table, place),
        DeValue::Array(list) => within(list.get(first.parse::<usize>().ok()?)?, rest),
        _ => Some(value.span()),
    }
}

#[cfg(test)]
mod tests {
    use modelyard_core::ServiceName;

    use super::*;

    fn spec() -> ServiceSpec {
        let metric = serde_json::json!({ "name": "accuracy", "kind": "accuracy", "from": "feedback" });
        let metrics = vec![serde_json::from_value(metric).unwrap()];
        ServiceSpec { metrics, ..ServiceSpec::named(ServiceName::new("wine").unwrap()) }
    }

    fn parsed(text: &str) -> Result<Read, Error> {
        parse("rehearse.toml", text, Path::new(""), &spec())
    }

    #[test]
    fn everything_has_a_default_and_everything_can_be_said() {
        let empty = parsed("").unwrap();
        assert_eq!(empty.scenario, Scenario::usual(&spec()));
        let read = parsed(
            r#"
            start = "22:15"
            longest = "2d"
            seed = 7
            strategies = ["canary", "blue-green"]
            traffic = { rate = 12.5, shape = "office", quiet = ["22:00-06:00"] }
            [stable]
            error-rate = 0.002
            latency-ms = 8.5
            metrics = { accuracy = 0.93 }
            [candidate]
            starts-in = "20s"
            [labels]
            share = 0.4
            delay = "1h"
            [person]
            reacts = "5m"
            decides = "promote"
            [[cases]]
            faults = []
            [[cases]]
            name = "bad"
            faults = ["candidate: error rate 3 % from minute 12", "latency x4"]
            "#,
        )
        .unwrap();
        let scenario = read.scenario;
        assert_eq!((scenario.start, scenario.longest, scenario.seed), (80_100, Millis::seconds(172_800), 7));
        assert_eq!(
            (scenario.stable.latency_ms, scenario.candidate.latency_ms),
            (8.5, 8.5),
            "a candidate is like stable"
        );
        assert_eq!(scenario.candidate.starts_in, Millis::seconds(20));
        assert_eq!((scenario.labels.share, scenario.labels.delay), (0.4, Millis::seconds(3_600)));
        assert_eq!((scenario.person.reacts, scenario.person.decides), (Millis::seconds(300), Decides::Promote));
        let cases: Vec<(&str, usize)> =
            scenario.cases.iter().map(|case| (case.name.as_str(), case.faults.len())).collect();
        assert_eq!(cases, [("healthy", 0), ("bad", 2)]);
        assert_eq!(read.strategies, ["canary", "blue-green"]);
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_place() {
        let text = r#"
            sed = 1
            start = "25:00"
            strategies = ["canery"]
            longest = "0s"
            [traffic]
            rate = -1
            quiet = ["night"]
            hours = [1, 2]
            [stable]
            metrics = { acuracy = 0.9 }
            [[cases]]
            faults = ["explode", "error rate 5"]
            [[cases]]
            name = "none"
        "#;
        let Err(Error::Mistakes { mistakes, .. }) = parsed(text) else { panic!("it was taken") };
        let all = list(&mistakes);
        for told in [
            "did you mean `seed`",
            "09:30",
            "did you mean `canary`",
            "from 1ms",
            "must be between",
            "22:00-06:00",
            "24 numbers",
            "did you mean `accuracy`",
            "`explode` is not understood",
            "did you mean `5 %`",
            "`faults` is missing",
        ] {
            assert!(all.contains(told), "{told}: {all}");
        }
        assert_eq!(mistakes.len(), 11, "{all}");
        let explode = mistakes.iter().find(|mistake| mistake.what.contains("explode")).unwrap();
        assert_eq!(&text[explode.at.clone()], "\"explode\"");
    }

    #[test]
    fn a_file_that_is_no_toml_is_told_once() {
        let Err(Error::Mistakes { mistakes, .. }) = parsed("start = ") else { panic!("it was taken") };
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert_eq!([minutes("09:30"), minutes("24:00"), minutes("9"), minutes("9:60")], [Some(570), None, None, None]);
    }
}
