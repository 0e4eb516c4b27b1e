//! Every key of a `service.toml`, declared once beside its words: the parser, the JSON Schema and the reference read this.

pub use super::kind::{Key, Kind, key};

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
    key(
        "target",
        Kind::Choice(&["process", "ssh", "docker"]),
        "`process`",
        "Where instances run: on this machine, or on machines of the environment.",
    ),
    key(
        "machines",
        Kind::Names,
        "all of the environment",
        "Names of the machines on which instances may run, for the targets `ssh` and `docker`.",
    ),
    key(
        "pools",
        Kind::Choice(&["together", "apart"]),
        "`together`",
        "`apart`: a machine carries instances of one revision only, so that stable and candidate share none.",
    ),
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
    key("metrics", Kind::Tables(METRICS), "none", "What it is judged by, beside readiness, errors and latency."),
    key("judge", Kind::Table(JUDGE), "see below", "How metrics become a verdict."),
    key("quality", Kind::Table(QUALITY), "see below", "What happens when a candidate's quality drops."),
    key("routing", Kind::Table(ROUTING), "see below", "How the gateway treats the service's requests."),
    key(
        "api",
        Kind::Table(API),
        "the first API version of its name",
        "As which API version of another service it answers, beside the versions that callers know.",
    ),
    key("notify", Kind::Tables(NOTIFY), "none", "Who is told of what becomes of the service's rollouts, by web hook."),
    key("tracking", Kind::Table(TRACKING), "as the environment says", "Where its rollouts are tracked while they run."),
    key("capture", Kind::Table(CAPTURE), "nothing is kept", "What of requests and answers is kept, as Parquet files."),
];

const API: &[Key] = &[
    key("of", Kind::Name, "", "The service that has the first API version; callers know all of them by its name."),
    key("version", Kind::Whole(2), "", "Its number: it answers under `/OF/vVERSION/`."),
    key(
        "sunset",
        Kind::Day,
        "not known",
        "Day (UTC) from which the versions before it may be switched off; their callers are told in each answer.",
    ),
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
        &[
            key(
                "park",
                Kind::Switch,
                "true",
                "Whether the gateway parks requests while nothing runs; otherwise 503 with `Retry-After`.",
            ),
            key(
                "watch",
                Kind::Span,
                "0s",
                "How long the candidate is watched before it counts as promoted; a failure or a drop of quality (against what stable did before) \
                 starts stable again.",
            ),
        ],
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
            key(
                "shadows",
                Kind::Tables(SHADOW),
                "none",
                "Shadows beside it: compared with stable, and told of; they decide nothing.",
            ),
        ],
    ),
    (
        "ab",
        "A random split, held until the metric is decided; promoted if and only if the candidate outperforms.",
        &[
            key("share", Kind::Share, "50%", "Share of the candidate; stable has what the arms leave."),
            key("arms", Kind::Tables(ARM), "none", "Further arms, each with its own package and share."),
            key(
                "shadows",
                Kind::Tables(SHADOW),
                "none",
                "Shadows beside them: compared with stable, and told of; they decide nothing.",
            ),
            key(
                "unit",
                Kind::Choice(&["request", "session"]),
                "`request`",
                "What is assigned at random; sessions need `routing.affinity`.",
            ),
            key("metric", Kind::Name, "", "Name of the metric of `[[metrics]]` that decides."),
            key(
                "margin",
                Kind::Number(-1e12, 1e12),
                "0",
                "By how much the candidate must be better, in the metric's own unit.",
            ),
            key(
                "error",
                Kind::Number(1e-6, 0.5),
                "0.05",
                "Chance of promoting a candidate that is not better, however often it is looked at.",
            ),
            key(
                "power",
                Kind::Number(0.5, 0.999),
                "0.8",
                "Chance of finding an improvement of `effect`, for the planned size.",
            ),
            key(
                "effect",
                Kind::Number(1e-9, 1e12),
                "0.05",
                "The improvement that the test is planned for, above the margin.",
            ),
            key(
                "expected",
                Kind::Number(-1e12, 1e12),
                "learnt from stable",
                "Stable's rate, or the standard deviation of a mean, for the planned size.",
            ),
            key("longest", Kind::Span, "no limit", "Time after which the test ends without a promotion."),
            key("least-units", Kind::Whole(1), "100", "Units in each arm before anything is decided."),
        ],
    ),
    (
        "shadow",
        "Requests are copied to the candidate and answers compared; only stable's answer is returned.",
        &[
            key("share", Kind::Share, "100%", "Share of requests that are copied."),
            key("arms", Kind::Tables(SHADOW), "none", "Further shadows, each with its own package, share and bounds."),
            key(
                "limit",
                Kind::Whole(1),
                "64",
                "Copies in flight or waiting per shadow; what comes on top is shed and counted.",
            ),
            key("timeout", Kind::Span, "10s", "Longest time that a copy may take."),
            key(
                "least-pairs",
                Kind::Whole(1),
                "200",
                "Pairs of answers that must be compared before there is a verdict.",
            ),
            key("max-disagreement", Kind::Number(0.0, 1.0), "0.01", "Largest share of pairs that may disagree."),
            key(
                "max-difference",
                Kind::Number(0.0, 1e300),
                "not held against any",
                "Largest mean difference of any output, in its own unit, on either side.",
            ),
            key(
                "max-distance",
                Kind::Number(0.0, 1.0),
                "not held against any",
                "Largest mean Jensen-Shannon distance of any output that is a distribution.",
            ),
            key(
                "max-slowdown-ms",
                Kind::Number(0.001, 86_400_000.0),
                "not held against any",
                "How many milliseconds longer its answers may take than stable's, at `analysis.latency-quantile`.",
            ),
            key("error", Kind::Number(1e-6, 0.5), "0.05", "Chance of a wrong verdict, however often it is looked at."),
            key("tolerance", Kind::Table(TOLERANCE), "see below", "How close numbers must be to agree."),
            key("top-k", Kind::Whole(1), "1", "Of how many best classes stable's best must be among."),
            key(
                "agree-on",
                Kind::Choice(&["outputs", "labels", "top-k"]),
                "`outputs`",
                "Whether every output must agree, or the label (best class) of every row, or the label be among the `top-k` best.",
            ),
            key("bake", Kind::Span, "30s", "How long it is watched, at least."),
            key(
                "then",
                Kind::Choice(&["ask", "canary", "end"]),
                "`ask`",
                "What follows a pass: a person decides, the candidate goes on as canary, or it is taken away again.",
            ),
            key("steps", Kind::Steps, "10%, 25%, 50%, 100%", "Steps of the canary that follows."),
        ],
    ),
];

