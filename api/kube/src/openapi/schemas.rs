//! The schemas of structures.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Format, Resource};
use crate::schema::{self, Field, ListKind, Shape, Type};

/// The name of the schema that stands for the body of a patch.
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const ANYTHING: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";

/// The schemas of everything that the resources' operations exchange, and of what these are made of.
pub(super) fn reachable(resources: &[&Resource], format: Format) -> Map<String, Value> {
    let mut groups = BTreeSet::new();
    let mut waiting: Vec<&'static Type> = Vec::new();
    for resource in resources {
        groups.insert((resource.group, resource.version));
        waiting.extend(resource.ty());
        waiting.extend(resource.list());
        for subresource in &resource.subresources {
            waiting.extend(subresource.kind.and_then(|(group, version, kind)| schema::kind(group, version, kind)));
        }
    }
    for kind in ["DeleteOptions", "Status"] {
        waiting.extend(schema::kind("", "v1", kind));
    }
    let mut found = Map::new();
    while let Some(ty) = waiting.pop() {
        let name = ty.openapi_name();
        if found.contains_key(&name) {
            continue;
        }
        for field in &ty.fields {
            waiting.extend(held(&field.shape));
        }
        found.insert(name, structure(ty, &groups, format));
    }
    for (name, body) in scalars(format) {
        found.insert(name.to_owned(), body);
    }
    found
}

fn held(shape: &Shape) -> Option<&'static Type> {
    match shape {
        Shape::List(item) | Shape::Map(item) => held(item),
        shape => shape.structure(),
    }
}

/// The types that are written as scalars but have names.
fn scalars(format: Format) -> Vec<(&'static str, Value)> {
    let (int_or_string, quantity) = match format {
        Format::V2 => (json!({"type": "string", "format": "int-or-string"}), json!({"type": "string"})),
        Format::V3 => (
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        ),
    };
    let time = json!({"type": "string", "format": "date-time"});
    let anything = json!({"type": "object"});
    vec![
        (TIME, time.clone()),
        (MICRO_TIME, time),
        (QUANTITY, quantity),
        (INT_OR_STRING, int_or_string),
        (ANYTHING, anything.clone()),
        (PATCH, anything),
    ]
}

fn structure(ty: &Type, groups: &BTreeSet<(&str, &str)>, format: Format) -> Value {
    let mut body = Map::new();
    body.insert("type".to_owned(), "object".into());
    if !ty.description.is_empty() {
        body.insert("description".to_owned(), ty.description.into());
    }
    let properties: Map<String, Value> =
        ty.fields.iter().map(|field| (field.name.to_owned(), property(field, format))).collect();
    if !properties.is_empty() {
        body.insert("properties".to_owned(), Value::Object(properties));
    }
    let required: Vec<&str> = ty.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    if !required.is_empty() {
        body.insert("required".to_owned(), json!(required));
    }
    if ty.atomic {
        body.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    if ty.is_kind {
        let own = (ty.group(), ty.version());
        // Kinds of the meta package belong to every group that is served.
        let everywhere = matches!(ty.name, "DeleteOptions" | "Status") && own == ("", "v1");
        let mut kinds: BTreeSet<(&str, &str)> = BTreeSet::from([own]);
        if everywhere && ty.name == "DeleteOptions" {
            kinds.extend(groups);
        }
        let kinds: Vec<Value> = kinds
            .into_iter()
            .map(|(group, version)| json!({"group": group, "version": version, "kind": ty.name}))
            .collect();
        body.insert("x-kubernetes-group-version-kind".to_owned(), kinds.into());
    }
    Value::Object(body)
}

fn property(field: &Field, format: Format) -> Value {
    let mut body = match shape(&field.shape, format) {
        Value::Object(body) => body,
        _ => Map::new(),
    };
    // A reference stands alone: what else there is to say of the field goes beside it.
    if format == Format::V3
        && let Some(reference) = body.remove("$ref")
    {
        body.insert("allOf".to_owned(), json!([{ "$ref": reference }]));
    }
    if let Some(default) = &field.default {
        body.insert("default".to_owned(), default.clone());
    } else if !field.optional && field.shape.structure().is_some() {
        body.insert("default".to_owned(), json!({}));
    }
    let strategies: Vec<&str> =
        [(field.patch.merge, "merge"), (field.patch.retain_keys, "retainKeys"), (field.patch.replace, "replace")]
            .into_iter()
            .filter_map(|(set, name)| set.then_some(name))
            .collect();
    if !strategies.is_empty() {
        body.insert("x-kubernetes-patch-strategy".to_owned(), strategies.join(",").into());
    }
    if let Some(key) = field.patch.key {
        body.insert("x-kubernetes-patch-merge-key".to_owned(), key.into());
    }
    let list = match &field.list {
        ListKind::Unset => None,
        ListKind::Atomic => Some("atomic"),
        ListKind::Set => Some("set"),
        ListKind::Map(keys) => {
            body.insert("x-kubernetes-list-map-keys".to_owned(), json!(keys));
            Some("map")
        }
    };
    if let Some(list) = list {
        body.insert("x-kubernetes-list-type".to_owned(), list.into());
    }
    if field.atomic {
        body.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    Value::Object(body)
}

fn shape(shape: &Shape, format: Format) -> Value {
    match shape {
        Shape::String(_) => json!({"type": "string"}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Int32 => json!({"type": "integer", "format": "int32"}),
        Shape::Int64 => json!({"type": "integer", "format": "int64"}),
        Shape::Float64 => json!({"type": "number", "format": "double"}),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::Time => format.reference(TIME),
        Shape::MicroTime => format.reference(MICRO_TIME),
        Shape::Quantity => format.reference(QUANTITY),
        Shape::IntOrString => format.reference(INT_OR_STRING),
        Shape::Any => format.reference(ANYTHING),
        Shape::List(item) => json!({"type": "array", "items": self::shape(item, format)}),
        Shape::Map(item) => json!({"type": "object", "additionalProperties": self::shape(item, format)}),
        Shape::Struct(_) => match shape.structure() {
            Some(ty) => format.reference(&ty.openapi_name()),
            None => json!({"type": "object"}),
        },
    }
}
