//! Further kinds of metrics, several arms, the guard, the split and shadows: how often they err, looked at again and again.

use anyhow::Result;
use modelyard_core::evidence::{ArmEvidence, Moments, RatioMoments, Statistic};
use modelyard_core::metric::{Judge, Metric};
use modelyard_core::strategy::Ab;
use modelyard_rollout::Verdict;
use modelyard_rollout::judge::{compare, guard, plan_size, proportion, sample_ratio};
use serde::Serialize;

use super::Options;
use crate::report::{self, Table, number};

/// Units between two looks. Ranks cost more than sums; what is looked at more seldom errs no more often.
const LOOK: u64 = 50;

/// One kind of metric, drawn a unit at a time.
struct Kind {
    about: &'static str,
    metric: &'static str,
    effect: f64,
    /// What `service.toml` would say of stable.
    expected: f64,
    none: fn() -> Statistic,
    /// One more unit, better by so much.
    draw: fn(&mut fastrand::Rng, &mut Statistic, f64),
    /// Ranks take longer: one run of so many.
    every: u64,
}

/// What became of many runs.
#[derive(Serialize)]
pub struct Row {
    about: String,
    candidate: &'static str,
    runs: u64,
    promoted: f64,
    failed: f64,
    mean_units: f64,
    planned_units: u64,
}

fn normal(random: &mut fastrand::Rng) -> f64 {
    // Box and Muller 1958.
    (-2.0 * (1.0 - random.f64()).ln()).sqrt() * (2.0 * std::f64::consts::PI * random.f64()).cos()
}

