//! A scene as lines.

use std::collections::BTreeSet;

use modelyard_core::Weight;

use super::Scene;
use crate::api;
use crate::terminal::{Paint, bar, columns};

/// Columns that a row takes besides its bar, for versions of up to nine letters.
const REST: usize = 80;
/// Column that a narrow terminal does without.
const RETRIED: usize = 7;
/// Columns of a terminal in which a row has room for everything.
const WIDE: usize = 96;

/// The scene as lines for a terminal of `width` columns.
pub fn lines(scene: &Scene, paint: Paint, width: usize) -> Vec<String> {
    let status = &scene.status;
    let (cells, wide) = (width.saturating_sub(REST).clamp(4, 24), width >= WIDE);
    let mut lines = vec![title(status, paint)];
    // The line is kept when there is no progress to show, so that nothing jumps.
    lines.push(scene.progress.map_or_else(String::new, |progress| {
        format!("  {} {:.0} % of this step", paint.dim(&bar(progress, cells)), progress * 100.0)
    }));
    // Why it waits, and how long still: kept as a line of its own for the same reason.
    let waits = status.rollout.as_ref().and_then(api::Rollout::waits).unwrap_or_default();
    lines.push(paint.dim(&format!("  {}", cut(&waits, width.saturating_sub(2)))).trim_end().to_owned());
    let heading = ["", "revision", "", "  share", "live", "req/s", "errors", "retried", "    p50", "    p95"];
    let mut rows: Vec<Vec<String>> = vec![heading.iter().map(|title| paint.dim(title)).collect()];
    rows.extend(status.stable.iter().map(|pool| row("stable", pool, scene, paint, cells)));
    rows.extend(status.candidate.iter().map(|pool| row("candidate", pool, scene, paint, cells)));
    rows.extend(status.arms.iter().map(|pool| row("arm", pool, scene, paint, cells)));
    rows.extend(status.beside.iter().map(|pool| row("beside", pool, scene, paint, cells)));
    rows.extend(status.others.iter().map(|pool| row("kept", pool, scene, paint, cells)));
    if !wide {
        rows.iter_mut().for_each(|row| drop(row.remove(RETRIED)));
    }
    lines.extend(columns(&rows).into_iter().map(|line| format!("  {line}")));
    lines.extend(machines(status).map(|said| paint.dim(&format!("  {}", cut(&said, width.saturating_sub(2))))));
    lines.push(String::new());
    lines.extend(scene.recent.iter().map(|line| format!("  {line}")));
    lines
}

