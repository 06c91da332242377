//! The small kinds: Secret, ConfigMap, Node, Namespace, Lease, Event, Binding.

use base64::Engine as _;
use serde_json::Value;

use super::check::problems;
use super::error::Errors;
use super::format;
use super::meta::immutable;
use super::path::Path;
use super::read::{boolean, child, int, list, map, text};
use super::{resources, scheduling};

/// The most data that a config map or secret may hold, in bytes.
const DATA_MAX: usize = 1 << 20;

/// How many bytes a base64 text stands for.
fn decoded_length(text: &str) -> usize {
    (text.len() / 4 * 3).saturating_sub(text.bytes().rev().take_while(|byte| *byte == b'=').count())
}

/// A Secret.
pub(super) fn secret(object: &Value, errors: &mut Errors) {
    let path = Path::ROOT.field("data");
    let data = child(object, "data");
    let mut size = 0;
    for (key, value) in map(object, "data").into_iter().flatten() {
        problems(format::config_key(key), key, &path.entry(key), errors);
        size += decoded_length(value.as_str().unwrap_or_default());
    }
    if size > DATA_MAX {
        errors.too_long(&path, DATA_MAX);
    }
    let require = |errors: &mut Errors, key: &str| {
        if data.get(key).is_none() {
            errors.required(&path.entry(key), "");
        }
    };
    match text(object, "type") {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            let metadata = child(object, "metadata");
            if text(child(metadata, "annotations"), key).is_empty() {
                errors.required(&Path::ROOT.field("metadata").field("annotations").entry(key), "");
            }
        }
        "kubernetes.io/dockercfg" => docker(data, ".dockercfg", &path, errors),
        "kubernetes.io/dockerconfigjson" => docker(data, ".dockerconfigjson", &path, errors),
        "kubernetes.io/basic-auth" if data.get("username").is_none() && data.get("password").is_none() => {
            require(errors, "username");
            require(errors, "password");
        }
        "kubernetes.io/ssh-auth" if text(data, "ssh-privatekey").is_empty() => {
            errors.required(&path.entry("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            require(errors, "tls.crt");
            require(errors, "tls.key");
        }
        _ => {}
    }
}

fn docker(data: &Value, key: &str, path: &Path<'_>, errors: &mut Errors) {
    let Some(encoded) = data.get(key).and_then(Value::as_str) else {
        return errors.required(&path.entry(key), "");
    };
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&decoded) {
        errors.invalid(&path.entry(key), "<secret contents redacted>", error.to_string());
    }
}