fn kinds() -> [Kind; 5] {
    [
        Kind {
            about: "F1 0.80, effect 0.05",
            metric: r#"{"name": "m", "kind": "f1", "from": "feedback"}"#,
            effect: 0.05,
            expected: 0.8,
            none: || Statistic::Confusion { tp: 0, fp: 0, tn: 0, r#fn: 0 },
            draw: |random, statistic, better| {
                let (positive, right) = (random.bool(), random.f64() < 0.8 + better);
                if let Statistic::Confusion { tp, fp, tn, r#fn } = statistic {
                    *(match (positive, right) {
                        (true, true) => tp,
                        (true, false) => r#fn,
                        (false, true) => tn,
                        (false, false) => fp,
                    }) += 1;
                }
            },
            every: 1,
        },
        Kind {
            about: "RMSE 2, effect 0.2",
            metric: r#"{"name": "m", "kind": "rmse", "from": "feedback"}"#,
            effect: 0.2,
            expected: 2.0,
            none: || Statistic::Mean(Moments::default()),
            draw: |random, statistic, better| {
                let error = normal(random) * (2.0 - better);
                if let Statistic::Mean(moments) = statistic {
                    moments.add(error * error);
                }
            },
            every: 1,
        },
        Kind {
            about: "A rate by session (1 to 4 answers that go together) 0.5, effect 0.05",
            metric: r#"{"name": "m", "kind": "rate", "from": "reward"}"#,
            effect: 0.05,
            expected: 0.5,
            none: || Statistic::Ratio(RatioMoments::default()),
            draw: |random, statistic, better| {
                let (answers, mood) = (random.u64(1..=4), if random.bool() { 0.3 } else { -0.3 });
                let hits = (0..answers).filter(|_| random.f64() < 0.5 + better + mood).count() as f64;
                if let Statistic::Ratio(sums) = statistic {
                    let answers = answers as f64;
                    sums.units += 1;
                    sums.numerator += hits;
                    sums.denominator += answers;
                    sums.numerator_squares += hits * hits;
                    sums.denominator_squares += answers * answers;
                    sums.products += hits * answers;
                }
            },
            every: 1,
        },
        Kind {
            about: "A count of 3 per answer (Poisson), effect 0.3",
            metric: r#"{"name": "m", "kind": "count", "from": "reward"}"#,
            effect: 0.3,
            expected: 3.0,
            none: || Statistic::Count { events: 0, exposure: 0.0 },
            draw: |random, statistic, better| {
                // Knuth: how many uniform numbers until their product falls below e^−λ.
                let (least, mut product, mut found) = ((-3.0 - better).exp(), random.f64(), 0);
                while product > least {
                    product *= random.f64();
                    found += 1;
                }
                if let Statistic::Count { events, exposure } = statistic {
                    *events += found;
                    *exposure += 1.0;
                }
            },
            every: 1,
        },
        Kind {
            about: "The quantile 0.9 of values that are exponential with mean 1, effect 0.5",
            metric: r#"{"name": "m", "kind": "quantile", "from": "reward", "quantile": 0.9}"#,
            effect: 0.5,
            // Its variance is that of normal values with this deviation: 0.9 · 0.1 / 0.1².
            expected: 1.755,
            none: || Statistic::Sample { seen: 0, values: Vec::new() },
            draw: |random, statistic, better| {
                let value = better - (1.0 - random.f64()).ln();
                if let Statistic::Sample { seen, values } = statistic {
                    *seen += 1;
                    let at = values.partition_point(|other| *other < value);
                    values.insert(at, value);
                }
            },
            every: 50,
        },
    ]
}

/// Plays every kind and prints.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    report::print("### Further kinds, several arms, the guard, the split, shadows\n")?;
    let mut rows = Vec::new();
    for kind in kinds() {
        let (metric, runs) = (metric(kind.metric)?, (options.runs / kind.every).max(1));
        let ab = Ab { effect: kind.effect, expected: Some(kind.expected), metric: "m".into(), ..Ab::default() };
        let planned = plan_size(&ab, &metric, None).ok_or_else(|| anyhow::anyhow!("no size for {}", kind.about))?;
        for (candidate, effects) in [("equal", 0.0), ("better by the effect", 1.0)] {
            let play = |seed| one_test(&kind, &metric, &ab, effects, seed, planned.units * 2);
            rows.push(row(kind.about, candidate, runs, planned.units, play));
        }
    }
    let accuracy = metric(r#"{"name": "m", "kind": "accuracy", "from": "feedback"}"#)?;
    rows.push(row("Three arms of accuracy 0.90 against stable, error shared", "equal", options.runs, 0, |seed| {
        several_arms(&accuracy, seed)
    }));
    let guarded: Result<Vec<Metric>> = ["a", "b", "c", "d"]
        .iter()
        .map(|name| metric(&format!(r#"{{"name": "{name}", "kind": "mean", "from": "reward"}}"#)))
        .collect();
    let guarded = guarded?;
    rows.push(row("The guard over four means, 5 000 units", "equal", options.runs / 5, 0, |seed| {
        guards(&guarded, seed)
    }));
    rows.push(row("The split of 50 to 50 (stopped below 0.001), 20 000 units", "sound", options.runs, 0, splits));
    rows.push(row(
        "A shadow that disagrees exactly as allowed (1 %), 20 000 pairs",
        "at its limit",
        options.runs,
        0,
        shadows,
    ));
    let mut table = Table::new(["what", "candidate", "runs", "passed", "failed", "units per arm, mean", "planned"]);
    for row in &rows {
        let percent = |share: f64| format!("{} %", number(100.0 * share, 2));
        let planned = if row.planned_units > 0 { row.planned_units.to_string() } else { "–".to_owned() };
        table.row(vec![
            row.about.clone(),
            row.candidate.into(),
            row.runs.to_string(),
            percent(row.promoted),
            percent(row.failed),
            number(row.mean_units, 0),
            planned,
        ]);
    }
    report::print(&table.render())?;
    Ok(rows)
}

fn metric(text: &str) -> Result<Metric> {
    Ok(serde_json::from_str(text)?)
}

fn row(about: &str, candidate: &'static str, runs: u64, planned: u64, play: impl Fn(u64) -> (Verdict, u64)) -> Row {
    let (mut promoted, mut failed, mut units) = (0_u64, 0_u64, 0_u64);
    for seed in 0..runs.max(1) {
        let (verdict, seen) = play(seed);
        promoted += u64::from(verdict == Verdict::Pass);
        failed += u64::from(verdict == Verdict::Fail);
        units += seen;
    }
    let share = |count: u64| count as f64 / runs.max(1) as f64;
    Row {
        about: about.to_owned(),
        candidate,
        runs: runs.max(1),
        promoted: share(promoted),
        failed: share(failed),
        mean_units: share(units),
        planned_units: planned,
    }
}

fn random(seed: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x6B69_6E64)
}

fn one_test(kind: &Kind, metric: &Metric, ab: &Ab, effects: f64, seed: u64, longest: u64) -> (Verdict, u64) {
    let (mut random, mut stable, mut candidate) = (random(seed), (kind.none)(), (kind.none)());
    for unit in 1..=longest {
        (kind.draw)(&mut random, &mut stable, 0.0);
        (kind.draw)(&mut random, &mut candidate, effects * kind.effect);
        if unit >= ab.least_units && unit % LOOK == 0 {
            let found = compare(metric, &stable, &candidate, ab.margin, ab.effect, ab.error).verdict;
            if found != Verdict::Inconclusive {
                return (found, unit);
            }
        }
    }
    (Verdict::Inconclusive, longest)
}

/// Promotes when any of three arms does.
fn several_arms(metric: &Metric, seed: u64) -> (Verdict, u64) {
    let (mut random, mut hits) = (random(seed), [0_u64; 4]);
    let share = |units: u64, hits: u64| Statistic::Proportion { units, hits };
    for unit in 1..=2_000_u64 {
        hits.iter_mut().for_each(|hits| *hits += u64::from(random.f64() < 0.9));
        if unit >= 100 && unit % LOOK == 0 {
            let wins = |&arm: &u64| {
                let found = compare(metric, &share(unit, hits[0]), &share(unit, arm), 0.0, 0.05, 0.05 / 3.0);
                found.verdict == Verdict::Pass
            };
            if hits[1..].iter().any(wins) {
                return (Verdict::Pass, unit);
            }
        }
    }
    (Verdict::Inconclusive, 2_000)
}

/// Fails when the guard does.
fn guards(metrics: &[Metric], seed: u64) -> (Verdict, u64) {
    let mut random = random(seed);
    let arm = || ArmEvidence {
        metrics: metrics.iter().map(|m| (m.name.clone(), Statistic::Mean(Moments::default()))).collect(),
        ..ArmEvidence::default()
    };
    let (mut stable, mut candidate, judge) = (arm(), arm(), Judge::default());
    for unit in 1..=5_000_u64 {
        for statistic in stable.metrics.values_mut().chain(candidate.metrics.values_mut()) {
            if let Statistic::Mean(moments) = statistic {
                moments.add(1.0 + normal(&mut random));
            }
        }
        if unit % LOOK == 0 && guard(metrics, &judge, &stable, &candidate).verdict == Verdict::Fail {
            return (Verdict::Fail, unit);
        }
    }
    (Verdict::Pass, 5_000)
}

/// Fails when a sound split is taken for a broken one.
fn splits(seed: u64) -> (Verdict, u64) {
    let (mut random, mut arms) = (random(seed), [0_u64; 2]);
    for unit in 1..=20_000_u64 {
        arms[usize::from(random.bool())] += 1;
        if unit % LOOK == 0 && sample_ratio(&[(arms[0], 0.5), (arms[1], 0.5)]) < 0.001 {
            return (Verdict::Fail, unit);
        }
    }
    (Verdict::Pass, 20_000)
}

/// At the limit either verdict is an error of its kind.
fn shadows(seed: u64) -> (Verdict, u64) {
    let (mut random, mut disagreed) = (random(seed), 0);
    for pairs in 1..=20_000_u64 {
        disagreed += u64::from(random.f64() < 0.01);
        if pairs >= 200 && pairs % LOOK == 0 {
            let found = proportion(disagreed, pairs, 0.01, 0.05).verdict;
            if found != Verdict::Inconclusive {
                return (found, pairs);
            }
        }
    }
    (Verdict::Inconclusive, 20_000)
}
