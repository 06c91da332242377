//! Lean views of the objects that controllers read. Deserializing drops what is not named, so a view is never written
//! back: writes are patches, or start from a freshly read whole object.

mod affinity;
mod daemonset;
mod deployment;
mod job;
mod node;
mod pod;
mod replicaset;
mod service;
mod stub;
mod template;

use std::time::SystemTime;

use kelson_wire::kube::{Keyed, ObjectMeta, timestamp};
use serde::{Deserialize, Serialize};

pub(crate) use affinity::Affinity;
pub(crate) use daemonset::{ControllerRevision, DaemonSet, DaemonSetStatus};
pub(crate) use deployment::{Deployment, DeploymentStatus};
pub(crate) use job::{Job, JobStatus, Uncounted};
pub(crate) use node::{Lease, Node, Taint};
#[cfg(test)]
pub(crate) use pod::NamedPort;
pub(crate) use pod::{Owners, Phase, Pod, Toleration};
pub(crate) use replicaset::{ReplicaSet, ReplicaSetStatus};
pub(crate) use service::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Endpoints, Service, ServicePort, TargetRef,
    subsets_digest,
};
pub(crate) use stub::{ConfigMap, Namespace, Stub, digest};
pub(crate) use template::{Canonical, TEMPLATE_HASH, Template};

macro_rules! keyed {
    ($($view:ty),* $(,)?) => {
        $(impl Keyed for $view {
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
        })*
    };
}

keyed!(
    ConfigMap,
    ControllerRevision,
    DaemonSet,
    Deployment,
    EndpointSlice,
    Endpoints,
    Job,
    Lease,
    Namespace,
    Node,
    Pod,
    ReplicaSet,
    Service,
    Stub,
);

/// Seconds since 1970.
pub(crate) type Seconds = i64;

/// Reads a timestamp; 0 where it is absent or malformed.
pub(crate) fn seconds(text: Option<&str>) -> Seconds {
    text.and_then(timestamp::parse).map_or(0, since_epoch)
}

/// A point in time as seconds since 1970.
pub(crate) fn since_epoch(at: SystemTime) -> Seconds {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX))
}

/// Seconds since 1970 as Kubernetes writes them.
pub(crate) fn rfc3339(at: Seconds) -> String {
    timestamp::format(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(at).unwrap_or(0)))
}

/// One condition of a status; fields that a kind does not have stay empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_probe_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The condition of one type.
pub(crate) fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

/// A number, or a percentage of something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum IntOrPercent {
    Int(i64),
    Percent(String),
}

impl IntOrPercent {
    /// The number it stands for, of `total`. Malformed percentages count as 0; validation refuses them.
    pub(crate) fn of(&self, total: i64, round_up: bool) -> i64 {
        match self {
            IntOrPercent::Int(number) => *number,
            IntOrPercent::Percent(text) => {
                let percent: i64 = text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or(0);
                let product = percent.saturating_mul(total);
                if round_up { product.saturating_add(99) / 100 } else { product / 100 }
            }
        }
    }
}
