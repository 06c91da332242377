//! What decides where a pod may run: tolerations, affinity, spreading; and the taints of nodes.

use std::collections::HashSet;

use serde_json::Value;

use super::check::{maybe_one_of, one_of, problems};
use super::error::Errors;
use super::format;
use super::meta::{label_name, labels};
use super::path::Path;
use super::read::{child, int, list, text};
use super::selector::{label_selector, node_requirement};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// `spec.tolerations`.
pub(super) fn tolerations(tolerations: &[Value], path: &Path<'_>, errors: &mut Errors) {
    for (at, toleration) in tolerations.iter().enumerate() {
        let path = path.index(at);
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        let (value, effect) = (text(toleration, "value"), text(toleration, "effect"));
        if !key.is_empty() {
            label_name(key, &path.field("key"), errors);
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(&path.field("operator"), operator, detail);
        }
        if toleration.get("tolerationSeconds").is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&path.field("effect"), effect, detail);
        }
        match operator {
            "" | "Equal" => {
                let found = format::label_value(value);
                if !found.is_empty() {
                    errors.invalid(&path.field("operator"), value, found.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.invalid(&path.field("operator"), value, "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            "Lt" | "Gt" if value.parse::<i64>().is_err() => {
                let detail = format!("strconv.ParseInt: parsing {value:?}: invalid syntax");
                errors.invalid(&path.field("value"), value, detail);
            }
            "Lt" | "Gt" => {}
            _ => errors.not_supported(&path.field("operator"), operator, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            one_of(toleration, "effect", &EFFECTS, &path, errors);
        }
    }
}

/// A pod's update may add tolerations and change how long they last, nothing else.
pub(super) fn only_added_tolerations(new: &[Value], old: &[Value], path: &Path<'_>, errors: &mut Errors) {
    let same = |old: &Value, new: &Value| {
        ["key", "operator", "value", "effect"].iter().all(|name| text(old, name) == text(new, name))
    };
    if old.iter().any(|old| !new.iter().any(|new| same(old, new))) {
        errors.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
    }
}

/// `spec.taints` of a node; Kubernetes reports them below `metadata`.
pub(super) fn taints(taints: &[Value], path: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (at, taint) in taints.iter().enumerate() {
        let path = path.index(at);
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        label_name(key, &path.field("key"), errors);
        let found = format::label_value(value);
        if !found.is_empty() {
            errors.invalid(&path.field("value"), value, found.join(";"));
        }
        one_of(taint, "effect", &EFFECTS, &path, errors);
        if !seen.insert((effect, key)) {
            errors.duplicate(&path, taint.clone());
            if let Some(error) = errors.0.last_mut() {
                error.detail = "taints must be unique by key and effect pair".to_owned();
            }
        }
    }
}

/// `spec.affinity`.
pub(super) fn affinity(affinity: &Value, path: &Path<'_>, errors: &mut Errors) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let (node, node_path) = (child(affinity, "nodeAffinity"), path.field("nodeAffinity"));
    if let Some(required) = node.get(REQUIRED) {
        let required_path = node_path.field(REQUIRED);
        let terms_path = required_path.field("nodeSelectorTerms");
        let terms = list(required, "nodeSelectorTerms");
        if terms.is_empty() {
            errors.required(&terms_path, "must have at least one node selector term");
        }
        for (at, term) in terms.iter().enumerate() {
            node_term(term, &terms_path.index(at), errors);
        }
    }
    let preferred_path = node_path.field(PREFERRED);
    for (at, term) in list(node, PREFERRED).iter().enumerate() {
        let path = preferred_path.index(at);
        weight(term, &path, errors);
        node_term(child(term, "preference"), &path.field("preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (pod, pod_path) = (child(affinity, kind), path.field(kind));
        let required_path = pod_path.field(REQUIRED);
        for (at, term) in list(pod, REQUIRED).iter().enumerate() {
            pod_term(term, &required_path.index(at), errors);
        }
        let preferred_path = pod_path.field(PREFERRED);
        for (at, term) in list(pod, PREFERRED).iter().enumerate() {
            let path = preferred_path.index(at);
            weight(term, &path, errors);
            pod_term(child(term, "podAffinityTerm"), &path.field("podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &Value, path: &Path<'_>, errors: &mut Errors) {
    let weight = int(term, "weight").unwrap_or_default();
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.field("weight"), weight, "must be in the range 1-100");
    }
}

fn node_term(term: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (name, fields) in [("matchExpressions", false), ("matchFields", true)] {
        let list_path = path.field(name);
        for (at, requirement) in list(term, name).iter().enumerate() {
            node_requirement(requirement, fields, &list_path.index(at), errors);
        }
    }
}

fn pod_term(term: &Value, path: &Path<'_>, errors: &mut Errors) {
    label_selector(child(term, "labelSelector"), &path.field("labelSelector"), errors);
    label_selector(child(term, "namespaceSelector"), &path.field("namespaceSelector"), errors);
    for name in list(term, "namespaces").iter().filter_map(Value::as_str) {
        problems(format::dns_label(name), name, &path.field("namespace"), errors);
    }
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.required(&path.field("topologyKey"), "can not be empty");
    }
    label_name(key, &path.field("topologyKey"), errors);
}

/// `spec.topologySpreadConstraints`.
pub(super) fn topology_spread(constraints: &[Value], path: &Path<'_>, errors: &mut Errors) {
    for (at, constraint) in constraints.iter().enumerate() {
        let path = path.index(at);
        let (key, action) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        let skew = int(constraint, "maxSkew").unwrap_or_default();
        if skew <= 0 {
            errors.invalid(&path.field("maxSkew"), skew, "must be greater than zero");
        }
        if key.is_empty() {
            errors.required(&path.field("topologyKey"), "can not be empty");
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&action) {
            let supported = ["DoNotSchedule", "ScheduleAnyway"];
            errors.not_supported(&path.field("whenUnsatisfiable"), action, &supported);
        }
        let repeats = |other: &Value| text(other, "topologyKey") == key && text(other, "whenUnsatisfiable") == action;
        if constraints[at + 1..].iter().any(repeats) {
            errors.duplicate(&path.field("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {action}}}"));
        }
        if let Some(domains) = int(constraint, "minDomains") {
            if domains <= 0 {
                errors.invalid(&path.field("minDomains"), domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.invalid(&path.field("minDomains"), domains, detail);
            }
        }
        for name in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            maybe_one_of(constraint, name, &["Honor", "Ignore"], &path, errors);
        }
        label_selector(child(constraint, "labelSelector"), &path.field("labelSelector"), errors);
    }
}

/// `spec.nodeSelector`.
pub(super) fn node_selector(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    labels(spec.get("nodeSelector"), &path.field("nodeSelector"), errors);
}
