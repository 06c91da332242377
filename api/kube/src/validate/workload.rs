//! Workloads: Deployment, ReplicaSet, DaemonSet, Job, ControllerRevision.

use serde_json::{Value, json};

use super::check::{at_most_all, count_of, count_or_percent, non_negative};
use super::error::Errors;
use super::format;
use super::meta::{IMMUTABLE, immutable};
use super::path::Path;
use super::pod;
use super::read::{boolean, child, int, list, text};
use super::selector::{self, label_selector};

/// The selector and template of a Deployment or ReplicaSet.
fn replicated(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    non_negative(spec, &["replicas", "minReadySeconds"], path, errors);
    let wanted = child(spec, "selector");
    let selector_path = path.field("selector");
    if wanted.is_null() {
        errors.required(&selector_path, "");
    } else {
        label_selector(wanted, &selector_path, errors);
        if selector::is_empty(wanted) {
            errors.invalid(&selector_path, wanted.clone(), "empty selector is invalid for deployment");
        }
    }
    let (template, template_path) = (child(spec, "template"), path.field("template"));
    match selector::matches(wanted, labels_of(template)) {
        None => return errors.invalid(&selector_path, wanted.clone(), "invalid label selector"),
        Some(false) if !wanted.is_null() => mismatch(template, &template_path, errors),
        _ => {}
    }
    long_running(template, "ReplicaSet", &template_path, errors);
}

fn labels_of(template: &Value) -> &Value {
    child(child(template, "metadata"), "labels")
}

fn mismatch(template: &Value, path: &Path<'_>, errors: &mut Errors) {
    let labels = labels_of(template).clone();
    errors.invalid(&path.field("metadata").field("labels"), labels, "`selector` does not match template `labels`");
}

/// The template of pods that are meant to stay up.
fn long_running(template: &Value, owner: &str, path: &Path<'_>, errors: &mut Errors) {
    pod::template(template, path, errors);
    let (spec, spec_path) = (child(template, "spec"), path.field("spec"));
    let policy = text(spec, "restartPolicy");
    if policy != "Always" {
        errors.not_supported(&spec_path.field("restartPolicy"), policy, &["Always"]);
    }
    if spec.get("activeDeadlineSeconds").is_some() {
        let detail = format!("activeDeadlineSeconds in {owner} is not Supported");
        errors.forbidden(&spec_path.field("activeDeadlineSeconds"), detail);
    }
}

