//! What is written about claims for devices before a pod is bound, and what is taken back.
//!
//! A write that gives devices is sent until the API has said what became of it: as long as nobody knows, nobody else may be
//! given them. Each is guarded by the version that was seen, so that one that is late changes nothing.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kelson_sched::DeviceResult;
use kelson_wire::kube::{ApiError, Client, Keyed, PatchKind};
use serde_json::{Value, json};

use super::view::{PROTECTION, ResourceClaimView};
use crate::scheduler::source::RESOURCE_CLAIMS;

/// How often a claim is read again at most because somebody else changed it.
const CONFLICTS: u32 = 5;
/// Pause before a write without an answer is sent again, doubling.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// The pod that claims are reserved for.
#[derive(Clone, Debug)]
pub struct Consumer {
    pub name: Arc<str>,
    pub uid: Arc<str>,
}

/// What a claim is given.
#[derive(Debug)]
pub struct Given {
    pub devices: Vec<DeviceResult>,
    /// `status.allocation`.
    pub allocation: Value,
}

/// What is to be written before a pod is bound.
#[derive(Debug)]
pub struct Writes {
    pub pod: Consumer,
    /// Claims as they were seen, each with what it is given if it has nothing yet.
    pub claims: Vec<(Arc<ResourceClaimView>, Option<Given>)>,
}

/// What the claims are now, as far as they were written, and whether all that was to be written is.
#[derive(Debug)]
pub struct Written {
    pub claims: Vec<Arc<ResourceClaimView>>,
    pub outcome: Result<(), String>,
}

/// Writes it all. Where that fails, nothing stays reserved for the pod; what a claim was given stays its own, as
/// kube-scheduler leaves it.
pub async fn write(client: &Client, writes: &Writes) -> Written {
    let mut claims = Vec::new();
    for (claim, given) in &writes.claims {
        match reserve(client, claim, given.as_ref(), &writes.pod).await {
            Ok(view) => claims.push(view),
            Err(why) => {
                let reserved = claims.iter().filter(|claim| claim.is_reserved_for(&writes.pod.uid)).cloned().collect();
                let freed = release(client, reserved, &writes.pod.uid).await;
                claims.extend(freed);
                return Written { claims, outcome: Err(why) };
            }
        }
    }
    Written { claims, outcome: Ok(()) }
}

/// Reserves one claim for a pod, and gives it devices if it is to be given some.
async fn reserve(
    client: &Client,
    seen: &Arc<ResourceClaimView>,
    given: Option<&Given>,
    pod: &Consumer,
) -> Result<Arc<ResourceClaimView>, String> {
    let mut claim = seen.clone();
    let key = claim.meta().key();
    let what = if given.is_some() { "add allocation and reservation" } else { "add reservation" };
    let mut conflicts = 0;
    loop {
        let has = claim.claim.allocation.as_ref().map(|allocation| &allocation.devices);
        if claim.is_reserved_for(&pod.uid) && has.is_some() && given.is_none_or(|given| Some(&given.devices) == has) {
            // By an attempt whose answer was lost, or one before this scheduler.
            return Ok(claim);
        }
        if claim.meta().is_terminating() {
            return Err(format!("claim {key} got deleted in the meantime"));
        }
        if given.is_some() && has.is_some() {
            return Err(format!("claim {key} got allocated elsewhere in the meantime"));
        }
        claim = match attempt(client, &claim, given, pod).await {
            Ok(claim) => return Ok(Arc::new(claim)),
            Err((_, ApiError::Status { code: 409, .. })) if conflicts < CONFLICTS => {
                conflicts += 1;
                let meta = claim.meta();
                let found: Result<ResourceClaimView, ApiError> =
                    insist(|| client.get(&RESOURCE_CLAIMS, &meta.namespace, &meta.name)).await;
                let found =
                    found.map_err(|error| format!("get updated claim {key} after conflict: {}", message(error)))?;
                if found.meta().uid != meta.uid {
                    return Err(format!("claim {key} got deleted in the meantime"));
                }
                Arc::new(found)
            }
            Err((true, error)) => return Err(format!("add finalizer to claim {key}: {}", message(error))),
            Err((false, error)) => return Err(format!("{what} to claim {key}: {}", message(error))),
        };
    }
}

