//! Writes that several controllers make: pods from a template, deletions, adoption and release.

use kelson_wire::kube::{ApiError, Client, Gvr, ObjectMeta, PatchKind};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::error::Error;

/// What is read of the answer to a creation.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Created {
    pub metadata: CreatedMeta,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct CreatedMeta {
    pub name: String,
    pub uid: String,
}

/// An owner reference that makes `owner` the controller.
pub(crate) fn controller_ref(gvr: &Gvr, owner: &ObjectMeta) -> Value {
    json!({
        "apiVersion": gvr.api_version(),
        "kind": gvr.kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// The pod that a template stands for, owned by `owner`. The template's labels, annotations and finalizers are kept.
pub(crate) fn pod_of(template: &Value, gvr: &Gvr, owner: &ObjectMeta, generate_name: &str) -> Value {
    let from = |field: &str| template.get("metadata").and_then(|metadata| metadata.get(field)).cloned();
    let mut metadata = json!({
        "generateName": generate_name,
        "namespace": owner.namespace,
        "ownerReferences": [controller_ref(gvr, owner)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = from(field).filter(|value| !value.is_null()) {
            metadata[field] = value;
        }
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": template.get("spec").cloned().unwrap_or_default(),
    })
}

/// A prefix for generated names: the owner's name and a dash, cut where the name would get too long to be a host name.
pub(crate) fn pod_prefix(owner: &str) -> String {
    // The server cuts the prefix as well; a dash at the end is legal because characters follow it.
    format!("{owner}-")
}

/// An object encoded once, to be created many times.
pub(crate) fn encode(object: &Value) -> Result<Box<RawValue>, Error> {
    Ok(to_raw_value(object)?)
}

/// Deletes an object if it still is the one with this uid. One that is gone already is fine.
pub(crate) async fn delete(client: &Client, gvr: &Gvr, object: &ObjectMeta) -> Result<(), Error> {
    let options = json!({"preconditions": {"uid": object.uid}});
    match client.delete(gvr, &object.namespace, &object.name, &options).await {
        Err(error) if error.is_not_found() => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Makes `owner` the controller of an object that has none.
pub(crate) async fn adopt(
    client: &Client,
    gvr: &Gvr,
    object: &ObjectMeta,
    owner_gvr: &Gvr,
    owner: &ObjectMeta,
) -> Result<(), Error> {
    let patch = json!({"metadata": {"uid": object.uid, "ownerReferences": [controller_ref(owner_gvr, owner)]}});
    let adopted =
        client.patch::<IgnoredAny>(gvr, &object.namespace, &object.name, "", PatchKind::Strategic, &patch).await;
    ignore_gone(adopted)
}

/// Takes the reference to `owner` off an object that it does not select any more.
pub(crate) async fn release(client: &Client, gvr: &Gvr, object: &ObjectMeta, owner_uid: &str) -> Result<(), Error> {
    let patch = json!({
        "metadata": {"uid": object.uid, "ownerReferences": [{"$patch": "delete", "uid": owner_uid}]},
    });
    let released =
        client.patch::<IgnoredAny>(gvr, &object.namespace, &object.name, "", PatchKind::Strategic, &patch).await;
    match released {
        // The reference is not there any more.
        Err(ApiError::Status { code: 422, .. }) => Ok(()),
        released => ignore_gone(released),
    }
}

/// Whether an owner may still adopt: it must be the same object, not being deleted, in the store and not just in a cache.
pub(crate) async fn may_adopt(client: &Client, gvr: &Gvr, owner: &ObjectMeta) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Fresh {
        metadata: ObjectMeta,
    }
    match client.get::<Fresh>(gvr, &owner.namespace, &owner.name).await {
        Ok(fresh) => Ok(fresh.metadata.uid == owner.uid && !fresh.metadata.is_terminating()),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Merges a patch into an object's status.
pub(crate) async fn patch_status(client: &Client, gvr: &Gvr, object: &ObjectMeta, patch: &Value) -> Result<(), Error> {
    client.patch::<IgnoredAny>(gvr, &object.namespace, &object.name, "status", PatchKind::Merge, patch).await?;
    Ok(())
}

/// Merges a patch into an object.
pub(crate) async fn patch(client: &Client, gvr: &Gvr, object: &ObjectMeta, patch: &Value) -> Result<(), Error> {
    client.patch::<IgnoredAny>(gvr, &object.namespace, &object.name, "", PatchKind::Merge, patch).await?;
    Ok(())
}

/// A number that is left out of an object when it is 0: null in a merge patch.
pub(crate) fn or_null(number: i64) -> Value {
    if number == 0 { Value::Null } else { number.into() }
}

fn ignore_gone<T>(outcome: Result<T, ApiError>) -> Result<(), Error> {
    match outcome {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether a creation was refused because its namespace is being deleted: trying again is of no use.
pub(crate) fn is_namespace_ending(error: &ApiError) -> bool {
    matches!(error, ApiError::Status { code: 403, message, .. } if message.contains("being terminated"))
}
