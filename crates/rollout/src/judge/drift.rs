//! Drift: each input and output against its reference, by the measures and limits of the policy.
//!
//! Promises: pure; the same counts give the same verdicts. A field of which too little was seen is `inconclusive`, and so is one for which the measure
//! cannot be computed. The limits are on the size of a shift, not on its significance (`chi-square` apart), so looking often makes no shift larger.
//! Absent on purpose: the measures themselves, which whoever counts computes.

use modelyard_core::evidence::Drift;
use modelyard_core::strategy::{DriftMeasure, DriftRule, QualityPolicy};
use serde::Serialize;

use crate::Verdict;

/// One measure of one field, judged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DriftJudged {
    /// Input or output, with the column.
    pub field: String,
    /// The measure.
    pub measure: DriftMeasure,
    /// Its value; none where it cannot be computed for this field.
    pub value: Option<f64>,
    /// The limit, if the policy has one by this measure.
    pub limit: Option<f64>,
    /// Values that were seen.
    pub seen: u64,
    /// Values that a verdict needs.
    pub least: u64,
    /// `package` or `stable`.
    pub reference: String,
    /// What follows; none where the policy has no limit by this measure.
    pub verdict: Option<Verdict>,
}

impl DriftJudged {
    /// Measure, value, limit, field and samples, for people.
    pub fn in_words(&self) -> String {
        let Self { field, measure, seen, least, reference, .. } = self;
        let words = measure.words();
        let limit = self.limit.map(|limit| format!("; {limit} is allowed")).unwrap_or_default();
        match (self.value, self.verdict) {
            (Some(value), Some(Verdict::Fail)) => {
                format!("{field} has moved from {reference}: {words} {} over {seen} values{limit}", short(value))
            }
            (_, Some(Verdict::Inconclusive)) if seen < least => {
                format!("{field}: {seen} of {least} values that a verdict needs")
            }
            (None, _) => format!("{field}: no {words} can be computed over {seen} values"),
            (Some(value), _) => {
                format!("{field} is as {reference}: {words} {} over {seen} values{limit}", short(value))
            }
        }
    }
}

fn short(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.001 { format!("{value:.1e}") } else { format!("{value:.3}") }
}

/// Every measure of every field, with the policy's verdicts.
pub fn drift(policy: &QualityPolicy, fields: &[Drift]) -> Vec<DriftJudged> {
    fields.iter().flat_map(|field| DriftMeasure::ALL.map(|measure| judge_one(policy, field, measure))).collect()
}

/// Those that are past their limit, the one that is furthest past first.
pub fn drifted(policy: &QualityPolicy, fields: &[Drift]) -> Vec<DriftJudged> {
    let mut moved: Vec<DriftJudged> =
        drift(policy, fields).into_iter().filter(|one| one.verdict == Some(Verdict::Fail)).collect();
    let past = |one: &DriftJudged| match (one.value, one.limit) {
        (Some(value), Some(limit)) if one.measure == DriftMeasure::ChiSquare => limit / value.max(f64::MIN_POSITIVE),
        (Some(value), Some(limit)) => value / limit.max(f64::MIN_POSITIVE),
        _ => 0.0,
    };
    moved.sort_by(|a, b| past(b).total_cmp(&past(a)));
    moved
}

fn judge_one(policy: &QualityPolicy, field: &Drift, measure: DriftMeasure) -> DriftJudged {
    let rule = rule(policy, &field.field, measure);
    let value = field.value(measure).filter(|value| value.is_finite());
    let least = rule.as_ref().and_then(|rule| rule.least_values).unwrap_or(policy.least_values);
    let limit = rule.as_ref().map(DriftRule::limit);
    let verdict = limit.map(|limit| match value {
        Some(value) if field.seen >= least && measure.is_past(value, limit) => Verdict::Fail,
        Some(_) if field.seen >= least => Verdict::Pass,
        _ => Verdict::Inconclusive,
    });
    let (name, reference) = (field.field.clone(), field.reference.clone());
    DriftJudged { field: name, measure, value, limit, seen: field.seen, least, reference, verdict }
}

