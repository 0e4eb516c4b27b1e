//! Every key of a `rehearse.toml`, declared once beside its words.

use crate::service_file::keys::{Key, Kind};

const fn key(name: &'static str, kind: Kind, default: &'static str, words: &'static str) -> Key {
    Key { name, kind, default, words }
}

/// The keys of the file.
pub const SCENARIO: &[Key] = &[
    key("start", Kind::Text, "10:00, or when the recording begins", "Time of day (UTC) at which the rollout starts."),
    key("longest", Kind::Span, "24h", "Longest time that is played; a play ends when everything has settled."),
    key("seed", Kind::Whole(0), "1", "What chance is drawn from."),
    key("strategies", Kind::List, "all of them", "Strategies to play beside the service's own."),
    key("traffic", Kind::Table(TRAFFIC), "50 requests per second", "Requests over the day."),
    key("stable", Kind::Table(BEHAVIOUR), "see below", "What the revision is like that runs already."),
    key("candidate", Kind::Table(BEHAVIOUR), "like stable", "What the candidate is like, apart from faults."),
    key("labels", Kind::Table(LABELS), "all, at once", "How true labels come."),
    key("person", Kind::Table(PERSON), "see below", "What persons do."),
    key("cases", Kind::Tables(CASE), "the usual ones", "What goes wrong; each case is played by itself."),
];

const TRAFFIC: &[Key] = &[
    key("rate", Kind::Number(0.0, 1e6), "50", "Requests per second when it is busiest."),
    key("shape", Kind::Choice(&["flat", "day", "office", "night"]), "`flat`", "How traffic changes over the day."),
    key(
        "hours",
        Kind::Any,
        "by `shape`",
        "A shape of one's own: 24 shares of the rate, one for each full hour from midnight on.",
    ),
    key("quiet", Kind::List, "none", "Spans without any traffic, such as `\"22:00-06:00\"`."),
    key(
        "recorded",
        Kind::Text,
        "none",
        "File of recorded requests, relative to this one: CSV, NDJSON, with a timestamp per request, or a number of requests per interval; or a folder of captured answers (Parquet).",
    ),
    key(
        "captured-share",
        Kind::Number(0.0001, 1.0),
        "the service's `[capture] share`",
        "Share of requests that a capture has kept.",
    ),
];

const BEHAVIOUR: &[Key] = &[
    key("error-rate", Kind::Number(0.0, 1.0), "0.0005", "Share of answers that are errors."),
    key("latency-ms", Kind::Number(0.001, 3.6e6), "20", "Median latency in milliseconds."),
    key(
        "spread",
        Kind::Number(0.0, 3.0),
        "0.4",
        "Standard deviation of the latency's logarithm; 0.4 makes p95 twice the median.",
    ),
    key("starts-in", Kind::Span, "3s", "From being started to ready and live."),
    key("stops-in", Kind::Span, "500ms", "From being asked to end to being gone."),
    key("disagreement", Kind::Number(0.0, 1.0), "0.001", "Share of answers that differ from stable's (shadow)."),
    key("metrics", Kind::Numbers, "usual values", "Value of each metric."),
    key(
        "deviations",
        Kind::Numbers,
        "a third of the value",
        "Standard deviation of the values behind a metric that is a mean.",
    ),
];

const LABELS: &[Key] = &[
    key("share", Kind::Number(0.0, 1.0), "1", "Share of answers whose true label ever comes."),
    key("delay", Kind::Span, "0s", "How late it comes."),
];

const PERSON: &[Key] = &[
    key("reacts", Kind::Span, "15m", "How long a rollout that asks waits for an answer."),
    key("notices", Kind::Span, "30m", "How long harm that nothing here notices goes on until somebody rolls back."),
    key(
        "decides",
        Kind::Choice(&["abort", "promote", "nothing"]),
        "`abort`",
        "What is answered when the candidate failed; one that merely asks for a go-ahead gets it.",
    ),
];

const CASE: &[Key] = &[
    key("name", Kind::Text, "its faults", "Its name."),
    key("faults", Kind::List, "", "What goes wrong, as sentences: `\"candidate: error rate 3 % from minute 12\"`."),
];
