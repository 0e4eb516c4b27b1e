//! What a deployment would do, as the control plane foresees it, in words: said before anything starts.

use modelyard_core::service::ServiceSpec;
use modelyard_core::{Digest, Millis, RevisionNumber};
use serde::Deserialize;
use serde_json::Value;

use super::deploy::body;
use crate::client::Client;
use crate::context::person;
use crate::exit::Failed;

/// `POST /api/services/{s}/plan`.
#[derive(Clone, Debug, Deserialize)]
pub struct Foreseen {
    strategy: String,
    #[serde(default)]
    from: Option<RevisionNumber>,
    #[serde(default)]
    arms: Vec<Arm>,
    /// What there is room for.
    #[serde(default)]
    pub room: Room,
    #[serde(default)]
    planned: Option<Planned>,
    /// What callers of stable would misread.
    #[serde(default)]
    misread: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Arm {
    revision: RevisionNumber,
    package: String,
    instances: u32,
}

/// Whether there is room.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Room {
    #[serde(default)]
    memory_bytes: Option<u64>,
    #[serde(default)]
    memory_left_bytes: Option<u64>,
    #[serde(default)]
    warnings: Vec<String>,
    /// Why it would be refused.
    #[serde(default)]
    pub refused: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Planned {
    metric: String,
    unit: String,
    #[serde(default)]
    effect: f64,
    #[serde(default)]
    power: f64,
    #[serde(default)]
    error: f64,
    #[serde(default)]
    units: Option<u64>,
    #[serde(default)]
    all_units: u64,
    #[serde(default)]
    per_second: Option<f64>,
    #[serde(default)]
    seconds: Option<f64>,
}

/// Asks what a deployment would do: the answer as it came, and what this program reads of it.
pub fn foresee(
    client: &Client,
    spec: &ServiceSpec,
    digest: Digest,
    arms: &[Value],
) -> miette::Result<(Value, Foreseen)> {
    let document: Value =
        client.post(&format!("/api/services/{}/plan", spec.name), &body(spec, digest, arms, &person()))?;
    let foreseen = serde_json::from_value(document.clone()).map_err(|error| {
        Failed::from(error, "the control plane's answer is not understood", "is the control plane of another version?")
    })?;
    Ok((document, foreseen))
}

impl Foreseen {
    /// Everything, for whoever asked what would be done.
    pub fn text(&self) -> Vec<String> {
        let from = self.from.map_or_else(
            || "the first deployment".to_owned(),
            |from| format!("{} from revision {from}", self.strategy),
        );
        let mut lines = vec![format!("would start: {from}")];
        lines.extend(self.arms.iter().map(|arm| {
            let beside = if arm.instances == 1 {
                "1 further instance".to_owned()
            } else {
                format!("{} further instances", arm.instances)
            };
            format!("  revision {}: {}, {beside} at most", arm.revision, arm.package)
        }));
        if let (Some(needed), Some(left)) = (self.room.memory_bytes, self.room.memory_left_bytes) {
            let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            lines.push(format!(
                "memory: about {:.0} MiB are needed, {:.0} MiB are left",
                mebibytes(needed),
                mebibytes(left)
            ));
        }
        lines.extend(self.talk());
        lines.extend(self.room.refused.iter().map(|why| format!("refused: {why}")));
        lines.push("nothing was started".to_owned());
        lines
    }

    /// What must be said before it starts: the size of a test and how long it takes, and what may go wrong.
    pub fn talk(&self) -> Vec<String> {
        let planned = self.planned.iter().map(Planned::text);
        let misread = self.misread.iter().map(|what| format!("callers would misread it: {what}"));
        planned.chain(misread).chain(self.room.warnings.iter().map(|warning| format!("note: {warning}"))).collect()
    }
}

impl Planned {
    fn text(&self) -> String {
        let Self { metric, unit, effect, power, error, all_units, .. } = self;
        let unit_s = format!("{unit}s");
        let Some(units) = self.units else {
            return format!(
                "planned size: unknown, for nothing is known of `{metric}` in stable yet; say what it is with `strategy.expected` to be told before the start"
            );
        };
        let size = format!(
            "planned size: {units} {unit_s} in each arm, {all_units} over all, to find an improvement of `{metric}` by {effect} with {:.0} % power at {:.0} % error",
            power * 100.0,
            error * 100.0
        );
        let time = match (self.seconds, self.per_second) {
            (Some(seconds), Some(rate)) => {
                let span = Millis((seconds * 1e3).min(1e15) as u64);
                let rate = if rate >= 10.0 { format!("{rate:.0}") } else { format!("{rate:.2}") };
                // Before the test requests were counted; a session has several.
                let least = if unit == "session" { "at least " } else { "about " };
                format!("expected time: {least}{span} at today's traffic ({rate} requests/s)")
            }
            _ => "expected time: unknown, for there is no traffic to tell it from".to_owned(),
        };
        format!("{size}\n{time}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn size_and_time_are_said_or_why_they_cannot_be() {
        let foreseen = |planned: Value| -> Foreseen {
            serde_json::from_value(json!({
                "service": "wine", "strategy": "ab", "from": 1, "arms": [{"revision": 2, "package": "wine:2.0.0", "instances": 1}],
                "room": {"memory_bytes": 52428800, "memory_left_bytes": 1073741824, "warnings": ["it is tight"]}, "planned": planned,
            }))
            .unwrap()
        };
        let known = json!({"metric": "accuracy", "unit": "request", "effect": 0.05, "power": 0.8, "error": 0.05,
            "units": 443, "all_units": 885, "per_second": 0.5, "seconds": 1770.0});
        let text = foreseen(known).text().join("\n");
        for part in [
            "443 requests in each arm",
            "885 over all",
            "29 min 30 s",
            "0.50 requests/s",
            "note: it is tight",
            "50 MiB",
            "nothing was started",
        ] {
            assert!(text.contains(part), "`{part}` is missing: {text}");
        }
        let unknown = foreseen(json!({"metric": "accuracy", "unit": "request", "per_second": null})).talk().join("\n");
        assert!(unknown.contains("unknown") && unknown.contains("strategy.expected"), "{unknown}");
    }
}
