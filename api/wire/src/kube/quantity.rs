//! Resource quantities (`100m`, `1.5Gi`, `12e3`): exact in thousandths.
//!
//! Grammar: the `Quantity` page of the Kubernetes API reference.

/// Parses a quantity into thousandths of its unit, rounded up. `None` if it is malformed or does not fit.
pub fn millis(text: &str) -> Option<i64> {
    let split = text
        .char_indices()
        .find(|&(at, c)| !(c.is_ascii_digit() || c == '.' || (at == 0 && (c == '+' || c == '-'))))
        .map_or(text.len(), |(at, _)| at);
    let (number, suffix) = text.split_at(split);
    let (negative, digits) = match number.as_bytes().first()? {
        b'-' => (true, &number[1..]),
        b'+' => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    // value = mantissa * 10^-scale * multiplier, all in i128 so that nothing below can overflow unnoticed.
    let mut mantissa: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
    }
    let mut scale = i32::try_from(fraction.len()).ok()?;
    let mut multiplier: i128 = 1;
    match suffix {
        "" => {}
        "n" => scale += 9,
        "u" => scale += 6,
        "m" => scale += 3,
        "k" => scale -= 3,
        "M" => scale -= 6,
        "G" => scale -= 9,
        "T" => scale -= 12,
        "P" => scale -= 15,
        "E" => scale -= 18,
        "Ki" => multiplier = 1 << 10,
        "Mi" => multiplier = 1 << 20,
        "Gi" => multiplier = 1 << 30,
        "Ti" => multiplier = 1 << 40,
        "Pi" => multiplier = 1 << 50,
        "Ei" => multiplier = 1 << 60,
        exponent => scale -= exponent.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?,
    }
    let value = mantissa.checked_mul(multiplier)?;
    let thousandths = match scale - 3 {
        0 => value,
        shift @ 1.. => {
            let divisor = 10i128.checked_pow(shift.unsigned_abs())?;
            (value + divisor - 1) / divisor
        }
        shift => value.checked_mul(10i128.checked_pow(shift.unsigned_abs())?)?,
    };
    let thousandths = i64::try_from(thousandths).ok()?;
    Some(if negative { -thousandths } else { thousandths })
}

/// Parses a quantity into whole units, rounded up.
pub fn units(text: &str) -> Option<i64> {
    let suffix_is_large = text.ends_with('i') || text.ends_with(['T', 'P', 'E']);
    // Thousandths of large memory sizes do not fit: scale the suffix away first where it can be done exactly.
    if suffix_is_large {
        let shift = match text.as_bytes().iter().rev().find(|byte| byte.is_ascii_alphabetic() && **byte != b'i')? {
            b'K' if text.ends_with("Ki") => return scaled(text, "Ki", 1 << 10),
            b'M' if text.ends_with("Mi") => return scaled(text, "Mi", 1 << 20),
            b'G' if text.ends_with("Gi") => return scaled(text, "Gi", 1 << 30),
            b'T' if text.ends_with("Ti") => return scaled(text, "Ti", 1 << 40),
            b'P' if text.ends_with("Pi") => return scaled(text, "Pi", 1 << 50),
            b'T' => return scaled(text, "T", 1_000_000_000_000),
            b'P' => return scaled(text, "P", 1_000_000_000_000_000),
            _ => 0,
        };
        debug_assert_eq!(shift, 0);
    }
    millis(text).map(|thousandths| thousandths.div_euclid(1000) + i64::from(thousandths.rem_euclid(1000) != 0))
}

fn scaled(text: &str, suffix: &str, factor: i128) -> Option<i64> {
    let thousandths = i128::from(millis(text.strip_suffix(suffix)?)?);
    i64::try_from((thousandths * factor + 999).div_euclid(1000)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_suffix() {
        for (text, want) in [
            ("100m", 100),
            ("1", 1000),
            ("0.5", 500),
            (".5", 500),
            ("1k", 1_000_000),
            ("1Ki", 1_024_000),
            ("1e3", 1_000_000),
            ("1n", 1),
            ("-2", -2000),
            ("1500u", 2),
        ] {
            assert_eq!(millis(text), Some(want), "{text}");
        }
        for bad in ["", "m", "1.2.3", "1x", "--1", "1e", "abc"] {
            assert_eq!(millis(bad), None, "{bad}");
        }
    }

    #[test]
    fn memory_fits_in_whole_units() {
        assert_eq!(units("1.5Gi"), Some(1_610_612_736));
        assert_eq!(units("8Pi"), Some(9_007_199_254_740_992));
        assert_eq!(units("500Mi"), Some(524_288_000));
        assert_eq!(units("100m"), Some(1));
        assert_eq!(units("3T"), Some(3_000_000_000_000));
    }
}
