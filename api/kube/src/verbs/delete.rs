//! Deleting objects: at once, gracefully, or once their finalizers are gone.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, Response, StatusCode};
use kelson_wire::kube::{Body, timestamp};
use kelson_wire::store::Written;
use serde::Deserialize;
use serde_json::{Value, json};

use super::write::{Current, has_finalizers, load, metadata, serialise, text};
use super::{encode, list};
use crate::gateway::{Call, Inner};
use crate::media;
use crate::query::{check_dry_run, options_error};
use crate::registry::Resource;
use crate::service;
use crate::status::{Answer, Failure};

/// Grace of a pod that does not say.
const DEFAULT_GRACE: i64 = 30;
/// Deletions of one collection that run at a time.
const PARALLEL: usize = 16;
/// Attempts against others that write the same object.
const MAX_ATTEMPTS: usize = 64;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Namespaces that a cluster is nothing without.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// `DeleteOptions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    kind: String,
    grace_period_seconds: Option<i64>,
    preconditions: Option<Preconditions>,
    orphan_dependents: Option<bool>,
    propagation_policy: Option<String>,
    dry_run: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

/// How far a deletion got.
pub(crate) struct Deleted {
    /// The object as it is now, or as it last was.
    pub bytes: Bytes,
    pub revision: i64,
    pub uid: String,
    /// Whether it is gone.
    pub gone: bool,
}

impl DeleteOptions {
    /// Reads body and query.
    ///
    /// # Errors
    /// 400 for a malformed body, 422 for options that contradict each other.
    pub fn of(call: &Call<'_>) -> Answer<(DeleteOptions, bool)> {
        let mut options = if call.body.is_empty() {
            DeleteOptions::default()
        } else {
            DeleteOptions::parse(&call.parts.headers, call.body)?
        };
        let query = &call.query;
        if let Some(grace) = query.number("gracePeriodSeconds")? {
            options.grace_period_seconds = Some(grace);
        }
        if query.has("propagationPolicy") {
            options.propagation_policy = Some(query.get("propagationPolicy").to_string());
        }
        if query.has("orphanDependents") {
            options.orphan_dependents = Some(query.flag("orphanDependents"));
        }
        options.check()?;
        let dry_run = query.dry_run()? | options.is_dry_run()?;
        Ok((options, dry_run))
    }

    /// Whether the body asks for a dry run.
    ///
    /// # Errors
    /// 422 for a value other than `All`.
    pub fn is_dry_run(&self) -> Answer<bool> {
        self.dry_run.iter().flatten().try_fold(false, |found, value| Ok(found | check_dry_run(value)?))
    }

    /// Reads `DeleteOptions` from a body (also the part of an `Eviction`).
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn parse(headers: &HeaderMap, body: &Bytes) -> Answer<DeleteOptions> {
        let value = media::decode(headers, body)?;
        DeleteOptions::from_value(value)
    }

    /// [`DeleteOptions::parse`] of a parsed value.
    ///
    /// # Errors
    /// 400 for a value of another shape.
    pub fn from_value(value: Value) -> Answer<DeleteOptions> {
        let options: DeleteOptions = serde_json::from_value(value).map_err(|error| {
            Failure::bad_request(format!(
                "DeleteOptions in version \"v1\" cannot be handled as a DeleteOptions: {error}"
            ))
        })?;
        if !options.kind.is_empty() && options.kind != "DeleteOptions" {
            return Err(Failure::bad_request(format!("{} cannot be handled as a DeleteOptions", options.kind)));
        }
        Ok(options)
    }

    fn check(&self) -> Answer<()> {
        if let Some(policy) = &self.propagation_policy {
            if self.orphan_dependents.is_some() {
                let message = "Invalid value: orphanDependents and deletionPropagation cannot be both set".to_string();
                return Err(options_error("DeleteOptions", "FieldValueInvalid", message, "propagationPolicy"));
            }
            if !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan") {
                let message = format!(
                    "Unsupported value: {policy:?}: supported values: \"Background\", \"Foreground\", \"Orphan\", \"nil\""
                );
                return Err(options_error("DeleteOptions", "FieldValueNotSupported", message, "propagationPolicy"));
            }
        }
        Ok(())
    }

    /// Adds or takes away the two finalizers of garbage collection.
    fn set_finalizers(&self, row: &Resource, value: &mut Value) -> Answer<()> {
        let policy = match (self.propagation_policy.as_deref(), self.orphan_dependents) {
            (Some(policy), _) => policy,
            (None, Some(true)) => "Orphan",
            (None, Some(false)) => "Background",
            (None, None) => {
                let finalizers = value.pointer("/metadata/finalizers").and_then(Value::as_array);
                let decided = finalizers.is_some_and(|list| list.iter().any(|one| one == ORPHAN || one == FOREGROUND));
                if decided {
                    return Ok(());
                }
                if row.orphans { "Orphan" } else { "Background" }
            }
        };
        let wanted = match policy {
            "Orphan" => Some(ORPHAN),
            "Foreground" => Some(FOREGROUND),
            _ => None,
        };
        let metadata = metadata(value)?;
        let mut finalizers: Vec<Value> =
            metadata.get("finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
        finalizers.retain(|one| wanted.is_some_and(|wanted| one == wanted) || (one != ORPHAN && one != FOREGROUND));
        if let Some(wanted) = wanted.filter(|wanted| !finalizers.iter().any(|one| one == wanted)) {
            finalizers.push(json!(wanted));
        }
        if finalizers.is_empty() {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".into(), Value::Array(finalizers));
        }
        Ok(())
    }
}

