//! Containers of a pod.

use std::collections::HashSet;

use serde_json::Value;

use super::check::{
    PROTOCOLS, descending_path, maybe, maybe_one_of, named, non_negative, one_of, port_number, port_or_name, present,
    problems,
};
use super::error::Errors;
use super::format;
use super::path::Path;
use super::read::{child, int, list, text};
use super::resources;

/// What the containers of a pod have around them.
pub(super) struct Surroundings<'a> {
    /// Names of the volumes that can be mounted.
    pub volumes: HashSet<&'a str>,
    /// `spec.terminationGracePeriodSeconds`.
    pub grace_seconds: i64,
    /// Whether this is a pod, or a template of one.
    pub is_pod: bool,
}

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// `spec.containers`.
pub(super) fn containers(containers: &[Value], around: &Surroundings<'_>, path: &Path<'_>, errors: &mut Errors) {
    if containers.is_empty() {
        errors.required(path, "");
    }
    let mut names = HashSet::new();
    for (at, container) in containers.iter().enumerate() {
        let path = path.index(at);
        common(container, around, &path, errors);
        let name = text(container, "name");
        if !names.insert(name) {
            errors.duplicate(&path.field("name"), name);
        }
        running(container, around, &path, errors);
        maybe_one_of(container, "restartPolicy", &["Always", "Never", "OnFailure"], &path, errors);
    }
    host_ports(containers, path, errors);
}

/// `spec.initContainers`.
pub(super) fn init_containers(
    inits: &[Value],
    regular: &[Value],
    around: &Surroundings<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let mut names: HashSet<&str> = regular.iter().map(|container| text(container, "name")).collect();
    for (at, container) in inits.iter().enumerate() {
        let one_path = path.index(at);
        common(container, around, &one_path, errors);
        maybe_one_of(container, "restartPolicy", &["Always", "Never", "OnFailure"], &one_path, errors);
        let name = text(container, "name");
        if !names.insert(name) {
            errors.duplicate(&one_path.field("name"), name);
        }
        if text(container, "restartPolicy") == "Always" {
            running(container, around, &one_path, errors);
            continue;
        }
        for name in ["lifecycle"].iter().chain(&PROBES) {
            if container.get(*name).is_some() {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.forbidden(&one_path.field(name), detail);
            }
        }
    }
}

/// `spec.ephemeralContainers`.
pub(super) fn ephemeral_containers(
    ephemeral: &[Value],
    others: &[&[Value]],
    around: &Surroundings<'_>,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let others = others.iter().flat_map(|list| list.iter());
    let mut names: HashSet<&str> = others.map(|container| text(container, "name")).collect();
    for (at, container) in ephemeral.iter().enumerate() {
        let path = path.index(at);
        common(container, around, &path, errors);
        let name = text(container, "name");
        if !names.insert(name) {
            errors.duplicate(&path.field("name"), name);
        }
        for name in ["lifecycle", "ports"].iter().chain(&PROBES) {
            if container.get(*name).is_some() {
                errors.forbidden(&path.field(name), "cannot be set for an Ephemeral Container");
            }
        }
        if child(container, "resources").as_object().is_some_and(|resources| !resources.is_empty()) {
            errors.forbidden(&path.field("resources"), "cannot be set for an Ephemeral Container");
        }
    }
}

fn common(container: &Value, around: &Surroundings<'_>, path: &Path<'_>, errors: &mut Errors) {
    named(container, "name", format::dns_label, path, errors);
    let image = text(container, "image");
    if image.is_empty() {
        errors.required(&path.field("image"), "");
    } else if around.is_pod && image.trim() != image {
        errors.invalid(&path.field("image"), image, "must not have leading or trailing whitespace");
    }
    let policies = ["File", "FallbackToLogsOnError"];
    one_of(container, "terminationMessagePolicy", &policies, path, errors);
    ports(list(container, "ports"), &path.field("ports"), errors);
    env(list(container, "env"), &path.field("env"), errors);
    env_from(list(container, "envFrom"), &path.field("envFrom"), errors);
    mounts(list(container, "volumeMounts"), around, &path.field("volumeMounts"), errors);
    one_of(container, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], path, errors);
    resources::requirements(child(container, "resources"), &path.field("resources"), errors);
    security(child(container, "securityContext"), &path.field("securityContext"), errors);
}

