//! What is written about claims and volumes before a pod is bound: each write is guarded by the version that was seen.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kelson_wire::kube::{ApiError, Client, Gvr, Keyed, ObjectMeta, PatchKind};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::view::{BOUND_BY_CONTROLLER, SELECTED_NODE};
use super::{ClaimView, Key, VolumeView, Writes};
use crate::scheduler::model::Binding;
use crate::scheduler::source::{CLAIMS, VOLUMES};

/// How often a write without an answer is sent at most. Beyond that it counts as failed: the pod is placed anew, from
/// what the watch shows by then.
const ATTEMPTS: u32 = 5;
/// Pause after the first of them, doubling.
const PAUSE: Duration = Duration::from_millis(100);

/// What was written, as the API answered: the watch has to show it at least as new.
#[derive(Debug, Default)]
pub struct Written {
    /// Name and version of each volume, and the name of its claim.
    pub volumes: Vec<(Arc<str>, i64, Arc<str>)>,
    /// Name and version of each claim for which a volume is to be made.
    pub claims: Vec<(Arc<str>, i64)>,
}

impl Written {
    /// All claims.
    pub(super) fn keys(&self, binding: &Binding) -> Vec<Key> {
        let namespace = &binding.view.meta().namespace;
        let names = self.volumes.iter().map(|(.., claim)| claim).chain(self.claims.iter().map(|(name, _)| name));
        names.map(|name| (namespace.clone(), name.clone())).collect()
    }
}

/// Writes it all, volumes first.
///
/// # Errors
/// The API's first one. What was written before it stays, as kube-scheduler leaves it: a volume that names a claim is
/// that claim's choice from then on.
pub async fn write(client: &Client, writes: &Writes) -> Result<Written, ApiError> {
    let mut written = Written::default();
    for (volume, claim) in &writes.volumes {
        let revision = bind(client, volume, claim).await?;
        written.volumes.push((volume.meta().name.clone(), revision, claim.meta().name.clone()));
    }
    for claim in &writes.claims {
        let revision = select(client, claim, &writes.node).await?;
        written.claims.push((claim.meta().name.clone(), revision));
    }
    Ok(written)
}

/// Says on a volume which claim it is for.
async fn bind(client: &Client, volume: &VolumeView, claim: &ClaimView) -> Result<i64, ApiError> {
    let (meta, claim) = (volume.meta(), claim.meta());
    let is_for = |volume: &VolumeView| {
        let reference = volume.volume.claim.as_ref();
        reference.is_some_and(|one| one.namespace == claim.namespace && one.name == claim.name && one.uid == claim.uid)
    };
    if is_for(volume) {
        return Ok(meta.revision());
    }
    let mut patch = json!({
        "metadata": guard(meta),
        "spec": {"claimRef": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": &*claim.namespace, "name": &*claim.name,
            "uid": &*claim.uid, "resourceVersion": &*claim.resource_version,
        }},
    });
    // A reference that a user wrote is completed; only one that was chosen is undone with the claim.
    if volume.volume.claim.is_none() && !volume.by_controller {
        patch["metadata"]["annotations"] = json!({ BOUND_BY_CONTROLLER: "yes" });
    }
    guarded(client, &VOLUMES, meta, &patch, is_for).await
}

/// Says on a claim on which node its volume is to be made.
async fn select(client: &Client, claim: &ClaimView, node: &str) -> Result<i64, ApiError> {
    let meta = claim.meta();
    let is_there = |claim: &ClaimView| claim.claim.selected_node.as_deref() == Some(node);
    if is_there(claim) {
        return Ok(meta.revision());
    }
    let mut patch = json!({ "metadata": guard(meta) });
    patch["metadata"]["annotations"] = json!({ SELECTED_NODE: node });
    guarded(client, &CLAIMS, meta, &patch, is_there).await
}

fn guard(meta: &ObjectMeta) -> Value {
    json!({ "uid": &*meta.uid, "resourceVersion": &*meta.resource_version })
}

/// Patches an object if it is still what was seen; returns its version then. One that is so already, be it by an
/// earlier attempt whose answer was lost or by another pod with the same claim, needs no patch.
async fn guarded<T: Keyed + DeserializeOwned>(
    client: &Client,
    gvr: &Gvr,
    meta: &ObjectMeta,
    patch: &Value,
    is_done: impl Fn(&T) -> bool,
) -> Result<i64, ApiError> {
    let patched: Result<T, ApiError> =
        persist(|| client.patch(gvr, &meta.namespace, &meta.name, "", PatchKind::Merge, patch)).await;
    match patched {
        Err(error @ ApiError::Status { code: 409, .. }) => {
            let found: Result<T, ApiError> = persist(|| client.get(gvr, &meta.namespace, &meta.name)).await;
            found
                .ok()
                .filter(|found| found.meta().uid == meta.uid && is_done(found))
                .map(|found| found.meta().revision())
                .ok_or(error)
        }
        patched => patched.map(|patched| patched.meta().revision()),
    }
}

