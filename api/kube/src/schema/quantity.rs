//! Resource quantities in their canonical form, as Kubernetes writes them back (`0.5` becomes `500m`, `1024Mi` `1Gi`).

use std::borrow::Cow;

/// The suffix family of a quantity, which its canonical form keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Decimal,
    Binary,
    Exponent,
}

/// Why a text is no quantity, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANO: i128 = 1_000_000_000;
/// The largest magnitude of a quantity with a binary suffix, in nano units: 2^63-1 whole units. Larger ones are cut to it.
const BINARY_MAX: i128 = i64::MAX as i128 * NANO;
/// Where all others are cut, a million times what the largest suffix means, so that sums still fit.
const MAX: i128 = 10i128.pow(24) * NANO;

/// The value in nano units, rounded away from zero.
///
/// # Errors
/// If the text is not a quantity.
pub fn nanos(text: &str) -> Result<i128, QuantityError> {
    Ok(parse(text)?.0)
}

/// The canonical form, which is the text itself where Kubernetes keeps it.
///
/// # Errors
/// If the text is not a quantity.
pub fn canonical(text: &str) -> Result<Cow<'_, str>, QuantityError> {
    let (nanos, format) = parse(text)?;
    if is_kept(text) { Ok(Cow::Borrowed(text)) } else { Ok(Cow::Owned(write(nanos, format))) }
}

/// The canonical form of an amount of a resource, which has no more than three decimal places.
///
/// # Errors
/// If the text is not a quantity.
pub fn canonical_amount(text: &str) -> Result<Cow<'_, str>, QuantityError> {
    const MILLI: i128 = 1_000_000;
    let (nanos, format) = parse(text)?;
    match nanos % MILLI {
        0 => canonical(text),
        rest => Ok(Cow::Owned(write(nanos - rest + rest.signum() * MILLI, format))),
    }
}

