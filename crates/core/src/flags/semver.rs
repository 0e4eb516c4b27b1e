//! flagd's `sem_ver`: versions compared by precedence.
//!
//! Promises: partial versions (`1`, `v1.2`) count as `1.0.0` and `1.2.0`; what is no version compares to nothing (`None`).
//! Source: Semantic Versioning 2.0.0, sections 2, 9 to 11; flagd's specification of the operation.

use std::cmp::Ordering;

use serde_json::Value;

/// `one operator other`; `None` when a side is no version or the operator is unknown.
pub(super) fn compare(one: &Value, operator: &str, other: &Value) -> Option<bool> {
    let (one, other) = (Version::read(&written(one)?)?, Version::read(&written(other)?)?);
    let order = one.precedence(&other);
    Some(match operator {
        "=" => order.is_eq(),
        "!=" => order.is_ne(),
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        ">=" => order.is_ge(),
        "^" => one.core[0] == other.core[0],
        "~" => one.core[..2] == other.core[..2],
        _ => return None,
    })
}

fn written(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

struct Version {
    core: [u64; 3],
    /// Identifiers before the release; none for a release.
    before: Vec<String>,
}

impl Version {
    fn read(text: &str) -> Option<Self> {
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
        let (core, before) = text.split_once('-').map_or((text, None), |(core, before)| (core, Some(before)));
        let mut parts = [0; 3];
        for (index, part) in core.split('.').enumerate() {
            *parts.get_mut(index)? = whole(part)?;
        }
        if build.is_some_and(|build| !build.split('.').all(is_identifier)) {
            return None;
        }
        let before: Vec<String> = before.map_or(Vec::new(), |text| text.split('.').map(str::to_owned).collect());
        let fine = |part: &String| is_identifier(part) && (!is_digits(part) || whole(part).is_some());
        before.iter().all(fine).then_some(Self { core: parts, before })
    }

    fn precedence(&self, other: &Self) -> Ordering {
        let release = |version: &Self| version.before.is_empty();
        self.core.cmp(&other.core).then_with(|| match (release(self), release(other)) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let pairs = self.before.iter().zip(&other.before).map(|(one, other)| identifiers(one, other));
                pairs.fold(Ordering::Equal, Ordering::then).then(self.before.len().cmp(&other.before.len()))
            }
        })
    }
}

fn identifiers(one: &str, other: &str) -> Ordering {
    match (whole(one), whole(other)) {
        (Some(one), Some(other)) => one.cmp(&other),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => one.cmp(other),
    }
}

/// A number without leading zeros.
fn whole(text: &str) -> Option<u64> {
    let leads = text.len() > 1 && text.starts_with('0');
    (is_digits(text) && !leads).then(|| text.parse().ok()).flatten()
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn precedence_is_that_of_the_specification() {
        let order = [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.2",
            "2",
            "v11.0.0",
        ];
        for pair in order.windows(2) {
            assert_eq!(compare(&json!(pair[0]), "<", &json!(pair[1])), Some(true), "{pair:?}");
            assert_eq!(compare(&json!(pair[1]), "<=", &json!(pair[0])), Some(false), "{pair:?}");
        }
    }

    #[test]
    fn operators_say_what_they_promise() {
        for (one, operator, other, said) in [
            ("1.2.3", "=", "1.2.3+build.7", true),
            ("1.2.3", "!=", "1.2.4", true),
            ("1.9.9", "^", "1.0.0", true),
            ("2.0.0", "^", "1.0.0", false),
            ("1.2.9", "~", "1.2.0", true),
            ("1.3.0", "~", "1.2.0", false),
            ("v1", "=", "1.0.0", true),
            ("1.2", ">=", "1.2.0", true),
        ] {
            assert_eq!(compare(&json!(one), operator, &json!(other)), Some(said), "{one} {operator} {other}");
        }
        assert_eq!(compare(&json!(2), ">", &json!("1.9")), Some(true));
        assert_eq!(compare(&json!(1.5), "=", &json!("1.5.0")), Some(true));
    }

    #[test]
    fn what_is_no_version_compares_to_nothing() {
        for wrong in
            [json!("1.02.3"), json!("1.2.3.4"), json!(""), json!("a"), json!("1.0.0-"), json!("1..2"), json!(null)]
        {
            assert_eq!(compare(&wrong, "=", &json!("1.0.0")), None, "{wrong}");
        }
        assert_eq!(compare(&json!("1.0.0"), "==", &json!("1.0.0")), None);
        assert_eq!(compare(&json!("1.0.0-01"), "=", &json!("1.0.0")), None);
        assert_eq!(compare(&json!("1.0.0+"), "=", &json!("1.0.0")), None);
    }
}
