//! Instants and spans as plain numbers. Nothing here reads a clock: time arrives inside observations.

use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// An instant: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// A span in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// A span of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds * 1_000)
    }

    /// The span in seconds.
    pub fn as_seconds(self) -> f64 {
        self.0 as f64 / 1_000.0
    }

    /// The span as the standard library has it.
    pub const fn as_duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }
}

impl std::fmt::Display for Millis {
    /// As people read it: `250 ms`, `1.5 s`, `10 min`, `2 h`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            ms if ms < 1_000 => write!(f, "{ms} ms"),
            ms if ms < 60_000 && ms % 1_000 == 0 => write!(f, "{} s", ms / 1_000),
            ms if ms < 60_000 => write!(f, "{:.1} s", ms as f64 / 1_000.0),
            ms if ms < 3_600_000 && ms % 60_000 == 0 => write!(f, "{} min", ms / 60_000),
            ms if ms < 3_600_000 => write!(f, "{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
            ms if ms % 3_600_000 == 0 => write!(f, "{} h", ms / 3_600_000),
            ms => write!(f, "{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
        }
    }
}

/// The text is no span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a span of time: write a number and a unit, such as 250ms, 1.5s, 10m or 2h")]
pub struct MillisError(pub String);

impl std::str::FromStr for Millis {
    type Err = MillisError;

    /// Reads `250ms`, `1.5s`, `10m`, `2h`, `1d`.
    fn from_str(text: &str) -> Result<Self, MillisError> {
        let refuse = || MillisError(text.chars().take(80).collect());
        let trimmed = text.trim();
        let unit_at = trimmed.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(refuse)?;
        let (number, unit) = trimmed.split_at(unit_at);
        let number: f64 = number.trim().parse().map_err(|_| refuse())?;
        let factor = match unit {
            "ms" => 1.0,
            "s" => 1e3,
            "m" | "min" => 6e4,
            "h" => 3.6e6,
            "d" => 8.64e7,
            _ => return Err(refuse()),
        };
        let span = number * factor;
        // 100 years: beyond that a span is a typing error, and sums could overflow.
        if !(0.0..=3.156e12).contains(&span) {
            return Err(refuse());
        }
        Ok(Self(span.round() as u64))
    }
}

impl Add<Millis> for Timestamp {
    type Output = Self;
    fn add(self, span: Millis) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub for Timestamp {
    type Output = Millis;
    /// The span since `earlier`; zero if `earlier` is later.
    fn sub(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

/// Serde form of a span that people write: `"10m"` in files, milliseconds as a plain number accepted too.
pub mod human {
    use super::Millis;
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes the shortest exact text: `1500ms`, `90s`.
    pub fn serialize<S: Serializer>(span: &Millis, serializer: S) -> Result<S::Ok, S::Error> {
        match span.0 {
            ms if ms % 1_000 == 0 => serializer.serialize_str(&format!("{}s", ms / 1_000)),
            ms => serializer.serialize_str(&format!("{ms}ms")),
        }
    }

    /// Reads text with a unit.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Millis, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }

    /// The same for what may be left out.
    pub mod option {
        use super::Millis;
        use serde::{Deserialize, Deserializer, Serializer, de};

        /// Writes as [`super::serialize`] does.
        pub fn serialize<S: Serializer>(span: &Option<Millis>, serializer: S) -> Result<S::Ok, S::Error> {
            match span {
                Some(span) => super::serialize(span, serializer),
                None => serializer.serialize_none(),
            }
        }

        /// Reads text with a unit.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Millis>, D::Error> {
            let text = Option::<String>::deserialize(deserializer)?;
            text.map(|text| text.parse().map_err(de::Error::custom)).transpose()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_and_show() {
        for (text, ms) in [("250ms", 250), ("1.5s", 1_500), ("10m", 600_000), ("2 h", 7_200_000), ("1d", 86_400_000)] {
            assert_eq!(text.parse::<Millis>().unwrap(), Millis(ms), "{text}");
        }
        for bad in ["", "10", "-1s", "1y", "s", "nan s", "1e300h"] {
            assert!(bad.parse::<Millis>().is_err(), "{bad}");
        }
        let shown: Vec<_> = [250, 2_000, 1_500, 600_000, 90_000, 7_200_000].map(|ms| Millis(ms).to_string()).into();
        assert_eq!(shown, ["250 ms", "2 s", "1.5 s", "10 min", "1 min 30 s", "2 h"]);
    }

    #[test]
    fn differences_never_run_backwards() {
        assert_eq!(Timestamp(5) - Timestamp(9), Millis(0));
    }
}