/// Kubernetes writes back as it was what its fast path reads and takes for canonical.
fn is_kept(text: &str) -> bool {
    let rest = text.trim_start_matches(['+', '-']).trim_start_matches('0');
    let end = rest.bytes().position(|byte| !byte.is_ascii_digit() && byte != b'.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let Ok((format, exponent, multiplier)) = scale(suffix) else { return false };
    let digits = i32::try_from(whole.len() + fraction.len()).unwrap_or(i32::MAX);
    if format == Format::Binary {
        let bits = i32::try_from(multiplier.trailing_zeros()).unwrap_or(i32::MAX);
        let odd =
            whole.bytes().rev().take(3).zip([1u32, 10, 100]).map(|(d, ten)| u32::from(d - b'0') * ten).sum::<u32>() % 8
                != 0;
        return fraction.is_empty() && odd && digits + bits * 3 / 10 < 15;
    }
    let scale = exponent - i32::try_from(fraction.len()).unwrap_or(i32::MAX);
    let zeros = whole.bytes().chain(fraction.bytes()).rev().take_while(|digit| *digit == b'0').count();
    !whole.is_empty() && digits <= 18 && scale >= -9 && scale % 3 == 0 && zeros < 3
}

fn write(nanos: i128, mut format: Format) -> String {
    // What has no whole number of units, or is small, reads better in decimals.
    if format == Format::Binary && (nanos.abs() < 1024 * NANO || nanos % NANO != 0) {
        format = Format::Decimal;
    }
    if nanos == 0 {
        return "0".to_owned();
    }
    let (sign, magnitude) = if nanos < 0 { ("-", -nanos) } else { ("", nanos) };
    if format == Format::Binary {
        const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let mut units = magnitude / NANO;
        let mut power = 0;
        while units % 1024 == 0 && power + 1 < SUFFIXES.len() {
            units /= 1024;
            power += 1;
        }
        return format!("{sign}{units}{}", SUFFIXES[power]);
    }
    const SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
    let mut number = magnitude;
    let mut power = 0;
    while number % 1000 == 0 && power + 1 < SUFFIXES.len() {
        number /= 1000;
        power += 1;
    }
    if format == Format::Decimal {
        return format!("{sign}{number}{}", SUFFIXES[power]);
    }
    match i32::try_from(power).unwrap_or(0) * 3 - 9 {
        0 => format!("{sign}{number}"),
        exponent => format!("{sign}{number}e{exponent}"),
    }
}

fn parse(text: &str) -> Result<(i128, Format), QuantityError> {
    let (negative, rest) = match text.as_bytes().first().ok_or(QuantityError::Format)? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.bytes().position(|byte| !byte.is_ascii_digit() && byte != b'.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(QuantityError::Format);
    }
    let (format, exponent, multiplier) = scale(suffix)?;
    // value = mantissa * multiplier * 10^(exponent + 9) in nano units; digits past what can matter are only rounded up.
    let mut mantissa: i128 = 0;
    let mut exponent = exponent + 9;
    let mut inexact = false;
    let mut full = false;
    for (digit, fractional) in whole.bytes().map(|d| (d, false)).chain(fraction.bytes().map(|d| (d, true))) {
        if mantissa >= 10i128.pow(36) {
            full = true;
        }
        if full {
            inexact |= digit != b'0';
            exponent += i32::from(!fractional);
            continue;
        }
        mantissa = mantissa * 10 + i128::from(digit - b'0');
        exponent -= i32::from(fractional);
    }
    let mut value = if mantissa == 0 { Some(0) } else { Some(mantissa) };
    if exponent >= 0 {
        value = value.and_then(|value| {
            if value == 0 {
                return Some(0);
            }
            value.checked_mul(10i128.checked_pow(exponent.unsigned_abs())?)?.checked_mul(multiplier)
        });
    } else {
        // 10^36 * 2^60 does not fit: divide first where the product would overflow, which loses nothing that counts.
        let divisor = 10i128.checked_pow(exponent.unsigned_abs());
        value = match (value.and_then(|value| value.checked_mul(multiplier)), divisor) {
            (Some(product), Some(divisor)) => {
                inexact |= product % divisor != 0;
                Some(product / divisor)
            }
            (Some(product), None) => {
                inexact |= product != 0;
                Some(0)
            }
            (None, Some(divisor)) => value.and_then(|value| (value / divisor).checked_mul(multiplier)),
            (None, None) => Some(0),
        };
    }
    let max = if format == Format::Binary { BINARY_MAX } else { MAX };
    let magnitude = value.and_then(|value| value.checked_add(i128::from(inexact))).unwrap_or(max).min(max);
    Ok((if negative { -magnitude } else { magnitude }, format))
}

/// The format, the power of ten and the binary multiplier of a suffix.
fn scale(suffix: &str) -> Result<(Format, i32, i128), QuantityError> {
    let decimal = |exponent| Ok((Format::Decimal, exponent, 1));
    let binary = |shift: u32| Ok((Format::Binary, 0, 1i128 << shift));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let Some(exponent) = suffix.strip_prefix(['e', 'E']) else {
                let known = suffix.bytes().all(|byte| b"eEinumkKMGTP+-0123456789".contains(&byte));
                return Err(if known { QuantityError::Suffix } else { QuantityError::Format });
            };
            let exponent: i32 = exponent.parse().map_err(|_| QuantityError::Suffix)?;
            Ok((Format::Exponent, exponent.clamp(-1000, 1000), 1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_the_canonical_form() {
        for (text, want) in [
            ("0.5", "500m"),
            ("1.0", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("12e4", "120e3"),
            ("1500u", "1500u"),
            ("0.1Gi", "107374182400m"),
            ("1.250", "1.250"),
            ("0.250", "250m"),
            ("-2000", "-2k"),
            ("0", "0"),
            ("0Gi", "0"),
            ("+3", "+3"),
            ("64Gi", "64Gi"),
            ("0.0000000001", "1n"),
            ("100E", "100E"),
            ("100Ei", "9223372036854775807"),
            ("1.", "1."),
            (".5", "500m"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn amounts_have_three_decimals() {
        for (text, want) in
            [("1u", "1m"), ("0.6468Gi", "694496211764m"), ("-1n", "-1m"), ("1500u", "2m"), ("1.5", "1500m")]
        {
            assert_eq!(canonical_amount(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        for bad in ["", "m", "1.2.3", "abc", "1x", "--1", "1 Gi"] {
            assert_eq!(canonical(bad), Err(QuantityError::Format), "{bad}");
        }
        for bad in ["1mm", "1e", "1Kii", "1EE"] {
            assert_eq!(canonical(bad), Err(QuantityError::Suffix), "{bad}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
        #[test]
        fn canonical_is_stable_and_keeps_the_value(text in "[+-]?[0-9]{0,25}(\\.[0-9]{0,12})?(n|u|m|k|M|G|Ki|Mi|Gi|e3|e-3|E2)?") {
            if let Ok(first) = canonical(&text).map(Cow::into_owned) {
                assert_eq!(canonical(&first).as_deref(), Ok(&*first));
                if !first.ends_with('i') && !text.ends_with('i') {
                    assert_eq!(nanos(&first), nanos(&text));
                }
            }
        }
    }
}
