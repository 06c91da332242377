//! What every write has in common: decoding, guards, retries, and one serialisation for store and response.

use bytes::Bytes;
use kelson_wire::kube::timestamp;
use kelson_wire::store::{Object, Written};
use serde_json::{Map, Value, json};

use crate::gateway::{Call, Inner};
use crate::media;
use crate::registry::{Generation, Resource, Subresource};
use crate::service::is_service;
use crate::shape;
use crate::status::{Answer, Failure};

/// Attempts of an unconditional write against others that write the same object.
const MAX_ATTEMPTS: usize = 64;

/// An object as the store has it, parsed.
pub(crate) struct Current {
    pub object: Object,
    pub value: Value,
}

/// What a write left in the store.
pub(crate) struct Outcome {
    /// The stored bytes, or for a deletion the last ones.
    pub bytes: Bytes,
    pub revision: i64,
}

/// A request body as an object of the row's kind, and warnings about it.
pub(crate) struct Decoded {
    pub value: Value,
    pub warnings: Vec<String>,
}

/// Reads an object from the body and normalises it.
///
/// # Errors
/// 400 for text that is malformed or of another kind, or under strict validation has unknown or duplicate fields.
pub(crate) fn decode(call: &Call<'_>) -> Answer<Decoded> {
    let validation = FieldValidation::of(call)?;
    let (mut value, mut warnings) = if validation == FieldValidation::Ignore {
        (media::decode(&call.parts.headers, call.body)?, Vec::new())
    } else {
        shape::parse(&call.parts.headers, call.body)?
    };
    check_kind(call.row(), &mut value)?;
    warnings.extend(shape::normalise(call.row(), &mut value)?);
    validation.judge(call.row(), &mut warnings)?;
    check_names(call, &value)?;
    Ok(Decoded { value, warnings })
}

/// What becomes of unknown and duplicate fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    /// Reads `fieldValidation`.
    ///
    /// # Errors
    /// 422 for an unknown value.
    pub fn of(call: &Call<'_>) -> Answer<FieldValidation> {
        match call.query.get("fieldValidation") {
            "" if call.internal => Ok(FieldValidation::Ignore),
            "" | "Warn" => Ok(FieldValidation::Warn),
            "Ignore" => Ok(FieldValidation::Ignore),
            "Strict" => Ok(FieldValidation::Strict),
            other => {
                let message =
                    format!("Unsupported value: {other:?}: supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"");
                Err(crate::query::options_error("CreateOptions", "FieldValueNotSupported", message, "fieldValidation"))
            }
        }
    }

    /// Turns findings into a refusal, or leaves those that are to be told as warnings.
    ///
    /// # Errors
    /// 400 under strict validation.
    pub fn judge(self, row: &Resource, findings: &mut Vec<String>) -> Answer<()> {
        match self {
            FieldValidation::Ignore => findings.clear(),
            FieldValidation::Strict if !findings.is_empty() => return Err(shape::strict_failure(row, findings)),
            FieldValidation::Warn | FieldValidation::Strict => {}
        }
        Ok(())
    }
}

/// Fills in `apiVersion` and `kind`, or refuses other ones.
fn check_kind(row: &Resource, value: &mut Value) -> Answer<()> {
    let Value::Object(map) = value else {
        return Err(Failure::bad_request("couldn't get version/kind; json parse error: the body is not an object"));
    };
    let wanted = row.api_version();
    let version = map.get("apiVersion").and_then(Value::as_str).unwrap_or("");
    let kind = map.get("kind").and_then(Value::as_str).unwrap_or("");
    if !version.is_empty() && version != wanted {
        return Err(Failure::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({wanted})"
        )));
    }
    if !kind.is_empty() && kind != row.kind {
        return Err(Failure::bad_request(format!(
            "{kind} in version \"{}\" cannot be handled as a {}",
            row.version, row.kind
        )));
    }
    map.insert("apiVersion".into(), wanted.into());
    map.insert("kind".into(), row.kind.into());
    match map.get("metadata") {
        Some(Value::Object(_)) => Ok(()),
        None | Some(Value::Null) => {
            map.insert("metadata".into(), json!({}));
            Ok(())
        }
        Some(_) => Err(Failure::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: json: cannot unmarshal into Go struct field \
             {}.metadata of type v1.ObjectMeta",
            row.kind, row.version, row.kind, row.kind
        ))),
    }
}

