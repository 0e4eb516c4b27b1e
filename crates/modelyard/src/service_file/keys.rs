//! Every key of a `service.toml`, declared once beside its words: the parser, the JSON Schema and the reference read this.

/// What a key's value may be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A reference to a package, or a folder.
    Package,
    /// A name of lower-case letters, digits and `-`, `_`, `.` between them.
    Name,
    /// True or false.
    Switch,
    /// A whole number, at least this.
    Whole(u64),
    /// A number within limits, both included.
    Number(f64, f64),
    /// A span of time: `"250ms"`, `"1.5s"`, `"10m"`.
    Span,
    /// A size: `"96MiB"`, or bytes.
    Size,
    /// A number of cores: `0.5`, `2`.
    Cores,
    /// Growing shares of traffic: `["10%", "50%", "100%"]`, or basis points.
    Steps,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Texts by name.
    Texts,
    /// Values of any kind by name.
    Values,
    /// A table of keys.
    Table(&'static [Key]),
    /// The strategy: further keys depend on `kind`.
    Strategy,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What it is when left out, for people; empty when it must be given.
    pub default: &'static str,
    /// What it means.
    pub words: &'static str,
}

const fn key(name: &'static str, kind: Kind, default: &'static str, words: &'static str) -> Key {
    Key { name, kind, default, words }
}

/// The keys of the file.
pub const SERVICE: &[Key] = &[
    key("name", Kind::Name, "the model's name", "Name under which the model is served."),
    key(
        "package",
        Kind::Package,
        "",
        "What to run: `wine:2.1.0`, `wine@champion`, or a model folder relative to this file.",
    ),
    key("environment", Kind::Name, "`dev`", "Environment that the service belongs to."),
    key("target", Kind::Choice(&["process"]), "`process`", "Where instances run."),
    key("instances", Kind::Whole(1), "1", "How many instances carry the whole traffic."),
    key("resources", Kind::Table(RESOURCES), "from the package", "Limits of each instance."),
    key("flags", Kind::Values, "from the package", "Values of the package's flags."),
    key(
        "configuration",
        Kind::Texts,
        "none",
        "Environment variables of each instance. Part of the revision: they roll back with it.",
    ),
    key("strategy", Kind::Strategy, "canary", "How the service goes from stable to candidate."),
    key("analysis", Kind::Table(ANALYSIS), "see below", "What is watched meanwhile, and when it counts as failed."),
    key("rollback", Kind::Table(ROLLBACK), "see below", "What happens by itself when the candidate fails."),
    key("routing", Kind::Table(ROUTING), "see below", "How the gateway treats the service's requests."),
];

const RESOURCES: &[Key] = &[
    key("memory", Kind::Size, "no limit", "Memory limit; past it the instance is ended with cause `out-of-memory`."),
    key("cpu", Kind::Cores, "no limit", "CPU share, as a number of cores."),
];

/// The keys of each strategy, beside `kind`.
pub const STRATEGIES: &[(&str, &str, &[Key])] = &[
    (
        "recreate",
        "Stop all of stable, start the candidate.",
        &[key(
            "park",
            Kind::Switch,
            "true",
            "Whether the gateway parks requests while nothing runs; otherwise 503 with `Retry-After`.",
        )],
    ),
    (
        "rolling",
        "Replace instances in batches.",
        &[
            key("batch", Kind::Whole(1), "1", "How many instances are replaced at a time."),
            key("max-surge", Kind::Whole(0), "1", "How many instances above the asked number may run for a while."),
            key("max-unavailable", Kind::Whole(0), "0", "How many of the asked number may be missing for a while."),
            key("pause", Kind::Span, "10s", "Pause between batches, with analysis running."),
        ],
    ),
    (
        "blue-green",
        "A second, separate pool with a preview address; blue is kept for a rollback window.",
        &[
            key(
                "steps",
                Kind::Steps,
                "all at once",
                "Shares of the candidate on the way; the last is always the whole.",
            ),
            key("bake", Kind::Span, "30s", "How long each step is watched before the next."),
            key(
                "preview",
                Kind::Span,
                "0s",
                "How long the candidate is held at its preview address before the first step.",
            ),
            key("manual", Kind::Switch, "false", "Wait for `modelyard promote` after the preview."),
            key("rollback-window", Kind::Span, "600s", "How long blue is kept after green carries everything."),
        ],
    ),
    (
        "canary",
        "A small share first, steps with analysis between; stable is the control group.",
        &[
            key(
                "steps",
                Kind::Steps,
                "10%, 25%, 50%, 100%",
                "Shares of the candidate, growing; at most 20 % before a passing verdict, the last is the whole.",
            ),
            key("bake", Kind::Span, "30s", "How long each step is watched, at least, before its verdict counts."),
            key("manual", Kind::Switch, "false", "Wait for `modelyard promote` before each step after the first."),
        ],
    ),
];

