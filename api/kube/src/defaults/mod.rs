//! Defaulting: what kube-apiserver adds to an object before it is validated and stored.
//!
//! Plain values are data (`default=` in the schema). What depends on other fields is a hook on the structure, run before
//! the plain values and before the structures below. [`strategy`] holds the steps that belong to a create or an update
//! rather than to every decoding.

mod pod;
mod service;
mod strategy;
mod workload;

use serde_json::{Map, Value};

pub use pod::qos_class;
pub use strategy::{prepare_create, prepare_update};

use crate::schema::{Shape, Type};

/// The computed defaults of one structure.
pub(crate) type Hook = fn(&mut Map<String, Value>);

/// The hook of a structure, by its package's alias and name.
pub(crate) fn hook(alias: &str, name: &str) -> Option<Hook> {
    Some(match (alias, name) {
        ("core", "Container" | "EphemeralContainer") => pod::container,
        ("core", "Volume") => pod::volume,
        ("core", "PodSpec") => pod::pod_spec,
        ("core", "Pod") => pod::pod,
        ("core", "PodStatus") => pod::pod_status,
        ("core", "Service") => service::service,
        ("core", "ServicePort") => service::port,
        ("core", "Namespace") => workload::namespace,
        ("core", "NodeSpec") => workload::node_spec,
        ("core", "NodeStatus") => workload::node_status,
        ("core", "Secret") => workload::secret,
        ("apps", "DeploymentStrategy" | "DaemonSetUpdateStrategy") => workload::rolling_update,
        ("batch", "Job") => workload::job,
        ("batch", "JobSpec") => workload::job_spec,
        _ => return None,
    })
}

/// Adds the defaults of its kind to a decoded object. Applying them twice changes nothing more.
pub fn apply(object: &mut Value, ty: &'static Type) {
    if let Value::Object(map) = object {
        structure(map, ty);
    }
}

fn structure(map: &mut Map<String, Value>, ty: &'static Type) {
    if !ty.defaulting {
        return;
    }
    if let Some(hook) = ty.hook {
        hook(map);
    }
    for field in &ty.fields {
        // The zero of a field that is not optional counts as absent; decoding leaves it only in fields that are kept.
        match map.get_mut(field.name).filter(|value| field.optional || value.as_str() != Some("")) {
            Some(value) => below(value, &field.shape),
            None => {
                if let Some(default) = &field.default {
                    let mut value = default.clone();
                    below(&mut value, &field.shape);
                    map.insert(field.name.to_owned(), value);
                }
            }
        }
    }
}

fn below(value: &mut Value, shape: &Shape) {
    match (shape, value) {
        (Shape::Struct(_), Value::Object(map)) => {
            if let Some(ty) = shape.structure() {
                structure(map, ty);
            }
        }
        (Shape::List(item), Value::Array(values)) if matches!(**item, Shape::Struct(_)) => {
            for value in values {
                below(value, item);
            }
        }
        (Shape::Map(item), Value::Object(values)) if matches!(**item, Shape::Struct(_)) => {
            for value in values.values_mut() {
                below(value, item);
            }
        }
        _ => {}
    }
}

/// The text of a field; empty if it is absent or no string.
fn text<'a>(map: &'a Map<String, Value>, name: &str) -> &'a str {
    map.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The structure in a field, made if absent; `None` if something else is there.
fn child<'a>(map: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    map.entry(name).or_insert_with(|| Value::Object(Map::new())).as_object_mut()
}

/// The structures in a list field.
fn items<'a>(map: &'a mut Map<String, Value>, name: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Sets a field that is absent.
fn set_default(map: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    if !map.contains_key(name) {
        map.insert(name.to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests;