/// Ids of users and groups, and escalation that contradicts itself.
pub(super) fn security(context: &Value, path: &Path<'_>, errors: &mut Errors) {
    for name in ["runAsUser", "runAsGroup", "fsGroup"] {
        if let Some(id) = int(context, name).filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
            errors.invalid(&path.field(name), id, "must be between 0 and 2147483647, inclusive");
        }
    }
    if context.get("allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
        if context.get("privileged") == Some(&Value::Bool(true)) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, context.clone(), detail);
        }
        let added = list(child(context, "capabilities"), "add");
        if added.iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, context.clone(), detail);
        }
    }
}

fn ports(ports: &[Value], path: &Path<'_>, errors: &mut Errors) {
    let mut names = HashSet::new();
    for (at, port) in ports.iter().enumerate() {
        let path = path.index(at);
        let name = text(port, "name");
        if !name.is_empty() {
            let found = format::port_name(name);
            if !found.is_empty() {
                problems(found, name, &path.field("name"), errors);
            } else if !names.insert(name) {
                errors.duplicate(&path.field("name"), name);
            }
        }
        match int(port, "containerPort").unwrap_or_default() {
            0 => errors.required(&path.field("containerPort"), ""),
            number => port_number(number, &path.field("containerPort"), errors),
        }
        if let Some(number) = int(port, "hostPort").filter(|number| *number != 0) {
            port_number(number, &path.field("hostPort"), errors);
        }
        one_of(port, "protocol", &PROTOCOLS, &path, errors);
    }
}

/// A port of the host can be taken once.
fn host_ports(containers: &[Value], path: &Path<'_>, errors: &mut Errors) {
    let mut taken = HashSet::new();
    for (at, container) in containers.iter().enumerate() {
        let container_path = path.index(at);
        let ports_path = container_path.field("ports");
        for (at, port) in list(container, "ports").iter().enumerate() {
            let Some(number) = int(port, "hostPort").filter(|number| *number != 0) else { continue };
            let name = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
            if taken.contains(&name) {
                errors.duplicate(&ports_path.index(at).field("hostPort"), name);
            } else {
                taken.insert(name);
            }
        }
    }
}

fn env(variables: &[Value], path: &Path<'_>, errors: &mut Errors) {
    for (at, variable) in variables.iter().enumerate() {
        let path = path.index(at);
        named(variable, "name", format::env_name, &path, errors);
        if let Some(Value::Object(source)) = variable.get("valueFrom") {
            let source_path = path.field("valueFrom");
            for (name, reference) in source {
                env_source(name, reference, &source_path.field(name), errors);
            }
            let detail = match source.len() {
                0 => {
                    "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
                }
                _ if !text(variable, "value").is_empty() => "may not be specified when `value` is not empty",
                1 => continue,
                _ => "may not have more than one field specified at a time",
            };
            errors.invalid(&source_path, "", detail);
        }
    }
}

fn env_source(name: &str, reference: &Value, path: &Path<'_>, errors: &mut Errors) {
    const FIELDS: [&str; 9] = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    const RESOURCES: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    match name {
        "fieldRef" => match text(reference, "fieldPath") {
            "" => errors.required(&path.field("fieldPath"), ""),
            field => {
                let subscripted = ["metadata.labels['", "metadata.annotations['"].iter().any(|p| field.starts_with(p));
                if FIELDS.contains(&field) || (subscripted && field.ends_with("']")) {
                    return;
                }
                let detail = format!("error converting fieldPath: field label not supported: {field}");
                errors.invalid(&path.field("fieldPath"), field, detail);
            }
        },
        "resourceFieldRef" => match text(reference, "resource") {
            "" => errors.required(&path.field("resource"), ""),
            resource => {
                let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|p| resource.starts_with(p));
                if !huge && !RESOURCES.contains(&resource) {
                    errors.not_supported(&path.field("resource"), resource, &RESOURCES);
                }
            }
        },
        "configMapKeyRef" | "secretKeyRef" => {
            let name = text(reference, "name");
            problems(format::dns_subdomain(name), name, &path.field("name"), errors);
            named(reference, "key", format::config_key, path, errors);
        }
        _ => {}
    }
}

