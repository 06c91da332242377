//! What admission does to new objects, before they are checked.

use serde_json::{Value, json};

use crate::gateway::Call;
use crate::registry::core;
use crate::scan;
use crate::service::{self, is_service};
use crate::status::{Answer, Failure};

/// How long a pod stays on a node that is lost, in seconds (DefaultTolerationSeconds).
const TOLERATION_SECONDS: i64 = 300;

/// Whether the namespace of a request takes new objects.
///
/// # Errors
/// 404 if it does not exist, 403 if it is being deleted.
pub async fn namespace_accepts(call: &Call<'_>, name: &str) -> Answer<()> {
    let (number, row) = core("namespaces");
    let namespace = call.target.namespace.as_str();
    let key = row.key("", namespace);
    let cached = call.gateway.caches[number].get(key.as_bytes());
    let terminating = match cached {
        Some(entry) => is_terminating(entry.object_bytes()),
        None => {
            // The cache may not have seen a namespace that its creator knows.
            let object = call.gateway.store.get(key.into()).await?.object;
            is_terminating(&object.ok_or_else(|| Failure::not_found(row, namespace))?.value)
        }
    };
    if !terminating {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let cause = format!("namespace {namespace} is being terminated");
    Err(Failure::forbidden(call.row(), name, &why).with_cause("NamespaceTerminating", cause, "metadata.namespace"))
}

fn is_terminating(namespace: &[u8]) -> bool {
    scan::path(namespace, &["metadata", "deletionTimestamp"]).is_some_and(|range| &namespace[range] != b"null")
}

/// Changes a new object as the admission plugins do that every cluster runs.
///
/// # Errors
/// None today; refusals of plugins would be here.
pub fn create(call: &Call<'_>, value: &mut Value) -> Answer<()> {
    if call.row().kind == "Pod" && call.row().group.is_empty() {
        pod(value);
    }
    if is_service(call.row()) {
        service::normalise(value, None);
    }
    Ok(())
}

fn pod(value: &mut Value) {
    let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let account = spec.get("serviceAccountName").or_else(|| spec.get("serviceAccount")).and_then(Value::as_str);
    let account = account.filter(|name| !name.is_empty()).unwrap_or("default").to_string();
    spec.insert("serviceAccount".into(), account.as_str().into());
    spec.insert("serviceAccountName".into(), account.into());
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    if tolerations.is_null() {
        *tolerations = json!([]);
    }
    let Some(tolerations) = tolerations.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covered = tolerations.iter().any(|toleration| {
            let text = |field| toleration.get(field).and_then(Value::as_str).unwrap_or("");
            (text("key") == key || text("key").is_empty()) && matches!(text("effect"), "NoExecute" | "")
        });
        if !covered {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_an_account_and_two_tolerations() {
        let mut value = json!({"spec": {"containers": []}});
        pod(&mut value);
        assert_eq!(value["spec"]["serviceAccountName"], "default");
        assert_eq!(value["spec"]["tolerations"].as_array().unwrap().len(), 2);
        let before = value.clone();
        pod(&mut value);
        assert_eq!(value, before);
        let mut all = json!({"spec": {"tolerations": [{"operator": "Exists"}], "serviceAccountName": "x"}});
        pod(&mut all);
        assert_eq!(all["spec"]["tolerations"].as_array().unwrap().len(), 1);
        assert_eq!(all["spec"]["serviceAccount"], "x");
    }
}
