//! A Kubernetes client over raw JSON: paths, verbs, errors. Types are the caller's own views.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::transport::{Body, BoxError, Transport};

/// Characters that need no escape in a query value.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// Media type of what is sent and asked for.
const JSON: &str = "application/json";

/// Longest response that is read whole, in bytes.
const MAX_RESPONSE: usize = 1 << 30;

/// One resource: where its objects are served and what they are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gvr {
    /// API group, empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    /// Plural, lower case: the path segment.
    pub resource: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
}

macro_rules! resources {
    ($($name:ident = $group:literal $version:literal $resource:literal $kind:literal $namespaced:literal;)*) => {
        impl Gvr {
            $(#[doc = concat!("`", $resource, "`")] pub const $name: Gvr = Gvr {
                group: $group, version: $version, resource: $resource, kind: $kind, namespaced: $namespaced,
            };)*
        }
    };
}

resources! {
    NAMESPACES = "" "v1" "namespaces" "Namespace" false;
    NODES = "" "v1" "nodes" "Node" false;
    PODS = "" "v1" "pods" "Pod" true;
    SERVICES = "" "v1" "services" "Service" true;
    ENDPOINTS = "" "v1" "endpoints" "Endpoints" true;
    CONFIG_MAPS = "" "v1" "configmaps" "ConfigMap" true;
    SECRETS = "" "v1" "secrets" "Secret" true;
    SERVICE_ACCOUNTS = "" "v1" "serviceaccounts" "ServiceAccount" true;
    EVENTS = "" "v1" "events" "Event" true;
    ENDPOINT_SLICES = "discovery.k8s.io" "v1" "endpointslices" "EndpointSlice" true;
    LEASES = "coordination.k8s.io" "v1" "leases" "Lease" true;
    DEPLOYMENTS = "apps" "v1" "deployments" "Deployment" true;
    REPLICA_SETS = "apps" "v1" "replicasets" "ReplicaSet" true;
    DAEMON_SETS = "apps" "v1" "daemonsets" "DaemonSet" true;
    CONTROLLER_REVISIONS = "apps" "v1" "controllerrevisions" "ControllerRevision" true;
    JOBS = "batch" "v1" "jobs" "Job" true;
}

impl Gvr {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Path of the collection, or of one object, or of its subresource. An empty namespace means all of them.
    pub fn path(&self, namespace: &str, name: &str, subresource: &str) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        for segment in [self.resource, name, subresource] {
            if !segment.is_empty() {
                path.push('/');
                path.push_str(segment);
            }
        }
        path
    }
}

/// The four kinds of patch; the media type is how the server tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes strategic merge: lists merge by key.
    Strategic,
}

impl PatchKind {
    /// The `Content-Type` of such a patch.
    pub fn media_type(self) -> &'static str {
        match self {
            PatchKind::Json => "application/json-patch+json",
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Strategic => "application/strategic-merge-patch+json",
        }
    }
}

/// Options of a list or watch; empty strings and zeros are left out of the query.
#[derive(Clone, Debug, Default)]
pub struct ListParams {
    pub label_selector: String,
    pub field_selector: String,
    pub limit: usize,
    pub continue_token: String,
    pub resource_version: String,
}

/// A list response.
#[derive(Clone, Debug, Deserialize)]
pub struct List<T> {
    pub metadata: ListMeta,
    #[serde(deserialize_with = "super::meta::null_default", bound(deserialize = "T: Deserialize<'de>"))]
    pub items: Vec<T>,
}

/// `metadata` of a list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    pub resource_version: String,
    #[serde(rename = "continue")]
    pub continue_token: String,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server answered with a failure `Status`.
    #[error("{message} ({reason}, {code})")]
    Status { code: u16, reason: String, message: String },
    /// No response, or half of one: whether a write took place is unknown.
    #[error("{0}")]
    Transport(BoxError),
    /// The response was not what the caller's type expects.
    #[error("unexpected response: {0}")]
    Decode(#[from] serde_json::Error),
}

impl ApiError {
    fn code(&self) -> u16 {
        if let ApiError::Status { code, .. } = self { *code } else { 0 }
    }

    fn reason_is(&self, wanted: &str) -> bool {
        matches!(self, ApiError::Status { reason, .. } if reason == wanted)
    }

    /// 404.
    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// 409 because the object changed since it was read.
    pub fn is_conflict(&self) -> bool {
        self.reason_is("Conflict")
    }

    /// 409 because the name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.reason_is("AlreadyExists")
    }

    /// 410: the resource version is too old to read or watch from.
    pub fn is_expired(&self) -> bool {
        self.code() == 410
    }
}

/// A client: one transport, shared by its clones.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    user_agent: http::HeaderValue,
}

impl Client {
    /// A client that calls itself `user_agent` (visible ASCII; anything else is replaced by `kelson`).
    pub fn new(transport: Arc<dyn Transport>, user_agent: &str) -> Client {
        let user_agent =
            http::HeaderValue::from_str(user_agent).unwrap_or_else(|_| http::HeaderValue::from_static("kelson"));
        Client { transport, user_agent }
    }

    /// Reads one object.
    pub async fn get<T: DeserializeOwned>(&self, gvr: &Gvr, namespace: &str, name: &str) -> Result<T, ApiError> {
        self.json(Method::GET, gvr.path(namespace, name, ""), "", Bytes::new()).await
    }

    /// Lists a collection; an empty namespace means all of them.
    pub async fn list<T: DeserializeOwned>(
        &self,
        gvr: &Gvr,
        namespace: &str,
        params: &ListParams,
    ) -> Result<List<T>, ApiError> {
        let path = with_query(gvr.path(namespace, "", ""), params, &[]);
        self.json(Method::GET, path, "", Bytes::new()).await
    }

