//! Pods and their templates.

use std::collections::HashSet;

use serde_json::Value;

use super::check::{ip, maybe, maybe_one_of, one_of, problems};
use super::container::{self, Surroundings};
use super::error::Errors;
use super::format;
use super::meta::{annotations, labels};
use super::path::Path;
use super::read::{boolean, child, int, list, text};
use super::{resources, scheduling, volume};

/// The rules of a new pod beyond its metadata.
pub(super) fn create(pod: &Value, errors: &mut Errors) {
    let spec = child(pod, "spec");
    let path = Path::ROOT.field("spec");
    pod_spec(spec, true, &path, errors);
    if !list(spec, "ephemeralContainers").is_empty() {
        errors.forbidden(&path.field("ephemeralContainers"), "cannot be set on create");
    }
    if !text(spec, "nodeName").is_empty() && !list(spec, "schedulingGates").is_empty() {
        errors.forbidden(&path.field("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

/// What an update of a pod may change: images, the deadline (downwards), more tolerations, fewer gates.
pub(super) fn update(pod: &Value, old: &Value, errors: &mut Errors) {
    let (spec, old_spec) = (child(pod, "spec"), child(old, "spec"));
    if spec == old_spec {
        return;
    }
    let path = Path::ROOT.field("spec");
    pod_spec(spec, true, &path, errors);
    for name in ["containers", "initContainers"] {
        if list(spec, name).len() != list(old_spec, name).len() {
            return errors.forbidden(&path.field(name), "pod updates may not add or remove containers");
        }
    }
    let deadline = "activeDeadlineSeconds";
    match (int(spec, deadline), int(old_spec, deadline)) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            return errors.invalid(&path.field(deadline), new, "must be between 0 and 2147483647, inclusive");
        }
        (Some(new), Some(old)) if old < new => {
            return errors.invalid(&path.field(deadline), new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.invalid(&path.field(deadline), Value::Null, detail);
        }
        _ => {}
    }
    let (new_tolerations, old_tolerations) = (list(spec, "tolerations"), list(old_spec, "tolerations"));
    scheduling::only_added_tolerations(new_tolerations, old_tolerations, &path.field("tolerations"), errors);
    only_deleted_gates(list(spec, "schedulingGates"), list(old_spec, "schedulingGates"), &path, errors);
    if let Some(change) = forbidden_change(spec, old_spec) {
        errors.forbidden(
            &path,
            format!(
                "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
                 `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
                 `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n{change}"
            ),
        );
    }
}

fn only_deleted_gates(new: &[Value], old: &[Value], path: &Path<'_>, errors: &mut Errors) {
    let list_path = path.field("schedulingGates");
    for (at, gate) in new.iter().enumerate() {
        let name = text(gate, "name");
        if !old.iter().any(|old| text(old, "name") == name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(&list_path.index(at).field("name"), detail);
        }
    }
}

/// The fields of a pod's spec that an update changed although it may not, with what was and what would be.
fn forbidden_change(spec: &Value, old: &Value) -> Option<String> {
    let mut allowed = spec.clone();
    let gated = !list(old, "schedulingGates").is_empty();
    let map = allowed.as_object_mut()?;
    let before = old.as_object()?;
    for name in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        match old.get(name) {
            Some(value) => drop(map.insert(name.to_owned(), value.clone())),
            None => drop(map.remove(name)),
        }
    }
    // A pod that waits at a gate may still be told where to go.
    if gated {
        for name in ["nodeSelector", "affinity"] {
            match old.get(name) {
                Some(value) => drop(map.insert(name.to_owned(), value.clone())),
                None => drop(map.remove(name)),
            }
        }
    }
    let grace = "terminationGracePeriodSeconds";
    if int(old, grace).is_some_and(|seconds| seconds < 0) && map.get(grace).and_then(Value::as_i64) == Some(1) {
        map.insert(grace.to_owned(), old[grace].clone());
    }
    for name in ["containers", "initContainers"] {
        let containers = map.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, before) in containers.zip(list(old, name)) {
            container["image"] = child(before, "image").clone();
        }
    }
    if map == before {
        return None;
    }
    let names: HashSet<&String> = map.keys().chain(before.keys()).collect();
    let mut names: Vec<&String> = names.into_iter().filter(|name| map.get(*name) != old.get(*name)).collect();
    names.sort();
    let show = |value: Option<&Value>| value.map_or("<unset>".to_owned(), Value::to_string);
    let lines =
        names.into_iter().map(|name| format!("- {name}: {}\n+ {name}: {}\n", show(old.get(name)), show(map.get(name))));
    Some(lines.collect())
}

/// The rules of a pod template.
pub(super) fn template(template: &Value, path: &Path<'_>, errors: &mut Errors) {
    let metadata = child(template, "metadata");
    labels(metadata.get("labels"), &path.field("labels"), errors);
    annotations(metadata, &path.field("annotations"), errors);
    let (spec, spec_path) = (child(template, "spec"), path.field("spec"));
    pod_spec(spec, false, &spec_path, errors);
    if !list(spec, "ephemeralContainers").is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.forbidden(&spec_path.field("ephemeralContainers"), detail);
    }
}

