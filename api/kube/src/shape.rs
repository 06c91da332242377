//! What the schema knows about a row's kind: normal form, rules, columns. The one place where handlers meet it.

use std::sync::LazyLock;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use kelson_wire::kube::{Body, full};
use serde_json::Value;

use crate::media::{self, Encoding};
use crate::openapi::{self, OpenApi};
use crate::patch::{self, PatchError};
use crate::registry::{RESOURCES, Resource, Subresource};
use crate::route::Route;
use crate::schema::{self, Type};
use crate::status::{Answer, Cause, Failure};
use crate::table;
use crate::validate;
use crate::verbs::{Include, PatchKind, text};
use crate::{defaults, health};

/// The schema of a kind. Every row has one, as a test asserts.
fn kind(group: &str, version: &str, name: &str) -> Answer<&'static Type> {
    schema::kind(group, version, name).ok_or_else(|| Failure::internal(format!("no schema for {name}")))
}

fn of(row: &Resource) -> Answer<&'static Type> {
    kind(row.group, row.version, row.kind)
}

/// A request body as a tree, and a message for each field that occurs twice.
///
/// # Errors
/// 400 for malformed text, 415 for an unknown media type.
pub fn parse(headers: &HeaderMap, body: &Bytes) -> Answer<(Value, Vec<String>)> {
    match media::encoding(headers)? {
        // Its numbered fields cannot be misspelt.
        Encoding::Protobuf => Ok((media::decode(headers, body)?, Vec::new())),
        Encoding::Json => validate::parse_strict(body).map_err(media::malformed),
        Encoding::Yaml => validate::parse_strict_yaml(body).map_err(media::malformed_yaml),
    }
}

/// Brings a decoded object into its normal form; returns a message for each field that had to be dropped.
///
/// # Errors
/// 400 for a value of the wrong type.
pub fn normalise(row: &Resource, value: &mut Value) -> Answer<Vec<String>> {
    normalise_kind(row.group, row.version, row.kind, value)
}

/// [`normalise`] for what is no resource of its own (`Binding`, `Eviction`, `Scale`, `DeleteOptions`).
///
/// # Errors
/// 400 for a value of the wrong type.
pub fn normalise_kind(group: &str, version: &str, name: &str, value: &mut Value) -> Answer<Vec<String>> {
    let ty = kind(group, version, name)?;
    validate::decode(value, ty).map_err(|error| Failure::bad_request(validate::cannot_be_handled(ty, &error)))
}

/// The refusal of strict validation.
pub fn strict_failure(row: &Resource, findings: &[String]) -> Failure {
    match of(row) {
        Ok(ty) => Failure::bad_request(validate::strict_message(ty, findings)),
        Err(failure) => failure,
    }
}

/// Defaults and checks a new, normalised object.
///
/// # Errors
/// 422 if it breaks the rules of its kind.
pub fn create(row: &Resource, value: &mut Value) -> Answer<()> {
    let ty = of(row)?;
    complete(row, value)?;
    judge(row, value, &validate::create(value, ty))
}

/// Brings a new object into its stored form without checking it: for what the gateway itself writes.
///
/// # Errors
/// 500 if there is no schema.
pub fn complete(row: &Resource, value: &mut Value) -> Answer<()> {
    let ty = of(row)?;
    defaults::apply(value, ty);
    defaults::prepare_create(value, ty);
    Ok(())
}

/// A refusal with one cause for each broken rule, if any is broken.
fn judge(row: &Resource, value: &Value, errors: &[validate::FieldError]) -> Answer<()> {
    if errors.is_empty() {
        return Ok(());
    }
    let causes = errors.iter().map(|error| Cause {
        reason: error.reason.cause().to_string(),
        message: error.body(),
        field: error.field.clone(),
    });
    Err(Failure::invalid(row, text(value, "name"), causes.collect()))
}

