//! `pods/binding`: a scheduler's decision becomes the pod's node.

mod text;

use bytes::Bytes;
use http::{Response, StatusCode};
use kelson_wire::kube::{Body, full, timestamp};
use kelson_wire::store::Written;
use serde_json::{Map, Value, json};

use crate::gateway::Call;
use crate::media;
use crate::registry::Subresource;
use crate::shape;
use crate::status::{Answer, Cause, Failure};
use crate::verbs;

/// `POST` to `pods/<name>/binding`, or to `bindings` with the pod's name in the body.
pub(crate) async fn create(call: &Call<'_>) -> Answer<Response<Body>> {
    if quick(call).await? {
        return Ok(created());
    }
    let mut body = media::decode(&call.parts.headers, call.body)?;
    shape::normalise_kind("", "v1", "Binding", &mut body)?;
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    if !matches!(text("/kind"), "" | "Binding") {
        return Err(Failure::bad_request(format!(
            "{} in version \"v1\" cannot be handled as a Binding",
            text("/kind")
        )));
    }
    let name = text("/metadata/name");
    let namespace = text("/metadata/namespace");
    if !namespace.is_empty() && namespace != call.target.namespace {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if !call.target.name.is_empty() && !name.is_empty() && name != call.target.name {
        return Err(Failure::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.target.name
        )));
    }
    let pod = if call.target.name.is_empty() { name } else { &call.target.name };
    let node = text("/target/name");
    check(pod, node, text("/target/kind"))?;
    let uid = text("/metadata/uid");
    let mut target = call.target.clone();
    target.name = pod.to_string();
    let call = Call { target, query: crate::query::Query::parse(call.parts.uri.query().unwrap_or("")), ..*call };
    let annotations = body.pointer("/metadata/annotations").and_then(Value::as_object);
    let labels = body.pointer("/metadata/labels").and_then(Value::as_object);
    verbs::modify(&call, Some(Subresource::Binding), |current| {
        let mut value = current.value.clone();
        bind(&call, &mut value, node, uid)?;
        for (field, entries) in [("annotations", annotations), ("labels", labels)] {
            if let Some(entries) = entries.filter(|entries| !entries.is_empty())
                && let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
                && let Some(map) = metadata.entry(field).or_insert_with(|| json!({})).as_object_mut()
            {
                map.extend(entries.clone());
            }
        }
        Ok(value)
    })
    .await?;
    Ok(created())
}

fn created() -> Response<Body> {
    const SUCCESS: &[u8] = br#"{"apiVersion":"v1","code":201,"kind":"Status","metadata":{},"status":"Success"}"#;
    let mut response = Response::new(full(Bytes::from_static(SUCCESS)));
    *response.status_mut() = StatusCode::CREATED;
    response
}

/// Binds a pod that is as the watch cache has it, by the guard of its revision. False: nothing was done, and the
/// general way has to look.
async fn quick(call: &Call<'_>) -> Answer<bool> {
    let target = &call.target;
    if target.name.is_empty()
        || call.parts.uri.query().is_some()
        || !matches!(media::encoding(&call.parts.headers), Ok(media::Encoding::Json))
    {
        return Ok(false);
    }
    let Some(body) = text::Body::read(call.body, &target.namespace, &target.name) else { return Ok(false) };
    let key = target.key();
    let Some(entry) = call.cache().get(&key) else { return Ok(false) };
    let now = timestamp::now();
    let Some(bound) = text::bound(entry.object_bytes(), body.metadata.uid, body.target.name, &now) else {
        return Ok(false);
    };
    let written = call.gateway.store.put(key, bound.into(), entry.revision, 0).await?;
    Ok(matches!(written, Written::Done { .. }))
}

fn check(pod: &str, node: &str, kind: &str) -> Answer<()> {
    let cause = if pod.is_empty() {
        ("FieldValueRequired", "Required value: name or generateName is required", "metadata.name")
    } else if node.is_empty() {
        ("FieldValueRequired", "Required value", "target.name")
    } else if !matches!(kind, "" | "Node") {
        ("FieldValueNotSupported", "Unsupported value: supported values: \"Node\", \"<empty>\"", "target.kind")
    } else {
        return Ok(());
    };
    let cause = Cause { reason: cause.0.into(), message: cause.1.into(), field: cause.2.into() };
    Err(Failure::invalid_kind("", "Binding", pod, vec![cause]))
}

/// Puts the pod on the node, if it may be put anywhere yet.
fn bind(call: &Call<'_>, pod: &mut Value, node: &str, uid: &str) -> Answer<()> {
    let name = call.target.name.as_str();
    let refused = |why: &str| Failure::binding_conflict(name, why);
    let current_uid = verbs::text(pod, "uid").to_string();
    if !uid.is_empty() && uid != current_uid {
        return Err(refused(&format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {current_uid}"
        )));
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        return Err(refused(&format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let before = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or("");
    if !before.is_empty() {
        return Err(refused(&format!("pod {name} is already assigned to node \"{before}\"")));
    }
    let gated = pod.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty());
    if gated {
        return Err(refused(&format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("nodeName".into(), node.into());
    }
    let Some(map) = pod.as_object_mut() else { return Ok(()) };
    let status = map.entry("status").or_insert_with(|| json!({}));
    if let Some(status) = status.as_object_mut() {
        set_scheduled(status);
    }
    Ok(())
}

/// The condition `PodScheduled`, now true.
fn set_scheduled(status: &mut Map<String, Value>) {
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return };
    let now = timestamp::now();
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    match conditions.iter_mut().find(|condition| condition["type"] == "PodScheduled") {
        Some(old) => *old = condition,
        None => conditions.push(condition),
    }
}
