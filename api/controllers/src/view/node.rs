//! Nodes and the leases they renew.

use std::collections::BTreeMap;

use kelson_wire::kube::meta::{StringMap, null_default};
use kelson_wire::kube::{ObjectMeta, timestamp};
use serde::{Deserialize, Serialize};

use super::Condition;

/// A Node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "RawNode")]
pub(crate) struct Node {
    pub metadata: ObjectMeta,
    pub spec: NodeSpec,
    pub conditions: Vec<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNode {
    metadata: ObjectMeta,
    spec: NodeSpec,
    status: RawStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawStatus {
    #[serde(deserialize_with = "null_default")]
    conditions: Vec<Condition>,
}

impl From<RawNode> for Node {
    fn from(raw: RawNode) -> Node {
        let mut metadata = raw.metadata;
        metadata.annotations = StringMap::new();
        Node { metadata, spec: raw.spec, conditions: raw.status.conditions }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeSpec {
    pub unschedulable: bool,
    #[serde(deserialize_with = "null_default")]
    pub taints: Vec<Taint>,
}

/// `spec.taints[]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Taint {
    pub key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_added: Option<String>,
}

impl Taint {
    /// Whether it is the same taint: key and effect.
    pub(crate) fn is(&self, key: &str, effect: &str) -> bool {
        self.key == key && self.effect == effect
    }
}

/// A Lease.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "RawLease")]
pub(crate) struct Lease {
    pub metadata: ObjectMeta,
    /// `spec.renewTime`, in microseconds since 1970; 0 if it was never renewed.
    pub renewed: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawLease {
    metadata: ObjectMeta,
    spec: LeaseSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LeaseSpec {
    renew_time: Option<String>,
}

impl From<RawLease> for Lease {
    fn from(raw: RawLease) -> Lease {
        let mut metadata = raw.metadata;
        metadata.labels = BTreeMap::new();
        metadata.annotations = BTreeMap::new();
        let renewed = raw.spec.renew_time.as_deref().and_then(timestamp::parse);
        let since = renewed.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        Lease { metadata, renewed: since.map_or(0, |age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX)) }
    }
}
