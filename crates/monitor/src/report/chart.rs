//! Line charts as SVG, drawn by hand: no script, nothing from elsewhere, readable in light and dark and without colour.

use std::fmt::Write;

use maud::{Markup, html};

use super::Role;
use super::series::Mark;

/// About as wide as it is shown, so that text has its natural size.
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 42.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 38.0;

/// Marks nearer than this share one label: it is about as wide as one.
const LABEL: f64 = 90.0;

/// One line of a chart.
#[derive(Clone, Debug)]
pub struct Line {
    /// Part that it plays, for its colour.
    pub role: Role,
    /// Which of the other revisions it is, for its colour.
    pub nth: usize,
    /// What it is called below the chart.
    pub name: String,
    /// The second kind of line in the same colour.
    pub dashed: bool,
    /// Holds each value until the next.
    pub steps: bool,
    /// Seconds since the start and the value; `None` where nothing is known.
    pub points: Vec<(f64, Option<f64>)>,
}

/// One chart.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    /// Unique within the page.
    pub id: String,
    /// What it shows.
    pub title: String,
    /// In what.
    pub unit: &'static str,
    /// What the chart shows, for those who cannot see it.
    pub summary: String,
    /// Upper end of the axis if it is fixed.
    pub top: Option<f64>,
    /// Whether the axis shows the values' own range rather than starting at 0: for what moves little, such as an accuracy.
    pub close: bool,
    /// What is drawn, last on top.
    pub lines: Vec<Line>,
    /// Moments worth a mark.
    pub marks: &'a [Mark],
    /// Seconds at which the time axis ends.
    pub end: f64,
}

struct Scale {
    end: f64,
    bottom: f64,
    top: f64,
}

impl Scale {
    fn x(&self, seconds: f64) -> f64 {
        LEFT + (seconds / self.end).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - ((value - self.bottom) / (self.top - self.bottom)).clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }
}

impl Chart<'_> {
    /// The chart with its legend.
    pub fn render(&self) -> Markup {
        let values = || self.lines.iter().flat_map(|line| &line.points).filter_map(|&(_, value)| value);
        let ticks = match self.close {
            false => ticks(self.top.unwrap_or(values().fold(0.0, f64::max)), 4),
            true => ticks_between(values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max)),
        };
        let (bottom, top) = (ticks.first().copied().unwrap_or(0.0), ticks.last().copied().unwrap_or(1.0));
        let scale = Scale { end: self.end, bottom, top };
        html! {
            figure.chart {
                figcaption { strong { (self.title) } " " span.unit { (self.unit) } }
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-labelledby=(format!("{0}-title {0}-about", self.id)) {
                    title id=(format!("{}-title", self.id)) { (self.title) " (" (self.unit) ")" }
                    desc id=(format!("{}-about", self.id)) { (self.summary) }
                    (self.axes(&scale, &ticks))
                    (self.marks(&scale))
                    @for line in &self.lines { (path(line, &scale)) }
                }
                (self.legend())
            }
        }
    }

    fn axes(&self, scale: &Scale, values: &[f64]) -> Markup {
        let seconds: Vec<f64> = ticks(self.end, 5).into_iter().filter(|&tick| tick <= self.end).collect();
        let base = HEIGHT - BOTTOM;
        html! {
            @for &value in values {
                line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(n(scale.y(value))) y2=(n(scale.y(value))) {}
                text.tick x=(LEFT - 6.0) y=(n(scale.y(value) + 4.0)) text-anchor="end" { (short(value)) }
            }
            @for &second in &seconds {
                line.tickmark x1=(n(scale.x(second))) x2=(n(scale.x(second))) y1=(base) y2=(base + 4.0) {}
                text.tick x=(n(scale.x(second))) y=(base + 16.0) text-anchor="middle" { (span(second, self.end)) }
            }
            text.tick x=(WIDTH - RIGHT) y=(HEIGHT - 4.0) text-anchor="end" { "since start (" (span_unit(self.end)) ")" }
        }
    }

    fn marks(&self, scale: &Scale) -> Markup {
        html! {
            @for mark in self.marks {
                line.mark x1=(n(scale.x(mark.at))) x2=(n(scale.x(mark.at))) y1=(TOP - 6.0) y2=(HEIGHT - BOTTOM) {}
            }
            @for (x, label) in labels(self.marks, scale) {
                @let (anchor, shift) = if x > WIDTH / 2.0 { ("end", 2.0) } else { ("start", -2.0) };
                text.marklabel x=(n(x + shift)) y="10" text-anchor=(anchor) { (label) }
            }
        }
    }

    fn legend(&self) -> Markup {
        html! {
            ul.legend aria-hidden="true" {
                @for line in &self.lines {
                    li {
                        svg.key viewBox="0 0 28 10" width="28" height="10" {
                            line class=(class(line)) x1="1" x2="27" y1="5" y2="5" {}
                        }
                        (line.name)
                    }
                }
            }
        }
    }
}