fn pod_spec(spec: &Value, is_pod: bool, path: &Path<'_>, errors: &mut Errors) {
    let grace = int(spec, "terminationGracePeriodSeconds");
    if grace.is_none() {
        errors.required(&path.field("terminationGracePeriodSeconds"), "");
    }
    let volumes = volume::volumes(list(spec, "volumes"), &path.field("volumes"), errors);
    let around = Surroundings { volumes, grace_seconds: grace.unwrap_or_default(), is_pod };
    let (containers, inits) = (list(spec, "containers"), list(spec, "initContainers"));
    container::containers(containers, &around, &path.field("containers"), errors);
    container::init_containers(inits, containers, &around, &path.field("initContainers"), errors);
    let (ephemeral, ephemeral_path) = (list(spec, "ephemeralContainers"), path.field("ephemeralContainers"));
    container::ephemeral_containers(ephemeral, &[containers, inits], &around, &ephemeral_path, errors);
    resources::requirements(child(spec, "resources"), &path.field("resources"), errors);
    host_network(spec, is_pod, path, errors);
    one_of(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path, errors);
    one_of(spec, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], path, errors);
    dns_config(spec, path, errors);
    scheduling::node_selector(spec, path, errors);
    container::security(child(spec, "securityContext"), &path.field("securityContext"), errors);
    scheduling::affinity(child(spec, "affinity"), &path.field("affinity"), errors);
    scheduling::tolerations(list(spec, "tolerations"), &path.field("tolerations"), errors);
    let constraints = list(spec, "topologySpreadConstraints");
    scheduling::topology_spread(constraints, &path.field("topologySpreadConstraints"), errors);
    gates(spec, path, errors);
    for name in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        maybe(spec, name, format::dns_subdomain, path, errors);
    }
    for name in ["hostname", "subdomain"] {
        maybe(spec, name, format::dns_label, path, errors);
    }
    if let Some(seconds) = int(spec, "activeDeadlineSeconds").filter(|n| !(1..=i64::from(i32::MAX)).contains(n)) {
        let detail = "must be between 1 and 2147483647, inclusive";
        errors.invalid(&path.field("activeDeadlineSeconds"), seconds, detail);
    }
    maybe_one_of(spec, "preemptionPolicy", &["PreemptLowerPriority", "Never"], path, errors);
    let aliases_path = path.field("hostAliases");
    for (at, alias) in list(spec, "hostAliases").iter().enumerate() {
        let path = aliases_path.index(at);
        ip(text(alias, "ip"), &path.field("ip"), errors);
        let names_path = path.field("hostnames");
        for (at, name) in list(alias, "hostnames").iter().filter_map(Value::as_str).enumerate() {
            problems(format::dns_subdomain(name), name, &names_path.index(at), errors);
        }
    }
}

fn host_network(spec: &Value, is_pod: bool, path: &Path<'_>, errors: &mut Errors) {
    if !boolean(spec, "hostNetwork") {
        return;
    }
    let containers_path = path.field("containers");
    for (at, container) in list(spec, "containers").iter().enumerate() {
        let container_path = containers_path.index(at);
        let ports_path = container_path.field("ports");
        for (at, port) in list(container, "ports").iter().enumerate() {
            let host = int(port, "hostPort").unwrap_or_default();
            if (is_pod || host != 0) && Some(host) != int(port, "containerPort") {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(&ports_path.index(at).field("hostPort"), host, detail);
            }
        }
    }
}

fn dns_config(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    /// The most name servers that resolvers take.
    const NAMESERVERS: usize = 3;
    let (config, path) = (child(spec, "dnsConfig"), path.field("dnsConfig"));
    let servers = list(config, "nameservers");
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            return errors.required(&path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return errors.required(&path.field("nameservers"), detail);
        }
    }
    let servers_path = path.field("nameservers");
    if servers.len() > NAMESERVERS {
        errors.invalid(&servers_path, servers.to_vec(), format!("must not have more than {NAMESERVERS} nameservers"));
    }
    for (at, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        ip(server, &servers_path.index(at), errors);
    }
}

fn gates(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let readiness_path = path.field("readinessGates");
    for (at, gate) in list(spec, "readinessGates").iter().enumerate() {
        let kind = text(gate, "conditionType");
        problems(format::qualified_name(kind), kind, &readiness_path.index(at).field("conditionType"), errors);
    }
    let scheduling_path = path.field("schedulingGates");
    let mut seen = HashSet::new();
    for (at, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        problems(format::qualified_name(name), name, &scheduling_path.index(at), errors);
        if !seen.insert(name) {
            errors.duplicate(&scheduling_path.index(at), name);
        }
    }
}