/// Which revision runs on which machines, for targets that have several.
fn machines(status: &api::Status) -> Option<String> {
    let pools = status.stable.iter().chain(&status.candidate).chain(&status.arms).chain(&status.others);
    let of = |pool: &api::Pool| {
        let name = |one: &api::Instance| {
            let lost = if one.out_of_reach.is_some() { " (out of reach)" } else { "" };
            Some(format!("{}{lost}", one.machine.as_ref()?))
        };
        let names: BTreeSet<String> = pool.instances.iter().filter_map(name).collect();
        let names: Vec<String> = names.into_iter().collect();
        (!names.is_empty()).then(|| format!("r{} on {}", pool.revision, names.join(", ")))
    };
    let said: Vec<String> = pools.filter_map(of).collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// The text in at most `width` columns.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

fn title(status: &api::Status, paint: Paint) -> String {
    let service = paint.bold(status.service.as_str());
    match &status.rollout {
        Some(rollout) => {
            let phase =
                if rollout.waits_for_person() { paint.warn(&rollout.phase) } else { paint.candidate(&rollout.phase) };
            format!("{service}  {} {}  {phase}", rollout.strategy, paint.dim(rollout.id.as_str()))
        }
        None => format!("{service}  {}  {}", paint.dim(&status.environment), paint.dim("no rollout")),
    }
}

fn row(role: &str, pool: &api::Pool, scene: &Scene, paint: Paint, cells: usize) -> Vec<String> {
    // A shadow carries nothing: its share is that of the copies.
    let (weights, mirrors) = (&scene.status.weights, &scene.status.mirrors);
    let weight = mirrors.get(&pool.revision).or(weights.get(&pool.revision)).copied().unwrap_or(Weight::NONE);
    let role = if mirrors.contains_key(&pool.revision) && role == "beside" { "shadow" } else { role };
    let figures = scene.figures.get(&pool.revision).copied().unwrap_or_default();
    let live = pool.instances.iter().filter(|instance| ["live", "running"].contains(&instance.state.as_str())).count();
    let share = bar(f64::from(weight.basis_points()) / 10_000.0, cells);
    let errors = format!("{:>6}", figures.errors);
    let retried = format!("{:>7}", figures.retried);
    vec![
        if role == "candidate" { paint.candidate(role) } else { role.to_owned() },
        format!("r{} {}", pool.revision, pool.version),
        if role == "candidate" { paint.candidate(&share) } else { share },
        format!("{:>7}", weight.to_string()),
        format!("{live:>4}"),
        format!("{:>5.0}", figures.per_second),
        if figures.errors > 0 { paint.bad(&errors) } else { errors },
        if figures.retried > 0 { paint.warn(&retried) } else { retried },
        aligned(figures.p50_micros),
        aligned(figures.p95_micros),
    ]
}

/// A latency in µs for people, right-aligned.
fn aligned(micros: Option<f64>) -> String {
    format!("{:>7}", latency(micros))
}

/// A latency in µs for people.
pub fn latency(micros: Option<f64>) -> String {
    match micros {
        None => "–".to_owned(),
        Some(micros) if micros < 1_000.0 => format!("{micros:.0} µs"),
        Some(micros) if micros < 100_000.0 => format!("{:.1} ms", micros / 1e3),
        Some(micros) => format!("{:.0} ms", micros / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use modelyard_core::RevisionNumber;

    use super::*;
    use crate::view::Figures;

    fn scene(progress: Option<f64>) -> Scene {
        let status = serde_json::from_value(serde_json::json!({
            "service": "wine", "environment": "dev", "weights": {"1": 9000, "2": 1000},
            "stable": {"revision": 1, "version": "1.0.0", "instances": [{"id": "wine-r1-1", "state": "live"}]},
            "candidate": {"revision": 2, "version": "2.0.0", "instances": []}, "mirrors": {"3": 1000},
            "beside": [{"revision": 3, "version": "1.5.0"}, {"revision": 4, "version": "1.6.0"}],
            "rollout": {"id": "wine-2", "strategy": "canary", "phase": "baking at 10 %",
                "waiting": {"for": "evidence", "why": "not enough evidence yet: 312 of about 900 units"}},
        }));
        let figures =
            Figures { per_second: 41.6, errors: 3, retried: 2, p50_micros: Some(940.0), p95_micros: Some(12_340.0) };
        Scene {
            status: status.unwrap(),
            figures: BTreeMap::from([(RevisionNumber(2), figures)]),
            recent: vec!["something".to_owned()],
            progress,
        }
    }

    #[test]
    fn a_scene_is_aligned_and_keeps_its_height() {
        let shown = lines(&scene(Some(0.5)), Paint::plain(), 110);
        assert_eq!(shown[0], "wine  canary wine-2  baking at 10 %");
        assert_eq!(shown[1], "  ████████████░░░░░░░░░░░░ 50 % of this step");
        assert_eq!(shown[2], "  not enough evidence yet: 312 of about 900 units");
        assert_eq!(
            shown[4].trim_end(),
            "  stable     r1 1.0.0  ██████████████████████░░     90 %     1      0       0        0        –        –"
        );
        assert_eq!(
            shown[5].trim_end(),
            "  candidate  r2 2.0.0  ██░░░░░░░░░░░░░░░░░░░░░░     10 %     0     42       3        2   940 µs  12.3 ms"
        );
        let beside = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()[..3].join(" ");
        assert_eq!([beside(&shown[6]), beside(&shown[7])], ["shadow r3 1.5.0", "beside r4 1.6.0"]);
        assert!(shown[6].contains("10 %") && shown[7].contains(" 0 %"), "{shown:?}");
        assert!(machines(&scene(None).status).is_none());
        let mut placed = scene(None).status;
        placed
            .stable
            .iter_mut()
            .flat_map(|pool| &mut pool.instances)
            .for_each(|one| one.machine = Some("prod/a".into()));
        assert_eq!(machines(&placed).as_deref(), Some("r1 on prod/a"));
        assert!(lines(&scene(None), Paint::plain(), 80).iter().all(|line| line.chars().count() <= 80));
        assert_eq!(shown.len(), lines(&scene(None), Paint::plain(), 110).len());
    }

    #[test]
    fn latencies_carry_their_unit() {
        assert_eq!([Some(12.0), Some(1_500.0), Some(250_000.0), None].map(latency), ["12 µs", "1.5 ms", "250 ms", "–"]);
    }
}