fn class(line: &Line) -> String {
    let colour = match line.role {
        Role::Stable => "stable".to_owned(),
        Role::Candidate => "candidate".to_owned(),
        Role::Other => format!("other{}", line.nth % 2),
    };
    format!("line {colour}{}", if line.dashed { " dashed" } else { "" })
}

fn path(line: &Line, scale: &Scale) -> Markup {
    let (text, dots) = trace(line, scale);
    html! {
        path class=(class(line)) d=(text) {}
        @for (x, y) in dots { circle class=(class(line)) cx=(n(x)) cy=(n(y)) r="1.6" {} }
    }
}

/// The path's text, and the points that stand alone, which a path would not show.
fn trace(line: &Line, scale: &Scale) -> (String, Vec<(f64, f64)>) {
    let mut text = String::new();
    let mut dots = Vec::new();
    let mut before: Option<(f64, f64)> = None;
    let mut length = 0;
    for &(seconds, value) in &line.points {
        let Some(value) = value else {
            dots.extend(before.filter(|_| length == 1));
            (before, length) = (None, 0);
            continue;
        };
        let here = (scale.x(seconds), scale.y(value));
        let _ = match before {
            None => write!(text, "M{} {}", n(here.0), n(here.1)),
            Some(_) if line.steps => write!(text, "H{}V{}", n(here.0), n(here.1)),
            Some(_) => write!(text, "L{} {}", n(here.0), n(here.1)),
        };
        (before, length) = (Some(here), length + 1);
    }
    dots.extend(before.filter(|_| length == 1));
    if line.steps && before.is_some() {
        let _ = write!(text, "H{}", n(scale.x(scale.end)));
    }
    (text, dots)
}

/// Where labels stand and what they say; those too near to each other are told in one.
fn labels(marks: &[Mark], scale: &Scale) -> Vec<(f64, String)> {
    let mut labels: Vec<(f64, String)> = Vec::new();
    for mark in marks {
        let x = scale.x(mark.at);
        match labels.last_mut() {
            Some((last, label)) if x - *last < LABEL => {
                *last = x;
                label.push_str(" → ");
                label.push_str(mark.label);
            }
            _ => labels.push((x, mark.label.to_owned())),
        }
    }
    labels
}

/// A coordinate with one decimal.
fn n(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), ToOwned::to_owned)
}

/// Round values from 0 to at least `largest`, about `count` steps.
fn ticks(largest: f64, count: usize) -> Vec<f64> {
    if !largest.is_finite() || largest <= 0.0 {
        return vec![0.0, 1.0];
    }
    let rough = largest / count as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|&step| step >= rough)
        .unwrap_or(10.0 * power);
    let steps = (largest / step).ceil().clamp(1.0, 50.0) as usize;
    (0..=steps).map(|index| index as f64 * step).collect()
}

