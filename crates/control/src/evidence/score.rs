//! From answers and labels to the number that each metric adds up. Pure.
//!
//! Promises: the same answer and label give the same number; what cannot be read gives none, never a wrong one.
//! Absent on purpose: sums ([`super::sums`]), and how a response is read ([`super::response`]).

use modelyard_core::metric::{Metric, MetricKind, MetricSource};
use serde_json::Value;

/// Smallest probability that a log loss is taken of. Source: scikit-learn's `log_loss` before 1.3, and the metric's own words.
const CLIP: f64 = 1e-15;

/// What an answer says by itself: its latency, whether it failed, a number in it.
///
/// Latency in milliseconds. Answers that were the caller's fault (4xx) say nothing.
pub fn of_answer(metric: &Metric, status: u16, micros: u64, body: Option<&Value>) -> Option<f64> {
    match metric.from {
        MetricSource::Latency => is_good(status).then_some(micros as f64 / 1e3),
        MetricSource::Errors => (is_good(status) || is_fault(status)).then(|| f64::from(u8::from(is_fault(status)))),
        MetricSource::Response if is_good(status) => single(metric, &pointed(metric, body?)?),
        _ => None,
    }
}

/// What of an answer a later label is compared with.
pub fn prediction(metric: &Metric, status: u16, body: Option<&Value>) -> Option<Value> {
    let compared = metric.from == MetricSource::Feedback && is_good(status);
    if compared { pointed(metric, body?) } else { None }
}

/// What feedback says of an answer with that prediction.
pub fn of_feedback(metric: &Metric, prediction: Option<&Value>, feedback: &Value) -> Option<f64> {
    match metric.from {
        MetricSource::Reward => {
            single(metric, feedback.pointer(metric.label.as_deref().unwrap_or("/reward")).filter(given)?)
        }
        MetricSource::Feedback => {
            let label = feedback.pointer(metric.label.as_deref().unwrap_or("/label")).filter(given)?;
            compare(metric, prediction, label)
        }
        _ => None,
    }
}

fn given(value: &&Value) -> bool {
    !value.is_null()
}

fn is_good(status: u16) -> bool {
    (200..400).contains(&status)
}

/// 5xx, or a connection that broke.
fn is_fault(status: u16) -> bool {
    status == 0 || status >= 500
}

fn pointed(metric: &Metric, body: &Value) -> Option<Value> {
    match &metric.value {
        Some(pointer) => body.pointer(pointer).filter(given).cloned(),
        None => super::response::first(body).cloned(),
    }
}

/// One number, by what is computed of it.
fn single(metric: &Metric, value: &Value) -> Option<f64> {
    let number = match metric.kind {
        MetricKind::Rate => f64::from(u8::from(is_positive(metric, value))),
        _ => number(value)?,
    };
    Some(within(metric, number))
}

/// Verdicts lean on the limits, so a value past them counts as the limit.
fn within(metric: &Metric, number: f64) -> f64 {
    match metric.bounds {
        Some((low, high)) if low <= high => number.clamp(low, high),
        _ => number,
    }
}

/// Confusion as one number: 1 for a positive prediction, and 2 for a positive label.
fn compare(metric: &Metric, prediction: Option<&Value>, label: &Value) -> Option<f64> {
    match metric.kind {
        MetricKind::Mean | MetricKind::Rate | MetricKind::Quantile | MetricKind::Count => return single(metric, label),
        _ => {}
    }
    let prediction = prediction?;
    let difference = || Some(number(prediction)? - number(label)?);
    let value = match metric.kind {
        MetricKind::Accuracy => f64::from(u8::from(same(&best(prediction), label))),
        MetricKind::F1 => {
            let (said, was) = (is_positive(metric, &best(prediction)), is_positive(metric, label));
            f64::from(u8::from(said)) + 2.0 * f64::from(u8::from(was))
        }
        MetricKind::LogLoss => -given_to_truth(metric, prediction, label)?.clamp(CLIP, 1.0 - CLIP).ln(),
        MetricKind::Brier => brier(metric, prediction, label)?,
        MetricKind::Rmse => difference()?.powi(2),
        MetricKind::Mae => difference()?.abs(),
        MetricKind::Mean | MetricKind::Rate | MetricKind::Quantile | MetricKind::Count => return None,
    };
    value.is_finite().then(|| within(metric, value))
}