/// The writes to a claim as it was seen.
///
/// # Errors
/// The API's, and whether it was about the finalizer.
async fn attempt(
    client: &Client,
    claim: &ResourceClaimView,
    given: Option<&Given>,
    pod: &Consumer,
) -> Result<ResourceClaimView, (bool, ApiError)> {
    let meta = claim.meta();
    let mut version = meta.resource_version.clone();
    let (namespace, name) = (&meta.namespace, &meta.name);
    if given.is_some() && !meta.finalizers.iter().any(|have| have == PROTECTION) {
        let finalizers: Vec<&str> = meta.finalizers.iter().map(String::as_str).chain([PROTECTION]).collect();
        let patch = json!({"metadata": {"uid": &*meta.uid, "resourceVersion": &*version, "finalizers": finalizers}});
        let patched: Result<ResourceClaimView, ApiError> =
            insist(|| client.patch(&RESOURCE_CLAIMS, namespace, name, "", PatchKind::Merge, &patch)).await;
        version = patched.map_err(|error| (true, error))?.meta().resource_version.clone();
    }
    let consumer = json!({"resource": "pods", "name": &*pod.name, "uid": &*pod.uid});
    let reserved_for: Vec<&Value> = claim.reserved_for.iter().chain([&consumer]).collect();
    let mut patch = json!({
        "metadata": {"uid": &*meta.uid, "resourceVersion": &*version},
        "status": {"reservedFor": reserved_for},
    });
    if let Some(given) = given {
        patch["status"]["allocation"] = given.allocation.clone();
    }
    let patched = insist(|| client.patch(&RESOURCE_CLAIMS, namespace, name, "status", PatchKind::Merge, &patch)).await;
    patched.map_err(|error| (false, error))
}

/// Takes a pod out of what claims are reserved for. Returns the claims that could be written.
pub async fn release(client: &Client, claims: Vec<Arc<ResourceClaimView>>, pod: &str) -> Vec<Arc<ResourceClaimView>> {
    let mut written = Vec::new();
    for claim in claims {
        let meta = claim.meta();
        let patch = json!({
            "metadata": {"uid": &*meta.uid},
            "status": {"reservedFor": [{"$patch": "delete", "uid": pod}]},
        });
        let (namespace, name) = (&meta.namespace, &meta.name);
        let patched: Result<ResourceClaimView, ApiError> =
            insist(|| client.patch(&RESOURCE_CLAIMS, namespace, name, "status", PatchKind::Strategic, &patch)).await;
        match patched {
            Ok(claim) => written.push(Arc::new(claim)),
            Err(error) => tracing::warn!(%error, claim = meta.key(), "a claim stays reserved"),
        }
    }
    written
}

/// Frees the devices of a claim that nobody uses, if it is as it was seen.
///
/// # Errors
/// The API's.
pub async fn deallocate(client: &Client, claim: &ResourceClaimView) -> Result<ResourceClaimView, ApiError> {
    let meta = claim.meta();
    let patch = json!({
        "metadata": {"uid": &*meta.uid, "resourceVersion": &*meta.resource_version},
        "status": {"allocation": null, "reservedFor": null, "devices": null},
    });
    client.patch(&RESOURCE_CLAIMS, &meta.namespace, &meta.name, "status", PatchKind::Merge, &patch).await
}

/// The server's own words, where it had some.
fn message(error: ApiError) -> String {
    match error {
        ApiError::Status { message, .. } => message,
        error => error.to_string(),
    }
}

