//! Resource requests and limits.

use std::cmp::Ordering;

use serde_json::Value;

use super::check::problems;
use super::error::Errors;
use super::format;
use super::path::Path;
use super::read::map;
use crate::schema::quantity::nanos;

/// The resources that have plain names.
const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

fn amount(value: &Value) -> i128 {
    value.as_str().and_then(|text| nanos(text).ok()).unwrap_or_default()
}

/// Whether a container may be given less than its limit.
fn overcommits(name: &str) -> bool {
    !is_extended(name) && !name.starts_with("hugepages-")
}

/// A resource that only the cluster's owner knows: its name has a domain other than Kubernetes' own.
fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
        && !name.starts_with("requests.")
}

fn resource_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let found = format::qualified_name(name);
    if !found.is_empty() {
        return problems(found, name, path, errors);
    }
    let native = STANDARD.contains(&name) || name.starts_with("hugepages-");
    if !name.contains('/') && !native {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
        errors.invalid(path, name, "must be a standard resource for containers");
    } else if name.starts_with("requests.") && name.contains('/') {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// A quantity of a resource: not negative, and whole where the resource cannot be split.
pub(super) fn quantity(name: &str, value: &Value, path: &Path<'_>, errors: &mut Errors) {
    let found = amount(value);
    if found < 0 {
        errors.invalid(path, value.clone(), "must be greater than or equal to 0");
    }
    if is_extended(name) && found % 1_000_000_000 != 0 {
        errors.invalid(path, value.clone(), "must be an integer");
    }
}

/// `resources` of a container or a pod.
pub(super) fn requirements(resources: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (limits, requests) = (map(resources, "limits"), map(resources, "requests"));
    let (limits_path, requests_path) = (path.field("limits"), path.field("requests"));
    for (name, value) in limits.into_iter().flatten() {
        resource_name(name, &limits_path.entry(name), errors);
        quantity(name, value, &limits_path.entry(name), errors);
    }
    for (name, value) in requests.into_iter().flatten() {
        resource_name(name, &requests_path.entry(name), errors);
        quantity(name, value, &requests_path.entry(name), errors);
        let Some(limit) = limits.and_then(|limits| limits.get(name)) else {
            if !overcommits(name) {
                errors.required(&limits_path, "Limit must be set for non overcommitable resources");
            }
            continue;
        };
        let text = limit.as_str().unwrap_or_default();
        match amount(value).cmp(&amount(limit)) {
            Ordering::Equal => {}
            _ if !overcommits(name) => {
                errors.invalid(&requests_path, value.clone(), format!("must be equal to {name} limit of {text}"));
            }
            Ordering::Greater => {
                let detail = format!("must be less than or equal to {name} limit of {text}");
                errors.invalid(&requests_path, value.clone(), detail);
            }
            Ordering::Less => {}
        }
    }
    let named = |wanted: fn(&str) -> bool| {
        limits.into_iter().chain(requests).flat_map(|map| map.keys()).any(|name| wanted(name))
    };
    if named(|name| name.starts_with("hugepages-")) && !named(|name| name == "cpu" || name == "memory") {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}