/// `DELETE` of an object.
pub async fn delete(call: &Call<'_>) -> Answer<Response<Body>> {
    let (options, dry_run) = DeleteOptions::of(call)?;
    let target = &call.target;
    let deleted = one(call.gateway, target.row, &target.namespace, &target.name, &options, dry_run).await?;
    if deleted.gone && !target.row.returns_deleted {
        return Ok(encode::success(target.row, &target.name, &deleted.uid));
    }
    encode::stored(call, StatusCode::OK, &deleted.bytes, deleted.revision)
}

/// `DELETE` of a collection, narrowed by selectors.
pub async fn delete_collection(call: &Call<'_>) -> Answer<Response<Body>> {
    let (options, dry_run) = DeleteOptions::of(call)?;
    let page = list::page(call).await?;
    let row = call.row();
    let options = &options;
    let deletions = page.entries.clone().into_iter().map(|entry| async move {
        match one(call.gateway, row, entry.namespace(), entry.name(), options, dry_run).await {
            Ok(_) => Ok(()),
            // Somebody else was faster: it is gone all the same.
            Err(failure) if failure.code() == StatusCode::NOT_FOUND => Ok(()),
            Err(failure) => Err(failure),
        }
    });
    stream::iter(deletions).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
    let mut body = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{{\"resourceVersion\":\"{}\"}},\"items\":[",
        row.kind,
        row.api_version(),
        page.revision
    )
    .into_bytes();
    for (number, entry) in page.entries.iter().enumerate() {
        if number > 0 {
            body.push(b',');
        }
        body.extend_from_slice(entry.object_bytes());
    }
    body.extend_from_slice(b"]}");
    Ok(encode::respond(StatusCode::OK, body))
}

/// What is to become of an object.
enum Step {
    /// Nothing: its deletion is under way already.
    Leave,
    /// It stays for a while, in this form.
    Mark(Value),
    Remove,
}

/// Deletes one object as far as that is possible now.
///
/// # Errors
/// 404, 409 for a precondition that does not hold, 403 for an immortal namespace.
pub(crate) async fn one(
    gateway: &Inner,
    row: &'static Resource,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
    dry_run: bool,
) -> Answer<Deleted> {
    let is_namespace = row.kind == "Namespace" && row.group.is_empty();
    if is_namespace && IMMORTAL.contains(&name) {
        return Err(Failure::forbidden(row, name, "this namespace may not be deleted"));
    }
    let mut current = load(gateway, row, namespace, name).await?;
    for _ in 0..MAX_ATTEMPTS {
        check_preconditions(row, name, options, &current)?;
        let step =
            if is_namespace { mark_namespace(&current.value)? } else { next_step(row, options, &current.value)? };
        let uid = text(&current.value, "uid").to_string();
        let revision = current.object.mod_revision;
        let key = current.object.key.clone();
        let (bytes, written, gone) = match step {
            Step::Leave => {
                return Ok(Deleted { bytes: current.object.value, revision, uid, gone: false });
            }
            Step::Remove if dry_run => return Ok(Deleted { bytes: current.object.value, revision, uid, gone: true }),
            Step::Remove => (current.object.value.clone(), gateway.store.delete(key, revision).await?, true),
            Step::Mark(value) => {
                let bytes = serialise(&value, row, gateway.config.max_body)?;
                if dry_run {
                    return Ok(Deleted { bytes, revision, uid, gone: false });
                }
                (bytes.clone(), gateway.store.put(key, bytes, revision, current.object.lease).await?, false)
            }
        };
        match written {
            Written::Done { revision } => {
                if gone {
                    service::release(gateway, row, &current.value, None).await;
                }
                return Ok(Deleted { bytes, revision, uid, gone });
            }
            Written::Conflict { current: now, .. } => {
                current = Current::parse(now.ok_or_else(|| Failure::not_found(row, name))?)?;
            }
        }
    }
    Err(Failure::modified(row, name))
}

fn check_preconditions(row: &Resource, name: &str, options: &DeleteOptions, current: &Current) -> Answer<()> {
    let Some(preconditions) = &options.preconditions else { return Ok(()) };
    let uid = text(&current.value, "uid");
    if let Some(wanted) = preconditions.uid.as_deref().filter(|wanted| *wanted != uid) {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}");
        return Err(Failure::conflict(row, name, &why));
    }
    let version = current.object.mod_revision.to_string();
    if let Some(wanted) = preconditions.resource_version.as_deref().filter(|wanted| *wanted != version) {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {version}"
        );
        return Err(Failure::conflict(row, name, &why));
    }
    Ok(())
}