const ARM: &[Key] = &[
    key("package", Kind::Package, "", "What it runs: `wine:3.0.0`, or a model folder relative to this file."),
    key("share", Kind::Share, "10%", "Its share of requests."),
    key("flags", Kind::Values, "from the service", "Values of its flags, when they differ."),
];

const SHADOW: &[Key] = &[
    key("package", Kind::Package, "", "What it runs: `wine:3.0.0`, or a model folder relative to this file."),
    key("share", Kind::Share, "10%", "Share of the requests that stable answers of which it gets a copy."),
    key("flags", Kind::Values, "from the service", "Values of its flags, when they differ."),
    key(
        "limit",
        Kind::Whole(1),
        "64, or the strategy's",
        "Copies in flight or waiting; what comes on top is shed and counted.",
    ),
    key("timeout", Kind::Span, "10s, or the strategy's", "Longest time that a copy may take."),
    key("tolerance", Kind::Table(TOLERANCE), "the strategy's", "How close numbers must be to agree."),
    key("top-k", Kind::Whole(1), "1, or the strategy's", "Of how many best classes stable's best must be among."),
];

const TOLERANCE: &[Key] = &[
    key("absolute", Kind::Number(0.0, 1e300), "0.00001", "Allowed absolute difference."),
    key("relative", Kind::Number(0.0, 1e300), "0.0001", "Allowed difference relative to stable's value."),
];