/// The probability that the prediction gave to what came true: of a list by the label as index, of an object by the label as key, of a number
/// (the probability of the positive label) by whether the label is positive.
fn given_to_truth(metric: &Metric, prediction: &Value, label: &Value) -> Option<f64> {
    let probability = match prediction {
        Value::Array(classes) => number(classes.get(index(label)?)?)?,
        Value::Object(classes) => number(classes.get(&text(label))?)?,
        single if is_positive(metric, label) => number(single)?,
        single => 1.0 - number(single)?,
    };
    (0.0..=1.0).contains(&probability).then_some(probability)
}

/// Source: G. W. Brier, Monthly Weather Review 78 (1950): over classes the sum of squares, of a single probability its square.
fn brier(metric: &Metric, prediction: &Value, label: &Value) -> Option<f64> {
    let truth = given_to_truth(metric, prediction, label)?;
    let others: Vec<&Value> = match prediction {
        Value::Array(classes) => classes.iter().collect(),
        Value::Object(classes) => classes.values().collect(),
        _ => return Some((1.0 - truth).powi(2)),
    };
    let squares: Option<f64> = others.into_iter().map(|class| number(class).map(|p| p * p)).sum();
    Some(squares? - truth * truth + (1.0 - truth).powi(2))
}

/// A list of scores stands for the index of the best; anything else for itself.
fn best(prediction: &Value) -> Value {
    let Value::Array(scores) = prediction else { return prediction.clone() };
    let numbers: Option<Vec<f64>> = scores.iter().map(number).collect();
    let best = numbers.and_then(|numbers| {
        (0..numbers.len()).reduce(|best, next| if numbers[next] > numbers[best] { next } else { best })
    });
    best.map_or_else(|| prediction.clone(), Value::from)
}

fn is_positive(metric: &Metric, value: &Value) -> bool {
    match &metric.positive {
        Some(positive) => same(value, positive),
        None => same(value, &Value::from(1)),
    }
}

/// Equal as people mean it: `1`, `1.0`, `true` and `"1"` are one label, for a file of labels knows no types.
fn same(a: &Value, b: &Value) -> bool {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a == b,
        _ => text(a) == text(b),
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .filter(|number: &f64| number.is_finite())
}

