//! Whether a node is to run a daemon: node name, selector, affinity, taints.

use kelson_wire::kube::meta::{StringMap, null_default};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::lifecycle::tolerates;
use crate::view::{Affinity, Node, Taint, Toleration};

/// Taints that every daemon tolerates, as (key, effect): a daemon runs where other pods may not.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// The same for one that uses the node's own network.
const NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What a template asks of a node.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Needs {
    node_name: String,
    #[serde(deserialize_with = "null_default")]
    node_selector: StringMap,
    #[serde(deserialize_with = "null_default")]
    affinity: Affinity,
    #[serde(deserialize_with = "null_default")]
    tolerations: Vec<Toleration>,
    host_network: bool,
}

/// What is to be done on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A daemon belongs here.
    Run,
    /// None is started, but one that runs may stay.
    Stay,
    /// None may be here.
    Leave,
}

impl Needs {
    /// The needs of a pod template, with the tolerations that daemons get.
    pub(super) fn of(template: &Value) -> Needs {
        let spec = template.get("spec").cloned().unwrap_or_default();
        let mut needs: Needs = serde_json::from_value(spec).unwrap_or_default();
        for (key, effect) in automatic(needs.host_network) {
            let (key, operator, effect) = (key.to_string(), "Exists".to_string(), effect.to_string());
            needs.tolerations.push(Toleration { key, operator, effect, ..Toleration::default() });
        }
        needs
    }

    /// What they mean for a node.
    pub(super) fn place(&self, node: &Node) -> Place {
        let (name, labels) = (&node.metadata.name, &node.metadata.labels);
        let fits = (self.node_name.is_empty() || *self.node_name == **name)
            && self.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.affinity.allows(name, labels);
        if !fits {
            return Place::Leave;
        }
        let refused = |taint: &&Taint| !self.tolerations.iter().any(|toleration| tolerates(toleration, taint));
        let refusing: Vec<&Taint> =
            node.spec.taints.iter().filter(|taint| taint.effect != "PreferNoSchedule").filter(refused).collect();
        if refusing.is_empty() {
            Place::Run
        } else if refusing.iter().any(|taint| taint.effect == "NoExecute") {
            Place::Leave
        } else {
            Place::Stay
        }
    }
}

fn automatic(host_network: bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    TOLERATED.into_iter().chain(host_network.then_some(NETWORK))
}

/// Binds a pod made from a template to a node by affinity, so that the scheduler places it, and adds the tolerations.
pub(super) fn destine(pod: &mut Value, node: &str) {
    let host_network = pod["spec"]["hostNetwork"] == true;
    let spec = &mut pod["spec"];
    let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]});
    if !spec["affinity"].is_object() {
        spec["affinity"] = json!({});
    }
    let affinity = &mut spec["affinity"]["nodeAffinity"];
    if !affinity.is_object() {
        *affinity = json!({});
    }
    // It takes the place of the template's own terms, which the node has been checked against.
    affinity["requiredDuringSchedulingIgnoredDuringExecution"] = json!({"nodeSelectorTerms": [term]});
    if !spec["tolerations"].is_array() {
        spec["tolerations"] = json!([]);
    }
    if let Some(tolerations) = spec["tolerations"].as_array_mut() {
        for (key, effect) in automatic(host_network) {
            let toleration = json!({"key": key, "operator": "Exists", "effect": effect});
            if !tolerations.contains(&toleration) {
                tolerations.push(toleration);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(labels: &[(&str, &str)], taints: &[(&str, &str)]) -> Node {
        let mut node = Node::default();
        node.metadata.name = "n1".into();
        node.metadata.labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let taint = |(key, effect): &(&str, &str)| Taint {
            key: key.to_string(),
            effect: effect.to_string(),
            ..Taint::default()
        };
        node.spec.taints = taints.iter().map(taint).collect();
        node
    }

    #[test]
    fn selectors_affinity_and_taints_decide() {
        let needs = Needs::of(&json!({"spec": {
            "nodeSelector": {"disk": "ssd"},
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]},
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["other"]}]},
            ]}}},
        }}));
        let fit = [("disk", "ssd"), ("cores", "8")];
        assert_eq!(needs.place(&node(&fit, &[])), Place::Run);
        assert_eq!(needs.place(&node(&[("disk", "ssd"), ("cores", "4")], &[])), Place::Leave);
        assert_eq!(needs.place(&node(&[("cores", "8")], &[])), Place::Leave);
        assert_eq!(needs.place(&node(&fit, &[("node.kubernetes.io/unschedulable", "NoSchedule")])), Place::Run);
        assert_eq!(needs.place(&node(&fit, &[("node.kubernetes.io/unreachable", "NoExecute")])), Place::Run);
        assert_eq!(needs.place(&node(&fit, &[("dedicated", "NoSchedule")])), Place::Stay);
        assert_eq!(needs.place(&node(&fit, &[("dedicated", "NoExecute")])), Place::Leave);
        assert_eq!(needs.place(&node(&fit, &[("dedicated", "PreferNoSchedule")])), Place::Run);
    }

    #[test]
    fn a_pod_is_destined_to_its_node() {
        let mut pod = json!({"spec": {"hostNetwork": true, "tolerations": null}});
        destine(&mut pod, "n7");
        let view: crate::view::Pod = serde_json::from_str(&pod.to_string()).unwrap();
        assert_eq!(*view.destined, "n7");
        assert_eq!(view.tolerations.len(), TOLERATED.len() + 1);
    }
}
