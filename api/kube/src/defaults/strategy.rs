//! What a create or an update does to an object beyond defaulting, per kind.
//!
//! `metadata` (uid, timestamps, generation) is the server's; here is the rest: status is not the client's to write,
//! selectors are generated, addresses survive an update that leaves them out.

use serde_json::{Map, Value, json};

use super::service::is_external;
use super::{child, items, qos_class, set_default, text};
use crate::schema::Type;
use crate::validate::zero_value;

/// Prepares a defaulted object for its creation; `metadata.name` and `metadata.uid` are already set.
pub fn prepare_create(object: &mut Value, ty: &'static Type) {
    let qos = if (ty.group(), ty.name) == ("", "Pod") { qos_class(object) } else { "" };
    let Value::Object(map) = object else { return };
    match (ty.group(), ty.name) {
        ("", "Pod") => {
            let mut status = json!({"phase": "Pending", "qosClass": qos});
            if map.get("spec").and_then(|spec| spec.get("schedulingGates")).is_some() {
                status["conditions"] = json!([{
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "SchedulingGated",
                    "message": "Scheduling is blocked due to non-empty scheduling gates",
                }]);
            }
            map.insert("status".to_owned(), status);
        }
        ("", "Namespace") => {
            map.insert("status".to_owned(), json!({"phase": "Active"}));
            if let Some(spec) = child(map, "spec") {
                let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
                if let Value::Array(finalizers) = finalizers
                    && !finalizers.iter().any(|finalizer| finalizer == "kubernetes")
                {
                    finalizers.push("kubernetes".into());
                }
            }
        }
        ("apps", "DaemonSet") => {
            reset_status(map, ty);
            set_template_generation(map, 1);
        }
        ("batch", "Job") => {
            reset_status(map, ty);
            generate_selector(map);
        }
        ("", "Service") | ("apps", "Deployment" | "ReplicaSet") => reset_status(map, ty),
        _ => {}
    }
}

/// Prepares a defaulted object for an update of the main resource (not of `/status`).
pub fn prepare_update(object: &mut Value, old: &Value, ty: &'static Type) {
    let Value::Object(map) = object else { return };
    match (ty.group(), ty.name) {
        ("", "Namespace") => {
            keep(map, old, "status");
            if let Some(spec) = child(map, "spec") {
                keep(spec, old.get("spec").unwrap_or(&Value::Null), "finalizers");
            }
        }
        ("", "Service") => {
            keep(map, old, "status");
            let Some(old_spec) = old.get("spec").and_then(Value::as_object) else { return };
            let balanced = {
                let Some(Value::Object(spec)) = map.get_mut("spec") else { return };
                keep_allocations(spec, old_spec);
                drop_for_type(spec, old_spec);
                text(spec, "type") == "LoadBalancer"
            };
            if !balanced && let Some(status) = child(map, "status") {
                status.insert("loadBalancer".to_owned(), json!({}));
            }
        }
        ("apps", "DaemonSet") => {
            keep(map, old, "status");
            let before = template_generation(old);
            let changed = map.get("spec").and_then(|spec| spec.get("template")) != old.pointer("/spec/template");
            set_template_generation(map, before + i64::from(changed));
        }
        ("", "Pod" | "Node") | ("apps", "Deployment" | "ReplicaSet") | ("batch", "Job") => keep(map, old, "status"),
        ("", "Secret") if text(map, "type").is_empty() => keep(map, old, "type"),
        _ => {}
    }
}

fn reset_status(map: &mut Map<String, Value>, ty: &Type) {
    if let Some(field) = ty.field("status") {
        map.insert("status".to_owned(), zero_value(&field.shape));
    }
}

