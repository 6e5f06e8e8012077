//! Times as they travel: RFC 3339, UTC, milliseconds; or whole milliseconds as a number.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serializer;
use serde::de::{Deserializer, Error, Unexpected, Visitor};

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

/// Greater numbers of floating point are not exact any more.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// For serde's `deserialize_with`: JSON has one kind of number, and `1000.0` is a whole one.
///
/// # Errors
/// The deserializer's own, and one for a number that is not whole.
pub fn whole_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    struct Whole;

    impl Visitor<'_> for Whole {
        type Value = i64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number of milliseconds")
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<i64, E> {
            Ok(value)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<i64, E> {
            i64::try_from(value).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<i64, E> {
            if value.fract() != 0.0 || value.abs() > EXACT {
                return Err(E::invalid_value(Unexpected::Float(value), &self));
            }
            #[expect(clippy::cast_possible_truncation, reason = "whole and exact")]
            Ok(value as i64)
        }
    }

    deserializer.deserialize_i64(Whole)
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

    #[test]
    fn a_whole_number_may_be_written_with_a_point() {
        #[derive(Debug, serde::Deserialize)]
        struct At {
            #[serde(deserialize_with = "whole_ms")]
            ts: i64,
        }
        let read = |ts: &str| {
            let read: Result<At, _> = serde_json::from_str(&format!("{{\"ts\":{ts}}}"));
            read.map(|at| at.ts).map_err(|error| error.to_string())
        };
        assert_eq!(read("1000"), Ok(1_000));
        assert_eq!(read("-1000.0"), Ok(-1_000));
        assert_eq!(read("1e3"), Ok(1_000));
        for bad in [
            "1.5",
            "1e300",
            "18446744073709551615",
            "\"1\"",
            "null",
            "true",
        ] {
            let error = read(bad).expect_err(bad);
            assert!(
                error.contains("expected a whole number of milliseconds"),
                "{error}"
            );
        }
    }
}
