//! Calls to the API: bindings, questions about them, and reports of pods that cannot be placed.

use std::time::SystemTime;

use kelson_wire::kube::{ApiError, Client, Gvr, Keyed, PatchKind, timestamp};
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::eviction::Eviction;
use super::model::{Binding, Outcome, Report};
use super::view::PodView;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BindingBody<'a> {
    api_version: &'static str,
    kind: &'static str,
    metadata: BindingMeta<'a>,
    target: Target<'a>,
}

#[derive(Serialize)]
struct BindingMeta<'a> {
    name: &'a str,
    namespace: &'a str,
    /// So that a pod of the same name that came later is not bound in its place.
    uid: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Target<'a> {
    api_version: &'static str,
    kind: &'static str,
    name: &'a str,
}

/// Binds a pod; the server guards the write by the pod not being bound.
pub async fn bind(client: &Client, binding: &Binding) -> Outcome {
    let meta = binding.view.meta();
    let body = BindingBody {
        api_version: "v1",
        kind: "Binding",
        metadata: BindingMeta { name: &meta.name, namespace: &meta.namespace, uid: &meta.uid },
        target: Target { api_version: "v1", kind: "Node", name: &binding.node },
    };
    let answer: Result<IgnoredAny, ApiError> =
        client.create_sub(&Gvr::PODS, &meta.namespace, &meta.name, "binding", &body).await;
    match answer {
        Ok(_) => Outcome::Bound,
        Err(error) if error.is_not_found() => Outcome::Gone,
        // Bound already (by this scheduler, if an answer was lost), terminating, or another pod: look.
        Err(ApiError::Status { code: 409, message, .. }) => match look(client, binding).await {
            Outcome::Changed(view) if view.node_name.is_empty() && !view.meta().is_terminating() => {
                Outcome::Refused(message)
            }
            outcome => outcome,
        },
        // Overload and other failures of the server leave open whether the write was done.
        Err(ApiError::Status { code: code @ 400..500, message, .. }) if code != 408 && code != 429 => {
            Outcome::Refused(message)
        }
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}

/// Reads what the pod is now.
pub async fn look(client: &Client, binding: &Binding) -> Outcome {
    let meta = binding.view.meta();
    match client.get::<PodView>(&Gvr::PODS, &meta.namespace, &meta.name).await {
        Ok(view) => Outcome::Changed(Box::new(view)),
        Err(error) if error.is_not_found() => Outcome::Gone,
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}

/// Says on a pod that it makes room for another, and deletes it.
///
/// # Errors
/// The API's; a pod that is gone is none. The pod may stay then.
pub async fn evict(client: &Client, eviction: &Eviction) -> Result<(), ApiError> {
    let meta = eviction.victim.meta();
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": format!("{}: preempting to accommodate a higher priority pod", eviction.scheduler),
        "lastTransitionTime": timestamp::format(SystemTime::now()),
    });
    let patch = json!({ "metadata": { "uid": &*meta.uid }, "status": { "conditions": [condition] } });
    let patched: Result<IgnoredAny, ApiError> =
        client.patch(&Gvr::PODS, &meta.namespace, &meta.name, "status", PatchKind::Strategic, &patch).await;
    match patched {
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    let options = json!({ "preconditions": { "uid": &*meta.uid } });
    match client.delete(&Gvr::PODS, &meta.namespace, &meta.name, &options).await {
        Err(error) if error.is_not_found() => Ok(()),
        answer => answer,
    }
}

/// Writes the `PodScheduled` condition, and where room is being made for the pod.
///
/// # Errors
/// The API's; the report is lost then.
pub async fn report(client: &Client, report: &Report) -> Result<(), ApiError> {
    let meta = report.view.meta();
    let mut condition = json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": report.reason,
        "message": &*report.message,
    });
    // A transition is a change of status; a change of message is none.
    if report.view.condition.as_ref().is_none_or(|condition| &*condition.status != "False") {
        condition["lastTransitionTime"] = json!(timestamp::format(SystemTime::now()));
    }
    let mut patch = json!({ "metadata": { "uid": &*meta.uid }, "status": { "conditions": [condition] } });
    if let Some(node) = &report.nominated {
        patch["status"]["nominatedNodeName"] = json!(&**node);
    }
    let patched: Result<IgnoredAny, ApiError> =
        client.patch(&Gvr::PODS, &meta.namespace, &meta.name, "status", PatchKind::Strategic, &patch).await;
    patched.map(|_| ())
}
