//! Computed defaults of pods and what they are made of.

use std::borrow::Cow;

use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};

use super::{items, set_default, text};
use crate::schema::quantity::nanos;

/// `imagePullPolicy` follows the image's tag.
pub(super) fn container(container: &mut Map<String, Value>) {
    if !container.contains_key("imagePullPolicy") {
        let policy = pull_policy(text(container, "image"));
        container.insert("imagePullPolicy".to_owned(), policy.into());
    }
}

/// `Always` for `latest`, written or implied; a digest pins the image. A name that is no image gets `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    // A colon before the last slash belongs to the registry's port.
    let tag = name.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    match tag {
        Some("latest") => "Always",
        None if !image.contains('@') && is_reference(name) => "Always",
        _ => "IfNotPresent",
    }
}

/// Whether the text can name an image at all: lower-case path components, and a host that may have capitals.
fn is_reference(name: &str) -> bool {
    let (host, path) = match name.split_once('/') {
        Some((host, path))
            if host.contains(['.', ':']) || host == "localhost" || host.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (host, path)
        }
        _ => ("", name),
    };
    host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte))
        && path.split('/').all(|part| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
                && part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
                && part.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric())
        })
}

/// A volume without a source is an empty directory.
pub(super) fn volume(volume: &mut Map<String, Value>) {
    if !volume.keys().any(|key| key != "name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    if let Some(Value::Object(image)) = volume.get_mut("image") {
        let policy = pull_policy(text(image, "reference"));
        set_default(image, "pullPolicy", policy);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are written.
pub(super) fn pod_spec(spec: &mut Map<String, Value>) {
    let name = match (text(spec, "serviceAccountName"), text(spec, "serviceAccount")) {
        ("", "") => return,
        ("", old) => old.to_owned(),
        (name, old) if name == old => return,
        (name, _) => name.to_owned(),
    };
    spec.insert("serviceAccount".to_owned(), name.clone().into());
    spec.insert("serviceAccountName".to_owned(), name.into());
}

/// What only pods get, and templates do not: requests from limits, service links, host ports.
pub(super) fn pod(pod: &mut Map<String, Value>) {
    let Some(Value::Object(spec)) = pod.get_mut("spec") else { return };
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            if let Some(Value::Object(resources)) = container.get_mut("resources") {
                requests_from_limits(resources, |_| true);
            }
        }
    }
    pod_level_requests(spec);
    set_default(spec, "enableServiceLinks", true);
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        for list in ["containers", "initContainers"] {
            for container in items(spec, list) {
                for port in items(container, "ports") {
                    if let Some(number) = port.get("containerPort").cloned() {
                        set_default(port, "hostPort", number);
                    }
                }
            }
        }
    }
}

