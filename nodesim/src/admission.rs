//! Whether a node takes a pod that was bound to it. The scheduler looked at the same things: a refusal proves that it was
//! wrong, or that the node changed meanwhile.

use crate::node::{Node, Shape};
use crate::plan::Plan;
use crate::pod::Failure;
use crate::view::{PodSpec, Requirement, Taint, Term, Toleration};

/// Why the node refuses the pod; `None` if it takes it.
pub(crate) fn refusal(spec: &PodSpec, plan: &Plan, node: &Node, shape: &Shape) -> Option<Failure> {
    let refused = |reason: &str, message: String| {
        Some(Failure { reason: reason.into(), message: format!("Pod was rejected: {message}") })
    };
    if !selector_matches(spec, node, shape) {
        let text = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return refused("NodeAffinity", text.into());
    }
    if node.taints.iter().any(|taint| taint.effect == "NoExecute" && !is_tolerated(taint, &spec.tolerations)) {
        let text = "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
        return refused("TaintToleration", text.into());
    }
    let taken = |port: &crate::plan::HostPort| {
        node.host_ports.iter().any(|known| {
            let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
            known.port == port.port
                && known.protocol == port.protocol
                && (known.ip == port.ip || any(&known.ip) || any(&port.ip))
        })
    };
    if plan.host_ports.iter().any(taken) {
        let text = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return refused("NodePorts", text.into());
    }
    let short = |resource: &str, requested: i64, used: i64, capacity: i64| {
        let text = format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        refused(&format!("OutOf{resource}"), text)
    };
    let (has, used, wants) = (node.allocatable(shape), node.used, plan.requests);
    if node.pods >= shape.max_pods {
        return short("pods", 1, i64::from(node.pods), i64::from(shape.max_pods));
    }
    for (name, wants, used, has) in [
        ("cpu", wants.cpu, used.cpu, has.cpu),
        ("memory", wants.memory, used.memory, has.memory),
        ("ephemeral-storage", wants.storage, used.storage, has.storage),
        ("nvidia.com/gpu", wants.gpus, used.gpus, has.gpus),
    ] {
        if wants > 0 && wants > has.saturating_sub(used) {
            return short(name, wants, used, has);
        }
    }
    None
}

fn selector_matches(spec: &PodSpec, node: &Node, shape: &Shape) -> bool {
    let labels = spec.node_selector.iter().all(|(key, value)| node.label(key, shape).is_some_and(|own| own == *value));
    let required = &spec.affinity.node_affinity.required_during_scheduling_ignored_during_execution;
    labels
        && required
            .as_ref()
            .is_none_or(|selector| selector.node_selector_terms.iter().any(|term| term_matches(term, node, shape)))
}

fn term_matches(term: &Term, node: &Node, shape: &Shape) -> bool {
    // A term without requirements matches nothing.
    let empty = term.match_expressions.is_empty() && term.match_fields.is_empty();
    !empty
        && term.match_expressions.iter().all(|wanted| meets(wanted, node.label(&wanted.key, shape).as_deref()))
        && term.match_fields.iter().all(|wanted| wanted.key == "metadata.name" && meets(wanted, Some(&node.name)))
}

fn meets(wanted: &Requirement, value: Option<&str>) -> bool {
    let listed = |value: &str| wanted.values.iter().any(|known| known == value);
    let numbers = || Some((value?.parse::<i64>().ok()?, wanted.values.first()?.parse::<i64>().ok()?));
    match wanted.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(own, bound)| own > bound),
        "Lt" => numbers().is_some_and(|(own, bound)| own < bound),
        _ => false,
    }
}

fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| {
        let effect = toleration.effect.is_empty() || toleration.effect == taint.effect;
        let key = toleration.key.is_empty() || toleration.key == taint.key;
        let value = match toleration.operator.as_str() {
            "Exists" => true,
            _ => !toleration.key.is_empty() && toleration.value == taint.value,
        };
        effect && key && value
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timings;
    use serde_json::json;

    fn verdict(spec: serde_json::Value, prepare: impl FnOnce(&mut Node)) -> Option<String> {
        let size = crate::size::find("Standard_D2s_v5").unwrap();
        let mut node = Node::new("node-1", size, "pool".into(), "2".into());
        let shape = Shape { region: "eastus".into(), max_pods: 3, seed: 0, address: "127.0.0.1".into(), port: 0 };
        prepare(&mut node);
        let pod: crate::view::Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        let plan = Plan::of(&pod, &Timings::default());
        refusal(&pod.spec, &plan, &node, &shape).map(|failure| failure.reason)
    }

    fn asks(requests: serde_json::Value) -> serde_json::Value {
        json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": requests},
                               "ports": [{"containerPort": 80, "hostPort": 8080}]}]})
    }

    #[test]
    fn resources_ports_and_count_are_checked() {
        let none = |_: &mut Node| {};
        assert_eq!(verdict(asks(json!({"cpu": "1900m", "memory": "5Gi"})), none), None);
        assert_eq!(verdict(asks(json!({"cpu": "1901m"})), none).as_deref(), Some("OutOfcpu"));
        assert_eq!(verdict(asks(json!({"memory": "8Gi"})), none).as_deref(), Some("OutOfmemory"));
        assert_eq!(verdict(asks(json!({"nvidia.com/gpu": "1"})), none).as_deref(), Some("OutOfnvidia.com/gpu"));
        assert_eq!(verdict(asks(json!({})), |node| node.pods = 3).as_deref(), Some("OutOfpods"));
        let occupied = |node: &mut Node| {
            let port = crate::plan::HostPort { port: 8080, protocol: "TCP".into(), ip: "".into() };
            node.host_ports.push(port);
        };
        assert_eq!(verdict(asks(json!({})), occupied).as_deref(), Some("NodePorts"));
        // A pod that asks for nothing fits on a node that is over-committed already.
        assert_eq!(verdict(asks(json!({})), |node| node.used.cpu = 99_000), None);
    }

    #[test]
    fn selectors_affinity_and_taints_are_checked() {
        let none = |_: &mut Node| {};
        let select = |key: &str, value: &str| json!({"nodeSelector": {key: value}});
        assert_eq!(verdict(select("topology.kubernetes.io/zone", "eastus-2"), none), None);
        assert_eq!(verdict(select("disk", "ssd"), none).as_deref(), Some("NodeAffinity"));
        let affinity = |key: &str, operator: &str, values: serde_json::Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}}}})
        };
        assert_eq!(verdict(affinity("kubernetes.io/arch", "In", json!(["amd64"])), none), None);
        assert_eq!(
            verdict(affinity("kubernetes.io/arch", "NotIn", json!(["amd64"])), none).as_deref(),
            Some("NodeAffinity")
        );
        let tainted = |node: &mut Node| {
            node.taints = Box::new([Taint { key: "k".into(), value: "v".into(), effect: "NoExecute".into() }]);
        };
        assert_eq!(verdict(json!({}), tainted).as_deref(), Some("TaintToleration"));
        assert_eq!(verdict(json!({"tolerations": [{"key": "k", "operator": "Exists"}]}), tainted), None);
        assert_eq!(
            verdict(json!({"tolerations": [{"key": "k", "value": "w"}]}), tainted).as_deref(),
            Some("TaintToleration")
        );
    }
}