/// A Deployment.
pub(super) fn deployment(object: &Value, errors: &mut Errors) {
    let (spec, path) = (child(object, "spec"), Path::ROOT.field("spec"));
    replicated(spec, &path, errors);
    let (strategy, strategy_path) = (child(spec, "strategy"), path.field("strategy"));
    let rolling = strategy.get("rollingUpdate");
    let rolling_path = strategy_path.field("rollingUpdate");
    match text(strategy, "type") {
        "Recreate" if rolling.is_some() => {
            errors.forbidden(&rolling_path, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" => match rolling {
            None => errors.required(&rolling_path, "this should be defaulted and never be nil"),
            Some(rolling) => {
                let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
                let unavailable_path = rolling_path.field("maxUnavailable");
                count_or_percent(unavailable, &unavailable_path, errors);
                count_or_percent(surge, &rolling_path.field("maxSurge"), errors);
                if count_of(unavailable) == 0 && count_of(surge) == 0 {
                    let value = unavailable.cloned().unwrap_or_default();
                    errors.invalid(&unavailable_path, value, "may not be 0 when `maxSurge` is 0");
                }
                at_most_all(unavailable, &unavailable_path, errors);
            }
        },
        _ => errors.not_supported(&strategy_path, strategy.clone(), &["Recreate", "RollingUpdate"]),
    }
    non_negative(spec, &["revisionHistoryLimit", "progressDeadlineSeconds"], &path, errors);
    if let Some(deadline) = int(spec, "progressDeadlineSeconds")
        && deadline <= int(spec, "minReadySeconds").unwrap_or_default()
    {
        errors.invalid(&path.field("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds");
    }
}

/// A ReplicaSet.
pub(super) fn replica_set(object: &Value, errors: &mut Errors) {
    replicated(child(object, "spec"), &Path::ROOT.field("spec"), errors);
}

/// A DaemonSet.
pub(super) fn daemon_set(object: &Value, errors: &mut Errors) {
    let (spec, path) = (child(object, "spec"), Path::ROOT.field("spec"));
    let (wanted, selector_path) = (child(spec, "selector"), path.field("selector"));
    label_selector(wanted, &selector_path, errors);
    let (template, template_path) = (child(spec, "template"), path.field("template"));
    if selector::matches(wanted, labels_of(template)) == Some(false) {
        mismatch(template, &template_path, errors);
    }
    if !wanted.is_null() && selector::is_empty(wanted) {
        errors.invalid(&selector_path, wanted.clone(), "empty selector is invalid for daemonset");
    }
    long_running(template, "DaemonSet", &template_path, errors);
    non_negative(spec, &["minReadySeconds", "revisionHistoryLimit"], &path, errors);
    let (strategy, strategy_path) = (child(spec, "updateStrategy"), path.field("updateStrategy"));
    let rolling_path = strategy_path.field("rollingUpdate");
    match (text(strategy, "type"), strategy.get("rollingUpdate")) {
        ("OnDelete", _) => {}
        ("RollingUpdate", None) => errors.required(&rolling_path, ""),
        ("RollingUpdate", Some(rolling)) => {
            for name in ["maxUnavailable", "maxSurge"] {
                count_or_percent(rolling.get(name), &rolling_path.field(name), errors);
                at_most_all(rolling.get(name), &rolling_path.field(name), errors);
            }
            match (count_of(rolling.get("maxUnavailable")) != 0, count_of(rolling.get("maxSurge")) != 0) {
                (true, true) => {
                    let surge = child(rolling, "maxSurge").clone();
                    let detail = "may not be set when maxUnavailable is non-zero";
                    errors.invalid(&rolling_path.field("maxSurge"), surge, detail);
                }
                (false, false) => {
                    errors.required(&rolling_path.field("maxUnavailable"), "cannot be 0 when maxSurge is 0");
                }
                _ => {}
            }
        }
        _ => errors.not_supported(&strategy_path, strategy.clone(), &["RollingUpdate", "OnDelete"]),
    }
}

/// What Deployments, ReplicaSets and DaemonSets keep for life.
pub(super) fn keeps_selector(object: &Value, old: &Value, errors: &mut Errors) {
    immutable(child(object, "spec"), child(old, "spec"), "selector", &Path::ROOT.field("spec"), errors);
}

/// A Job.
pub(super) fn job(object: &Value, errors: &mut Errors) {
    /// The most pods that an indexed job may run at once.
    const INDEXED_PARALLELISM: i64 = 100_000;
    let (spec, path) = (child(object, "spec"), Path::ROOT.field("spec"));
    generated_selector(object, errors);
    let counts = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    non_negative(spec, &counts, &path, errors);
    let (completions, parallelism) = (int(spec, "completions"), int(spec, "parallelism"));
    if spec.get("maxFailedIndexes").is_some() && spec.get("backoffLimitPerIndex").is_none() {
        errors.required(&path.field("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    match text(spec, "completionMode") {
        "Indexed" => {
            if completions.is_none() {
                errors.required(&path.field("completions"), "when completion mode is Indexed");
            }
            if let Some(parallelism) = parallelism.filter(|pods| *pods > INDEXED_PARALLELISM) {
                let detail =
                    format!("must be less than or equal to {INDEXED_PARALLELISM} when completion mode is Indexed");
                errors.invalid(&path.field("parallelism"), parallelism, detail);
            }
            if let (Some(failed), Some(completions)) = (int(spec, "maxFailedIndexes"), completions)
                && failed > completions
            {
                errors.invalid(&path.field("maxFailedIndexes"), failed, "must be less than or equal to completions");
            }
            if let Some(completions) = completions.filter(|completions| *completions > 0) {
                let name = text(child(object, "metadata"), "name");
                let last = format!("{name}-{}", completions - 1);
                if !format::dns_label(&last).is_empty() {
                    let detail = format!("will not able to create pod with invalid DNS label: {last}");
                    errors.invalid(&Path::ROOT.field("metadata").field("name"), name, detail);
                }
            }
        }
        "" | "NonIndexed" => {
            for name in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if let Some(value) = int(spec, name) {
                    errors.invalid(&path.field(name), value, "requires indexed completion mode");
                }
            }
            if let Some(policy) = spec.get("successPolicy") {
                errors.invalid(&path.field("successPolicy"), policy.clone(), "requires indexed completion mode");
            }
        }
        mode => errors.not_supported(&path.field("completionMode"), mode, &["NonIndexed", "Indexed"]),
    }
    replacement_policy(spec, &path, errors);
    let (template, template_path) = (child(spec, "template"), path.field("template"));
    pod::template(template, &template_path, errors);
    let restart_path = template_path.field("spec");
    let restart_path = restart_path.field("restartPolicy");
    match text(child(template, "spec"), "restartPolicy") {
        "" | "Always" => errors.required(&restart_path, "valid values: \"OnFailure\", \"Never\""),
        "Never" => {}
        "OnFailure" if spec.get("podFailurePolicy").is_some() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.invalid(&restart_path, "OnFailure", detail);
        }
        "OnFailure" => {}
        policy => errors.not_supported(&restart_path, policy, &["OnFailure", "Never"]),
    }
    let (wanted, selector_path) = (child(spec, "selector"), path.field("selector"));
    if wanted.is_null() {
        errors.required(&selector_path, "");
    } else {
        label_selector(wanted, &selector_path, errors);
    }
    if selector::matches(wanted, labels_of(template)) == Some(false) {
        mismatch(template, &template_path, errors);
    }
}

fn replacement_policy(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let policy = text(spec, "podReplacementPolicy");
    let supported: &[&str] =
        if spec.get("podFailurePolicy").is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if spec.get("podReplacementPolicy").is_some() && !supported.contains(&policy) {
        errors.not_supported(&path.field("podReplacementPolicy"), policy, supported);
    }
}

/// The labels that tie a job's pods to it are the server's to choose.
fn generated_selector(object: &Value, errors: &mut Errors) {
    let (metadata, spec) = (child(object, "metadata"), child(object, "spec"));
    if boolean(spec, "manualSelector") {
        return;
    }
    let uid = text(metadata, "uid");
    let labels = labels_of(child(spec, "template"));
    let labels_path = Path::ROOT.field("spec");
    let labels_path = labels_path.field("template");
    let labels_path = labels_path.field("metadata");
    let labels_path = labels_path.field("labels");
    for (key, wanted) in [
        ("controller-uid", uid),
        ("batch.kubernetes.io/controller-uid", uid),
        ("job-name", text(metadata, "name")),
        ("batch.kubernetes.io/job-name", text(metadata, "name")),
    ] {
        match labels.get(key).and_then(Value::as_str) {
            None => errors.required(&labels_path.entry(key), format!("must be '{wanted}'")),
            Some(found) if found == wanted => {}
            Some(_) => errors.invalid(&labels_path, labels.clone(), format!("must be '{wanted}'")),
        }
    }
    let selected = child(child(spec, "selector"), "matchLabels");
    if selected.get("batch.kubernetes.io/controller-uid").and_then(Value::as_str) != Some(uid)
        && selected.get("controller-uid").and_then(Value::as_str) != Some(uid)
    {
        let detail = "`selector` not auto-generated";
        errors.invalid(&Path::ROOT.field("spec").field("selector"), child(spec, "selector").clone(), detail);
    }
}

/// What a Job keeps for life. A suspended one that has not started may still be told where its pods go.
pub(super) fn job_update(object: &Value, old: &Value, errors: &mut Errors) {
    let (spec, old_spec, path) = (child(object, "spec"), child(old, "spec"), Path::ROOT.field("spec"));
    if text(spec, "completionMode") == "Indexed" {
        let completions = int(spec, "completions");
        if completions.is_some()
            && completions != int(old_spec, "completions")
            && completions != int(spec, "parallelism")
        {
            let detail = "can only be modified in tandem with spec.parallelism";
            errors.invalid(&path.field("completions"), completions, detail);
        }
    } else {
        immutable(spec, old_spec, "completions", &path, errors);
    }
    immutable(spec, old_spec, "selector", &path, errors);
    let not_started = boolean(old_spec, "suspend") && child(old, "status").get("startTime").is_none();
    let template = child(spec, "template");
    let mut expected = child(old_spec, "template").clone();
    if not_started {
        for (parent, name) in [
            ("spec", "affinity"),
            ("spec", "nodeSelector"),
            ("spec", "tolerations"),
            ("spec", "schedulingGates"),
            ("metadata", "annotations"),
            ("metadata", "labels"),
        ] {
            let parts =
                expected.as_object_mut().and_then(|map| map.entry(parent).or_insert_with(|| json!({})).as_object_mut());
            if let Some(parts) = parts {
                match child(template, parent).get(name) {
                    Some(value) => drop(parts.insert(name.to_owned(), value.clone())),
                    None => drop(parts.remove(name)),
                }
            }
        }
        for name in ["containers", "initContainers"] {
            let containers = expected.pointer_mut(&format!("/spec/{name}")).and_then(Value::as_array_mut);
            for (container, new) in containers.into_iter().flatten().zip(list(child(template, "spec"), name)) {
                container["resources"] = child(new, "resources").clone();
            }
        }
    }
    if *template != expected {
        errors.invalid(&path.field("template"), template.clone(), IMMUTABLE);
    }
    for name in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        immutable(spec, old_spec, name, &path, errors);
    }
}

/// A ControllerRevision.
pub(super) fn controller_revision(object: &Value, errors: &mut Errors) {
    if object.get("data").is_none() {
        errors.required(&Path::ROOT.field("data"), "data is mandatory");
    }
    let revision = int(object, "revision").unwrap_or_default();
    if revision < 0 {
        errors.invalid(&Path::ROOT.field("revision"), revision, "must be greater than or equal to 0");
    }
}
