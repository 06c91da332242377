//! Failures, in the words of Kubernetes: every one becomes a `Status` object.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use kelson_wire::kube::{Body, full};
use kelson_wire::store::StoreError;
use serde_json::{Map, Value, json};

use crate::registry::Resource;

/// One entry of `details.causes`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, …
    pub reason: String,
    pub message: String,
    /// JSON path of the field, empty where the cause is none.
    pub field: String,
}

/// A refused or failed request.
#[derive(Clone, Debug)]
pub struct Failure(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    code: StatusCode,
    reason: &'static str,
    message: String,
    name: String,
    group: String,
    kind: String,
    causes: Vec<Cause>,
    retry_after: u32,
    continue_token: String,
}

/// Result of a handler.
pub type Answer<T> = Result<T, Failure>;

impl Failure {
    /// A failure without details.
    pub fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Failure {
        Failure(Box::new(Parts {
            code,
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            causes: Vec::new(),
            retry_after: 0,
            continue_token: String::new(),
        }))
    }

    fn about(mut self, row: &Resource, name: &str) -> Failure {
        self.0.name = name.to_string();
        self.0.group = row.group.to_string();
        self.0.kind = row.plural.to_string();
        self
    }

    /// 404 for an object.
    pub fn not_found(row: &Resource, name: &str) -> Failure {
        let message = format!("{} \"{name}\" not found", row.qualified());
        Failure::new(StatusCode::NOT_FOUND, "NotFound", message).about(row, name)
    }

    /// 404 for a path that is no resource.
    pub fn no_such_path() -> Failure {
        Failure::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
    }

