//! How far one output of a pair agrees.

use modelyard_core::mirror::OutputComparison;
use modelyard_core::sample::Tolerance;

// Squares of differences are summed: beyond this they would not be finite, and what is not finite has no JSON.
const SQUARABLE: f64 = 1e140;

/// One output of a pair.
#[derive(Clone, Debug)]
pub struct Score {
    /// Figures.
    pub output: OutputComparison,
    /// Whether everything is the same, bit for bit or letter for letter.
    pub exact: bool,
    /// The largest difference, and where it is.
    pub worst: Option<(f64, String)>,
}

impl Default for Score {
    fn default() -> Self {
        Self { output: OutputComparison::default(), exact: true, worst: None }
    }
}

impl Score {
    /// Whether every element agrees within tolerance.
    pub const fn agrees(&self) -> bool {
        self.output.agreed == self.output.elements
    }

    /// Adds an element that is a number. `place` is asked only if nothing differs more.
    pub fn number(&mut self, stable: f64, shadow: f64, tolerance: &Tolerance, place: impl FnOnce() -> String) {
        let agrees = tolerance.accepts(stable, shadow);
        self.exact &= stable.to_bits() == shadow.to_bits();
        let mut size = if agrees { 0.0 } else { f64::MAX };
        if stable.is_finite() && shadow.is_finite() {
            let difference = shadow - stable;
            size = difference.abs().min(f64::MAX);
            self.output.largest = self.output.largest.max(size);
            if size < SQUARABLE {
                self.output.difference.add(difference);
            }
        }
        let what = || format!("{}: {} against {}", place(), rounded(stable), rounded(shadow));
        self.element(agrees, size, what);
    }

    /// Adds an element that is the same or not.
    pub fn label(&mut self, same: bool, what: impl FnOnce() -> String) {
        self.exact &= same;
        self.element(same, if same { 0.0 } else { 1.0 }, what);
    }

    fn element(&mut self, agrees: bool, size: f64, what: impl FnOnce() -> String) {
        self.output.elements += 1;
        self.output.agreed += u64::from(agrees);
        if !agrees && self.worst.as_ref().is_none_or(|(worst, _)| size > *worst) {
            self.worst = Some((size, what()));
        }
    }

    /// Adds `count` elements that the shadow has not, or has in another form.
    pub fn missing(&mut self, count: u64, what: impl FnOnce() -> String) {
        self.label(false, what);
        self.output.elements += count.saturating_sub(1);
    }

    /// Adds a row.
    pub fn row(&mut self, same_label: bool, in_top_k: bool) {
        self.output.rows += 1;
        self.output.same_label += u64::from(same_label);
        self.output.in_top_k += u64::from(in_top_k);
    }
}

/// Bodies that are nothing but bytes.
pub fn bytes(stable: &[u8], shadow: &[u8]) -> (String, Score) {
    let mut score = Score::default();
    let same = stable == shadow;
    score.label(same, || format!("other bytes: {} against {} of them", stable.len(), shadow.len()));
    score.row(same, same);
    ("body".to_owned(), score)
}

/// A number with four digits.
pub fn rounded(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || !value.is_finite() => format!("{value}"),
        size if (1e-3..1e6).contains(&size) => {
            let decimals = (3 - size.log10().floor() as i32).max(0) as usize;
            format!("{value:.decimals$}")
        }
        _ => format!("{value:.3e}"),
    }
}

/// A label, not too long, as it can be shown.
pub fn shown(label: &[u8]) -> String {
    let text = String::from_utf8_lossy(label);
    let short: String = text.chars().take(40).collect();
    if short.len() < text.len() { format!("{short:?}…") } else { format!("{short:?}") }
}
