//! Nodes and pods as the API writes them.

use std::sync::Arc;

use kelson_sched::{
    Effect, LabelSelector, NodeSelectorTerm, NodeSpec, Operator, PodTemplate, PodTerm, Protocol, Requirement,
    TolerationOperator,
};
use serde_json::{Map, Value, json};

fn operator(operator: Operator) -> &'static str {
    match operator {
        Operator::In => "In",
        Operator::NotIn => "NotIn",
        Operator::Exists => "Exists",
        Operator::DoesNotExist => "DoesNotExist",
        Operator::Gt => "Gt",
        Operator::Lt => "Lt",
    }
}

fn requirement(one: &Requirement) -> Value {
    let values: Vec<&str> = one.values.iter().map(|value| &**value).collect();
    json!({ "key": &*one.key, "operator": operator(one.operator), "values": values })
}

pub fn pairs(pairs: &[(Arc<str>, Arc<str>)]) -> Value {
    Value::Object(pairs.iter().map(|(key, value)| (key.to_string(), json!(&**value))).collect())
}

fn label_selector(selector: &Option<LabelSelector>) -> Value {
    let expressions = |one: &LabelSelector| one.requirements.iter().map(requirement).collect::<Vec<_>>();
    selector.as_ref().map_or(Value::Null, |one| json!({ "matchExpressions": expressions(one) }))
}

fn node_term(term: &NodeSelectorTerm) -> Value {
    let list = |of: &[Requirement]| of.iter().map(requirement).collect::<Vec<_>>();
    json!({ "matchExpressions": list(&term.expressions), "matchFields": list(&term.fields) })
}

fn pod_term(term: &PodTerm) -> Value {
    let namespaces: Vec<&str> = term.namespaces.iter().map(|name| &**name).collect();
    json!({
        "labelSelector": label_selector(&term.selector),
        "namespaces": namespaces,
        "namespaceSelector": label_selector(&term.namespace_selector),
        "topologyKey": &*term.topology_key,
    })
}

fn effect(effect: Effect) -> &'static str {
    match effect {
        Effect::NoSchedule => "NoSchedule",
        Effect::PreferNoSchedule => "PreferNoSchedule",
        Effect::NoExecute => "NoExecute",
    }
}

/// Containers whose requests add up to the template's: the first has all that is asked for, and as many of the others ask
/// for nothing as the defaults in the scores tell.
fn containers(template: &PodTemplate) -> Vec<Value> {
    let asks = &template.requests;
    let silent_cpu = (asks.scored_milli_cpu - asks.resources.milli_cpu) / kelson_sched::DEFAULT_MILLI_CPU;
    let silent_memory = (asks.scored_memory - asks.resources.memory) / kelson_sched::DEFAULT_MEMORY;
    let count = template.images.len() as i64;
    let container = |(at, image): (usize, &Arc<str>)| {
        let mut requests = Map::new();
        let first = |amount: i64| if at == 0 { amount } else { 0 };
        if (at as i64) < count - silent_cpu {
            requests.insert("cpu".into(), json!(format!("{}m", first(asks.resources.milli_cpu))));
        }
        if (at as i64) < count - silent_memory {
            requests.insert("memory".into(), json!(first(asks.resources.memory).to_string()));
        }
        if at == 0 {
            requests.insert("ephemeral-storage".into(), json!(asks.resources.ephemeral_storage.to_string()));
            for (name, amount) in &asks.resources.extended {
                requests.insert(name.to_string(), json!(amount.to_string()));
            }
        }
        let protocol = |protocol: Protocol| match protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::Sctp => "SCTP",
        };
        let ports = template.host_ports.iter().filter(|_| at == 0).map(|port| {
            json!({ "hostPort": port.port, "containerPort": port.port, "hostIP": &*port.ip, "protocol": protocol(port.protocol) })
        });
        json!({ "name": format!("c{at}"), "image": &**image, "resources": { "requests": requests }, "ports": ports.collect::<Vec<_>>() })
    };
    template.images.iter().enumerate().map(container).collect()
}