fn requests_from_limits(resources: &mut Map<String, Value>, wanted: impl Fn(&str) -> bool) {
    let Some(Value::Object(limits)) = resources.get("limits") else { return };
    let missing: Vec<(String, Value)> = limits
        .iter()
        .filter(|(name, _)| wanted(name))
        .filter(|(name, _)| resources.get("requests").is_none_or(|requests| requests.get(name.as_str()).is_none()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if missing.is_empty() {
        return;
    }
    if let Some(requests) = super::child(resources, "requests") {
        requests.extend(missing);
    }
}

/// A pod-level limit without a request takes what the containers ask for together, or else the limit itself.
fn pod_level_requests(spec: &mut Map<String, Value>) {
    if spec.get("resources").and_then(|resources| resources.get("limits")).is_none() {
        return;
    }
    let supported = |name: &str| name == "cpu" || name == "memory" || name.starts_with("hugepages-");
    let asked = container_requests(spec);
    let Some(Value::Object(resources)) = spec.get_mut("resources") else { return };
    if let Some(requests) = super::child(resources, "requests") {
        for (name, nano) in asked {
            if name == "cpu" || name == "memory" {
                let text =
                    if nano % 1_000_000_000 == 0 { format!("{}", nano / 1_000_000_000) } else { format!("{nano}n") };
                let text = crate::schema::quantity::canonical(&text).map_or_else(|_| text.clone(), Cow::into_owned);
                set_default(requests, &name, text);
            }
        }
    }
    requests_from_limits(resources, supported);
}

/// What a pod's containers ask for together, in nano units: the sum of the containers and sidecars, or the largest
/// init container with the sidecars started before it.
fn container_requests(spec: &Map<String, Value>) -> FxHashMap<String, i128> {
    let list = |name: &str| spec.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let requests = |container: &Value| -> Vec<(String, i128)> {
        let requests = container.pointer("/resources/requests").and_then(Value::as_object);
        requests
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), nanos(value.as_str()?).ok()?)))
            .collect()
    };
    let mut total: FxHashMap<String, i128> = FxHashMap::default();
    for container in list("containers") {
        for (name, value) in requests(container) {
            *total.entry(name).or_default() += value;
        }
    }
    let mut sidecars: FxHashMap<String, i128> = FxHashMap::default();
    let mut peak: FxHashMap<String, i128> = FxHashMap::default();
    for container in list("initContainers") {
        let sidecar = container.get("restartPolicy").and_then(Value::as_str) == Some("Always");
        for (name, value) in requests(container) {
            let before = sidecars.get(&name).copied().unwrap_or_default();
            if sidecar {
                *total.entry(name.clone()).or_default() += value;
                sidecars.insert(name.clone(), before + value);
            }
            let top = peak.entry(name).or_default();
            *top = (*top).max(before + value);
        }
    }
    for (name, top) in peak {
        let sum = total.entry(name).or_default();
        *sum = (*sum).max(top);
    }
    total
}

/// `podIP` and the first of `podIPs` are the same.
pub(super) fn pod_status(status: &mut Map<String, Value>) {
    let first = status.get("podIPs").and_then(|ips| ips.get(0)).and_then(|ip| ip.get("ip")).cloned();
    match (status.get("podIP").cloned(), first) {
        (Some(ip), None) => {
            status.insert("podIPs".to_owned(), json!([{ "ip": ip }]));
        }
        (None, Some(first)) => {
            status.insert("podIP".to_owned(), first);
        }
        _ => {}
    }
}

/// The quality of service class of a pod: `Guaranteed`, `Burstable` or `BestEffort`.
///
/// CPU and memory count. Guaranteed: every container has limits for both and requests equal to them.
pub fn qos_class(pod: &Value) -> &'static str {
    let Some(spec) = pod.get("spec") else { return "BestEffort" };
    let mut requests: FxHashMap<&str, i128> = FxHashMap::default();
    let mut limits: FxHashMap<&str, i128> = FxHashMap::default();
    let mut guaranteed = true;
    let pod_level = spec.get("resources");
    let containers = ["containers", "initContainers"]
        .into_iter()
        .filter_map(|list| spec.get(list).and_then(Value::as_array))
        .flatten()
        .filter(|_| pod_level.is_none())
        .map(|container| container.get("resources"));
    for resources in containers.chain(pod_level.map(Some)) {
        add(&mut requests, resources.and_then(|resources| resources.get("requests")));
        let found = add(&mut limits, resources.and_then(|resources| resources.get("limits")));
        guaranteed &= found == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let equal = requests.len() == limits.len() && requests.iter().all(|(name, value)| limits.get(name) == Some(value));
    if guaranteed && equal { "Guaranteed" } else { "Burstable" }
}

/// Adds the positive CPU and memory entries and counts them.
fn add<'a>(sums: &mut FxHashMap<&'a str, i128>, list: Option<&'a Value>) -> usize {
    let mut found = 0;
    for (name, value) in list.and_then(Value::as_object).into_iter().flatten() {
        let value = value.as_str().and_then(|text| nanos(text).ok()).unwrap_or_default();
        if (name == "cpu" || name == "memory") && value > 0 {
            *sums.entry(name).or_default() += value;
            found += 1;
        }
    }
    found
}
