//! The pod as controllers see it: about half a kilobyte, what pods of one owner share is stored once.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use kelson_wire::kube::meta::{StringMap, null_default};
use kelson_wire::kube::{ObjectMeta, OwnerReference};
use serde::Deserialize;

use super::{Affinity, Condition, Seconds, condition, seconds};
use crate::intern::Interner;

static LABELS: LazyLock<Interner<StringMap>> = LazyLock::new(Interner::new);
static OWNERS: LazyLock<Interner<Owners>> = LazyLock::new(Interner::new);
static PORTS: LazyLock<Interner<Vec<NamedPort>>> = LazyLock::new(Interner::new);
static TOLERATIONS: LazyLock<Interner<Vec<Toleration>>> = LazyLock::new(Interner::new);
static NAMES: LazyLock<Interner<String>> = LazyLock::new(Interner::new);

/// `status.phase`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum Phase {
    #[default]
    Pending,
    Unknown,
    Running,
    Succeeded,
    Failed,
}

/// Owner references, comparable so that they can be shared.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Owners(pub Vec<OwnerReference>);

impl Eq for Owners {}

impl Hash for Owners {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.iter().for_each(|owner| owner.uid.hash(state));
    }
}

/// A container port that a Service can name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NamedPort {
    pub name: String,
    pub container_port: u16,
    pub protocol: String,
}

/// `spec.tolerations[]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Toleration {
    pub key: String,
    /// `Exists`, or `Equal` (also if empty).
    pub operator: String,
    pub value: String,
    /// Empty matches every effect.
    pub effect: String,
    pub toleration_seconds: Option<i64>,
}

/// A pod. Its labels and owners are beside its metadata, where those fields stay empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Raw")]
pub(crate) struct Pod {
    pub metadata: ObjectMeta,
    pub labels: Arc<StringMap>,
    pub owners: Arc<Owners>,
    /// `controller.kubernetes.io/pod-deletion-cost`.
    pub deletion_cost: i32,
    /// `batch.kubernetes.io/job-completion-index`.
    pub completion_index: Option<u32>,
    pub created: Seconds,
    /// When it is to be gone; 0 if it is not being deleted.
    pub deleted: Seconds,
    /// Empty while it is not bound.
    pub node: Arc<String>,
    /// The one node that its affinity names; empty if it names none. How a daemon pod that is not bound yet says where it goes.
    pub destined: Arc<String>,
    pub hostname: Arc<String>,
    pub subdomain: Arc<String>,
    pub phase: Phase,
    /// The `Ready` condition is true.
    pub ready: bool,
    /// When the `Ready` condition last changed.
    pub ready_since: Seconds,
    /// `status.podIPs`, IPv4 and IPv6.
    pub ips: Vec<Box<str>>,
    pub ports: Arc<Vec<NamedPort>>,
    pub tolerations: Arc<Vec<Toleration>>,
    /// `restartPolicy: Always`, or not set.
    pub restarts_always: bool,
    /// Restarts of all containers together, and of the one with most.
    pub restarts: i64,
    pub most_restarts: i64,
    /// When the last container ended; 0 if none did.
    pub finished: Seconds,
    /// `status.reason`, such as `Evicted`.
    pub reason: Option<Box<str>>,
}

impl Pod {
    /// Not finished and not on its way out: counts as a replica.
    pub(crate) fn is_active(&self) -> bool {
        self.phase < Phase::Succeeded && self.deleted == 0
    }

    /// Ended, well or not.
    pub(crate) fn is_finished(&self) -> bool {
        self.phase >= Phase::Succeeded
    }

    /// Ready for at least `min_ready_seconds`.
    pub(crate) fn is_available(&self, min_ready_seconds: i64, now: Seconds) -> bool {
        self.ready && (min_ready_seconds == 0 || self.ready_since + min_ready_seconds <= now)
    }

    /// The owner that manages it.
    pub(crate) fn controller(&self) -> Option<&OwnerReference> {
        self.owners.0.iter().find(|owner| owner.controller == Some(true))
    }