fn env_from(sources: &[Value], path: &Path<'_>, errors: &mut Errors) {
    for (at, source) in sources.iter().enumerate() {
        let one_path = path.index(at);
        maybe(source, "prefix", format::env_name, &one_path, errors);
        let mut count = 0;
        for name in ["configMapRef", "secretRef"] {
            if let Some(reference) = source.get(name) {
                count += 1;
                named(reference, "name", format::dns_subdomain, &one_path.field(name), errors);
            }
        }
        match count {
            0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}

fn mounts(mounts: &[Value], around: &Surroundings<'_>, path: &Path<'_>, errors: &mut Errors) {
    let mut places = HashSet::new();
    for (at, mount) in mounts.iter().enumerate() {
        let one_path = path.index(at);
        let (name, place) = (text(mount, "name"), text(mount, "mountPath"));
        present(mount, "name", &one_path, errors);
        if !around.volumes.contains(name) {
            errors.not_found(&one_path.field("name"), name);
        }
        present(mount, "mountPath", &one_path, errors);
        if !places.insert(place) {
            errors.invalid(&one_path.field("mountPath"), place, "must be unique");
        }
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        if !sub.is_empty() {
            descending_path(sub, &path.field("subPath"), errors);
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                errors.invalid(&one_path.field("subPathExpr"), expression, detail);
            }
            descending_path(expression, &path.field("subPathExpr"), errors);
        }
        maybe_one_of(mount, "mountPropagation", &["Bidirectional", "HostToContainer", "None"], path, errors);
    }
}

/// What only containers that stay up have: hooks and probes.
fn running(container: &Value, around: &Surroundings<'_>, path: &Path<'_>, errors: &mut Errors) {
    let (lifecycle, lifecycle_path) = (child(container, "lifecycle"), path.field("lifecycle"));
    for name in ["postStart", "preStop"] {
        if let Some(hook) = lifecycle.get(name) {
            handler(hook, around, &lifecycle_path.field(name), errors);
        }
    }
    for name in PROBES {
        let Some(probe) = container.get(name) else { continue };
        let path = path.field(name);
        handler(probe, around, &path, errors);
        let counts = ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
        non_negative(probe, &counts, &path, errors);
        let grace = int(probe, "terminationGracePeriodSeconds");
        if let Some(seconds) = grace.filter(|seconds| *seconds <= 0) {
            errors.invalid(&path.field("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
        }
        if name == "readinessProbe" {
            if let Some(seconds) = grace {
                let detail = "must not be set for readinessProbes";
                errors.invalid(&path.field("terminationGracePeriodSeconds"), seconds, detail);
            }
        } else if let Some(threshold) = int(probe, "successThreshold").filter(|threshold| *threshold != 1) {
            errors.invalid(&path.field("successThreshold"), threshold, "must be 1");
        }
    }
}

/// The one action of a probe or hook.
fn handler(parent: &Value, around: &Surroundings<'_>, path: &Path<'_>, errors: &mut Errors) {
    let mut found = false;
    for name in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        let Some(action) = parent.get(name) else { continue };
        let path = path.field(name);
        if found {
            errors.forbidden(&path, "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        match name {
            "exec" if list(action, "command").is_empty() => errors.required(&path.field("command"), ""),
            "httpGet" => {
                present(action, "path", &path, errors);
                port_or_name(action.get("port"), &path.field("port"), errors);
                let scheme = text(action, "scheme");
                if !["HTTP", "HTTPS"].contains(&scheme) {
                    errors.not_supported(&path.field("scheme"), scheme, &["HTTP", "HTTPS"]);
                }
                for header in list(action, "httpHeaders") {
                    let name = text(header, "name");
                    problems(format::http_header(name), name, &path.field("httpHeaders"), errors);
                }
            }
            "tcpSocket" | "grpc" => port_or_name(action.get("port"), &path.field("port"), errors),
            "sleep" => {
                let seconds = int(action, "seconds").unwrap_or_default();
                if seconds < 0 || seconds > around.grace_seconds {
                    let detail = format!(
                        "must be non-negative and less than terminationGracePeriodSeconds ({})",
                        around.grace_seconds
                    );
                    errors.invalid(&path, seconds, detail);
                }
            }
            _ => {}
        }
    }
    if !found {
        errors.required(path, "must specify a handler type");
    }
}
