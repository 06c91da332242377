//! Objects on their way out, in the form that was asked for.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use kelson_wire::kube::{Body, full};
use serde_json::{Value, json};

use crate::cache::Entry;
use crate::gateway::Call;
use crate::media::Form;
use crate::registry::Resource;
use crate::scan;
use crate::shape;
use crate::status::{Answer, Failure};
use crate::table::Include;

/// A response with this body.
pub fn respond(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A stored object as the response.
///
/// # Errors
/// 500 if the stored bytes are no object.
pub fn stored(call: &Call<'_>, status: StatusCode, value: &[u8], revision: i64) -> Answer<Response<Body>> {
    let spliced = scan::splice(b"", value, revision, b"")
        .ok_or_else(|| Failure::internal("the stored value is no JSON object"))?;
    whole(call, status, spliced.text.into())
}

/// A cached object as the response.
///
/// # Errors
/// 500 if it cannot be put into the form asked for.
pub fn entry(call: &Call<'_>, status: StatusCode, entry: &Entry) -> Answer<Response<Body>> {
    whole(call, status, entry.object())
}

/// An object that was not stored (a dry run) as the response.
///
/// # Errors
/// 500 if it cannot be put into the form asked for.
pub fn created(call: &Call<'_>, status: StatusCode, value: &Value) -> Answer<Response<Body>> {
    whole(call, status, value.to_string().into())
}

/// A finished object text as the response.
fn whole(call: &Call<'_>, status: StatusCode, text: Bytes) -> Answer<Response<Body>> {
    let body = match call.accept.form {
        Form::Object => text,
        Form::Metadata(version) => {
            let mut body = Vec::with_capacity(256);
            append_metadata(&text, version, &mut body);
            body.into()
        }
        Form::Table(version) => {
            let revision = scan::path(&text, &["metadata", "resourceVersion"]).map(|range| &text[range]);
            let mut body = table_head(
                call.row(),
                version,
                &format!("{{\"resourceVersion\":{}}}", revision.map_or("\"\"".into(), String::from_utf8_lossy)),
            );
            shape::append_row(call.row(), &text, include(call)?, &mut body)?;
            body.extend_from_slice(b"]}");
            body.into()
        }
    };
    finish(call, status, body)
}

/// JSON text as the response, converted to YAML if that was asked for.
pub fn finish(call: &Call<'_>, status: StatusCode, body: Bytes) -> Answer<Response<Body>> {
    if !call.accept.yaml {
        return Ok(respond(status, body));
    }
    let value: Value = serde_json::from_slice(&body).map_err(Failure::internal)?;
    let text = serde_yaml_ng::to_string(&value).map_err(Failure::internal)?;
    let mut response = respond(status, text);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/yaml"));
    Ok(response)
}

/// A `Status` that says the object is gone.
pub fn success(row: &Resource, name: &str, uid: &str) -> Response<Body> {
    let mut details = json!({"name": name, "kind": row.plural, "uid": uid});
    if !row.group.is_empty() {
        details["group"] = json!(row.group);
    }
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    });
    respond(StatusCode::OK, status.to_string())
}

/// Reads `includeObject`.
///
/// # Errors
/// 400 for an unknown value.
pub fn include(call: &Call<'_>) -> Answer<Include> {
    match call.query.get("includeObject") {
        "" | "Metadata" => Ok(Include::Metadata),
        "None" => Ok(Include::None),
        "Object" => Ok(Include::Object),
        other => Err(Failure::bad_request(format!("unrecognized includeObject value: {other:?}"))),
    }
}

/// Appends the object's metadata as a `PartialObjectMetadata`; `version` is its `apiVersion`.
pub fn append_metadata(text: &[u8], version: &str, to: &mut Vec<u8>) {
    to.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"");
    to.extend_from_slice(version.as_bytes());
    to.extend_from_slice(b"\",\"metadata\":");
    match scan::member(text, 0, "metadata") {
        Some(range) => to.extend_from_slice(&text[range]),
        None => to.extend_from_slice(b"{}"),
    }
    to.push(b'}');
}

/// The beginning of a table, up to the first row; `metadata` is JSON text.
pub fn table_head(row: &Resource, version: &str, metadata: &str) -> Vec<u8> {
    let columns = crate::shape::columns(row);
    format!(
        "{{\"kind\":\"Table\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"columnDefinitions\":{columns},\"rows\":["
    )
    .into_bytes()
}
