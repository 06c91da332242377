//! Durations as Go reads and writes them: `1h30m`, `100ms`, `2h0m0s`.

/// Nanoseconds; the type that etcd's configuration files hold as plain numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanos(pub i64);

const SECOND: i64 = 1_000_000_000;
const UNITS: &[(&str, i64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3_600 * SECOND),
];

impl Nanos {
    /// Whole milliseconds.
    pub const fn millis(millis: i64) -> Nanos {
        Nanos(millis * 1_000_000)
    }

    /// As the standard library has it; what is negative is nothing.
    pub fn std(self) -> std::time::Duration {
        std::time::Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// Reads `-1.5h`, `300ms`, `1h15m30.918s`, `0`.
    ///
    /// # Errors
    /// Go's text for what is wrong.
    pub fn parse(text: &str) -> Result<Nanos, String> {
        let invalid = || format!("time: invalid duration {text:?}");
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Nanos(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
            let whole = digits(rest);
            let fraction = match rest[whole..].strip_prefix('.') {
                Some(after) => digits(after) + 1,
                None => 0,
            };
            if whole + fraction.saturating_sub(1) == 0 {
                return Err(invalid());
            }
            let (number, after) = rest.split_at(whole + fraction);
            let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            if unit.is_empty() {
                return Err(format!("time: missing unit in duration {text:?}"));
            }
            let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
            };
            total += scaled(number, *scale).ok_or_else(invalid)?;
            rest = after;
        }
        let total = if negative { -total } else { total };
        i64::try_from(total).map(Nanos).map_err(|_| invalid())
    }
}

/// `12.5` of a unit, in nanoseconds, what is finer dropped; `None` when it cannot fit.
fn scaled(number: &str, scale: i64) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()?.into() };
    let mut nanos = whole * i128::from(scale);
    let mut step = i128::from(scale);
    for digit in fraction.bytes() {
        step /= 10;
        nanos += i128::from(digit - b'0') * step;
    }
    Some(nanos)
}

impl std::fmt::Display for Nanos {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let second = SECOND.unsigned_abs();
        match nanos {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanos}ns"),
            1_000..1_000_000 => write!(f, "{}µs", decimal(nanos, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{}ms", decimal(nanos, 1_000_000)),
            _ => {
                let (minutes, left) = (nanos / (60 * second), nanos % (60 * second));
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                write!(f, "{}s", decimal(left, second))
            }
        }
    }
}

fn decimal(value: u64, unit: u64) -> String {
    let fraction = value % unit;
    if fraction == 0 {
        return (value / unit).to_string();
    }
    let width = unit.to_string().len() - 1;
    format!("{}.{}", value / unit, format!("{fraction:0width$}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_as_go_does() {
        for (text, nanos, written) in [
            ("0", 0, "0s"),
            ("5s", 5 * SECOND, "5s"),
            ("100ms", 100_000_000, "100ms"),
            ("1.5h", 5_400 * SECOND, "1h30m0s"),
            ("-1m", -60 * SECOND, "-1m0s"),
            ("1h15m30.918s", 4_530_918_000_000, "1h15m30.918s"),
            (".5s", 500_000_000, "500ms"),
            ("1500us", 1_500_000, "1.5ms"),
            ("7ns", 7, "7ns"),
        ] {
            assert_eq!(Nanos::parse(text), Ok(Nanos(nanos)), "{text}");
            assert_eq!(Nanos(nanos).to_string(), written);
        }
    }

    #[test]
    fn refuses_in_gos_words() {
        for (text, error) in [
            ("", "time: invalid duration \"\""),
            ("abc", "time: invalid duration \"abc\""),
            ("-5", "time: missing unit in duration \"-5\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
            ("9999999h", "time: invalid duration \"9999999h\""),
            (".", "time: invalid duration \".\""),
        ] {
            assert_eq!(Nanos::parse(text), Err(error.to_owned()));
        }
    }
}
