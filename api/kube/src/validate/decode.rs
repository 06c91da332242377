//! Bringing an object into the form in which Kubernetes keeps it.
//!
//! kube-apiserver decodes into Go structures and encodes them again. What that does to an object, this does to a value:
//! unknown fields and nulls go, zero values that would not be written go, structures that are always written appear,
//! quantities and times take their canonical form; and a value of the wrong type is refused in the decoder's words.

use std::borrow::Cow;

use base64::Engine as _;
use kelson_wire::kube::timestamp;
use serde_json::{Map, Value};

use super::path::{Path, Segment};
use super::strict::MAX_STRICT_ERRORS;
use crate::schema::{Field, Shape, Type, quantity};

/// A value that does not fit its field, in the words of Kubernetes' decoder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// Normalises an object in place and returns a message (`unknown field "spec.x"`) for each field that it had to drop,
/// at most [`MAX_STRICT_ERRORS`]. Whether these are errors, warnings or nothing is the request's `fieldValidation`.
///
/// # Errors
/// If a value has the wrong type; the object is then partly normalised and of no further use.
pub fn decode(object: &mut Value, ty: &'static Type) -> Result<Vec<String>, DecodeError> {
    let mut decoder = Decoder { unknown: Vec::new(), structure: ty.name };
    decoder.visit(object, &Shape::Any, Some(ty), &Path::ROOT)?;
    Ok(decoder.unknown)
}

/// The fields of an object that its kind does not have, without changing it.
pub fn unknown_fields(object: &Value, ty: &'static Type) -> Vec<String> {
    let mut unknown = Vec::new();
    collect_unknown(object, ty, &Path::ROOT, &mut unknown);
    unknown
}

fn collect_unknown(value: &Value, ty: &Type, path: &Path<'_>, unknown: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        match ty.field(key) {
            Some(field) => collect_shape(value, &field.shape, &path.field(key), unknown),
            None if unknown.len() < MAX_STRICT_ERRORS => {
                unknown.push(format!("unknown field {:?}", path.field(key).to_string()));
            }
            None => return,
        }
    }
}

fn collect_shape(value: &Value, shape: &Shape, path: &Path<'_>, unknown: &mut Vec<String>) {
    match (shape, value) {
        (Shape::List(item), Value::Array(values)) => {
            for (at, value) in values.iter().enumerate() {
                collect_shape(value, item, &path.index(at), unknown);
            }
        }
        (Shape::Map(item), Value::Object(values)) => {
            for (key, value) in values {
                collect_shape(value, item, &path.push(Segment::Key(key)), unknown);
            }
        }
        (shape, value) => {
            if let Some(ty) = shape.structure() {
                collect_unknown(value, ty, path, unknown);
            }
        }
    }
}

/// The text of the `BadRequest` for a decoding error: `Pod in version "v1" cannot be handled as a Pod: ...`.
pub fn cannot_be_handled(ty: &Type, error: &dyn std::fmt::Display) -> String {
    format!("{} in version {:?} cannot be handled as a {}: {error}", ty.name, ty.version(), ty.name)
}

/// The same for the strict errors (duplicate and unknown fields) of a request with `fieldValidation=Strict`.
pub fn strict_message(ty: &Type, errors: &[String]) -> String {
    cannot_be_handled(ty, &format_args!("strict decoding error: {}", errors.join(", ")))
}

struct Decoder {
    unknown: Vec<String>,
    /// The structure being decoded, for the error text.
    structure: &'static str,
}

impl Decoder {
    fn visit(
        &mut self,
        value: &mut Value,
        shape: &Shape,
        ty: Option<&'static Type>,
        path: &Path<'_>,
    ) -> Result<(), DecodeError> {
        if let Some(ty) = ty {
            let outer = std::mem::replace(&mut self.structure, ty.name);
            let Value::Object(map) = value else {
                self.structure = outer;
                return Err(self.mismatch(value, path, format!("v1.{}", ty.name)));
            };
            self.object(map, ty, path)?;
            self.structure = outer;
            return Ok(());
        }
        match shape {
            Shape::Any => {}
            Shape::String(_) if value.is_string() => {}
            Shape::Bool if value.is_boolean() => {}
            Shape::Float64 if value.is_number() => {}
            Shape::Int64 if value.is_i64() => {}
            Shape::Int32 if value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()) => {}
            Shape::IntOrString => match value {
                Value::String(_) => {}
                Value::Number(number) if number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()) => {}
                other => {
                    let found = describe(other, true);
                    return Err(DecodeError(format!("json: cannot unmarshal {found} into Go value of type int32")));
                }
            },
            Shape::Quantity => canonical_quantity(value, false)?,
            Shape::Time => canonical_time(value, timestamp::format)?,
            Shape::MicroTime => canonical_time(value, timestamp::format_micro)?,
            Shape::Bytes => match value {
                Value::String(text) => check_base64(text)?,
                other => return Err(self.mismatch(other, path, shape.go_name())),
            },
            Shape::List(item) => {
                let Value::Array(values) = value else { return Err(self.mismatch(value, path, shape.go_name())) };
                let structure = item.structure();
                for (at, value) in values.iter_mut().enumerate() {
                    if value.is_null() {
                        *value = zero_value(item);
                    }
                    self.visit(value, item, structure, &path.index(at))?;
                }
            }
            Shape::Map(item) => {
                let Value::Object(values) = value else { return Err(self.mismatch(value, path, shape.go_name())) };
                let structure = item.structure();
                for (key, value) in values.iter_mut() {
                    if value.is_null() {
                        *value = zero_value(item);
                    }
                    match **item {
                        Shape::Quantity => canonical_quantity(value, true)?,
                        _ => self.visit(value, item, structure, &path.push(Segment::Key(key)))?,
                    }
                }
            }
            _ => return Err(self.mismatch(value, path, shape.go_name())),
        }
        Ok(())
    }

    fn object(&mut self, map: &mut Map<String, Value>, ty: &'static Type, path: &Path<'_>) -> Result<(), DecodeError> {
        let mut failure = None;
        map.retain(|key, value| {
            let path = path.field(key);
            let Some(field) = ty.field(key) else {
                if self.unknown.len() < MAX_STRICT_ERRORS {
                    self.unknown.push(format!("unknown field {:?}", path.to_string()));
                }
                return false;
            };
            if value.is_null() || failure.is_some() {
                return false;
            }
            if let Err(error) = self.visit(value, &field.shape, field.shape.structure(), &path) {
                failure = Some(error);
            }
            !is_omitted(field, value)
        });
        match failure {
            Some(error) => Err(error),
            None => {
                fill(map, ty);
                Ok(())
            }
        }
    }

    fn mismatch(&self, value: &Value, path: &Path<'_>, wanted: String) -> DecodeError {
        let numeric = matches!(wanted.as_str(), "int32" | "int64" | "float64");
        let found = describe(value, numeric);
        let go_path = path.go();
        if go_path.is_empty() {
            return DecodeError(format!("json: cannot unmarshal {found} into Go value of type {wanted}"));
        }
        let structure = self.structure;
        DecodeError(format!(
            "json: cannot unmarshal {found} into Go struct field {structure}.{go_path} of type {wanted}"
        ))
    }
}