/// Calls again until there is an answer that says what was done.
async fn insist<T, F: Future<Output = Result<T, ApiError>>>(call: impl Fn() -> F) -> Result<T, ApiError> {
    let mut pause = MIN_PAUSE;
    loop {
        match call().await {
            Err(ApiError::Status { code: code @ (408 | 429 | 500..), message, .. }) => {
                tracing::debug!(code, %message, "not answered, sent again");
            }
            Err(ApiError::Transport(error)) => tracing::debug!(%error, "not answered, sent again"),
            answer => return answer,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::script::Script;

    const FINALIZED: &[&str] = &[PROTECTION];

    fn claim(version: &str, finalizers: &[&str], status: &Value) -> Value {
        json!({"metadata": {"name": "gpu", "namespace": "d", "uid": "c", "resourceVersion": version,
            "finalizers": finalizers}, "spec": {}, "status": status})
    }

    fn given() -> Value {
        json!({"devices": {"results": [{"request": "r", "driver": "g", "pool": "n", "device": "d0"}]}})
    }

    fn ours() -> Value {
        json!({"allocation": given(), "reservedFor": [{"resource": "pods", "name": "p", "uid": "p1"}]})
    }

    fn view_of(json: &Value) -> Arc<ResourceClaimView> {
        Arc::new(serde_json::from_str(&json.to_string()).unwrap())
    }

    fn conflict() -> Option<(u16, Value)> {
        Some((409, json!({"kind": "Status", "reason": "Conflict", "message": "the object has been modified"})))
    }

    type Asked = Vec<(String, Value)>;

    fn device(view: &Value) -> Vec<DeviceResult> {
        view_of(view).claim.allocation.as_ref().expect("given").devices.clone()
    }

    async fn run(claims: Vec<(Value, Option<Value>)>, answers: Vec<Option<(u16, Value)>>) -> (Written, Asked) {
        let script = Arc::new(Script::new(answers));
        let given = |allocation: Value| Given {
            devices: device(&claim("1", &[], &json!({"allocation": allocation}))),
            allocation,
        };
        let claims = claims.into_iter().map(|(claim, allocation)| (view_of(&claim), allocation.map(given))).collect();
        let writes = Writes { pod: Consumer { name: "p".into(), uid: "p1".into() }, claims };
        let written = write(&Client::new(script.clone(), "test"), &writes).await;
        assert!(script.answers.lock().is_empty(), "it was not asked for all of them");
        let asked = std::mem::take(&mut *script.asked.lock());
        (written, asked)
    }

    #[tokio::test]
    async fn a_claim_is_protected_then_given_devices_and_reserved() {
        let answers = vec![Some((200, claim("6", FINALIZED, &json!({})))), Some((200, claim("7", FINALIZED, &ours())))];
        let (written, asked) = run(vec![(claim("5", &["x"], &json!({})), Some(given()))], answers).await;
        assert_eq!(written.outcome, Ok(()));
        assert_eq!(written.claims[0].meta().revision(), 7);
        let path = "PATCH /apis/resource.k8s.io/v1/namespaces/d/resourceclaims/gpu";
        assert_eq!((asked[0].0.as_str(), asked[1].0.as_str()), (path, format!("{path}/status").as_str()));
        assert_eq!(asked[0].1["metadata"]["finalizers"], json!(["x", PROTECTION]));
        assert_eq!(
            (&asked[0].1["metadata"]["resourceVersion"], &asked[0].1["metadata"]["uid"]),
            (&json!("5"), &json!("c"))
        );
        assert_eq!((&asked[1].1["status"], &asked[1].1["metadata"]["resourceVersion"]), (&ours(), &json!("6")));
    }

    #[tokio::test]
    async fn a_write_is_sent_until_it_is_answered() {
        let before = claim("6", FINALIZED, &json!({}));
        let busy = || Some((503, json!({"kind": "Status", "message": "busy"})));
        // It had been done: the third attempt finds another version, and that it is so.
        let answers = vec![None, busy(), conflict(), Some((200, claim("7", FINALIZED, &ours())))];
        let (written, asked) = run(vec![(before, Some(given()))], answers).await;
        assert_eq!((written.outcome, asked.len()), (Ok(()), 4));
        assert_eq!(asked[2].1["metadata"]["resourceVersion"], "6", "guarded each time");
    }

    #[tokio::test]
    async fn what_somebody_else_did_is_respected_and_the_pod_leaves_nothing_reserved() {
        let taken = claim("9", FINALIZED, &json!({"allocation": given(), "reservedFor": [{"uid": "p2"}]}));
        let before = claim("6", FINALIZED, &json!({}));
        let shared = json!({"allocation": given()});
        let mut reserved = shared.clone();
        reserved["reservedFor"] = ours()["reservedFor"].clone();
        let answers = vec![
            Some((200, claim("8", FINALIZED, &reserved))),
            conflict(),
            Some((200, taken)),
            Some((200, claim("10", FINALIZED, &shared))),
        ];
        let claims = vec![(claim("5", FINALIZED, &shared), None), (before, Some(given()))];
        let (written, asked) = run(claims, answers).await;
        assert_eq!(written.outcome, Err("claim d/gpu got allocated elsewhere in the meantime".into()));
        assert_eq!(asked[3].1["status"]["reservedFor"], json!([{"$patch": "delete", "uid": "p1"}]));
        assert_eq!(written.claims.last().map(|claim| claim.meta().revision()), Some(10));
        let refused = vec![Some((422, json!({"kind": "Status", "message": "too many consumers"})))];
        let (written, _) = run(vec![(claim("5", FINALIZED, &shared), None)], refused).await;
        assert_eq!(written.outcome, Err("add reservation to claim d/gpu: too many consumers".into()));
    }
}
