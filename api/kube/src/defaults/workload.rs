//! Computed defaults of workloads, and of the small kinds.

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::{child, set_default, text};

/// The rolling update of a strategy that is one, or will be when its type is defaulted.
pub(super) fn rolling_update(strategy: &mut Map<String, Value>) {
    if matches!(text(strategy, "type"), "" | "RollingUpdate") {
        set_default(strategy, "rollingUpdate", json!({}));
    }
}

/// A job without labels takes those of its template.
pub(super) fn job(job: &mut Map<String, Value>) {
    let labels = job.get("spec").and_then(|spec| spec.pointer("/template/metadata/labels")).cloned();
    if let (Some(labels), Some(metadata)) = (labels, child(job, "metadata")) {
        set_default(metadata, "labels", labels);
    }
}

/// The counts and policies of a job that depend on each other.
pub(super) fn job_spec(spec: &mut Map<String, Value>) {
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        spec.insert("completions".to_owned(), 1.into());
    }
    set_default(spec, "parallelism", 1);
    let backoff = if spec.contains_key("backoffLimitPerIndex") { i32::MAX } else { 6 };
    set_default(spec, "backoffLimit", backoff);
    let replace = if spec.contains_key("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    set_default(spec, "podReplacementPolicy", replace);
}

/// A namespace carries its name as a label.
pub(super) fn namespace(namespace: &mut Map<String, Value>) {
    let Some(metadata) = child(namespace, "metadata") else { return };
    let name = text(metadata, "name").to_owned();
    if !name.is_empty()
        && let Some(labels) = child(metadata, "labels")
    {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
    }
}

/// `podCIDR` and the first of `podCIDRs` are the same.
pub(super) fn node_spec(spec: &mut Map<String, Value>) {
    let first = spec.get("podCIDRs").and_then(|ranges| ranges.get(0)).cloned();
    match (spec.get("podCIDR").cloned(), first) {
        (Some(range), None) => {
            spec.insert("podCIDRs".to_owned(), json!([range]));
        }
        (None, Some(first)) => {
            spec.insert("podCIDR".to_owned(), first);
        }
        _ => {}
    }
}

/// Without a word on what is allocatable, all of the capacity is.
pub(super) fn node_status(status: &mut Map<String, Value>) {
    if let Some(capacity) = status.get("capacity").cloned() {
        set_default(status, "allocatable", capacity);
    }
}

/// `stringData` is a way to write `data`, never stored.
pub(super) fn secret(secret: &mut Map<String, Value>) {
    let Some(Value::Object(plain)) = secret.remove("stringData") else { return };
    let Some(data) = child(secret, "data") else { return };
    for (key, value) in plain {
        let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
        data.insert(key, encoded.into());
    }
}
