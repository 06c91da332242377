//! Services and what routes to their pods.

use kelson_wire::kube::ObjectMeta;
use kelson_wire::kube::meta::{StringMap, null_default};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::stub::digest;

/// A Service.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    pub metadata: ObjectMeta,
    pub spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceSpec {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    #[serde(deserialize_with = "null_default")]
    pub ip_families: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub selector: StringMap,
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<ServicePort>,
    pub publish_not_ready_addresses: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServicePort {
    pub name: String,
    pub protocol: String,
    pub app_protocol: Option<String>,
    pub port: u16,
    /// A number or the name of a container port; absent means `port`.
    pub target_port: Value,
}

/// An EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EndpointSlice {
    pub metadata: ObjectMeta,
    pub address_type: String,
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<EndpointPort>,
    #[serde(deserialize_with = "null_default")]
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EndpointPort {
    pub name: String,
    pub protocol: String,
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

/// One entry of a slice: one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Endpoint {
    pub addresses: Vec<Box<str>>,
    pub conditions: EndpointConditions,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct EndpointConditions {
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

/// The object behind an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct TargetRef {
    pub kind: Box<str>,
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
}

/// An Endpoints object, its subsets as a digest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "RawEndpoints")]
pub(crate) struct Endpoints {
    pub metadata: ObjectMeta,
    /// [`subsets_digest`] of `subsets`.
    pub digest: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawEndpoints {
    metadata: ObjectMeta,
    subsets: Value,
}

impl From<RawEndpoints> for Endpoints {
    fn from(raw: RawEndpoints) -> Endpoints {
        Endpoints { metadata: raw.metadata, digest: subsets_digest(&raw.subsets) }
    }
}

/// A hash of subsets in canonical form; absent, null and empty are the same.
pub(crate) fn subsets_digest(subsets: &Value) -> u64 {
    match subsets {
        Value::Array(items) if !items.is_empty() => digest(&subsets.to_string()),
        _ => 0,
    }
}
