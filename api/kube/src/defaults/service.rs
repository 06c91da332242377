//! Computed defaults of services. Addresses and node ports are given out elsewhere.

use serde_json::{Map, Value, json};

use super::{items, set_default, text};

/// Seconds for which a client stays with one endpoint under `sessionAffinity: ClientIP`.
const AFFINITY_SECONDS: i64 = 10_800;

/// What depends on the service's type and affinity.
pub(super) fn service(service: &mut Map<String, Value>) {
    let ingress_mode = {
        let Some(Value::Object(spec)) = service.get_mut("spec") else { return };
        let external = is_external(spec);
        let kind = match text(spec, "type") {
            "" => "ClusterIP".to_owned(),
            kind => kind.to_owned(),
        };
        if text(spec, "sessionAffinity") == "ClientIP" {
            let timeout =
                spec.get("sessionAffinityConfig").and_then(|config| config.pointer("/clientIP/timeoutSeconds"));
            if timeout.is_none() {
                let config = json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}});
                spec.insert("sessionAffinityConfig".to_owned(), config);
            }
        } else if matches!(text(spec, "sessionAffinity"), "" | "None") {
            spec.remove("sessionAffinityConfig");
        }
        if external {
            set_default(spec, "externalTrafficPolicy", "Cluster");
        }
        if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            set_default(spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            set_default(spec, "allocateLoadBalancerNodePorts", true);
        }
        kind == "LoadBalancer"
    };
    if ingress_mode
        && let Some(Value::Object(balancer)) =
            service.get_mut("status").and_then(|status| status.get_mut("loadBalancer"))
    {
        for ingress in items(balancer, "ingress").filter(|ingress| ingress.contains_key("ip")) {
            set_default(ingress, "ipMode", "VIP");
        }
    }
}

/// Whether clients outside the cluster can reach it.
pub(super) fn is_external(spec: &Map<String, Value>) -> bool {
    match text(spec, "type") {
        "LoadBalancer" | "NodePort" => true,
        "" | "ClusterIP" => spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty()),
        _ => false,
    }
}

/// A port without a target is the same on the pod.
pub(super) fn port(port: &mut Map<String, Value>) {
    let unset = match port.get("targetPort") {
        None => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(value) => value.as_i64() == Some(0),
    };
    if unset && let Some(number) = port.get("port").cloned() {
        port.insert("targetPort".to_owned(), number);
    }
}
