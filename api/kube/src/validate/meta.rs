//! The rules of `metadata`, which all kinds share.

use std::collections::BTreeSet;

use serde_json::Value;

use super::error::{Errors, quote};
use super::format::{self, Problems};
use super::path::Path;
use super::read::{boolean, int, list, map, text};

/// All keys and values of an object's annotations together, in bytes.
const ANNOTATIONS_MAX: usize = 256 << 10;

/// The message for a field that may not change.
pub(super) const IMMUTABLE: &str = "field is immutable";

/// Names of an object of this kind.
pub(super) type NameRule = fn(&str) -> Problems;

/// Checks `metadata` of a new object.
pub(super) fn create(metadata: &Value, namespaced: bool, name_rule: NameRule, path: &Path<'_>, errors: &mut Errors) {
    let generate = text(metadata, "generateName");
    if !generate.is_empty() {
        for problem in format::generate_name(generate, name_rule) {
            errors.invalid(&path.field("generateName"), generate, problem);
        }
    }
    let name = text(metadata, "name");
    if name.is_empty() {
        errors.required(&path.field("name"), "name or generateName is required");
    } else {
        for problem in name_rule(name) {
            errors.invalid(&path.field("name"), name, problem);
        }
    }
    let namespace = text(metadata, "namespace");
    if !namespaced && !namespace.is_empty() {
        errors.forbidden(&path.field("namespace"), "not allowed on this type");
    } else if namespaced && namespace.is_empty() {
        errors.required(&path.field("namespace"), "");
    } else if namespaced {
        for problem in format::dns_label(namespace) {
            errors.invalid(&path.field("namespace"), namespace, problem);
        }
    }
    let generation = int(metadata, "generation").unwrap_or_default();
    non_negative(generation, &path.field("generation"), errors);
    common(metadata, path, errors);
    finalizers(metadata, &path.field("finalizers"), errors);
}

/// Checks `metadata` of an object that replaces another.
pub(super) fn update(metadata: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    if old.get("deletionTimestamp").is_some() {
        let before: BTreeSet<&str> = list(old, "finalizers").iter().filter_map(Value::as_str).collect();
        let extra: BTreeSet<&str> = list(metadata, "finalizers")
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| !before.contains(name))
            .collect();
        if !extra.is_empty() {
            let extra: Vec<String> = extra.into_iter().map(quote).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                extra.join(", ")
            );
            errors.forbidden(&path.field("finalizers"), detail);
        }
    }
    if text(metadata, "resourceVersion").is_empty() {
        errors.invalid(&path.field("resourceVersion"), "", "must be specified for an update");
    }
    let generation = int(metadata, "generation").unwrap_or_default();
    if generation < int(old, "generation").unwrap_or_default() {
        errors.invalid(&path.field("generation"), generation, "must not be decremented");
    }
    for name in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        immutable(metadata, old, name, path, errors);
    }
    common(metadata, path, errors);
}

fn common(metadata: &Value, path: &Path<'_>, errors: &mut Errors) {
    labels(metadata.get("labels"), &path.field("labels"), errors);
    annotations(metadata, &path.field("annotations"), errors);
    owners(metadata, &path.field("ownerReferences"), errors);
}

/// A field that keeps its value.
pub(super) fn immutable(new: &Value, old: &Value, name: &str, path: &Path<'_>, errors: &mut Errors) {
    if new.get(name) != old.get(name) {
        let value = new.get(name).cloned().unwrap_or(match old.get(name) {
            Some(Value::String(_)) if !name.ends_with("Timestamp") => Value::String(String::new()),
            _ => Value::Null,
        });
        errors.invalid(&path.field(name), value, IMMUTABLE);
    }
}

/// `must be greater than or equal to 0`.
pub(super) fn non_negative(value: i64, path: &Path<'_>, errors: &mut Errors) {
    if value < 0 {
        errors.invalid(path, value, "must be greater than or equal to 0");
    }
}

/// Keys and values of labels.
pub(super) fn labels(labels: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        label_name(key, path, errors);
        let value = value.as_str().unwrap_or_default();
        for problem in format::label_value(value) {
            errors.invalid(path, value, problem);
        }
    }
}

/// A label's key.
pub(super) fn label_name(key: &str, path: &Path<'_>, errors: &mut Errors) {
    for problem in format::qualified_name(key) {
        errors.invalid(path, key, problem);
    }
}

/// Keys of annotations, and their size.
pub(super) fn annotations(metadata: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in map(metadata, "annotations").into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        let checked = if key.bytes().any(|byte| byte.is_ascii_uppercase()) {
            format::qualified_name(&key.to_lowercase())
        } else {
            format::qualified_name(key)
        };
        for problem in checked {
            errors.invalid(path, key.as_str(), problem);
        }
    }
    if size > ANNOTATIONS_MAX {
        errors.too_long(path, ANNOTATIONS_MAX);
    }
}

fn owners(metadata: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    let references = list(metadata, "ownerReferences");
    for reference in references {
        let version = text(reference, "apiVersion");
        if version.is_empty() || version.ends_with('/') {
            errors.invalid(&path.field("apiVersion"), version, "version must not be empty");
        }
        for name in ["kind", "name", "uid"] {
            if text(reference, name).is_empty() {
                errors.invalid(&path.field(name), "", "must not be empty");
            }
        }
        if version == "v1" && text(reference, "kind") == "Event" {
            errors.invalid(path, reference.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if boolean(reference, "controller") {
            let this = format!("{}/{}", text(reference, "kind"), text(reference, "name"));
            match &controller {
                Some(first) => errors.invalid(
                    path,
                    references.to_vec(),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    ),
                ),
                None => controller = Some(this),
            }
        }
    }
}

fn finalizers(metadata: &Value, path: &Path<'_>, errors: &mut Errors) {
    let names = list(metadata, "finalizers");
    for name in names.iter().filter_map(Value::as_str) {
        for problem in format::qualified_name(name) {
            errors.invalid(path, name, problem);
        }
        // Names without a domain are kept for the few that Kubernetes knows itself.
        if !name.contains('/') && !["orphan", "foregroundDeletion", "kubernetes"].contains(&name) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(path, name, detail);
        }
    }
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.invalid(path, names.to_vec(), detail);
    }
}
