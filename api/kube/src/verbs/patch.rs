//! Patching an object, or its status.

use http::{Response, StatusCode};
use kelson_wire::kube::Body;
use serde_json::Value;

use super::write::{self, FieldValidation};
use super::{create, encode};
use crate::gateway::Call;
use crate::media;
use crate::shape;
use crate::status::{Answer, Failure};

/// The kinds of patch, by media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Json,
    Merge,
    Strategic,
}

impl Kind {
    /// The kind of a request.
    ///
    /// # Errors
    /// 415 for any other media type.
    pub fn of(call: &Call<'_>) -> Answer<Kind> {
        match media::content_type(&call.parts.headers) {
            "application/json-patch+json" => Ok(Kind::Json),
            "application/merge-patch+json" => Ok(Kind::Merge),
            "application/strategic-merge-patch+json" => Ok(Kind::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => Err(Failure::unsupported_media(
                "server-side apply is not supported by this server: use client-side apply (kubectl apply \
                 --server-side=false)",
            )),
            _ => Err(Failure::unsupported_media(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json",
            )),
        }
    }
}

/// `PATCH` of an object or of its status.
pub async fn patch(call: &Call<'_>) -> Answer<Response<Body>> {
    let kind = Kind::of(call)?;
    let validation = FieldValidation::of(call)?;
    let patch: Value = serde_json::from_slice(call.body)
        .map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))?;
    let row = call.row();
    let mut warnings = Vec::new();
    let outcome = write::modify(call, call.target.subresource, |current| {
        let mut value = shape::patched((row.group, row.version, row.kind), kind, versioned(current), patch.clone())?;
        if !value.is_object() {
            return Err(Failure::bad_request("the patched object is no object"));
        }
        warnings = shape::normalise(row, &mut value)?;
        validation.judge(row, &mut warnings)?;
        // A patch that does not speak of the version wants whatever is current.
        if named(&patch, kind).is_none() {
            write::metadata(&mut value)?.remove("resourceVersion");
        }
        Ok(value)
    })
    .await?;
    let response = encode::stored(call, StatusCode::OK, &outcome.bytes, outcome.revision)?;
    Ok(create::warn(response, &warnings))
}

/// The current object as clients see it.
fn versioned(current: &write::Current) -> Value {
    let mut value = current.value.clone();
    if let Ok(metadata) = write::metadata(&mut value) {
        metadata.insert("resourceVersion".into(), current.object.mod_revision.to_string().into());
    }
    value
}

/// The resource version that a patch sets. A JSON patch sets it by path.
fn named(patch: &Value, kind: Kind) -> Option<&Value> {
    match kind {
        Kind::Json => patch
            .as_array()?
            .iter()
            .find(|operation| operation["path"] == "/metadata/resourceVersion" && operation["op"] != "test"),
        Kind::Merge | Kind::Strategic => patch.pointer("/metadata/resourceVersion"),
    }
}