const ANALYSIS: &[Key] = &[
    key(
        "min-requests",
        Kind::Whole(0),
        "50",
        "Requests that a candidate must have answered in a step before it can pass.",
    ),
    key(
        "max-error-rate",
        Kind::Number(0.0, 1.0),
        "0.01",
        "Largest share of answers that are the model's fault (5xx, broken connections).",
    ),
    key("min-errors", Kind::Whole(1), "3", "Errors needed before the error rate may fail a candidate."),
    key("max-latency-ms", Kind::Number(0.0, 3.6e6), "none", "Latency objective in milliseconds at `latency-quantile`."),
    key(
        "max-latency-ratio",
        Kind::Number(1.0, 1e6),
        "none",
        "Latency may be at most this many times stable's at the same quantile.",
    ),
    key("latency-quantile", Kind::Number(0.0, 1.0), "0.95", "Quantile at which latency is held to its objective."),
    key("window", Kind::Span, "30s", "How far back error rate and latency look."),
    key("startup-timeout", Kind::Span, "120s", "How long an instance may take to become ready and live."),
    key(
        "crash-tolerance",
        Kind::Whole(0),
        "0",
        "Crashes of candidate instances that are forgiven before the candidate counts as failed; each is replaced.",
    ),
    key("crash-loop", Kind::Whole(1), "3", "Crashes of candidate instances that count as a crash loop."),
    key(
        "no-traffic",
        Kind::Choice(&["hold", "promote"]),
        "`hold`",
        "A step has baked but too few requests came: hold until they come, or promote on health alone.",
    ),
];

const ROLLBACK: &[Key] = &[
    key("automatic", Kind::Switch, "true", "Take the candidate back by itself; otherwise pause and wait for a person."),
    key("stepped", Kind::Switch, "false", "Step by step through the same steps rather than at once."),
];

const ROUTING: &[Key] = &[
    key("timeout", Kind::Span, "60s", "Longest time a request may take before the caller gets 504."),
    key(
        "park",
        Kind::Span,
        "30s",
        "Longest time a request is parked while nothing can serve it; then 503 with `Retry-After`.",
    ),
    key("park-limit", Kind::Whole(0), "1024", "Most requests parked at once."),
    key(
        "retries",
        Kind::Whole(0),
        "2",
        "Further attempts on other instances for a request whose instance failed before it answered.",
    ),
    key("retry-budget-percent", Kind::Whole(0), "20", "Retries allowed as a share of requests, in percent."),
    key("drain", Kind::Span, "30s", "Longest time an old instance may take to finish its requests."),
];

impl Key {
    /// The name that the words of `modelyard-core` give it, with their unit.
    pub fn field(&self) -> &'static str {
        match self.kind {
            Kind::Size => "memory_bytes",
            Kind::Cores => "cpu_millis",
            _ => self.name,
        }
    }
}

/// The keys of the strategy of that name, `kind` apart.
pub fn strategy(name: &str) -> Option<&'static [Key]> {
    STRATEGIES.iter().find(|(known, _, _)| *known == name).map(|(_, _, keys)| *keys)
}