const METRICS: &[Key] = &[
    key("name", Kind::Name, "", "Name, unique within the service."),
    key(
        "kind",
        Kind::Choice(&["accuracy", "f1", "log-loss", "brier", "rmse", "mae", "mean", "rate", "quantile", "count"]),
        "",
        "What is computed.",
    ),
    key(
        "from",
        Kind::Choice(&["feedback", "reward", "response", "latency", "errors", "prometheus", "webhook"]),
        "",
        "Where values come from: true labels or rewards that are posted to `/SERVICE/feedback`, the response, the gateway, or elsewhere.",
    ),
    key(
        "value",
        Kind::Text,
        "first element of the first output",
        "JSON Pointer into the response: the prediction (`feedback`), or the number (`response`).",
    ),
    key("label", Kind::Text, "`/label`, `/reward`", "JSON Pointer into the feedback: the true label, or the reward."),
    key("positive", Kind::Any, "1 or true", "The label that counts as positive."),
    key("quantile", Kind::Number(0.0, 1.0), "required for `quantile`", "Which quantile."),
    key("bounds", Kind::Limits, "none", "Limits that every value keeps; verdicts are exact and faster then."),
    key(
        "better",
        Kind::Choice(&["higher", "lower", "same"]),
        "as the kind has it",
        "Which way is better; `same`: any difference is worse.",
    ),
    key(
        "url",
        Kind::Text,
        "required for `prometheus`, `webhook`",
        "Address of the Prometheus server or the web hook, http or https.",
    ),
    TOKEN,
    CA,
    key(
        "query",
        Kind::Text,
        "required for `prometheus`",
        "PromQL with `{service}`, `{revision}` and `{window}` in it.",
    ),
    key("every", Kind::Span, "30s", "How often it is asked elsewhere."),
    key("group", Kind::Name, "none", "The group that it counts in (classical judge)."),
    key("critical", Kind::Switch, "false", "Failing it fails the whole, whatever the score."),
    key("required", Kind::Switch, "false", "Without data it counts as failed."),
    key("dry-run", Kind::Switch, "false", "It is computed and shown, and never decides."),
    key("minimum", Kind::Number(-1e300, 1e300), "none", "Smallest allowed value (threshold judge)."),
    key("maximum", Kind::Number(-1e300, 1e300), "none", "Largest allowed value (threshold judge)."),
    key(
        "margin",
        Kind::Number(0.0, 1e300),
        "0",
        "How much worse than stable is still no drop, in the metric's own unit.",
    ),
];

const JUDGE: &[Key] = &[
    key(
        "kind",
        Kind::Choice(&["sequential", "classical", "threshold"]),
        "`sequential`",
        "Confidence sequences; or Mann-Whitney with effect size, groups and scores; or limits.",
    ),
    key("error", Kind::Number(1e-6, 0.5), "0.05", "Chance of a wrong verdict over the whole rollout."),
    key("groups", Kind::Numbers, "equal", "Weight of each group of metrics, out of 100 (classical)."),
    key("pass", Kind::Number(0.0, 100.0), "95", "Score from which on it passes (classical)."),
    key("marginal", Kind::Number(0.0, 100.0), "75", "Score below which it fails (classical)."),
    key("missing", Kind::Choice(&["remove", "zero"]), "`remove`", "What becomes of values that are no numbers."),
    key(
        "outliers",
        Kind::Choice(&["keep", "remove"]),
        "`keep`",
        "What becomes of values beyond three interquartile ranges (classical).",
    ),
    key(
        "tolerance",
        Kind::Number(0.0, 100.0),
        "0.25",
        "How clear a shift must be: its interval lies past this part of the estimated shift (classical).",
    ),
    key("interval", Kind::Span, "1s", "How long one check lasts (threshold)."),
    key("max-failed", Kind::Whole(1), "5", "Failed checks of a metric that fail the candidate (threshold)."),
    key("least-passed", Kind::Whole(0), "10", "Passed checks of each metric before a step may pass (threshold)."),
    key(
        "critical-ratio",
        Kind::Number(1.0, 1e6),
        "none",
        "Ratio of means past which a metric fails at once (classical).",
    ),
];

const QUALITY: &[Key] = &[
    key(
        "action",
        Kind::Choice(&["ask", "step-back", "roll-back"]),
        "`ask`",
        "Pause and ask a person; or go back through the steps; or at once.",
    ),
    key(
        "max-psi",
        Kind::Number(0.0, 100.0),
        "drift is not looked at",
        "Population stability index from which on it counts as drift; 0.2 is usual.",
    ),
    key(
        "drift",
        Kind::Tables(DRIFT),
        "none",
        "Measure and limit of all inputs and outputs, or of single ones; the most particular rules count for a field, all of them.",
    ),
    key("reference", Kind::Choice(&["package", "stable"]), "`package`", "What inputs and outputs are compared with."),
    key("least-values", Kind::Whole(1), "500", "Values of a field that must have been seen before its drift counts."),
];