fn index(label: &Value) -> Option<usize> {
    number(label).filter(|number| *number >= 0.0 && number.fract() == 0.0).map(|number| number as usize)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn metric(kind: &str, from: &str, more: Value) -> Metric {
        let mut document = json!({"name": "m", "kind": kind, "from": from});
        more.as_object().unwrap().iter().for_each(|(key, value)| document[key] = value.clone());
        serde_json::from_value(document).unwrap()
    }

    fn labelled(kind: &str, more: Value, prediction: Value, label: Value) -> Option<f64> {
        of_feedback(&metric(kind, "feedback", more), Some(&prediction), &json!({"id": "a", "label": label}))
    }

    #[test]
    fn labels_are_compared_as_people_mean_them() {
        for (prediction, label, right) in [
            (json!(1), json!(1.0), 1.0),
            (json!(1), json!("1"), 1.0),
            (json!(true), json!(1), 1.0),
            (json!("red"), json!("red"), 1.0),
            (json!("red"), json!("Red"), 0.0),
            (json!([0.1, 0.7, 0.2]), json!(1), 1.0),
            (json!([0.1, 0.7, 0.2]), json!(2), 0.0),
            (json!(2), json!(1), 0.0),
        ] {
            assert_eq!(
                labelled("accuracy", json!({}), prediction.clone(), label.clone()),
                Some(right),
                "{prediction} {label}"
            );
        }
        assert_eq!(labelled("accuracy", json!({}), json!(1), Value::Null), None, "no label, no number");
        assert_eq!(of_feedback(&metric("accuracy", "feedback", json!({})), None, &json!({"label": 1})), None);
    }

    #[test]
    fn losses_are_those_of_the_books() {
        let close = |value: Option<f64>, expected: f64| {
            assert!((value.unwrap() - expected).abs() < 1e-12, "{value:?} {expected}")
        };
        close(labelled("log-loss", json!({}), json!(0.8), json!(1)), -(0.8f64.ln()));
        close(labelled("log-loss", json!({}), json!(0.8), json!(0)), -(0.2f64.ln()));
        close(labelled("log-loss", json!({}), json!([0.1, 0.9]), json!(0)), -(0.1f64.ln()));
        close(labelled("log-loss", json!({}), json!({"a": 0.25, "b": 0.75}), json!("b")), -(0.75f64.ln()));
        close(labelled("log-loss", json!({}), json!(0.0), json!(1)), -(1e-15f64.ln()));
        close(labelled("brier", json!({}), json!(0.8), json!(1)), 0.04);
        close(labelled("brier", json!({}), json!([0.2, 0.8]), json!(1)), 0.08);
        close(labelled("rmse", json!({}), json!(3), json!(5)), 4.0);
        close(labelled("mae", json!({}), json!(3), json!(5.5)), 2.5);
        assert_eq!(labelled("log-loss", json!({}), json!(1.2), json!(1)), None, "no probability");
        assert_eq!(labelled("log-loss", json!({}), json!([0.5, 0.5]), json!(7)), None, "no such class");
    }

    #[test]
    fn f1_knows_the_four_fields_and_the_positive_label() {
        let code = |prediction, label| labelled("f1", json!({"positive": "spam"}), json!(prediction), json!(label));
        assert_eq!(code("spam", "spam"), Some(3.0));
        assert_eq!(code("ham", "spam"), Some(2.0));
        assert_eq!(code("spam", "ham"), Some(1.0));
        assert_eq!(code("ham", "ham"), Some(0.0));
    }

    #[test]
    fn rewards_latencies_errors_and_numbers_of_the_response() {
        let reward = metric("mean", "reward", json!({"bounds": [0.0, 1.0]}));
        assert_eq!(of_feedback(&reward, None, &json!({"reward": 0.4})), Some(0.4));
        assert_eq!(of_feedback(&reward, None, &json!({"reward": 7})), Some(1.0), "past its limits");
        assert_eq!(of_feedback(&reward, None, &json!({"label": 7})), None);
        let latency = metric("quantile", "latency", json!({}));
        assert_eq!(of_answer(&latency, 200, 1_500, None), Some(1.5));
        assert_eq!(of_answer(&latency, 500, 1_500, None), None);
        let errors = metric("rate", "errors", json!({}));
        let told: Vec<_> = [200, 404, 500, 0].map(|status| of_answer(&errors, status, 1, None)).into();
        assert_eq!(told, [Some(0.0), None, Some(1.0), Some(1.0)]);
        let score = metric("mean", "response", json!({"value": "/score"}));
        assert_eq!(of_answer(&score, 200, 1, Some(&json!({"score": 0.25}))), Some(0.25));
        assert_eq!(of_answer(&score, 503, 1, Some(&json!({"score": 0.25}))), None);
        let rate = metric("rate", "response", json!({"value": "/class", "positive": "b"}));
        assert_eq!(of_answer(&rate, 200, 1, Some(&json!({"class": "b"}))), Some(1.0));
    }

    proptest! {
        #[test]
        fn whatever_is_posted_gives_a_finite_number_or_none(prediction: f64, label in ".{0,8}", kind in 0usize..6) {
            let kinds = ["accuracy", "f1", "log-loss", "brier", "rmse", "mae"];
            for label in [json!(label), json!(prediction), json!([label]), json!({"a": label})] {
                for prediction in [json!(prediction), label.clone(), json!([prediction, 0.5])] {
                    if let Some(value) = labelled(kinds[kind], json!({}), prediction, label.clone()) {
                        prop_assert!(value.is_finite());
                    }
                }
            }
        }
    }
}