/// A ConfigMap.
pub(super) fn config_map(object: &Value, errors: &mut Errors) {
    let root = Path::ROOT;
    let binary = child(object, "binaryData");
    let mut size = 0;
    for (key, value) in map(object, "data").into_iter().flatten() {
        let path = root.field("data");
        problems(format::config_key(key), key, &path.entry(key), errors);
        if binary.get(key).is_some() {
            errors.invalid(&path.entry(key), key.as_str(), "duplicate of key present in binaryData");
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in map(object, "binaryData").into_iter().flatten() {
        problems(format::config_key(key), key, &root.field("binaryData").entry(key), errors);
        size += decoded_length(value.as_str().unwrap_or_default());
    }
    if size > DATA_MAX {
        errors.too_long(&root, DATA_MAX);
    }
}

/// What a config map or secret keeps once it says that it is immutable.
pub(super) fn keeps_data(object: &Value, old: &Value, errors: &mut Errors) {
    if !boolean(old, "immutable") {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    if !boolean(object, "immutable") {
        errors.forbidden(&Path::ROOT.field("immutable"), detail);
    }
    for name in ["data", "binaryData"] {
        if object.get(name) != old.get(name) {
            errors.forbidden(&Path::ROOT.field(name), detail);
        }
    }
}

/// What a Secret keeps for life.
pub(super) fn secret_update(object: &Value, old: &Value, errors: &mut Errors) {
    immutable(object, old, "type", &Path::ROOT, errors);
    keeps_data(object, old, errors);
}

/// A Node.
pub(super) fn node(object: &Value, errors: &mut Errors) {
    let (spec, status) = (child(object, "spec"), child(object, "status"));
    scheduling::taints(list(spec, "taints"), &Path::ROOT.field("metadata").field("taints"), errors);
    let status_path = Path::ROOT.field("status");
    for name in ["capacity", "allocatable"] {
        let list_path = status_path.field(name);
        for (resource, value) in map(status, name).into_iter().flatten() {
            resources::quantity(resource, value, &list_path.entry(resource), errors);
        }
    }
    let ranges_path = Path::ROOT.field("spec");
    let ranges_path = ranges_path.field("podCIDRs");
    for (at, range) in list(spec, "podCIDRs").iter().filter_map(Value::as_str).enumerate() {
        let (address, bits) = range.split_once('/').unwrap_or((range, ""));
        let valid = address
            .parse::<std::net::IpAddr>()
            .ok()
            .zip(bits.parse::<u8>().ok())
            .is_some_and(|(ip, bits)| bits <= if ip.is_ipv4() { 32 } else { 128 });
        if !valid {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.invalid(&ranges_path.index(at), range, detail);
        }
    }
}

/// What a Node keeps once it has it.
pub(super) fn node_update(object: &Value, old: &Value, errors: &mut Errors) {
    let (spec, old_spec, path) = (child(object, "spec"), child(old, "spec"), Path::ROOT.field("spec"));
    let before = list(old_spec, "podCIDRs");
    if !before.is_empty() && before != list(spec, "podCIDRs") {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.forbidden(&path.field("podCIDRs"), detail);
    }
    let provider = text(old_spec, "providerID");
    if !provider.is_empty() && provider != text(spec, "providerID") {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.forbidden(&path.field("providerID"), detail);
    }
}

/// A Namespace.
pub(super) fn namespace(object: &Value, errors: &mut Errors) {
    let path = Path::ROOT.field("spec");
    let path = path.field("finalizers");
    for name in list(child(object, "spec"), "finalizers").iter().filter_map(Value::as_str) {
        problems(format::qualified_name(name), name, &path, errors);
        if !name.contains('/') && name != "kubernetes" {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path, name, detail);
        }
    }
}

/// A Lease.
pub(super) fn lease(object: &Value, errors: &mut Errors) {
    let (spec, path) = (child(object, "spec"), Path::ROOT.field("spec"));
    if let Some(seconds) = int(spec, "leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        errors.invalid(&path.field("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    if let Some(count) = int(spec, "leaseTransitions").filter(|count| *count < 0) {
        errors.invalid(&path.field("leaseTransitions"), count, "must be greater than or equal to 0");
    }
}

/// An Event: it lies in the namespace of what it is about.
pub(super) fn event(object: &Value, errors: &mut Errors) {
    /// The longest reason and action.
    const SHORT: usize = 128;
    /// The longest message.
    const LONG: usize = 1024;
    let namespace = text(child(object, "metadata"), "namespace");
    let about = text(child(object, "involvedObject"), "namespace");
    let new_style = !text(object, "eventTime").is_empty();
    let fits = match (about, new_style) {
        ("", true) => ["default", "kube-system"].contains(&namespace),
        ("", false) => ["", "default"].contains(&namespace),
        (_, true) => true,
        (about, false) => about == namespace,
    };
    if !fits {
        let path = Path::ROOT.field("involvedObject");
        errors.invalid(&path.field("namespace"), about, "does not match event.namespace");
    }
    if !new_style {
        return;
    }
    for name in ["reportingComponent", "reportingInstance", "action", "reason"] {
        if text(object, name).is_empty() {
            errors.required(&Path::ROOT.field(name), "");
        }
    }
    let component = text(object, "reportingComponent");
    problems(format::qualified_name(component), component, &Path::ROOT.field("reportingComponent"), errors);
    for (name, max) in [("reportingInstance", SHORT), ("action", SHORT), ("reason", SHORT), ("message", LONG)] {
        if text(object, name).len() > max {
            errors.invalid(&Path::ROOT.field(name), "", format!("can have at most {max} characters"));
        }
    }
}

/// A Binding.
pub(super) fn binding(object: &Value, errors: &mut Errors) {
    let (target, path) = (child(object, "target"), Path::ROOT.field("target"));
    let kind = text(target, "kind");
    if !["", "Node"].contains(&kind) {
        errors.not_supported(&path.field("kind"), kind, &["Node", "<empty>"]);
    }
    if text(target, "name").is_empty() {
        errors.required(&path.field("name"), "");
    }
}
