//! Kubernetes timestamps: RFC 3339 in UTC, whole seconds (`Time`) or microseconds (`MicroTime`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

/// `2026-01-02T03:04:05Z`.
pub fn format(at: SystemTime) -> String {
    let at: OffsetDateTime = at.into();
    at.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z")).unwrap_or_default()
}

/// `2026-01-02T03:04:05.000006Z`.
pub fn format_micro(at: SystemTime) -> String {
    let at: OffsetDateTime = at.into();
    at.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"))
        .unwrap_or_default()
}

/// The current time, in whole seconds.
pub fn now() -> String {
    format(SystemTime::now())
}

/// Reads either form. `None` if it is neither, or before 1970.
pub fn parse(text: &str) -> Option<SystemTime> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let nanos = u64::try_from(at.unix_timestamp_nanos()).ok()?;
    Some(UNIX_EPOCH + Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_both_forms() {
        let at = UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
        assert_eq!(format(at), "2023-11-14T22:13:20Z");
        assert_eq!(format_micro(at), "2023-11-14T22:13:20.123456Z");
        assert_eq!(parse(&format_micro(at)), Some(at));
        assert_eq!(parse("yesterday"), None);
    }
}
