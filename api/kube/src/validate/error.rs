//! Validation errors, in Kubernetes' words.

use std::collections::HashSet;
use std::fmt;

use serde_json::{Value, json};

use super::path::Path;
use crate::schema::Type;

/// What kind of error a [`FieldError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
}

impl Reason {
    /// The reason as a `Status` cause gives it.
    pub fn cause(self) -> &'static str {
        match self {
            Reason::NotFound => "FieldValueNotFound",
            Reason::Required => "FieldValueRequired",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::Invalid => "FieldValueInvalid",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::TooLong => "FieldValueTooLong",
            Reason::TooMany => "FieldValueTooMany",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::NotFound => "Not found",
            Reason::Required => "Required value",
            Reason::Duplicate => "Duplicate value",
            Reason::Invalid => "Invalid value",
            Reason::NotSupported => "Unsupported value",
            Reason::Forbidden => "Forbidden",
            Reason::TooLong => "Too long",
            Reason::TooMany => "Too many",
        })
    }
}

/// One thing that is wrong with an object. Its `Display` is `spec.replicas: Invalid value: -1: must be …`.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Path of the field.
    pub field: String,
    /// What kind of error it is.
    pub reason: Reason,
    /// The value that is wrong, where the message shows it.
    pub bad_value: Option<Value>,
    /// The rest of the message; may be empty.
    pub detail: String,
}

impl FieldError {
    /// The message without the field, as a `Status` cause has it.
    pub fn body(&self) -> String {
        let mut text = self.reason.to_string();
        if let Some(value) = &self.bad_value {
            text.push_str(": ");
            match value {
                Value::String(value) => text.push_str(&quote(value)),
                value => text.push_str(&value.to_string()),
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// A string in double quotes, as Go's `%q` writes it.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The errors found so far.
#[derive(Debug, Default)]
pub struct Errors(pub Vec<FieldError>);

impl Errors {
    fn push(&mut self, path: &Path<'_>, reason: Reason, bad_value: Option<Value>, detail: impl Into<String>) {
        self.0.push(FieldError { field: path.to_string(), reason, bad_value, detail: detail.into() });
    }

    /// A field that must be there is not.
    pub fn required(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(path, Reason::Required, None, detail);
    }

    /// A value breaks a rule.
    pub fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(path, Reason::Invalid, Some(value.into()), detail);
    }

    /// A value that is not one of the few possible ones.
    pub fn not_supported(&mut self, path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) {
        let supported: Vec<String> = supported.iter().map(|value| quote(value)).collect();
        let detail =
            if supported.is_empty() { String::new() } else { format!("supported values: {}", supported.join(", ")) };
        self.push(path, Reason::NotSupported, Some(value.into()), detail);
    }

    /// A field that may not be set, or not changed.
    pub fn forbidden(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(path, Reason::Forbidden, None, detail);
    }

    /// A value that another element has already.
    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(path, Reason::Duplicate, Some(value.into()), "");
    }

    /// A reference to something that is not there.
    pub fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(path, Reason::NotFound, Some(value.into()), "");
    }

    /// A string of more than `max` bytes.
    pub fn too_long(&mut self, path: &Path<'_>, max: usize) {
        self.push(path, Reason::TooLong, None, format!("may not be more than {max} bytes"));
    }

    /// A list of more than `max` elements.
    pub fn too_many(&mut self, path: &Path<'_>, actual: usize, max: usize) {
        self.push(path, Reason::TooMany, Some(actual.into()), format!("must have at most {max} items"));
    }
}

/// The message of the `Invalid` status for an object: `Deployment.apps "x" is invalid: …`.
pub fn invalid_message(ty: &Type, name: &str, errors: &[FieldError]) -> String {
    let group = ty.group();
    let kind = if group.is_empty() { ty.name.to_owned() } else { format!("{}.{group}", ty.name) };
    let mut seen = HashSet::new();
    let texts: Vec<String> =
        errors.iter().map(FieldError::to_string).filter(|text| seen.insert(text.clone())).collect();
    let name = quote(name);
    match texts.as_slice() {
        [] => format!("{kind} {name} is invalid"),
        [one] => format!("{kind} {name} is invalid: {one}"),
        many => format!("{kind} {name} is invalid: [{}]", many.join(", ")),
    }
}

/// The whole `Status` object (422) for an invalid object.
pub fn invalid_status(ty: &Type, name: &str, errors: &[FieldError]) -> Value {
    let causes: Vec<Value> = errors
        .iter()
        .map(|error| json!({"reason": error.reason.cause(), "message": error.body(), "field": error.field}))
        .collect();
    let mut details = json!({"name": name, "kind": ty.name, "causes": causes});
    if !ty.group().is_empty() {
        details["group"] = ty.group().into();
    }
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": invalid_message(ty, name, errors),
        "reason": "Invalid",
        "details": details,
        "code": 422,
    })
}
