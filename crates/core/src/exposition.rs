//! Metrics as text for Prometheus.
//!
//! Source: Prometheus text exposition format 0.0.4; OpenMetrics 1.0.0 asks for `# EOF` besides.

use std::fmt::{Display, Write};

/// `Content-Type` of what [`Exposition::finish`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes metric families one after the other.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    family: String,
}

impl Exposition {
    /// Starts a family: `name` with its unit suffix, one line of `help`, and `counter`, `gauge` or `histogram`.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) -> &mut Self {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        name.clone_into(&mut self.family);
        self
    }

    /// One sample of the current family.
    pub fn sample(&mut self, labels: &[(&str, &dyn Display)], value: impl Display) -> &mut Self {
        self.line("", labels, value)
    }

    /// One histogram of the current family: cumulative counts by upper bound in the family's unit (without `+Inf`), total count, sum.
    pub fn histogram(
        &mut self,
        labels: &[(&str, &dyn Display)],
        bounds: &[(f64, u64)],
        count: u64,
        sum: f64,
    ) -> &mut Self {
        for (bound, below) in bounds {
            let mut all = labels.to_vec();
            all.push(("le", bound));
            self.line("_bucket", &all, below);
        }
        let mut all = labels.to_vec();
        all.push(("le", &"+Inf"));
        self.line("_bucket", &all, count).line("_sum", labels, sum).line("_count", labels, count)
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &dyn Display)], value: impl Display) -> &mut Self {
        let _ = write!(self.text, "{}{suffix}", self.family);
        for (index, (name, label)) in labels.iter().enumerate() {
            let escaped = label.to_string().replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            let _ = write!(self.text, "{}{name}=\"{escaped}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
        self
    }

    /// The whole text.
    pub fn finish(self) -> String {
        self.text
    }
}

/// Upper bounds in seconds of request-duration histograms. Source: OpenTelemetry semantic conventions, `http.server.request.duration`, and five finer ones.
pub const DURATION_BOUNDS: [f64; 19] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
    10.0,
];

/// Cumulative counts of `histogram` by [`DURATION_BOUNDS`], for [`Exposition::histogram`].
pub fn duration_bounds(histogram: &crate::measure::Histogram) -> Vec<(f64, u64)> {
    let mut bounds: Vec<(f64, u64)> = DURATION_BOUNDS.iter().map(|&bound| (bound, 0)).collect();
    for (micros, count) in histogram.buckets() {
        let seconds = micros as f64 / 1e6;
        bounds.iter_mut().filter(|(bound, _)| seconds <= *bound).for_each(|(_, below)| *below += count);
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_read_as_prometheus_wants_them() {
        let mut out = Exposition::default();
        out.family("modelyard_requests_total", "counter", "Requests.")
            .sample(&[("service", &"a\"b"), ("code", &200)], 3);
        out.family("modelyard_up", "gauge", "Up.").sample(&[], 1);
        out.family("modelyard_request_duration_seconds", "histogram", "Time.").histogram(
            &[("s", &"x")],
            &[(0.1, 2)],
            3,
            0.5,
        );
        let text = out.finish();
        assert!(text.contains("modelyard_requests_total{service=\"a\\\"b\",code=\"200\"} 3\n"), "{text}");
        assert!(text.contains("modelyard_up 1\n"), "{text}");
        assert!(
            text.contains("_bucket{s=\"x\",le=\"0.1\"} 2\n") && text.contains("_bucket{s=\"x\",le=\"+Inf\"} 3\n"),
            "{text}"
        );
    }
}