    /// Lists a collection as a `Table`, as `kubectl get` does, and returns the bytes.
    pub async fn table(&self, gvr: &Gvr, namespace: &str) -> Result<Bytes, ApiError> {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        let (status, body) = self.send(Method::GET, gvr.path(namespace, "", ""), accept, "", Bytes::new()).await?;
        let body = collect(body).await?;
        if status.is_success() { Ok(body) } else { Err(failure(status, &body)) }
    }

    /// Creates an object; `apiVersion` and `kind` must be in the body.
    pub async fn create<T: DeserializeOwned>(
        &self,
        gvr: &Gvr,
        namespace: &str,
        object: &impl Serialize,
    ) -> Result<T, ApiError> {
        let body = serde_json::to_vec(object)?.into();
        self.json(Method::POST, gvr.path(namespace, "", ""), JSON, body).await
    }

    /// Posts to a subresource (`binding`, `eviction`).
    pub async fn create_sub<T: DeserializeOwned>(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: &impl Serialize,
    ) -> Result<T, ApiError> {
        let body = serde_json::to_vec(object)?.into();
        self.json(Method::POST, gvr.path(namespace, name, subresource), JSON, body).await
    }

    /// Replaces an object, or its subresource if that is not empty (`status`).
    pub async fn update<T: DeserializeOwned>(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: &impl Serialize,
    ) -> Result<T, ApiError> {
        let body = serde_json::to_vec(object)?.into();
        self.json(Method::PUT, gvr.path(namespace, name, subresource), JSON, body).await
    }

    /// Patches an object, or its subresource if that is not empty.
    pub async fn patch<T: DeserializeOwned>(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        subresource: &str,
        kind: PatchKind,
        patch: &impl Serialize,
    ) -> Result<T, ApiError> {
        let body = serde_json::to_vec(patch)?.into();
        self.json(Method::PATCH, gvr.path(namespace, name, subresource), kind.media_type(), body).await
    }

    /// Deletes an object with `DeleteOptions` (`serde_json::json!({})` for none).
    pub async fn delete(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        options: &serde_json::Value,
    ) -> Result<(), ApiError> {
        let body = serde_json::to_vec(options)?.into();
        self.json::<serde::de::IgnoredAny>(Method::DELETE, gvr.path(namespace, name, ""), JSON, body).await.map(|_| ())
    }

    /// Opens a watch; the body carries one JSON event a line.
    pub async fn watch(
        &self,
        gvr: &Gvr,
        namespace: &str,
        params: &ListParams,
        extra: &[(&str, &str)],
    ) -> Result<Body, ApiError> {
        let path = with_query(gvr.path(namespace, "", ""), params, extra);
        let (status, body) = self.send(Method::GET, path, JSON, "", Bytes::new()).await?;
        if status.is_success() {
            return Ok(body);
        }
        Err(failure(status, &collect(body).await?))
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        media_type: &'static str,
        body: Bytes,
    ) -> Result<T, ApiError> {
        let (status, body) = self.send(method, path, JSON, media_type, body).await?;
        let body = collect(body).await?;
        if status.is_success() { Ok(serde_json::from_slice(&body)?) } else { Err(failure(status, &body)) }
    }

    async fn send(
        &self,
        method: Method,
        path: String,
        accept: &'static str,
        media_type: &'static str,
        body: Bytes,
    ) -> Result<(StatusCode, Body), ApiError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, accept)
            .header(header::USER_AGENT, self.user_agent.clone());
        if !media_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, media_type);
        }
        let request = request.body(body).map_err(|error| ApiError::Transport(error.into()))?;
        let response = self.transport.call(request).await.map_err(ApiError::Transport)?;
        let (parts, body) = response.into_parts();
        Ok((parts.status, body))
    }
}

async fn collect(mut body: Body) -> Result<Bytes, ApiError> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ApiError::Transport)?.into_data() else { continue };
        if first.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.extend_from_slice(&first);
        }
        if rest.len() + data.len() > MAX_RESPONSE {
            return Err(ApiError::Transport("the response is larger than 1 GiB".into()));
        }
        rest.extend_from_slice(&data);
    }
    // The usual response is one frame and is not copied.
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

fn failure(status: StatusCode, body: &[u8]) -> ApiError {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Status {
        message: String,
        reason: String,
        code: u16,
    }
    let parsed: Status = serde_json::from_slice(body)
        .unwrap_or_else(|_| Status { message: String::from_utf8_lossy(body).into_owned(), ..Status::default() });
    let code = if parsed.code == 0 { status.as_u16() } else { parsed.code };
    ApiError::Status { code, reason: parsed.reason, message: parsed.message }
}

fn with_query(mut path: String, params: &ListParams, extra: &[(&str, &str)]) -> String {
    let limit = if params.limit == 0 { String::new() } else { params.limit.to_string() };
    let named = [
        ("labelSelector", params.label_selector.as_str()),
        ("fieldSelector", params.field_selector.as_str()),
        ("limit", limit.as_str()),
        ("continue", params.continue_token.as_str()),
        ("resourceVersion", params.resource_version.as_str()),
    ];
    let mut separator = '?';
    for (name, value) in named.iter().chain(extra).filter(|(_, value)| !value.is_empty()) {
        path.push(separator);
        path.push_str(name);
        path.push('=');
        path.extend(utf8_percent_encode(value, QUERY));
        separator = '&';
    }
    path
}