/// Round values around a range, about four steps.
fn ticks_between(smallest: f64, largest: f64) -> Vec<f64> {
    // A constant line stands in the middle of an axis a twentieth of its size.
    let spread = (largest - smallest).max(largest.abs().max(smallest.abs()) / 20.0);
    if !spread.is_finite() || spread <= 0.0 {
        return vec![0.0, 1.0];
    }
    let steps = ticks(spread, 4);
    let step = steps[1];
    let first = (smallest / step).floor();
    let count = (largest / step).ceil() - first;
    (0..=count.clamp(1.0, 50.0) as usize).map(|index| (first + index as f64) * step).collect()
}

/// A value as an axis shows it.
fn short(value: f64) -> String {
    match value {
        v if v < 0.0 => format!("-{}", short(-v)),
        v if v >= 1e6 => format!("{}M", trimmed(v / 1e6, 1)),
        v if v >= 1e4 => format!("{}k", trimmed(v / 1e3, 1)),
        v if v >= 10.0 => trimmed(v, 1),
        v if v >= 0.1 => trimmed(v, 2),
        v => trimmed(v, 4),
    }
}

fn trimmed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn span_unit(end: f64) -> &'static str {
    match end {
        e if e < 300.0 => "s",
        e if e < 18_000.0 => "min",
        _ => "h",
    }
}

fn span(seconds: f64, end: f64) -> String {
    trimmed(
        match span_unit(end) {
            "s" => seconds,
            "min" => seconds / 60.0,
            _ => seconds / 3_600.0,
        },
        2,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_values_that_hold_everything() {
        assert_eq!(ticks(100.0, 4), [0.0, 25.0, 50.0, 75.0, 100.0]);
        assert_eq!(ticks(0.7, 4).last().copied().map(|top| top >= 0.7), Some(true));
        for largest in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-9, 1e12] {
            let ticks = ticks(largest, 4);
            assert!(ticks.len() >= 2 && ticks.len() < 60, "{largest}: {ticks:?}");
        }
        assert_eq!(
            ticks_between(0.91, 0.943).iter().map(|&tick| short(tick)).collect::<Vec<_>>(),
            ["0.9", "0.92", "0.94", "0.96"]
        );
        assert_eq!(ticks_between(-3.0, 3.0), [-4.0, -2.0, 0.0, 2.0, 4.0]);
        for (low, high) in [(0.0, 0.0), (5.0, 5.0), (f64::INFINITY, f64::NEG_INFINITY), (-1.0, -1.0)] {
            let ticks = ticks_between(low, high);
            assert!(ticks.len() >= 2 && ticks[0] < ticks[ticks.len() - 1], "{low} to {high}: {ticks:?}");
        }
        assert_eq!(
            [short(0.0), short(25.0), short(12_500.0), short(2e6), short(0.05)],
            ["0", "25", "12.5k", "2M", "0.05"]
        );
    }

    #[test]
    fn labels_that_would_overlap_are_told_in_one() {
        let mark = |at, label| Mark { at, label };
        let marks = [mark(1.0, "first failure"), mark(97.0, "verdict: fail"), mark(98.0, "rolled-back")];
        let told: Vec<String> =
            labels(&marks, &Scale { end: 100.0, bottom: 0.0, top: 1.0 }).into_iter().map(|(_, label)| label).collect();
        assert_eq!(told, ["first failure", "verdict: fail → rolled-back"]);
    }

    #[test]
    fn gaps_break_a_line_and_single_points_stay_visible() {
        let line = Line {
            role: Role::Stable,
            nth: 0,
            name: String::new(),
            dashed: false,
            steps: false,
            points: vec![(0.0, Some(1.0)), (1.0, Some(1.0)), (2.0, None), (3.0, Some(1.0)), (4.0, None)],
        };
        let (text, dots) = trace(&line, &Scale { end: 4.0, bottom: 0.0, top: 1.0 });
        assert_eq!((text.matches('M').count(), dots.len()), (2, 1), "{text}");
    }
}
