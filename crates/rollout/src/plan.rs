//! The frozen rules of one rollout.
//!
//! Promises: a `Plan` that [`Plan::new`] gave makes sense, so a step needs no error path. Every mistake is reported at once.

use std::fmt;

use modelyard_core::metric::{Judge, JudgeKind, Metric, MetricKind, MetricSource};
use modelyard_core::notify::Hook;
use modelyard_core::service::ServiceSpec;
use modelyard_core::strategy::{
    Ab, Analysis, BlueGreen, Canary, DriftMeasure, QualityPolicy, RollbackPolicy, Rolling, Shadow, Strategy, Then, Unit,
};
use modelyard_core::{Millis, Weight};
use serde::{Deserialize, Serialize};

use crate::beside::MOST;

/// Largest share of a canary before a passing verdict.
pub(crate) const FIRST_SHARE_LIMIT: u16 = 2_000;
/// More instances or steps than this are a typing error.
const MANY: usize = 1_000;

/// More addresses than this are a list that belongs behind one.
const HOOKS: usize = 16;

/// The frozen rules of one rollout: an edited service file starts a new rollout, it never changes one that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// How it goes from stable to candidate.
    pub strategy: Strategy,
    /// What is watched meanwhile.
    pub analysis: Analysis,
    /// What happens by itself on failure.
    pub rollback: RollbackPolicy,
    /// How many instances carry the whole traffic. At least 1.
    pub instances: u32,
    /// Longest time that requests in flight may take to finish.
    pub drain: Millis,
    /// What it is judged by, beside readiness, errors and latency.
    #[serde(default)]
    pub metrics: Vec<Metric>,
    /// How metrics become a verdict.
    #[serde(default)]
    pub judge: Judge,
    /// What happens when quality drops.
    #[serde(default)]
    pub quality: QualityPolicy,
}

/// One thing that is wrong with the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The key, as `service.toml` has it.
    pub key: &'static str,
    /// What is wrong with its value and what to write instead.
    pub what: String,
}

/// The rules make no sense. Holds every mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PlanError {
    /// What is wrong; never empty.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the rollout cannot be planned: ")?;
        for (index, mistake) in self.mistakes.iter().enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(f, "{separator}`{}` {}", mistake.key, mistake.what)?;
        }
        Ok(())
    }
}

impl Plan {
    /// Freezes the rules of a service.
    ///
    /// # Errors
    /// [`PlanError`] with every mistake: an empty or falling list of steps, a first canary step above 20 %, a last step below the whole,
    /// a share that is no number, a rolling update that could leave nothing to serve, and the like.
    pub fn new(spec: &ServiceSpec) -> Result<Self, PlanError> {
        let mut mistakes = Vec::new();
        let mut refuse = |key, what: String| mistakes.push(Mistake { key, what });
        if !(1..=MANY as u32).contains(&spec.instances) {
            refuse("instances", format!("is {}; a service runs 1 to {MANY} instances", spec.instances));
        }
        match &spec.strategy {
            Strategy::Recreate(_) => {}
            Strategy::Rolling(rolling) => check_rolling(rolling, spec.instances, &mut refuse),
            Strategy::BlueGreen(blue_green) => check_blue_green(blue_green, &mut refuse),
            Strategy::Canary(canary) => check_canary(canary, &mut refuse),
            Strategy::Ab(ab) => check_ab(ab, spec, &mut refuse),
            Strategy::Shadow(shadow) => check_shadow(shadow, &mut refuse),
        }
        check_shadows(&spec.strategy, &mut refuse);
        check_analysis(&spec.analysis, &mut refuse);
        check_metrics(&spec.metrics, &mut refuse);
        check_methods(spec, &mut refuse);
        check_drift(&spec.quality, &mut refuse);
        check_notify(&spec.notify, &mut refuse);
        if !mistakes.is_empty() {
            return Err(PlanError { mistakes });
        }
        Ok(Self {
            strategy: spec.strategy.clone(),
            analysis: spec.analysis.clone(),
            rollback: spec.rollback.clone(),
            instances: spec.instances,
            drain: spec.routing.drain,
            metrics: spec.metrics.clone(),
            judge: spec.judge.clone(),
            quality: spec.quality.clone(),
        })
    }