/// A namespace stays until its controller has emptied it and taken its finalizer away.
fn mark_namespace(value: &Value) -> Answer<Step> {
    let kept = value.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if !kept && !has_finalizers(value) {
        return Ok(Step::Remove);
    }
    if value.pointer("/metadata/deletionTimestamp").is_some() {
        return Ok(Step::Leave);
    }
    let mut marked = value.clone();
    metadata(&mut marked)?.insert("deletionTimestamp".into(), timestamp::now().into());
    marked["status"]["phase"] = json!("Terminating");
    Ok(Step::Mark(marked))
}

fn next_step(row: &Resource, options: &DeleteOptions, value: &Value) -> Answer<Step> {
    let mut marked = value.clone();
    options.set_finalizers(row, &mut marked)?;
    let grace = if row.graceful { grace_of(options, value) } else { 0 };
    let before = value.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let terminating = value.pointer("/metadata/deletionTimestamp").and_then(Value::as_str);
    let held = has_finalizers(&marked);
    if grace == 0 && !held {
        return Ok(Step::Remove);
    }
    let now = SystemTime::now();
    let end = match terminating {
        None => now + Duration::from_secs(grace.unsigned_abs()),
        Some(end) => {
            // A deletion under way can be made shorter, not longer; and without an explicit grace it goes on as it is.
            let before = before.unwrap_or(0);
            let shorter = row.graceful && grace < before && (options.grace_period_seconds.is_some() || grace == 0);
            if !shorter {
                return Ok(if marked == *value { Step::Leave } else { Step::Mark(marked) });
            }
            let end = timestamp::parse(end).unwrap_or(now);
            let asked = end.checked_sub(Duration::from_secs(before.unsigned_abs())).unwrap_or(end);
            asked + Duration::from_secs(grace.unsigned_abs())
        }
    };
    let generation = marked.pointer("/metadata/generation").and_then(Value::as_i64).filter(|number| *number > 0);
    let metadata = metadata(&mut marked)?;
    metadata.insert("deletionTimestamp".into(), timestamp::format(end).into());
    metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
    if let Some(generation) = generation.filter(|_| terminating.is_none()) {
        metadata.insert("generation".into(), json!(generation + 1));
    }
    Ok(Step::Mark(marked))
}

/// Seconds that a pod gets to end; 0 where there is nothing to wait for.
fn grace_of(options: &DeleteOptions, pod: &Value) -> i64 {
    let unassigned = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or("").is_empty();
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or("");
    if unassigned || matches!(phase, "Succeeded" | "Failed") {
        return 0;
    }
    let own = || pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    match options.grace_period_seconds.or_else(own).unwrap_or(DEFAULT_GRACE) {
        // Negative means "at once, but let the agent know".
        grace if grace < 0 => 1,
        grace => grace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    fn step(plural: &str, options: Value, value: &Value) -> Option<Value> {
        let options = DeleteOptions::from_value(options).unwrap();
        match next_step(registry::core(plural).1, &options, value).unwrap() {
            Step::Leave => Some(Value::Null),
            Step::Mark(marked) => Some(marked),
            Step::Remove => None,
        }
    }

    #[test]
    fn pods_get_their_grace_once() {
        let pod = json!({"metadata": {"name": "a", "generation": 1}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 10}});
        let marked = step("pods", json!({}), &pod).unwrap();
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 10);
        assert_eq!(marked["metadata"]["generation"], 2);
        assert_eq!(step("pods", json!({}), &marked), Some(Value::Null));
        assert_eq!(step("pods", json!({"gracePeriodSeconds": 20}), &marked), Some(Value::Null));
        let shorter = step("pods", json!({"gracePeriodSeconds": 5}), &marked).unwrap();
        assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
        assert!(shorter["metadata"]["deletionTimestamp"].as_str() < marked["metadata"]["deletionTimestamp"].as_str());
        assert_eq!(step("pods", json!({"gracePeriodSeconds": 0}), &marked), None);
    }

    #[test]
    fn nothing_to_wait_for_means_at_once() {
        assert_eq!(step("pods", json!({}), &json!({"metadata": {}, "spec": {}})), None);
        let done = json!({"metadata": {}, "spec": {"nodeName": "n"}, "status": {"phase": "Succeeded"}});
        assert_eq!(step("pods", json!({}), &done), None);
        assert_eq!(step("configmaps", json!({"gracePeriodSeconds": 9}), &json!({"metadata": {}})), None);
    }

    #[test]
    fn propagation_becomes_a_finalizer() {
        let object = json!({"metadata": {"finalizers": ["a/b", "orphan"]}});
        let marked = step("configmaps", json!({"propagationPolicy": "Foreground"}), &object).unwrap();
        assert_eq!(marked["metadata"]["finalizers"], json!(["a/b", "foregroundDeletion"]));
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
        let background = step("configmaps", json!({"propagationPolicy": "Background"}), &object).unwrap();
        assert_eq!(background["metadata"]["finalizers"], json!(["a/b"]));
        let plain = json!({"metadata": {}});
        assert!(step("configmaps", json!({"propagationPolicy": "Orphan"}), &plain).is_some());
        assert!(step("configmaps", json!({}), &plain).is_none());
    }
}
