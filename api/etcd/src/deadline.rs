//! The time that a client gives its call (`grpc-timeout`).

use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

/// Digits of a time at most.
const DIGITS: usize = 8;

/// Where the time is said.
const HEADER: &str = "grpc-timeout";

/// When a call with these headers is to be over, if ever.
///
/// # Errors
/// What a client is told that says a time which is none.
pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Instant>, Box<Response<Body>>> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    parse(value.as_bytes()).map(after).map_err(|wrong| {
        let mut refused = Status::internal(format!("malformed grpc-timeout: {wrong}")).into_http();
        *refused.status_mut() = StatusCode::BAD_REQUEST;
        Box::new(refused)
    })
}

/// The instant after so much time; `None` where that is beyond what clocks tell.
pub(crate) fn after(time: Duration) -> Option<Instant> {
    Instant::now().checked_add(time)
}

/// What a call is told whose time is over, as Go's library says it.
pub(crate) fn exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// The time in a header's value: up to eight digits and a unit.
///
/// # Errors
/// What is wrong with it, in the words of Go's library.
pub(crate) fn parse(value: &[u8]) -> Result<Duration, String> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.is_ascii()).unwrap_or("?");
    if text.len() < 2 {
        return Err(format!("transport: timeout string is too short: {text:?}"));
    }
    if text.len() > DIGITS + 1 {
        return Err(format!("transport: timeout string is too long: {text:?}"));
    }
    let (digits, unit) = text.split_at(text.len() - 1);
    let unit = match unit {
        "H" => |count| Duration::from_secs(count * 3_600),
        "M" => |count| Duration::from_secs(count * 60),
        "S" => Duration::from_secs,
        "m" => Duration::from_millis,
        "u" => Duration::from_micros,
        "n" => Duration::from_nanos,
        _ => return Err(format!("transport: timeout unit is not recognized: {text:?}")),
    };
    let count = digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    count.map(unit).ok_or_else(|| format!("strconv.ParseInt: parsing {digits:?}: invalid syntax"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let time = |text: &str| parse(text.as_bytes());
        for (text, seconds) in [("99999999H", 99_999_999 * 3_600), ("2M", 120), ("3S", 3), ("0n", 0)] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)));
        }
        assert_eq!(time("15m"), Ok(Duration::from_millis(15)));
        assert_eq!(time("15u"), Ok(Duration::from_micros(15)));
        assert_eq!(time("15n"), Ok(Duration::from_nanos(15)));
        for wrong in ["", "S", "123456789S", "5", "5s", "-5S", "+5S", "x5S", "1.5S"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert_eq!(time("S").unwrap_err(), "transport: timeout string is too short: \"S\"");
    }
}