    /// Candidate weights on the way, the whole last. Rolling and recreate have none.
    pub fn steps(&self) -> &[Weight] {
        match &self.strategy {
            Strategy::Canary(canary) => &canary.steps,
            Strategy::BlueGreen(blue_green) if !blue_green.steps.is_empty() => &blue_green.steps,
            Strategy::BlueGreen(_) => &[Weight::ALL],
            Strategy::Shadow(shadow) => &shadow.steps,
            Strategy::Recreate(_) | Strategy::Rolling(_) | Strategy::Ab(_) => &[],
        }
    }

    /// Shares of the candidate and of further arms, in their order: of traffic (A/B) or of copies (shadow). None for other strategies.
    pub(crate) fn arm_shares(&self) -> Vec<Weight> {
        let (first, arms) = match &self.strategy {
            Strategy::Ab(ab) => (ab.share, &ab.arms),
            Strategy::Shadow(shadow) => {
                return std::iter::once(shadow.share).chain(shadow.arms.iter().map(|arm| arm.share)).collect();
            }
            _ => return Vec::new(),
        };
        std::iter::once(first).chain(arms.iter().map(|arm| arm.share)).collect()
    }

    /// Instances that run beside stable's when most do: of the candidate, then of each further arm, then of each shadow.
    pub fn surge(&self, has_stable: bool) -> Vec<u32> {
        let arms = self.arm_shares();
        let arms: Vec<u32> = match &self.strategy {
            _ if !has_stable => return vec![self.instances],
            Strategy::Ab(_) | Strategy::Shadow(_) => arms.into_iter().map(|share| self.instances_for(share)).collect(),
            Strategy::Canary(_) | Strategy::BlueGreen(_) => vec![self.instances],
            Strategy::Rolling(rolling) => vec![rolling.max_surge],
            Strategy::Recreate(_) => vec![0],
        };
        let shadows = self.strategy.shadows().iter().map(|shadow| self.instances_for(shadow.share));
        arms.into_iter().chain(shadows).collect()
    }

    /// Instances that carry a share: rounded up, at least one for any share.
    pub fn instances_for(&self, share: Weight) -> u32 {
        let points = u64::from(self.instances) * u64::from(share.basis_points());
        u32::try_from(points.div_ceil(10_000)).unwrap_or(self.instances)
    }

    /// The weight that is asked for at a step; the whole past the last.
    pub(crate) fn weight_at(&self, step: usize) -> Weight {
        self.steps().get(step).copied().unwrap_or(Weight::ALL)
    }
}