/// Takes a field as it was.
fn keep(map: &mut Map<String, Value>, old: &Value, name: &str) {
    match old.get(name) {
        Some(value) => {
            map.insert(name.to_owned(), value.clone());
        }
        None => {
            map.remove(name);
        }
    }
}

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(object: &Value) -> i64 {
    let annotations = object.pointer("/metadata/annotations");
    let value = annotations.and_then(|annotations| annotations.get(TEMPLATE_GENERATION)).and_then(Value::as_str);
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn set_template_generation(map: &mut Map<String, Value>, generation: i64) {
    let annotations = child(map, "metadata").and_then(|metadata| child(metadata, "annotations"));
    if let Some(annotations) = annotations {
        annotations.insert(TEMPLATE_GENERATION.to_owned(), generation.to_string().into());
    }
}

/// Labels that tie pods to their job, unless the user wants to select by hand.
fn generate_selector(map: &mut Map<String, Value>) {
    let (name, uid) = {
        let metadata = map.get("metadata").and_then(Value::as_object);
        let read = |field| metadata.map(|metadata| text(metadata, field).to_owned()).unwrap_or_default();
        (read("name"), read("uid"))
    };
    let Some(Value::Object(spec)) = map.get_mut("spec") else { return };
    if spec.get("manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let labels = child(spec, "template")
        .and_then(|template| child(template, "metadata"))
        .and_then(|metadata| child(metadata, "labels"));
    if let Some(labels) = labels {
        for (key, value) in [
            ("job-name", &name),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", &uid),
            ("batch.kubernetes.io/controller-uid", &uid),
        ] {
            set_default(labels, key, value.as_str());
        }
    }
    if let Some(labels) = child(spec, "selector").and_then(|selector| child(selector, "matchLabels")) {
        set_default(labels, "batch.kubernetes.io/controller-uid", uid);
    }
}

fn needs_cluster_ip(spec: &Map<String, Value>) -> bool {
    matches!(text(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn needs_node_port(spec: &Map<String, Value>) -> bool {
    text(spec, "type") == "NodePort"
        || text(spec, "type") == "LoadBalancer"
            && spec.get("allocateLoadBalancerNodePorts").is_none_or(|allocate| allocate != &Value::Bool(false))
}

fn needs_health_port(spec: &Map<String, Value>) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

/// An update that leaves out what was allocated keeps it.
fn keep_allocations(spec: &mut Map<String, Value>, old: &Map<String, Value>) {
    if needs_cluster_ip(spec) && needs_cluster_ip(old) {
        let same_first = text(spec, "clusterIP").is_empty() || text(spec, "clusterIP") == text(old, "clusterIP");
        for name in ["clusterIP", "clusterIPs"] {
            if same_first && let Some(value) = old.get(name) {
                set_default(spec, name, value.clone());
            }
        }
        for name in ["ipFamilies", "ipFamilyPolicy"] {
            if let Some(value) = old.get(name) {
                set_default(spec, name, value.clone());
            }
        }
    }
    if needs_node_port(spec) && needs_node_port(old) {
        let old_ports = old.get("ports").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let mut used: Vec<Value> = items(spec, "ports").filter_map(|port| port.get("nodePort").cloned()).collect();
        for port in items(spec, "ports").filter(|port| !port.contains_key("nodePort")) {
            let before = old_ports.iter().find(|before| {
                before.get("port") == port.get("port") && before.get("protocol") == port.get("protocol")
            });
            if let Some(number) = before.and_then(|before| before.get("nodePort"))
                && !used.contains(number)
            {
                used.push(number.clone());
                port.insert("nodePort".to_owned(), number.clone());
            }
        }
    }
    if needs_health_port(spec)
        && needs_health_port(old)
        && let Some(number) = old.get("healthCheckNodePort")
    {
        set_default(spec, "healthCheckNodePort", number.clone());
    }
}

/// A change of type takes along what the new type does not have, if the user left it as it was.
fn drop_for_type(spec: &mut Map<String, Value>, old: &Map<String, Value>) {
    let drop_same = |spec: &mut Map<String, Value>, names: &[&str]| {
        if names.iter().all(|name| spec.get(*name) == old.get(*name)) {
            names.iter().for_each(|name| drop(spec.remove(*name)));
        }
    };
    if needs_cluster_ip(old) && !needs_cluster_ip(spec) {
        drop_same(spec, &["clusterIP", "clusterIPs"]);
        drop_same(spec, &["ipFamilies"]);
        drop_same(spec, &["ipFamilyPolicy"]);
    }
    if needs_node_port(old) && !needs_node_port(spec) {
        let numbers = |ports: Option<&Value>| -> Vec<Option<Value>> {
            let ports = ports.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            ports.iter().map(|port| port.get("nodePort").cloned()).collect()
        };
        if numbers(spec.get("ports")) == numbers(old.get("ports")) {
            items(spec, "ports").for_each(|port| drop(port.remove("nodePort")));
        }
    }
    if needs_health_port(old) && !needs_health_port(spec) {
        drop_same(spec, &["healthCheckNodePort"]);
    }
    if text(old, "type") == "LoadBalancer" && text(spec, "type") != "LoadBalancer" {
        drop_same(spec, &["allocateLoadBalancerNodePorts"]);
        drop_same(spec, &["loadBalancerClass"]);
    }
    if is_external(old) && !is_external(spec) {
        drop_same(spec, &["externalTrafficPolicy"]);
    }
}
