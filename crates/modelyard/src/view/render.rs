//! A scene as lines.

use modelyard_core::Weight;

use super::Scene;
use crate::api;
use crate::terminal::{Paint, bar, columns};

/// Cells of a share's bar.
const BAR: usize = 24;

/// The scene as lines for a terminal.
pub fn lines(scene: &Scene, paint: Paint) -> Vec<String> {
    let status = &scene.status;
    let mut lines = vec![title(status, paint)];
    if let Some(progress) = scene.progress {
        lines.push(format!("  {} {:.0} % of this step", paint.dim(&bar(progress, BAR)), progress * 100.0));
    }
    lines.push(String::new());
    let heading = ["", "revision", "", "share", "live", "req/s", "errors", "p50", "p95"];
    let mut rows: Vec<Vec<String>> = vec![heading.iter().map(|title| paint.dim(title)).collect()];
    rows.extend(status.stable.iter().map(|pool| row("stable", pool, scene, paint)));
    rows.extend(status.candidate.iter().map(|pool| row("candidate", pool, scene, paint)));
    lines.extend(columns(&rows).into_iter().map(|line| format!("  {line}")));
    lines.push(String::new());
    lines.extend(scene.recent.iter().map(|line| format!("  {line}")));
    lines
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

fn row(role: &str, pool: &api::Pool, scene: &Scene, paint: Paint) -> Vec<String> {
    let weight = scene.status.weights.get(&pool.revision).copied().unwrap_or(Weight::NONE);
    let figures = scene.figures.get(&pool.revision).copied().unwrap_or_default();
    let live = pool.instances.iter().filter(|instance| ["live", "running"].contains(&instance.state.as_str())).count();
    let share = bar(f64::from(weight.basis_points()) / 10_000.0, BAR);
    let errors = match (figures.errors, figures.retried) {
        (0, 0) => "0".to_owned(),
        (errors, 0) => paint.bad(&errors.to_string()),
        (errors, retried) => paint.bad(&format!("{errors} ({retried} retried)")),
    };
    vec![
        if role == "stable" { role.to_owned() } else { paint.candidate(role) },
        format!("r{} {}", pool.revision, pool.version),
        if role == "stable" { share } else { paint.candidate(&share) },
        format!("{weight:>7}"),
        format!("{live:>4}"),
        format!("{:>5.0}", figures.per_second),
        format!("{errors:>6}"),
        latency(figures.p50_micros),
        latency(figures.p95_micros),
    ]
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