pub fn pod(name: &str, template: &PodTemplate, node: Option<&str>, terminating: bool) -> Value {
    let terms = |terms: &[PodTerm]| terms.iter().map(pod_term).collect::<Vec<_>>();
    let weighted = |terms: &[(i32, PodTerm)]| {
        let one = |(weight, term): &(i32, PodTerm)| json!({ "weight": weight, "podAffinityTerm": pod_term(term) });
        terms.iter().map(one).collect::<Vec<_>>()
    };
    let preferred =
        |(weight, term): &(i32, NodeSelectorTerm)| json!({ "weight": weight, "preference": node_term(term) });
    let required = template
        .required
        .as_ref()
        .map(|terms| json!({ "nodeSelectorTerms": terms.iter().map(node_term).collect::<Vec<_>>() }));
    let policy = |honor: bool| if honor { "Honor" } else { "Ignore" };
    let spread = template.spread.iter().map(|one| {
        json!({
            "maxSkew": one.max_skew,
            "topologyKey": &*one.topology_key,
            "whenUnsatisfiable": if one.hard { "DoNotSchedule" } else { "ScheduleAnyway" },
            "labelSelector": label_selector(&one.selector),
            "minDomains": one.min_domains,
            "nodeAffinityPolicy": policy(one.honor_affinity),
            "nodeTaintsPolicy": policy(one.honor_taints),
        })
    });
    let tolerations = template.tolerations.iter().map(|one| {
        let exists = one.operator == TolerationOperator::Exists;
        json!({
            "key": one.key,
            "operator": if exists { "Exists" } else { "Equal" },
            "value": if exists { "" } else { &*one.value },
            "effect": one.effect.map_or("", effect),
        })
    });
    let mut pod = json!({
        "metadata": { "name": name, "namespace": &*template.namespace, "uid": name, "labels": pairs(&template.labels) },
        "spec": {
            "nodeName": node.or(template.node_name.as_deref()).unwrap_or(""),
            "nodeSelector": pairs(&template.node_selector),
            "containers": containers(template),
            "tolerations": tolerations.collect::<Vec<_>>(),
            "topologySpreadConstraints": spread.collect::<Vec<_>>(),
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": required,
                    "preferredDuringSchedulingIgnoredDuringExecution": template.preferred.iter().map(preferred).collect::<Vec<_>>(),
                },
                "podAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": terms(&template.affinity),
                    "preferredDuringSchedulingIgnoredDuringExecution": weighted(&template.preferred_affinity),
                },
                "podAntiAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": terms(&template.anti_affinity),
                    "preferredDuringSchedulingIgnoredDuringExecution": weighted(&template.preferred_anti_affinity),
                },
            },
        },
    });
    if terminating {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    pod
}

pub fn node(spec: &NodeSpec) -> Value {
    let has = &spec.allocatable;
    let mut allocatable = Map::from_iter([
        ("cpu".to_string(), json!(format!("{}m", has.milli_cpu))),
        ("memory".to_string(), json!(has.memory.to_string())),
        ("ephemeral-storage".to_string(), json!(has.ephemeral_storage.to_string())),
        ("pods".to_string(), json!(spec.pods.to_string())),
    ]);
    allocatable.extend(has.extended.iter().map(|(name, amount)| (name.to_string(), json!(amount.to_string()))));
    let taint = |one: &kelson_sched::Taint| json!({ "key": one.key, "value": one.value, "effect": effect(one.effect) });
    let image = |(name, size): &(Arc<str>, i64)| json!({ "names": [&**name], "sizeBytes": size });
    json!({
        "metadata": { "name": &*spec.name, "labels": pairs(&spec.labels) },
        "spec": { "unschedulable": spec.unschedulable, "taints": spec.taints.iter().map(taint).collect::<Vec<_>>() },
        "status": { "allocatable": allocatable, "images": spec.images.iter().map(image).collect::<Vec<_>>() },
    })
}