/// Defaults and checks a changed, normalised object.
///
/// # Errors
/// 422 if it, or the change, breaks the rules of its kind.
pub fn update(row: &Resource, subresource: Option<Subresource>, old: &Value, new: &mut Value) -> Answer<()> {
    let ty = of(row)?;
    defaults::apply(new, ty);
    if subresource.is_none() {
        defaults::prepare_update(new, old, ty);
    }
    match subresource {
        // A binding and a finalizer change what an update may not; their handlers allow nothing else.
        Some(Subresource::Binding | Subresource::Finalize) => Ok(()),
        _ => judge(row, new, &validate::update(new, old, ty)),
    }
}

/// Applies a patch to an object of a kind.
///
/// # Errors
/// 400 for a malformed patch, 422 for one that does not fit the object.
pub fn patched(of: (&str, &str, &str), how: PatchKind, object: Value, patch: Value) -> Answer<Value> {
    let patched = match how {
        PatchKind::Json => patch::json(object, patch),
        PatchKind::Merge => patch::merge(object, patch),
        PatchKind::Strategic => patch::strategic(object, patch, kind(of.0, of.1, of.2)?),
    };
    patched.map_err(|error| {
        let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::BAD_REQUEST);
        match error {
            PatchError::BadRequest(message) => Failure::bad_request(message),
            PatchError::TooLarge(message) => Failure::new(code, "RequestEntityTooLarge", message),
            PatchError::Unprocessable(message) => {
                Failure::new(code, "Invalid", PatchError::UNPROCESSABLE).with_cause("", message, "patch")
            }
        }
    })
}

/// The column definitions of a row's tables.
pub fn columns(row: &Resource) -> &'static Value {
    table::columns(row.group, row.plural)
}

/// Appends one table row.
///
/// # Errors
/// 500 if the text is no object.
pub fn append_row(row: &Resource, text: &[u8], include: Include, to: &mut Vec<u8>) -> Answer<()> {
    table::write_row(row.group, row.plural, text, SystemTime::now(), include, to).map_err(Failure::internal)
}

/// The schema documents of everything in the registry.
static OPENAPI: LazyLock<OpenApi> = LazyLock::new(|| {
    let resources = RESOURCES.iter().map(|row| openapi::Resource {
        group: row.group,
        version: row.version,
        kind: row.kind,
        plural: row.plural,
        namespaced: row.namespaced,
        subresources: row
            .subresources
            .iter()
            .map(|sub| openapi::Subresource { name: sub.name(), kind: sub.kind(), verbs: sub.verbs() })
            .collect(),
    });
    OpenApi::new(resources.collect(), health::GIT_VERSION)
});

/// How the version 2 document in protobuf is called in an answer: the name that is asked for is no valid media type.
const OPENAPI_PROTOBUF_SENT: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// How clients ask for it.
const OPENAPI_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Answers `/openapi/…`.
///
/// # Errors
/// 404 for a path that is no document, 406 if the client wants nothing but protobuf.
pub fn openapi(route: &Route, parts: &http::request::Parts) -> Answer<Response<Body>> {
    if matches!(route, Route::OpenApiV2) && media::wants(&parts.headers, OPENAPI_PROTOBUF) {
        let mut response = Response::new(full(OPENAPI.v2_protobuf()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(OPENAPI_PROTOBUF_SENT));
        return Ok(response);
    }
    media::accept(&parts.headers)?;
    let (json, hash) = match route {
        Route::OpenApiV2 => (OPENAPI.v2(), None),
        Route::OpenApiV3(path) if path.is_empty() => (OPENAPI.v3_index(), None),
        Route::OpenApiV3(path) => {
            let document = OPENAPI.v3_group(path).ok_or_else(Failure::no_such_path)?;
            (document.json, Some(document.hash))
        }
        _ => return Err(Failure::no_such_path()),
    };
    let mut response = Response::new(full(json));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(hash) = hash
        && let Ok(tag) = HeaderValue::from_str(&format!("\"{hash}\""))
    {
        headers.insert(header::ETAG, tag);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_schema() {
        for row in RESOURCES {
            assert!(of(row).is_ok(), "{}", row.kind);
            assert!(kind(row.group, row.version, &format!("{}List", row.kind)).is_ok(), "{}List", row.kind);
            for (group, version, name) in row.subresources.iter().filter_map(|sub| sub.kind()) {
                assert!(kind(group, version, name).is_ok(), "{name}");
            }
        }
    }
}