const DRIFT: &[Key] = &[
    key(
        "field",
        Kind::Text,
        "all",
        "What it is about: `input`, `output`, `input NAME`, or a column, `input NAME[3]`; names are the signature's.",
    ),
    key(
        "measure",
        Kind::Choice(&["psi", "ks", "chi-square", "jensen-shannon"]),
        "`psi`",
        "Population stability index; Kolmogorov-Smirnov distance (numbers only); p-value of the chi-square test; Jensen-Shannon divergence in bits.",
    ),
    key(
        "limit",
        Kind::Number(0.0, 100.0),
        "0.2; 0.1; 0.000001; 0.1",
        "From which value on it counts as drift; of `chi-square` the p-value below which it does.",
    ),
    key(
        "least-values",
        Kind::Whole(1),
        "as `quality.least-values`",
        "Values that must have been seen before it counts.",
    ),
];

/// How a server elsewhere is asked.
const TOKEN: Key = key(
    "token",
    Kind::Text,
    "none",
    "Where its bearer token is: `env:NAME` or `file:PATH`, as the control plane sees them.",
);
const CA: Key =
    key("ca", Kind::Text, "public authorities", "File of certificates (PEM) that an https server's is held against.");

const NOTIFY: &[Key] = &[
    key("url", Kind::Text, "", "Where notices are posted as JSON, http or https."),
    key(
        "on",
        Kind::Choices(&["quality", "waiting", "rolled-back", "promoted"]),
        "all",
        "What is told: quality dropped; a rollout waits for a person; a candidate was taken back; a candidate was promoted.",
    ),
    TOKEN,
    CA,
];

/// The keys of `tracking`, in the file of a service and of an environment.
pub const TRACKING: &[Key] = &[
    key(
        "mlflow",
        Kind::Text,
        "",
        "Address of an MLflow server. The control plane's MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, say who asks.",
    ),
    key("experiment", Kind::Text, "`ENVIRONMENT/SERVICE`", "The experiment that runs belong to."),
    key(
        "alias",
        Kind::Name,
        "none is moved",
        "The alias of the registered model that is moved to what a rollout promoted.",
    ),
];

const CAPTURE: &[Key] = &[
    key("share", Kind::Share, "100%", "Share of requests that are kept."),
    key("body", Kind::Size, "64KiB", "Longest body that is kept; of longer ones only the size is."),
    key(
        "mask",
        Kind::List,
        "none",
        "JSON Pointers into request and response whose values are masked before anything is written.",
    ),
    key("limit", Kind::Size, "1GiB", "Most that is kept; the oldest files go first."),
    key("retention", Kind::Span, "30d", "How long files are kept."),
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
    key(
        "affinity",
        Kind::Table(AFFINITY),
        "none",
        "By what the requests of one session are known, so that they stay with one arm.",
    ),
];

const AFFINITY: &[Key] = &[
    key(
        "by",
        Kind::Choice(&["header", "cookie", "address", "issued"]),
        "",
        "Where the session key is: a header, the application's cookie, the caller's address, or a cookie that the gateway issues.",
    ),
    key("name", Kind::Text, "`modelyard-session`", "Name of the header or cookie."),
    key("lifetime", Kind::Span, "the browser's session", "How long an issued cookie lives."),
];

impl Key {
    /// The name that the words of `modelyard-core` give it, with their unit.
    pub fn field(&self) -> &'static str {
        match (self.kind, self.name) {
            (Kind::Size, "memory") => "memory_bytes",
            (Kind::Size, "body") => "body-bytes",
            (Kind::Size, "limit") => "limit-bytes",
            (Kind::Cores, _) => "cpu_millis",
            _ => self.name,
        }
    }
}

/// The keys of the strategy of that name, `kind` apart.
pub fn strategy(name: &str) -> Option<&'static [Key]> {
    STRATEGIES.iter().find(|(known, _, _)| *known == name).map(|(_, _, keys)| *keys)
}
