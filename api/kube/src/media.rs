//! Media types: what a client accepts, and what it sends.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use crate::protobuf;
use crate::status::{Answer, Failure};

/// The shape in which objects go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The objects themselves.
    Object,
    /// `Table`, of `meta.k8s.io/v1` or `v1beta1`.
    Table(&'static str),
    /// `PartialObjectMetadata` and its list, of `meta.k8s.io/v1` or `v1beta1`.
    Metadata(&'static str),
}

/// What the response is to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    pub form: Form,
    pub yaml: bool,
}

const JSON: Accept = Accept { form: Form::Object, yaml: false };

/// Chooses the first media type in the `Accept` header that can be served.
///
/// # Errors
/// 406 if there is none (only protobuf, for example).
pub fn accept(headers: &HeaderMap) -> Answer<Accept> {
    let mut nothing = true;
    for value in headers.get_all(header::ACCEPT) {
        let Ok(value) = value.to_str() else { continue };
        for range in value.split(',').map(str::trim).filter(|range| !range.is_empty()) {
            nothing = false;
            if let Some(accept) = acceptable(range) {
                return Ok(accept);
            }
        }
    }
    if nothing {
        return Ok(JSON);
    }
    let message = "only the following media types are accepted: application/json, application/yaml";
    Err(Failure::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message))
}

/// Whether the first media type that the client accepts is this one.
pub fn wants(headers: &HeaderMap, media_type: &str) -> bool {
    let first =
        headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).and_then(|value| value.split(',').next());
    first.is_some_and(|first| first.trim() == media_type)
}

fn acceptable(range: &str) -> Option<Accept> {
    let mut parts = range.split(';').map(str::trim);
    let yaml = match parts.next()? {
        "application/json" | "*/*" | "application/*" => false,
        "application/yaml" => true,
        _ => return None,
    };
    let (mut kind, mut group, mut version) = ("", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => kind = value,
            Some(("g", value)) => group = value,
            Some(("v", value)) => version = value,
            _ => {}
        }
    }
    let version = match version {
        "v1" => "meta.k8s.io/v1",
        "v1beta1" => "meta.k8s.io/v1beta1",
        _ if kind.is_empty() => "",
        _ => return None,
    };
    let form = match kind {
        "" => Form::Object,
        _ if group != "meta.k8s.io" => return None,
        "Table" => Form::Table(version),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Form::Metadata(version),
        _ => return None,
    };
    Some(Accept { form, yaml })
}

/// The media type of a request body without its parameters; empty if there is none.
pub fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

/// The forms of a request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

/// The form that a request's media type announces.
///
/// # Errors
/// 415 for any other one.
pub fn encoding(headers: &HeaderMap) -> Answer<Encoding> {
    match content_type(headers) {
        "" | "application/json" => Ok(Encoding::Json),
        "application/yaml" | "text/yaml" | "application/x-yaml" => Ok(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
        _ => Err(Failure::unsupported_media(
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// The refusal of malformed JSON.
pub fn malformed(error: serde_json::Error) -> Failure {
    Failure::bad_request(format!("couldn't get version/kind; json parse error: {error}"))
}

/// The refusal of malformed YAML.
pub fn malformed_yaml(error: serde_yaml_ng::Error) -> Failure {
    Failure::bad_request(format!(
        "couldn't get version/kind; json parse error: error converting YAML to JSON: yaml: {error}"
    ))
}

/// A request body as a tree.
///
/// # Errors
/// 400 for a malformed body, 415 for an unknown media type.
pub fn decode(headers: &HeaderMap, body: &Bytes) -> Answer<Value> {
    match encoding(headers)? {
        Encoding::Protobuf => protobuf::decode(body).map_err(|error| Failure::bad_request(error.to_string())),
        Encoding::Json => serde_json::from_slice(body).map_err(malformed),
        Encoding::Yaml => serde_yaml_ng::from_slice(body).map_err(malformed_yaml),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(text: &'static str) -> Answer<Accept> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, http::HeaderValue::from_static(text));
        accept(&headers)
    }

    #[test]
    fn the_first_known_type_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accepted(kubectl).unwrap().form, Form::Table("meta.k8s.io/v1"));
        assert_eq!(accepted("application/vnd.kubernetes.protobuf, application/json").unwrap(), JSON);
        assert_eq!(accepted("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io, */*").unwrap(), JSON);
        assert_eq!(accepted("application/vnd.kubernetes.protobuf").unwrap_err().code(), 406);
        assert!(accepted("application/yaml").unwrap().yaml);
        let metadata = accepted("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").unwrap();
        assert_eq!(metadata.form, Form::Metadata("meta.k8s.io/v1"));
        assert_eq!(accept(&HeaderMap::new()).unwrap(), JSON);
    }
}
