//! Label selectors: their rules, and whether labels satisfy them.

use serde_json::{Map, Value};

use super::check::problems;
use super::error::Errors;
use super::format;
use super::meta::{label_name, labels};
use super::path::Path;
use super::read::{child, list, map, text};

/// The rules of a label selector.
pub(super) fn label_selector(selector: &Value, path: &Path<'_>, errors: &mut Errors) {
    labels(selector.get("matchLabels"), &path.field("matchLabels"), errors);
    for (at, requirement) in list(selector, "matchExpressions").iter().enumerate() {
        let list_path = path.field("matchExpressions");
        label_requirement(requirement, &list_path.index(at), errors);
    }
}

fn label_requirement(requirement: &Value, path: &Path<'_>, errors: &mut Errors) {
    let values = list(requirement, "values");
    match text(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&path.field("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(&path.field("values"), detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        operator => errors.invalid(&path.field("operator"), operator, "not a valid selector operator"),
    }
    label_name(text(requirement, "key"), &path.field("key"), errors);
    let values_path = path.field("values");
    for (at, value) in values.iter().filter_map(Value::as_str).enumerate() {
        problems(format::label_value(value), value, &values_path.index(at), errors);
    }
}

/// A requirement on a node's labels, or on its fields.
pub(super) fn node_requirement(requirement: &Value, fields: bool, path: &Path<'_>, errors: &mut Errors) {
    let values = list(requirement, "values");
    let (key, operator) = (text(requirement, "key"), text(requirement, "operator"));
    if fields {
        match operator {
            "In" | "NotIn" if values.len() == 1 => {}
            "In" | "NotIn" => {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.required(&path.field("values"), detail);
            }
            _ => errors.invalid(&path.field("operator"), operator, "not a valid selector operator"),
        }
        let key_path = path.field("key");
        if key != "metadata.name" {
            errors.invalid(&key_path, key, "not a valid field selector key");
        }
        return;
    }
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&path.field("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(&path.field("values"), detail);
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(&path.field("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        _ => errors.invalid(&path.field("operator"), operator, "not a valid selector operator"),
    }
    label_name(key, &path.field("key"), errors);
    let values_path = path.field("values");
    for (at, value) in values.iter().filter_map(Value::as_str).enumerate() {
        problems(format::label_value(value), value, &values_path.index(at), errors);
    }
}

/// Whether a selector asks for nothing.
pub(super) fn is_empty(selector: &Value) -> bool {
    map(selector, "matchLabels").is_none_or(Map::is_empty) && list(selector, "matchExpressions").is_empty()
}

/// Whether labels satisfy a selector; `None` if the selector has an operator that does not exist. An absent selector
/// matches nothing, an empty one everything.
pub(super) fn matches(selector: &Value, labels: &Value) -> Option<bool> {
    if selector.is_null() {
        return Some(false);
    }
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let mut all = child(selector, "matchLabels")
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, value)| label(key) == Some(value.as_str().unwrap_or_default()));
    for requirement in list(selector, "matchExpressions") {
        let found = label(text(requirement, "key"));
        let listed = found.is_some_and(|found| list(requirement, "values").iter().any(|value| value == found));
        all &= match text(requirement, "operator") {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            _ => return None,
        };
    }
    Some(all)
}
