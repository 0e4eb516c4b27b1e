//! What became of shadows' copies, added up over gateways that come and go.
//!
//! A gateway counts from zero when it is started anew, and drops the counts of a shadow that left its table.

use std::collections::BTreeMap;

use modelyard_core::RevisionNumber;
use modelyard_core::mirror::{Comparison, OutputComparison};
use serde::{Deserialize, Serialize};

/// Examples that are kept.
const WORST: usize = 8;

/// Counts of one service's shadows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shadows(BTreeMap<RevisionNumber, Reading>);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Reading {
    /// Counted in earlier lives.
    before: Comparison,
    /// Counted in this life.
    last: Comparison,
}

impl Shadows {
    /// Takes in what a gateway reports; `reborn` says that it counts from zero.
    pub fn read(&mut self, reborn: bool, mirrors: &BTreeMap<RevisionNumber, Comparison>) {
        if reborn {
            self.0.values_mut().for_each(Reading::bank);
        }
        for (&revision, comparison) in mirrors {
            let reading = self.0.entry(revision).or_default();
            if (comparison.sent, comparison.compared) < (reading.last.sent, reading.last.compared) {
                reading.bank();
            }
            reading.last.clone_from(comparison);
        }
    }

    /// Everything counted so far.
    pub fn totals(&self) -> BTreeMap<RevisionNumber, Comparison> {
        self.0.iter().map(|(&revision, reading)| (revision, sum(&reading.before, &reading.last))).collect()
    }
}

impl Reading {
    fn bank(&mut self) {
        self.before = sum(&self.before, &std::mem::take(&mut self.last));
    }
}

fn sum(a: &Comparison, b: &Comparison) -> Comparison {
    let mut whole = a.clone();
    whole.sent += b.sent;
    whole.shed += b.shed;
    whole.failed += b.failed;
    whole.compared += b.compared;
    whole.exact += b.exact;
    whole.agreed += b.agreed;
    whole.incomparable += b.incomparable;
    whole.latency.add(&b.latency);
    whole.stable_latency.add(&b.stable_latency);
    for (name, output) in &b.outputs {
        add(whole.outputs.entry(name.clone()).or_default(), output);
    }
    whole.worst.extend(b.worst.iter().cloned());
    whole.worst.sort_by(|a, b| b.difference.total_cmp(&a.difference));
    whole.worst.truncate(WORST);
    whole
}

fn add(whole: &mut OutputComparison, part: &OutputComparison) {
    whole.elements += part.elements;
    whole.agreed += part.agreed;
    whole.same_label += part.same_label;
    whole.in_top_k += part.in_top_k;
    whole.rows += part.rows;
    whole.largest = whole.largest.max(part.largest);
    whole.difference.merge(&part.difference);
    whole.distance.merge(&part.distance);
}

#[cfg(test)]
mod tests {
    use modelyard_core::mirror::Example;

    use super::*;

    fn seen(sent: u64, agreed: u64, difference: f64) -> BTreeMap<RevisionNumber, Comparison> {
        let worst = vec![Example { request_id: format!("r{sent}"), what: "y".into(), difference }];
        let output = OutputComparison { rows: sent, largest: difference, ..OutputComparison::default() };
        let outputs = BTreeMap::from([("y".to_owned(), output)]);
        BTreeMap::from([(
            RevisionNumber(2),
            Comparison { sent, compared: sent, agreed, worst, outputs, ..Comparison::default() },
        )])
    }

    #[test]
    fn counts_grow_over_restarts_of_gateway_and_control_plane() {
        let mut shadows = Shadows::default();
        shadows.read(true, &seen(10, 9, 0.5));
        shadows.read(false, &seen(20, 18, 0.5));
        // Another gateway; then one that dropped the count and began anew; and the control plane reads what it had kept.
        shadows.read(true, &seen(5, 5, 2.0));
        shadows.read(false, &BTreeMap::new());
        let mut shadows: Shadows = serde_json::from_str(&serde_json::to_string(&shadows).unwrap()).unwrap();
        shadows.read(false, &seen(2, 1, 0.1));
        let total = &shadows.totals()[&RevisionNumber(2)];
        assert_eq!((total.sent, total.compared, total.agreed), (27, 27, 24));
        assert_eq!((total.outputs["y"].rows, total.outputs["y"].largest), (27, 2.0));
        let worst: Vec<f64> = total.worst.iter().map(|example| example.difference).collect();
        assert_eq!(worst, [2.0, 0.5, 0.1]);
    }
}