    /// Whether this object manages it.
    pub(crate) fn is_controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|owner| owner.uid == uid)
    }
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Raw {
    metadata: ObjectMeta,
    spec: Spec,
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
    hostname: String,
    subdomain: String,
    restart_policy: String,
    #[serde(deserialize_with = "null_default")]
    containers: Vec<Container>,
    #[serde(deserialize_with = "null_default")]
    tolerations: Vec<Toleration>,
    #[serde(deserialize_with = "null_default")]
    affinity: Affinity,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Container {
    #[serde(deserialize_with = "null_default")]
    ports: Vec<NamedPort>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: Phase,
    reason: Option<Box<str>>,
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(rename = "podIPs", deserialize_with = "null_default")]
    pod_ips: Vec<PodIp>,
    #[serde(deserialize_with = "null_default")]
    conditions: Vec<Condition>,
    #[serde(deserialize_with = "null_default")]
    init_container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "null_default")]
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatus {
    restart_count: i64,
    state: ContainerState,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerState {
    terminated: Option<Terminated>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Terminated {
    finished_at: Option<String>,
}

impl From<Raw> for Pod {
    fn from(raw: Raw) -> Pod {
        let Raw { mut metadata, spec, status } = raw;
        let annotations = std::mem::take(&mut metadata.annotations);
        let annotation = |name: &str| annotations.get(name).map(String::as_str);
        let ready = condition(&status.conditions, "Ready");
        let containers = || status.init_container_statuses.iter().chain(&status.container_statuses);
        let ended = containers().filter_map(|container| container.state.terminated.as_ref());
        let mut ips: Vec<Box<str>> = status.pod_ips.iter().map(|entry| entry.ip.clone()).collect();
        if ips.is_empty() && !status.pod_ip.is_empty() {
            ips.push(status.pod_ip.as_str().into());
        }
        let mut ports: Vec<NamedPort> = spec.containers.into_iter().flat_map(|container| container.ports).collect();
        ports.retain(|port| !port.name.is_empty());
        Pod {
            labels: LABELS.share(std::mem::take(&mut metadata.labels)),
            owners: OWNERS.share(Owners(std::mem::take(&mut metadata.owner_references))),
            deletion_cost: annotation("controller.kubernetes.io/pod-deletion-cost")
                .and_then(|cost| cost.parse().ok())
                .unwrap_or(0),
            completion_index: annotation("batch.kubernetes.io/job-completion-index").and_then(|at| at.parse().ok()),
            created: seconds(metadata.creation_timestamp.as_deref()),
            deleted: metadata.deletion_timestamp.as_deref().map_or(0, |at| seconds(Some(at)).max(1)),
            node: NAMES.share(spec.node_name),
            destined: NAMES.share(spec.affinity.one_node().unwrap_or_default()),
            hostname: NAMES.share(spec.hostname),
            subdomain: NAMES.share(spec.subdomain),
            phase: status.phase,
            ready: ready.is_some_and(|ready| ready.status == "True"),
            ready_since: ready.map_or(0, |ready| seconds(ready.last_transition_time.as_deref())),
            ips,
            ports: PORTS.share(ports),
            tolerations: TOLERATIONS.share(spec.tolerations),
            restarts_always: matches!(spec.restart_policy.as_str(), "" | "Always"),
            restarts: containers().map(|container| container.restart_count).sum(),
            most_restarts: containers().map(|container| container.restart_count).max().unwrap_or(0),
            finished: ended.map(|ended| seconds(ended.finished_at.as_deref())).max().unwrap_or(0),
            reason: status.reason,
            metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_small_and_shares_what_its_siblings_have() {
        let text = |name: &str| {
            format!(
                r#"{{"metadata":{{"name":"{name}","namespace":"n","labels":{{"app":"web"}},"annotations":{{"controller.kubernetes.io/pod-deletion-cost":"-7"}},
                "ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web","uid":"u","controller":true}}],
                "deletionTimestamp":null}},
                "spec":{{"nodeName":"n1","containers":[{{"name":"c","ports":[{{"name":"http","containerPort":80,"protocol":"TCP"}}]}}],"tolerations":null}},
                "status":{{"phase":"Running","podIPs":[{{"ip":"10.0.0.1"}}],"conditions":[{{"type":"Ready","status":"True","lastTransitionTime":"2026-01-01T00:00:10Z"}}],
                "containerStatuses":[{{"restartCount":2,"state":{{"terminated":{{"finishedAt":"2026-01-01T00:00:05Z"}}}}}}]}}}}"#
            )
        };
        let one: Pod = serde_json::from_str(&text("a")).unwrap();
        let two: Pod = serde_json::from_str(&text("b")).unwrap();
        assert!(Arc::ptr_eq(&one.labels, &two.labels) && Arc::ptr_eq(&one.owners, &two.owners));
        assert!(Arc::ptr_eq(&one.ports, &two.ports) && Arc::ptr_eq(&one.node, &two.node));
        assert!(std::mem::size_of::<Pod>() <= 656, "{}", std::mem::size_of::<Pod>());
        assert!(one.is_controlled_by("u") && one.is_active() && one.ready);
        assert_eq!((one.deletion_cost, one.restarts, one.ports[0].container_port), (-7, 2, 80));
        assert_eq!(one.ready_since - one.finished, 5);
        assert!(one.is_available(10, one.ready_since + 10) && !one.is_available(10, one.ready_since + 9));
    }
}