/// The names in the object must be those in the path.
fn check_names(call: &Call<'_>, value: &Value) -> Answer<()> {
    let target = &call.target;
    let namespace = text(value, "namespace");
    if target.row.namespaced && !namespace.is_empty() && namespace != target.namespace {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let name = text(value, "name");
    if !target.name.is_empty() && !name.is_empty() && name != target.name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    Ok(())
}

/// A string member of `metadata`, empty if it is absent.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str).unwrap_or("")
}

/// `metadata` as a map, created if it is absent. `value` must be an object.
pub(crate) fn metadata(value: &mut Value) -> Answer<&mut Map<String, Value>> {
    let broken = || Failure::internal("the object has no metadata");
    let map = value.as_object_mut().ok_or_else(broken)?;
    map.entry("metadata").or_insert_with(|| json!({})).as_object_mut().ok_or_else(broken)
}

/// Whether a list in `metadata` has entries.
pub(crate) fn has_finalizers(value: &Value) -> bool {
    value.pointer("/metadata/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

/// Reads an object for a write.
///
/// # Errors
/// 404 if it does not exist.
pub(crate) async fn load(gateway: &Inner, row: &Resource, namespace: &str, name: &str) -> Answer<Current> {
    let got = gateway.store.get(row.key(namespace, name).into()).await?;
    let object = got.object.ok_or_else(|| Failure::not_found(row, name))?;
    Current::parse(object)
}

impl Current {
    pub fn parse(object: Object) -> Answer<Current> {
        let value = serde_json::from_slice(&object.value).map_err(Failure::internal)?;
        Ok(Current { object, value })
    }
}

/// Serialises an object for the store: the only time a write does so.
pub(crate) fn serialise(value: &Value, row: &Resource, limit: usize) -> Answer<Bytes> {
    let bytes = serde_json::to_vec(value).map_err(Failure::internal)?;
    if bytes.len() > limit {
        return Err(Failure::too_large_body(limit).with_cause("", format!("the {} is too large", row.kind), ""));
    }
    Ok(bytes.into())
}

/// Stores a new object. `None`: the key is taken.
///
/// # Errors
/// Those of the store.
pub(crate) async fn write_new(gateway: &Inner, row: &Resource, key: Bytes, value: &Value) -> Answer<Option<Outcome>> {
    let bytes = serialise(value, row, gateway.config.max_body)?;
    let lease = if row.expires { gateway.events.lease(&*gateway.store, gateway.config.event_ttl).await? } else { 0 };
    match gateway.store.put(key, bytes.clone(), 0, lease).await? {
        Written::Done { revision } => Ok(Some(Outcome { bytes, revision })),
        Written::Conflict { .. } => Ok(None),
    }
}

/// Changes an object under a guard, again and again until nobody is in the way.
///
/// `change` makes the new object from the current one; it is called once more after each conflict unless
/// `conditional` (then the conflict is the answer).
///
/// # Errors
/// 404, 409, or what `change` and validation refuse.
pub(crate) async fn modify(
    call: &Call<'_>,
    subresource: Option<Subresource>,
    mut change: impl FnMut(&Current) -> Answer<Value> + Send,
) -> Answer<Outcome> {
    let target = &call.target;
    let gateway = call.gateway;
    let dry_run = call.query.dry_run()?;
    let row = target.row;
    let mut current = load(gateway, row, &target.namespace, &target.name).await?;
    for _ in 0..MAX_ATTEMPTS {
        let revision = current.object.mod_revision;
        let mut new = change(&current)?;
        let guarded = check_guards(row, &target.name, &current, &mut new)?;
        finish(row, subresource, &current.value, &mut new)?;
        let claims = crate::service::claim(call, &mut new, Some(&current.value), dry_run).await?;
        let ending = ends(row, &current.value, &new);
        let bytes = serialise(&new, row, gateway.config.max_body)?;
        if dry_run || (!ending && bytes == current.object.value) {
            claims.undo(gateway).await;
            return Ok(Outcome { bytes, revision });
        }
        let written = if ending {
            gateway.store.delete(current.object.key.clone(), revision).await?
        } else {
            gateway.store.put(current.object.key.clone(), bytes.clone(), revision, current.object.lease).await?
        };
        match written {
            Written::Done { revision } => {
                claims.keep(gateway, &current.value, if ending { None } else { Some(&new) }).await;
                return Ok(Outcome { bytes, revision });
            }
            Written::Conflict { current: now, .. } => {
                claims.undo(gateway).await;
                if guarded {
                    return Err(match now {
                        Some(_) => Failure::modified(row, &target.name),
                        None => Failure::not_found(row, &target.name),
                    });
                }
                current = Current::parse(now.ok_or_else(|| Failure::not_found(row, &target.name))?)?;
            }
        }
    }
    Err(Failure::modified(row, &target.name))
}

/// Checks resource version and uid of the new object against the current one; returns whether there was a version.
fn check_guards(row: &Resource, name: &str, current: &Current, new: &mut Value) -> Answer<bool> {
    let uid = text(new, "uid");
    let current_uid = text(&current.value, "uid");
    if !uid.is_empty() && uid != current_uid {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {current_uid}");
        return Err(Failure::conflict(row, name, &why));
    }
    let metadata = metadata(new)?;
    let version = metadata.remove("resourceVersion");
    let version = version.as_ref().and_then(Value::as_str).unwrap_or("");
    if version.is_empty() || version == "0" {
        return Ok(false);
    }
    match version.parse::<i64>() {
        Ok(version) if version == current.object.mod_revision => Ok(true),
        Ok(_) => Err(Failure::modified(row, name)),
        Err(_) => {
            let cause = crate::status::Cause {
                reason: "FieldValueInvalid".into(),
                message: format!("Invalid value: {version:?}: must be an unsigned integer"),
                field: "metadata.resourceVersion".into(),
            };
            Err(Failure::invalid(row, name, vec![cause]))
        }
    }
}

/// Members of `metadata` that only the server writes.
const SERVER_FIELDS: [&str; 6] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName"];

/// Brings a changed object into its final form: what the verb may not change is as before, generation counts.
fn finish(row: &Resource, subresource: Option<Subresource>, old: &Value, new: &mut Value) -> Answer<()> {
    match subresource {
        Some(Subresource::Status) => {
            let status = new.as_object_mut().and_then(|map| map.remove("status"));
            let labels = metadata(new)?.remove("labels");
            let annotations = metadata(new)?.remove("annotations");
            *new = old.clone();
            set(new, "status", status);
            set(metadata(new)?, "labels", labels);
            set(metadata(new)?, "annotations", annotations);
        }
        Some(Subresource::Finalize) => {
            let finalizers = new.pointer_mut("/spec/finalizers").map(Value::take);
            *new = old.clone();
            if let Some(spec) = new.get_mut("spec") {
                set(spec, "finalizers", finalizers);
            }
        }
        _ => {}
    }
    let old_metadata = old.get("metadata");
    let target = metadata(new)?;
    for field in SERVER_FIELDS.into_iter().chain(["name", "namespace"]) {
        match old_metadata.and_then(|metadata| metadata.get(field)) {
            Some(value) => {
                target.insert(field.into(), value.clone());
            }
            None => {
                target.remove(field);
            }
        }
    }
    target.remove("managedFields");
    target.remove("selfLink");
    // The rules want to see a version. Which one does not matter: the guard is the store's.
    target.insert("resourceVersion".into(), "1".into());
    if is_service(row) && subresource.is_none() {
        crate::service::normalise(new, Some(old));
    }
    shape::update(row, subresource, old, new)?;
    metadata(new)?.remove("resourceVersion");
    // A binding is the scheduler's, not a change of what the user asked for.
    if subresource != Some(Subresource::Binding) && counts(row.generation, old, new) {
        let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        metadata(new)?.insert("generation".into(), json!(generation + 1));
    }
    Ok(())
}

fn set(to: &mut (impl AsMap + ?Sized), field: &str, value: Option<Value>) {
    if let Some(map) = to.as_map() {
        match value {
            Some(value) => {
                map.insert(field.into(), value);
            }
            None => {
                map.remove(field);
            }
        }
    }
}

trait AsMap {
    fn as_map(&mut self) -> Option<&mut Map<String, Value>>;
}

impl AsMap for Value {
    fn as_map(&mut self) -> Option<&mut Map<String, Value>> {
        self.as_object_mut()
    }
}

impl AsMap for Map<String, Value> {
    fn as_map(&mut self) -> Option<&mut Map<String, Value>> {
        Some(self)
    }
}

/// Whether the change is one that `metadata.generation` counts.
fn counts(rule: Generation, old: &Value, new: &Value) -> bool {
    let differ = |pointer: &str| old.pointer(pointer) != new.pointer(pointer);
    match rule {
        Generation::None => false,
        Generation::Spec => differ("/spec"),
        Generation::SpecOrAnnotations => differ("/spec") || differ("/metadata/annotations"),
        Generation::Body => {
            let body = |value: &Value| {
                let members = value.as_object().into_iter().flatten();
                members
                    .filter(|(key, _)| *key != "metadata")
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect::<Vec<_>>()
            };
            differ("/metadata/labels") || body(old) != body(new)
        }
    }
}

/// Whether an update takes away the last thing that kept a deleted object.
fn ends(row: &Resource, old: &Value, new: &Value) -> bool {
    if old.pointer("/metadata/deletionTimestamp").is_none() || has_finalizers(new) {
        return false;
    }
    if row.kind == "Namespace" && row.group.is_empty() {
        let kept = new.pointer("/spec/finalizers").and_then(Value::as_array);
        return kept.is_none_or(Vec::is_empty);
    }
    old.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) == 0
}

/// Stamps what the server gives a new object.
pub(crate) fn stamp(row: &Resource, namespace: &str, value: &mut Value) -> Answer<()> {
    let metadata = metadata(value)?;
    for field in ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "managedFields", "selfLink"] {
        metadata.remove(field);
    }
    if row.namespaced {
        metadata.insert("namespace".into(), namespace.into());
    } else {
        metadata.remove("namespace");
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), timestamp::now().into());
    if row.generation == Generation::None {
        metadata.remove("generation");
    } else {
        metadata.insert("generation".into(), json!(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    #[test]
    fn a_status_write_changes_nothing_else() {
        let row = registry::core("nodes").1;
        let old = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"unschedulable": true}, "status": {}});
        let mut new = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "m", "uid": "x", "labels": {"a": "b"}}, "spec": {}, "status": {"phase": "Running"}});
        finish(row, Some(Subresource::Status), &old, &mut new).unwrap();
        assert_eq!(new["spec"]["unschedulable"], true);
        assert_eq!(new["metadata"]["name"], "n");
        assert_eq!(new["metadata"]["uid"], "u");
        assert_eq!(new["metadata"]["labels"]["a"], "b");
        assert_eq!(new["status"]["phase"], "Running");
    }

    #[test]
    fn generation_counts_what_the_row_says() {
        let old = json!({"metadata": {"annotations": {"a": "1"}}, "spec": {"replicas": 1}});
        let mut new = old.clone();
        assert!(!counts(Generation::Spec, &old, &new));
        new["metadata"]["annotations"]["a"] = json!("2");
        assert!(!counts(Generation::Spec, &old, &new));
        assert!(counts(Generation::SpecOrAnnotations, &old, &new));
        new["spec"]["replicas"] = json!(2);
        assert!(counts(Generation::Spec, &old, &new));
        assert!(!counts(Generation::None, &old, &new));
    }
}