/// Calls again while there is no answer, or one that leaves open whether it was done.
async fn persist<T, F: Future<Output = Result<T, ApiError>>>(call: impl Fn() -> F) -> Result<T, ApiError> {
    let mut pause = PAUSE;
    for _ in 1..ATTEMPTS {
        match call().await {
            Err(ApiError::Status { code: code @ (408 | 429 | 500..), message, .. }) => {
                tracing::debug!(code, %message, "not answered, sent again");
            }
            Err(ApiError::Transport(error)) => tracing::debug!(%error, "not answered, sent again"),
            answer => return answer,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    call().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::script::Script;

    fn claim(version: &str, annotations: &Value) -> Value {
        json!({"metadata": {"name": "data", "namespace": "d", "uid": "c", "resourceVersion": version,
            "annotations": annotations}, "spec": {}})
    }

    fn volume(version: &str, reference: &Value) -> Value {
        json!({"metadata": {"name": "pv", "uid": "v", "resourceVersion": version}, "spec": {"claimRef": reference}})
    }

    fn ours() -> Value {
        json!({"namespace": "d", "name": "data", "uid": "c"})
    }

    fn view<T: DeserializeOwned>(json: &Value) -> Arc<T> {
        Arc::new(serde_json::from_str(&json.to_string()).unwrap())
    }

    fn conflict() -> Option<(u16, Value)> {
        Some((409, json!({"kind": "Status", "reason": "Conflict", "message": "the object has been modified"})))
    }

    type Run = (Result<Written, ApiError>, Vec<(String, Value)>);

    async fn run(writes: Writes, answers: Vec<Option<(u16, Value)>>) -> Run {
        let script = Arc::new(Script::new(answers));
        let outcome = write(&Client::new(script.clone(), "test"), &writes).await;
        assert!(script.answers.lock().is_empty(), "it was not asked for all of them");
        let asked = std::mem::take(&mut *script.asked.lock());
        (outcome, asked)
    }

    fn to_bind(reference: &Value) -> Writes {
        let volumes = vec![(view(&volume("7", reference)), view(&claim("5", &json!({}))))];
        Writes { volumes, ..Writes::default() }
    }

    fn to_make() -> Writes {
        Writes { claims: vec![view(&claim("5", &json!({})))], node: "n".into(), ..Writes::default() }
    }

    #[tokio::test]
    async fn a_volume_is_given_its_claim_if_it_is_as_it_was_seen() {
        let (outcome, asked) = run(to_bind(&Value::Null), vec![Some((200, volume("9", &ours())))]).await;
        assert_eq!(outcome.unwrap().volumes, [("pv".into(), 9, "data".into())]);
        let (path, patch) = &asked[0];
        assert_eq!(path, "PATCH /api/v1/persistentvolumes/pv");
        assert_eq!((&patch["metadata"]["resourceVersion"], &patch["metadata"]["uid"]), (&json!("7"), &json!("v")));
        assert_eq!(patch["metadata"]["annotations"], json!({"pv.kubernetes.io/bound-by-controller": "yes"}));
        let reference = &patch["spec"]["claimRef"];
        assert_eq!((&reference["uid"], &reference["kind"]), (&json!("c"), &json!("PersistentVolumeClaim")));
        // A user's own reference is completed, and stays the user's.
        let users = json!({"namespace": "d", "name": "data"});
        let (_, asked) = run(to_bind(&users), vec![Some((200, volume("9", &ours())))]).await;
        assert_eq!(asked[0].1["metadata"]["annotations"], Value::Null);
        let (outcome, asked) = run(to_bind(&ours()), vec![]).await;
        assert_eq!((outcome.unwrap().volumes[0].1, asked.len()), (7, 0), "it is so already");
    }

    #[tokio::test]
    async fn an_answer_that_was_lost_is_asked_for_again() {
        let selected = claim("9", &json!({"volume.kubernetes.io/selected-node": "n"}));
        // It had been done: the second attempt finds another version, and that it is so.
        let (outcome, asked) = run(to_make(), vec![None, conflict(), Some((200, selected.clone()))]).await;
        assert_eq!(outcome.unwrap().claims, [("data".into(), 9)]);
        assert_eq!(asked[1].1["metadata"]["resourceVersion"], "5", "guarded each time");
        assert_eq!(asked[2].0, "GET /api/v1/namespaces/d/persistentvolumeclaims/data");
        let busy = || Some((503, json!({"kind": "Status", "message": "busy"})));
        let (outcome, _) = run(to_make(), vec![busy(), Some((200, selected))]).await;
        assert!(outcome.is_ok());
        let (outcome, asked) = run(to_make(), (0..5).map(|_| None).collect()).await;
        assert_eq!((outcome.unwrap_err().to_string().as_str(), asked.len()), ("the answer was lost", 5));
    }

    #[tokio::test]
    async fn what_somebody_else_changed_is_left_alone() {
        let others = volume("9", &json!({"namespace": "d", "name": "other", "uid": "o"}));
        let (outcome, _) = run(to_bind(&Value::Null), vec![conflict(), Some((200, others))]).await;
        assert!(outcome.unwrap_err().to_string().contains("the object has been modified"));
        let elsewhere = claim("9", &json!({"volume.kubernetes.io/selected-node": "m"}));
        let (outcome, _) = run(to_make(), vec![conflict(), Some((200, elsewhere))]).await;
        assert!(outcome.is_err());
    }
}
