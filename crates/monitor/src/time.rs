//! Instants as people and machines read them, always in UTC.

use modelyard_core::Timestamp;

/// RFC 3339 with milliseconds: `2026-11-23T13:18:06.123Z`.
pub fn rfc3339(at: Timestamp) -> String {
    format!("{}.{:03}Z", utc(at).strftime("%Y-%m-%dT%H:%M:%S"), at.0 % 1_000)
}

/// Day and time to the second: `2026-11-23 13:18:06 UTC`.
pub fn readable(at: Timestamp) -> String {
    utc(at).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Time of day with milliseconds: `13:18:06.123`.
pub fn time_of_day(at: Timestamp) -> String {
    format!("{}.{:03}", utc(at).strftime("%H:%M:%S"), at.0 % 1_000)
}

/// An instant that no calendar holds (beyond the year 9999) is shown as the last one that a calendar does.
fn utc(at: Timestamp) -> jiff::civil::DateTime {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::tz::Offset::UTC.to_datetime(jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_read_as_rfc_3339() {
        assert_eq!(rfc3339(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(Timestamp(1_795_440_000_007)), "2026-11-23T13:20:00.007Z");
        assert_eq!(time_of_day(Timestamp(1_795_440_000_007)), "13:20:00.007");
        assert_eq!(readable(Timestamp(1_795_440_000_007)), "2026-11-23 13:20:00 UTC");
        assert!(rfc3339(Timestamp(u64::MAX)).starts_with("9999-12-3"));
    }
}
