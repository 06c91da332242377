//! Ages as kubectl shows them: two units at most, coarser as they grow.

use std::time::SystemTime;

use kelson_wire::kube::timestamp;

/// A number of seconds as a short text: `2m5s`, `3h`, `8d`.
pub fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{small_unit}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => two(days, "d", hours % 24, "h"),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// Whole seconds from one time to another; negative if the second is earlier.
fn seconds(from: SystemTime, to: SystemTime) -> i64 {
    match to.duration_since(from) {
        Ok(passed) => i64::try_from(passed.as_secs()).unwrap_or(i64::MAX),
        Err(error) => i64::try_from(error.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    }
}

/// How long ago a timestamp was; `<unknown>` if there is none.
pub fn since(at: Option<&str>, now: SystemTime) -> String {
    match at.and_then(timestamp::parse) {
        Some(at) => human(seconds(at, now)),
        None => "<unknown>".to_owned(),
    }
}

/// The time between two timestamps.
pub fn between(from: &str, to: &str) -> Option<String> {
    Some(human(seconds(timestamp::parse(from)?, timestamp::parse(to)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn grows_coarser() {
        const M: i64 = 60;
        const H: i64 = 60 * M;
        const D: i64 = 24 * H;
        for (seconds, want) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (10 * M - 1, "9m59s"),
            (10 * M + 59, "10m"),
            (3 * H - 1, "179m"),
            (3 * H, "3h"),
            (3 * H + 61, "3h1m"),
            (8 * H - 1, "7h59m"),
            (8 * H + 59 * M, "8h"),
            (2 * D - 1, "47h"),
            (2 * D, "2d"),
            (2 * D + 3 * H, "2d3h"),
            (8 * D - 1, "7d23h"),
            (8 * D + 5 * H, "8d"),
            (2 * 365 * D - 1, "729d"),
            (2 * 365 * D, "2y"),
            (2 * 365 * D + D, "2y1d"),
            (8 * 365 * D, "8y"),
            (9 * 365 * D + 30 * D, "9y"),
        ] {
            assert_eq!(human(seconds), want, "{seconds}");
        }
    }

    #[test]
    fn counts_from_a_timestamp() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_100);
        assert_eq!(since(Some("2023-11-14T22:13:20Z"), now), "100s");
        assert_eq!(since(Some("2023-11-14T22:14:59.500000Z"), now), "0s");
        assert_eq!(since(Some("2024-11-14T22:14:59Z"), now), "<invalid>");
        assert_eq!(since(None, now), "<unknown>");
        assert_eq!(since(Some(""), now), "<unknown>");
        assert_eq!(between("2023-11-14T22:13:20Z", "2023-11-14T22:15:25Z").as_deref(), Some("2m5s"));
    }
}
