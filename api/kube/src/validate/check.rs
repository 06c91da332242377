//! Small checks that many kinds use.

use std::net::IpAddr;

use serde_json::Value;

use super::error::Errors;
use super::format::{self, Problems};
use super::path::Path;
use super::read::text;

/// Protocols of ports.
pub(super) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// Adds what a format check found.
pub(super) fn problems(problems: Problems, value: &str, path: &Path<'_>, errors: &mut Errors) {
    for problem in problems {
        errors.invalid(path, value, problem);
    }
}

/// A field that must be set and of a format.
pub(super) fn named(parent: &Value, name: &str, check: fn(&str) -> Problems, path: &Path<'_>, errors: &mut Errors) {
    match text(parent, name) {
        "" => errors.required(&path.field(name), ""),
        value => problems(check(value), value, &path.field(name), errors),
    }
}

/// A field that is of a format if it is set.
pub(super) fn maybe(parent: &Value, name: &str, check: fn(&str) -> Problems, path: &Path<'_>, errors: &mut Errors) {
    let value = text(parent, name);
    if !value.is_empty() {
        problems(check(value), value, &path.field(name), errors);
    }
}

/// A field that must be set to anything.
pub(super) fn present(parent: &Value, name: &str, path: &Path<'_>, errors: &mut Errors) {
    if text(parent, name).is_empty() {
        errors.required(&path.field(name), "");
    }
}

/// A field that must be one of a few values.
pub(super) fn one_of(parent: &Value, name: &str, values: &[&str], path: &Path<'_>, errors: &mut Errors) {
    match text(parent, name) {
        "" => errors.required(&path.field(name), ""),
        value if values.contains(&value) => {}
        value => errors.not_supported(&path.field(name), value, values),
    }
}

/// The same for a field that may be absent.
pub(super) fn maybe_one_of(parent: &Value, name: &str, values: &[&str], path: &Path<'_>, errors: &mut Errors) {
    if parent.get(name).is_some() {
        one_of(parent, name, values, path, errors);
    }
}

/// Fields that may not be negative.
pub(super) fn non_negative(parent: &Value, names: &[&str], path: &Path<'_>, errors: &mut Errors) {
    for name in names {
        if let Some(value) = parent.get(*name).and_then(Value::as_i64).filter(|value| *value < 0) {
            errors.invalid(&path.field(name), value, "must be greater than or equal to 0");
        }
    }
}

/// `must be between 1 and 65535, inclusive`.
pub(super) fn port_number(value: i64, path: &Path<'_>, errors: &mut Errors) {
    if !(1..=65_535).contains(&value) {
        errors.invalid(path, value, "must be between 1 and 65535, inclusive");
    }
}

/// A port given by its number or its name.
pub(super) fn port_or_name(value: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Some(Value::String(name)) => problems(format::port_name(name), name, path, errors),
        value => port_number(value.and_then(Value::as_i64).unwrap_or_default(), path, errors),
    }
}

/// A count, or a share of the whole: `3` or `25%`.
pub(super) fn count_or_percent(value: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Some(Value::String(text)) => problems(format::percent(text), text, path, errors),
        Some(value) => {
            if let Some(count) = value.as_i64().filter(|count| *count < 0) {
                errors.invalid(path, count, "must be greater than or equal to 0");
            }
        }
        None => {}
    }
}

/// The number in a count or percentage; 0 if there is none.
pub(super) fn count_of(value: Option<&Value>) -> i64 {
    match value {
        Some(Value::String(text)) => text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or_default(),
        value => value.and_then(Value::as_i64).unwrap_or_default(),
    }
}

/// No more than everything.
pub(super) fn at_most_all(value: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(Value::String(percent)) = value
        && count_of(value) > 100
    {
        errors.invalid(path, percent.as_str(), "must not be greater than 100%");
    }
}

/// An IP address, which is returned.
pub(super) fn ip(value: &str, path: &Path<'_>, errors: &mut Errors) -> Option<IpAddr> {
    let parsed = value.parse().ok();
    if parsed.is_none() {
        errors.invalid(path, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
    parsed
}

/// An address that traffic can be sent to.
pub(super) fn endpoint_ip(value: &str, path: &Path<'_>, errors: &mut Errors) {
    let Ok(ip) = value.parse::<IpAddr>() else { return };
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    };
    let link_multicast = match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    };
    if ip.is_unspecified() {
        errors.invalid(path, value, format!("may not be unspecified ({value})"));
    }
    if ip.is_loopback() {
        errors.invalid(path, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        errors.invalid(path, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_multicast {
        errors.invalid(path, value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

/// A path that stays below where it is mounted.
pub(super) fn descending_path(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.starts_with('/') {
        errors.invalid(path, value, "must be a relative path");
    }
    no_backsteps(value, path, errors);
}

/// A path without `..`.
pub(super) fn no_backsteps(value: &str, path: &Path<'_>, errors: &mut Errors) {
    if value.split('/').any(|part| part == "..") {
        errors.invalid(path, value, "must not contain '..'");
    }
}

/// File permissions.
pub(super) fn file_mode(parent: &Value, name: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Some(mode) = parent.get(name).and_then(Value::as_i64).filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(&path.field(name), mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}