/// The rule by that measure among those that mean the field most particularly; the last of several.
fn rule(policy: &QualityPolicy, field: &str, measure: DriftMeasure) -> Option<DriftRule> {
    let general = policy.max_psi.map(|limit| DriftRule {
        field: None,
        measure: DriftMeasure::Psi,
        limit: Some(limit),
        least_values: None,
    });
    // `max-psi` stands behind every rule, those for all fields included.
    let ranked = |rule: &DriftRule| rule.means(field).map(|rank| rank + 1);
    let most = policy.drift.iter().filter_map(ranked).max();
    match most {
        Some(most) => {
            policy.drift.iter().rev().find(|rule| ranked(rule) == Some(most) && rule.measure == measure).cloned()
        }
        None => general.filter(|_| measure == DriftMeasure::Psi),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, seen: u64, ks: Option<f64>) -> Drift {
        let (field, reference) = (name.to_owned(), "package".to_owned());
        Drift { field, seen, psi: 0.3, ks, chi_square_p: Some(1e-9), jensen_shannon: 0.05, reference }
    }

    fn on(field: Option<&str>, measure: DriftMeasure, limit: Option<f64>) -> DriftRule {
        DriftRule { field: field.map(str::to_owned), measure, limit, least_values: None }
    }

    fn found(policy: &QualityPolicy, fields: &[Drift]) -> Vec<(String, &'static str)> {
        drifted(policy, fields).into_iter().map(|one| (one.field, one.measure.name())).collect()
    }

    #[test]
    fn the_most_particular_rule_decides_by_its_measure() {
        let fields = [
            field("input x[3]", 1_000, Some(0.4)),
            field("input xy", 1_000, Some(0.4)),
            field("output label", 1_000, None),
        ];
        let psi = QualityPolicy { max_psi: Some(0.2), ..QualityPolicy::default() };
        assert_eq!(found(&psi, &fields).len(), 3, "`max-psi` means every field");
        let drift = vec![
            on(None, DriftMeasure::JensenShannon, None),
            on(Some("input x"), DriftMeasure::Ks, Some(0.3)),
            on(Some("output"), DriftMeasure::ChiSquare, None),
        ];
        let ruled = QualityPolicy { drift, ..psi };
        assert_eq!(
            found(&ruled, &fields),
            [("output label".to_owned(), "chi-square"), ("input x[3]".to_owned(), "ks")],
            "`input xy` is no column of `input x`, and 0.05 is within the usual limit"
        );
        let all = drift_lines(&ruled, &fields);
        assert!(all[0].starts_with("output label has moved from package: p-value of the chi-square test 1.0e-9 over 1000 values; 0.000001 is allowed"), "{all:?}");
        let looser = QualityPolicy {
            drift: vec![on(Some("input x[3]"), DriftMeasure::Ks, Some(0.5))],
            ..QualityPolicy::default()
        };
        assert_eq!(found(&looser, &fields), [], "a column may have a limit of its own");
    }

    fn drift_lines(policy: &QualityPolicy, fields: &[Drift]) -> Vec<String> {
        drifted(policy, fields).iter().map(DriftJudged::in_words).collect()
    }

    #[test]
    fn too_little_is_inconclusive_and_so_is_what_cannot_be_computed() {
        let policy = QualityPolicy {
            drift: vec![
                on(None, DriftMeasure::Ks, None),
                DriftRule { least_values: Some(50), ..on(Some("input a"), DriftMeasure::Psi, None) },
            ],
            ..QualityPolicy::default()
        };
        let fields = [field("input a", 60, Some(0.9)), field("input b", 499, Some(0.9)), field("input c", 500, None)];
        let judged = drift(&policy, &fields);
        let of = |field: &str, measure| judged.iter().find(|one| one.field == field && one.measure == measure).unwrap();
        assert_eq!(of("input a", DriftMeasure::Psi).verdict, Some(Verdict::Fail), "the rule's own least number");
        assert_eq!(of("input a", DriftMeasure::Ks).verdict, None, "the general rule is not for this field");
        let few = of("input b", DriftMeasure::Ks);
        assert_eq!(
            (few.verdict, few.in_words().as_str()),
            (Some(Verdict::Inconclusive), "input b: 499 of 500 values that a verdict needs")
        );
        let none = of("input c", DriftMeasure::Ks);
        assert_eq!(none.verdict, Some(Verdict::Inconclusive));
        assert!(none.in_words().contains("no Kolmogorov-Smirnov distance can be computed"), "{}", none.in_words());
    }
}