fn check_rolling(rolling: &Rolling, instances: u32, refuse: &mut impl FnMut(&'static str, String)) {
    if rolling.batch == 0 {
        refuse("strategy.batch", "is 0; replace at least 1 instance at a time".into());
    }
    if rolling.max_surge == 0 && rolling.max_unavailable == 0 {
        refuse(
            "strategy.max-surge",
            "and `max-unavailable` are both 0, so nothing could move; allow 1 of either".into(),
        );
    }
    if rolling.max_unavailable > 0 && rolling.max_unavailable >= instances {
        let what = format!(
            "is {}, which leaves nothing of {instances} to serve; allow fewer, or use the strategy `recreate`",
            rolling.max_unavailable
        );
        refuse("strategy.max-unavailable", what);
    }
}

fn check_blue_green(blue_green: &BlueGreen, refuse: &mut impl FnMut(&'static str, String)) {
    if !blue_green.steps.is_empty() {
        check_steps(&blue_green.steps, refuse);
    }
}

fn check_canary(canary: &Canary, refuse: &mut impl FnMut(&'static str, String)) {
    match canary.steps.first() {
        None => refuse("strategy.steps", "is empty; leave it out for 10 %, 25 %, 50 %, 100 %".into()),
        Some(&first) if first.basis_points() > FIRST_SHARE_LIMIT => {
            let what = format!("begins at {first}; a canary starts at 20 % (2000) or less, before any verdict");
            refuse("strategy.steps", what);
        }
        Some(_) => {}
    }
    check_steps(&canary.steps, refuse);
}

fn check_ab(ab: &Ab, spec: &ServiceSpec, refuse: &mut impl FnMut(&'static str, String)) {
    let arms: u32 = ab.arms.iter().map(|arm| u32::from(arm.share.basis_points())).sum();
    if ab.share == Weight::NONE || ab.arms.iter().any(|arm| arm.share == Weight::NONE) {
        refuse("strategy.share", "is 0 % for an arm; an arm without traffic shows nothing".into());
    }
    if u32::from(ab.share.basis_points()) + arms >= 10_000 {
        refuse("strategy.share", "and the arms leave nothing to stable, which they are compared with".into());
    }
    match spec.metrics.iter().find(|metric| metric.name == ab.metric) {
        None if ab.metric.is_empty() => {
            refuse("strategy.metric", "is missing; name the metric of `[[metrics]]` that decides".into());
        }
        None => refuse("strategy.metric", format!("is `{}`, which is none of `[[metrics]]`", ab.metric)),
        Some(metric) if metric.dry_run => {
            refuse("strategy.metric", format!("is `{}`, which never decides (`dry-run`)", ab.metric));
        }
        Some(_) => {}
    }
    if ab.unit == Unit::Session && spec.routing.affinity.is_none() {
        refuse("strategy.unit", "is `session`, but `[routing.affinity]` does not say what a session is".into());
    }
    let open = |value: f64| value > 0.0 && value < 1.0;
    if !open(ab.error) || !open(ab.power) {
        refuse("strategy.error", "and `power` are chances, above 0 and below 1".into());
    }
    if !(ab.effect > 0.0 && ab.effect.is_finite()) {
        refuse("strategy.effect", format!("is {}; plan for an improvement above 0", ab.effect));
    }
    if !ab.margin.is_finite() {
        refuse("strategy.margin", format!("is {}; it is a number", ab.margin));
    }
}

fn check_shadow(shadow: &Shadow, refuse: &mut impl FnMut(&'static str, String)) {
    if shadow.share == Weight::NONE || shadow.arms.iter().any(|arm| arm.share == Weight::NONE) {
        refuse("strategy.share", "is 0 %; a shadow without copies shows nothing".into());
    }
    if shadow.limit == 0 {
        refuse("strategy.limit", "is 0; allow at least 1 copy at a time".into());
    }
    if !(0.0..=1.0).contains(&shadow.max_disagreement) {
        refuse("strategy.max-disagreement", format!("is {}; it is a share, from 0 to 1", shadow.max_disagreement));
    }
    if shadow.max_difference.is_some_and(|limit| !(limit > 0.0 && limit.is_finite())) {
        refuse("strategy.max-difference", "must be above 0, in the output's own unit".into());
    }
    if shadow.max_distance.is_some_and(|limit| !(limit > 0.0 && limit <= 1.0)) {
        refuse("strategy.max-distance", "is a Jensen-Shannon distance, above 0 and up to 1".into());
    }
    if shadow.max_slowdown_ms.is_some_and(|limit| !(limit > 0.0 && limit.is_finite())) {
        refuse("strategy.max-slowdown-ms", "is a time in milliseconds, above 0".into());
    }
    if !(shadow.error > 0.0 && shadow.error < 1.0) {
        refuse("strategy.error", "is a chance, above 0 and below 1".into());
    }
    if shadow.then == Then::Canary || !shadow.steps.is_empty() {
        check_canary(&Canary { steps: shadow.steps.clone(), ..Canary::default() }, refuse);
    }
}

/// Shadows beside the arms, and those of a strategy that has nothing else.
fn check_shadows(strategy: &Strategy, refuse: &mut impl FnMut(&'static str, String)) {
    let (shadows, key) = match strategy {
        Strategy::Shadow(shadow) => (shadow.arms.as_slice(), "strategy.arms"),
        _ => (strategy.shadows(), "strategy.shadows"),
    };
    if shadows.len() > MOST {
        refuse(key, format!("has {} shadows; use at most {MOST}", shadows.len()));
    }
    for shadow in shadows {
        if shadow.share == Weight::NONE {
            refuse(key, format!("copies 0 % to `{}`; a shadow without copies shows nothing", shadow.package));
        }
        if shadow.limit == Some(0) || shadow.timeout == Some(Millis(0)) || shadow.top_k == Some(0) {
            refuse(key, format!("bounds `{}` by 0; `limit`, `timeout` and `top-k` are above it", shadow.package));
        }
    }
}

fn check_metrics(metrics: &[Metric], refuse: &mut impl FnMut(&'static str, String)) {
    for (index, metric) in metrics.iter().enumerate() {
        let name = &metric.name;
        if metrics[..index].iter().any(|other| other.name == *name) {
            refuse("metrics.name", format!("is `{name}` twice; each metric has its own"));
        }
        if metric.kind == MetricKind::Quantile && metric.quantile.is_none() {
            refuse("metrics.quantile", format!("is missing for `{name}`; write the quantile, such as 0.95"));
        }
        let elsewhere = matches!(metric.from, MetricSource::Prometheus | MetricSource::Webhook);
        if metric.token.as_ref().is_some_and(|token| !token.starts_with("env:") && !token.starts_with("file:")) {
            refuse(
                "metrics.token",
                format!("of `{name}` says where a token is, not what it is; write `env:NAME` or `file:PATH`"),
            );
        }
        if elsewhere && metric.url.is_none() {
            refuse("metrics.url", format!("is missing for `{name}`; write where it is asked"));
        }
        if metric.from == MetricSource::Prometheus && metric.query.is_none() {
            refuse("metrics.query", format!("is missing for `{name}`; write PromQL with {{revision}} in it"));
        }
    }
}

/// Whether what is measured can be judged by the method that is asked for: values must be independent of each other where an error is promised.
fn check_methods(spec: &ServiceSpec, refuse: &mut impl FnMut(&'static str, String)) {
    let ab = match &spec.strategy {
        Strategy::Ab(ab) => Some(ab),
        _ => None,
    };
    for metric in spec.metrics.iter().filter(|metric| !metric.dry_run) {
        let name = &metric.name;
        let decides = ab.is_some_and(|ab| ab.metric == *name);
        let is_sequential = decides || spec.judge.kind == JudgeKind::Sequential;
        let elsewhere = matches!(metric.from, MetricSource::Prometheus | MetricSource::Webhook);
        if elsewhere && decides {
            let what = format!(
                "is `{name}`, which is asked elsewhere: its values overlap and are no independent units, so no error could be promised; \
                 decide by answers or feedback, and let it guard (`[judge] kind = \"threshold\"` or `\"classical\"`)"
            );
            refuse("strategy.metric", what);
        } else if elsewhere && is_sequential {
            let what = format!(
                "is `sequential`, and `{name}` is asked elsewhere: its values overlap and are no independent units; \
                 write `threshold` or `classical`, or give the metric `dry-run = true`"
            );
            refuse("judge.kind", what);
        }
        let by_answer = matches!(metric.kind, MetricKind::F1 | MetricKind::Quantile | MetricKind::Count);
        if by_answer && is_sequential && ab.is_some_and(|ab| ab.unit == Unit::Session) {
            let what = format!(
                "is `session`, but `{name}` counts each answer by itself, and those of one session go together, so the error would not hold; \
                 judge by accuracy, a rate or a mean, or assign each request (`unit = \"request\"`)"
            );
            refuse("strategy.unit", what);
        }
    }
}

fn check_notify(hooks: &[Hook], refuse: &mut impl FnMut(&'static str, String)) {
    for Hook { url, on, token, .. } in hooks {
        if !url.starts_with("http://") && !url.starts_with("https://") {
            refuse("notify.url", format!("is `{url}`; write http://HOST/PATH or https://HOST/PATH"));
        }
        if on.is_empty() {
            refuse("notify.on", "is empty; leave it out for all, or name what is told".into());
        }
        if token.as_ref().is_some_and(|token| !token.starts_with("env:") && !token.starts_with("file:")) {
            refuse("notify.token", "says where a token is, not what it is; write `env:NAME` or `file:PATH`".into());
        }
    }
    if hooks.len() > HOOKS {
        refuse("notify", format!("has {} addresses; {HOOKS} are plenty", hooks.len()));
    }
}

fn check_drift(quality: &QualityPolicy, refuse: &mut impl FnMut(&'static str, String)) {
    for rule in &quality.drift {
        let (name, limit) = (rule.measure.name(), rule.limit());
        let most = if rule.measure == DriftMeasure::Psi { 100.0 } else { 1.0 };
        if !(limit > 0.0 && limit <= most) {
            refuse("quality.drift.limit", format!("of `{name}` is {limit}; it is above 0 and at most {most}"));
        }
        let side = rule.field.as_deref().map(|field| field.split(' ').next().unwrap_or_default());
        if let (Some(field), Some(side)) = (&rule.field, side)
            && !matches!(side, "input" | "output")
        {
            let what = format!("is `{field}`; write `input`, `output`, `input NAME` or a column, `input NAME[3]`");
            refuse("quality.drift.field", what);
        }
    }
}

fn check_steps(steps: &[Weight], refuse: &mut impl FnMut(&'static str, String)) {
    if steps.first() == Some(&Weight::NONE) {
        refuse("strategy.steps", "begins at 0 %; a step moves some traffic".into());
    }
    if let Some(pair) = steps.windows(2).find(|pair| pair[0] >= pair[1]) {
        refuse(
            "strategy.steps",
            format!("goes from {} to {}; each step is larger than the one before", pair[0], pair[1]),
        );
    }
    if let Some(&last) = steps.last().filter(|&&last| last < Weight::ALL) {
        refuse("strategy.steps", format!("ends at {last}; the last step is the whole (10000)"));
    }
    if steps.len() > MANY {
        refuse("strategy.steps", format!("has {} steps; use at most {MANY}", steps.len()));
    }
}

fn check_analysis(analysis: &Analysis, refuse: &mut impl FnMut(&'static str, String)) {
    let mut number = |key, value: f64, least: f64, most: f64, hint: &str| {
        if !(least..=most).contains(&value) {
            refuse(key, format!("is {value}; {hint}"));
        }
    };
    number("analysis.max-error-rate", analysis.max_error_rate, 0.0, 1.0, "it is a share, from 0 to 1");
    number("analysis.latency-quantile", analysis.latency_quantile, 0.01, 0.9999, "it is a share, such as 0.95");
    let longest = 86_400_000.0;
    number(
        "analysis.max-latency-ms",
        analysis.max_latency_ms.unwrap_or(1.0),
        0.001,
        longest,
        "it is a time in milliseconds, above 0",
    );
    let ratio = analysis.max_latency_ratio.unwrap_or(1.0);
    number("analysis.max-latency-ratio", ratio, 1.0, 1_000.0, "it is a factor of 1 or more");
    if analysis.window < Millis::seconds(1) {
        refuse("analysis.window", format!("is {}; look back at least 1 s", analysis.window));
    }
    if analysis.startup_timeout == Millis(0) {
        refuse("analysis.startup-timeout", "is 0; give instances some time to start".into());
    }
    if analysis.crash_loop == 0 {
        refuse("analysis.crash-loop", "is 0; a loop takes at least 1 crash".into());
    }
}