    /// 405.
    pub fn method_not_allowed() -> Failure {
        let message = "the server does not allow this method on the requested resource";
        Failure::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    /// 409 for a name that is taken.
    pub fn already_exists(row: &Resource, name: &str) -> Failure {
        let message = format!("{} \"{name}\" already exists", row.qualified());
        Failure::new(StatusCode::CONFLICT, "AlreadyExists", message).about(row, name)
    }

    /// 409 with the reason spelled out.
    pub fn conflict(row: &Resource, name: &str, why: &str) -> Failure {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", row.qualified());
        Failure::new(StatusCode::CONFLICT, "Conflict", message).about(row, name)
    }

    /// 409 because the object changed since it was read.
    pub fn modified(row: &Resource, name: &str) -> Failure {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Failure::conflict(row, name, why)
    }

    /// 409 of a binding: kube-apiserver names the subresource here.
    pub fn binding_conflict(name: &str, why: &str) -> Failure {
        let message = format!("Operation cannot be fulfilled on pods/binding \"{name}\": {why}");
        let mut failure = Failure::new(StatusCode::CONFLICT, "Conflict", message);
        failure.0.name = name.to_string();
        failure.0.kind = "pods/binding".into();
        failure
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 403 with the reason spelled out.
    pub fn forbidden(row: &Resource, name: &str, why: &str) -> Failure {
        let message = format!("{} \"{name}\" is forbidden: {why}", row.qualified());
        Failure::new(StatusCode::FORBIDDEN, "Forbidden", message).about(row, name)
    }

    /// 422: the object breaks rules, each of them a cause.
    pub fn invalid(row: &Resource, name: &str, causes: Vec<Cause>) -> Failure {
        Failure::invalid_kind(row.group, row.kind, name, causes)
    }

    /// [`Failure::invalid`] for what is no resource of its own (`ListOptions`, `Scale`).
    pub fn invalid_kind(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Failure {
        let mut listed: Vec<_> = causes
            .iter()
            .map(|cause| {
                if cause.field.is_empty() {
                    cause.message.clone()
                } else {
                    format!("{}: {}", cause.field, cause.message)
                }
            })
            .collect();
        let mut seen = std::collections::HashSet::new();
        listed.retain(|text| seen.insert(text.clone()));
        let what = match listed.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = if group.is_empty() { kind.to_string() } else { format!("{kind}.{group}") };
        let message = format!("{qualified} \"{name}\" is invalid: {what}");
        let mut failure = Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        failure.0.name = name.to_string();
        failure.0.group = group.to_string();
        failure.0.kind = kind.to_string();
        failure.0.causes = causes;
        failure
    }

    /// 401.
    pub fn unauthorized() -> Failure {
        Failure::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 410: a resource version that is no longer available.
    pub fn expired(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::GONE, "Expired", message)
    }

    /// 410 of a watch.
    pub fn too_old(requested: i64, oldest: i64) -> Failure {
        Failure::expired(format!("too old resource version: {requested} ({oldest})"))
    }

    /// 504: a resource version that has not happened yet.
    pub fn too_large(requested: i64, current: i64) -> Failure {
        let message = format!("Timeout: Too large resource version: {requested}, current: {current}");
        let mut failure = Failure::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message);
        failure.0.causes.push(Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        });
        failure.0.retry_after = 1;
        failure
    }

    /// 504: the request took longer than it may.
    pub fn timeout() -> Failure {
        let message = "Timeout: request did not complete within the allotted timeout";
        Failure::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    }

    /// 429.
    pub fn too_many_requests() -> Failure {
        let message = "Too many requests, please try again later.";
        let mut failure = Failure::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        failure.0.retry_after = 1;
        failure
    }

    /// 413.
    pub fn too_large_body(limit: usize) -> Failure {
        let message = format!("Request entity too large: limit is {limit}");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// 415.
    pub fn unsupported_media(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Failure {
        let text = format!("Internal error occurred: {message}");
        let mut failure = Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", text);
        failure.0.causes.push(Cause { reason: String::new(), message: message.to_string(), field: String::new() });
        failure
    }

    /// Adds a cause.
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Failure {
        self.0.causes.push(Cause { reason: reason.to_string(), message: message.into(), field: field.to_string() });
        self
    }

    /// Adds the token with which a list may go on inconsistently.
    pub fn with_continue(mut self, token: String) -> Failure {
        self.0.continue_token = token;
        self
    }

    /// HTTP status code.
    pub fn code(&self) -> StatusCode {
        self.0.code
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The `Status` object.
    pub fn to_value(&self) -> Value {
        let parts = &self.0;
        let mut details = Map::new();
        for (name, value) in [("name", &parts.name), ("group", &parts.group), ("kind", &parts.kind)] {
            if !value.is_empty() {
                details.insert(name.into(), json!(value));
            }
        }
        if !parts.causes.is_empty() {
            let causes = parts.causes.iter().map(|cause| {
                let mut entry = Map::new();
                for (name, value) in [("reason", &cause.reason), ("message", &cause.message), ("field", &cause.field)] {
                    if !value.is_empty() {
                        entry.insert(name.into(), json!(value));
                    }
                }
                Value::Object(entry)
            });
            details.insert("causes".into(), causes.collect());
        }
        if parts.retry_after > 0 {
            details.insert("retryAfterSeconds".into(), json!(parts.retry_after));
        }
        let metadata =
            if parts.continue_token.is_empty() { json!({}) } else { json!({"continue": parts.continue_token}) };
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": parts.message,
            "reason": parts.reason,
            "code": parts.code.as_u16(),
        });
        if !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status
    }

    /// The HTTP response.
    pub fn response(&self) -> Response<Body> {
        let mut response = Response::new(full(Bytes::from(self.to_value().to_string())));
        *response.status_mut() = self.0.code;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.0.retry_after > 0 {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(self.0.retry_after));
        }
        response
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        match error {
            StoreError::Compacted { .. } => Failure::expired("The resourceVersion for the provided list is too old."),
            StoreError::Rejected(message) if message.contains("too large") => Failure::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestEntityTooLarge",
                format!("Request entity too large: {message}"),
            ),
            StoreError::Unavailable(message) => {
                let mut failure = Failure::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message);
                failure.0.retry_after = 1;
                failure
            }
            other => Failure::internal(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    #[test]
    fn words_are_those_of_kubernetes() {
        let pods = registry::core("pods").1;
        let deployments = registry::find("apps", "v1", "deployments").unwrap().1;
        assert_eq!(Failure::not_found(pods, "x").message(), "pods \"x\" not found");
        assert_eq!(Failure::already_exists(deployments, "x").message(), "deployments.apps \"x\" already exists");
        let causes = vec![Cause {
            reason: "FieldValueRequired".into(),
            message: "Required value: name or generateName is required".into(),
            field: "metadata.name".into(),
        }];
        let invalid = Failure::invalid(deployments, "", causes);
        assert_eq!(
            invalid.message(),
            "Deployment.apps \"\" is invalid: metadata.name: Required value: name or generateName is required"
        );
        assert_eq!(invalid.to_value()["details"]["causes"][0]["field"], "metadata.name");
        assert_eq!(
            Failure::unauthorized().to_value(),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "Unauthorized", "reason": "Unauthorized", "code": 401})
        );
    }
}