/// What Go's decoder calls a JSON value; it quotes a number only where a number of another form was wanted.
fn describe(value: &Value, numeric: bool) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if numeric => format!("number {number}"),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

/// Whether Go would leave the field out.
fn is_omitted(field: &Field, value: &Value) -> bool {
    if field.keep || field.optional {
        return false;
    }
    match value {
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_i64() == Some(0) && field.shape != Shape::IntOrString,
        Value::String(text) => text.is_empty() && field.shape != Shape::IntOrString,
        Value::Array(values) => values.is_empty(),
        Value::Object(values) => values.is_empty() && matches!(field.shape, Shape::Map(_)),
        Value::Null => true,
    }
}

/// Adds what Go writes even when nobody set it.
fn fill(map: &mut Map<String, Value>, ty: &Type) {
    for at in &ty.fills {
        let field = &ty.fields[*at];
        if !map.contains_key(field.name) {
            map.insert(field.name.to_owned(), zero_value(&field.shape));
        }
    }
}

/// What Go writes for a value of that shape that nobody set.
pub fn zero_value(shape: &Shape) -> Value {
    match shape {
        Shape::String(_) | Shape::Bytes | Shape::Time | Shape::MicroTime => Value::String(String::new()),
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Float64 | Shape::IntOrString => Value::Number(0.into()),
        Shape::Quantity => Value::String("0".to_owned()),
        Shape::Any => Value::Null,
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Map(_) => Value::Object(Map::new()),
        Shape::Struct(_) => {
            let mut map = Map::new();
            if let Some(ty) = shape.structure() {
                fill(&mut map, ty);
            }
            Value::Object(map)
        }
    }
}

/// Rewrites a quantity; `in_list` if it is one of a list of resources, where it is an amount.
fn canonical_quantity(value: &mut Value, in_list: bool) -> Result<(), DecodeError> {
    let canonical = if in_list { quantity::canonical_amount } else { quantity::canonical };
    let rewritten = match &*value {
        Value::String(text) => match canonical(text.trim()) {
            Ok(Cow::Borrowed(same)) if same.len() == text.len() => return Ok(()),
            other => other.map(Cow::into_owned),
        },
        other => canonical(&other.to_string()).map(Cow::into_owned),
    };
    *value = Value::String(rewritten.map_err(|error| DecodeError(error.to_string()))?);
    Ok(())
}

fn canonical_time(value: &mut Value, format: fn(std::time::SystemTime) -> String) -> Result<(), DecodeError> {
    let Value::String(text) = &*value else {
        let found = describe(value, false);
        return Err(DecodeError(format!("json: cannot unmarshal {found} into Go value of type string")));
    };
    if text.is_empty() {
        return Ok(());
    }
    let Some(at) = timestamp::parse(text) else {
        return Err(DecodeError(format!(
            r#"parsing time {text:?} as "2006-01-02T15:04:05Z07:00": cannot parse {text:?} as "2006""#
        )));
    };
    let canonical = format(at);
    if *text != canonical {
        *value = Value::String(canonical);
    }
    Ok(())
}

fn check_base64(text: &str) -> Result<(), DecodeError> {
    use base64::DecodeError as Bad;
    // Go's decoder skips line breaks, which YAML block scalars bring along.
    let cleaned;
    let bytes = if text.contains(['\n', '\r']) {
        cleaned = text.replace(['\n', '\r'], "");
        cleaned.as_bytes()
    } else {
        text.as_bytes()
    };
    match base64::engine::general_purpose::STANDARD.decode(bytes) {
        Ok(_) => Ok(()),
        Err(Bad::InvalidByte(at, _) | Bad::InvalidLastSymbol(at, _)) => {
            Err(DecodeError(format!("illegal base64 data at input byte {at}")))
        }
        Err(Bad::InvalidLength(_) | Bad::InvalidPadding) => {
            Err(DecodeError(format!("illegal base64 data at input byte {}", bytes.len() / 4 * 4)))
        }
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
