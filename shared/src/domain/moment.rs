//! Times as they travel: RFC 3339, UTC, milliseconds.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serializer;

/// As every answer writes a time.
pub fn rfc3339(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// For serde's `serialize_with`.
///
/// # Errors
/// The serializer's own.
pub fn serialize<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*at))
}

/// The same of a time that may be absent.
///
/// # Errors
/// The serializer's own.
pub fn serialize_option<S: Serializer>(
    at: &Option<DateTime<Utc>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => serialize(at, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_three_digits_behind_its_second() {
        for (nanos, written) in [
            (0, "1970-01-01T00:00:01.000Z"),
            (123_456_789, "1970-01-01T00:00:01.123Z"),
        ] {
            let at = DateTime::from_timestamp(1, nanos).expect("a time");
            assert_eq!(rfc3339(at), written);
        }
    }
}
