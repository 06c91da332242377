//! API objects, in the part that an agent reads.

use std::sync::Arc;

use kelson_wire::kube::meta::{StringMap, null_default};
use kelson_wire::kube::{Keyed, ObjectMeta};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer};

macro_rules! view {
    ($($(#[$doc:meta])* $name:ident { $($(#[$attr:meta])* $field:ident: $type:ty,)* })*) => {
        $($(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $(#[serde(deserialize_with = "null_default")] $(#[$attr])* pub $field: $type,)*
        })*
    };
}

view! {
    /// A Pod.
    Pod { metadata: ObjectMeta, spec: PodSpec, status: PodStatus, }
    /// `spec` of a pod.
    PodSpec {
        node_name: String,
        init_containers: Vec<Container>,
        containers: Vec<Container>,
        restart_policy: String,
        termination_grace_period_seconds: Option<i64>,
        active_deadline_seconds: Option<i64>,
        node_selector: StringMap,
        affinity: Affinity,
        tolerations: Vec<Toleration>,
        host_network: bool,
        hostname: String,
        readiness_gates: Vec<ReadinessGate>,
        overhead: StringMap,
        resources: Resources,
    }
    /// A container of a pod.
    Container {
        name: String,
        image: String,
        command: Vec<String>,
        args: Vec<String>,
        env: Vec<EnvVar>,
        image_pull_policy: String,
        restart_policy: String,
        ports: Vec<Port>,
        resources: Resources,
        liveness_probe: Option<Probe>,
        readiness_probe: Option<Probe>,
        startup_probe: Option<Probe>,
        lifecycle: Lifecycle,
        stdin: bool,
    }
    EnvVar { name: String, value: String, value_from: EnvSource, }
    EnvSource { field_ref: Option<FieldRef>, }
    FieldRef { field_path: String, }
    Port { container_port: i64, host_port: i64, protocol: String, #[serde(rename = "hostIP")] host_ip: String, }
    Resources { requests: StringMap, }
    Probe {
        initial_delay_seconds: Option<i64>,
        period_seconds: Option<i64>,
        success_threshold: Option<i64>,
        failure_threshold: Option<i64>,
        exec: Option<Exec>,
        http_get: Option<HttpGet>,
    }
    Exec { command: Vec<String>, }
    HttpGet { path: String, }
    Lifecycle { post_start: Option<Hook>, pre_stop: Option<Hook>, }
    Hook { exec: Option<Exec>, sleep: Option<Sleep>, }
    Sleep { seconds: i64, }
    ReadinessGate { condition_type: String, }
    Toleration { key: String, operator: String, value: String, effect: String, }
    Affinity { node_affinity: NodeAffinity, }
    NodeAffinity { required_during_scheduling_ignored_during_execution: Option<NodeSelector>, }
    NodeSelector { node_selector_terms: Vec<Term>, }
    Term { match_expressions: Vec<Requirement>, match_fields: Vec<Requirement>, }
    Requirement { key: String, operator: String, values: Vec<String>, }
    /// `status` of a pod, as far as it is taken over after a restart.
    PodStatus {
        phase: String,
        reason: String,
        start_time: Option<String>,
        #[serde(rename = "podIP")] pod_ip: String,
        conditions: Vec<Condition>,
        init_container_statuses: Vec<ContainerStatus>,
        container_statuses: Vec<ContainerStatus>,
    }
    Condition { r#type: String, status: String, last_transition_time: Option<String>, }
    ContainerStatus {
        name: String,
        image: String,
        restart_count: u32,
        ready: bool,
        started: Option<bool>,
        state: ContainerState,
        last_state: ContainerState,
    }
    ContainerState { running: Option<RunningState>, terminated: Option<TerminatedState>, waiting: Option<WaitingState>, }
    RunningState { started_at: Option<String>, }
    WaitingState { reason: String, }
    TerminatedState { exit_code: i32, reason: String, started_at: Option<String>, finished_at: Option<String>, }
    /// A Node.
    Node { metadata: ObjectMeta, spec: NodeSpec, status: NodeStatus, }
    NodeSpec { #[serde(rename = "podCIDR")] pod_cidr: String, taints: Vec<Taint>, }
    Taint { key: String, value: String, effect: String, }
    NodeStatus { conditions: Vec<Condition>, }
}

/// An object on its way from a watch to the core. The reflector's cache keeps the name and the versions only; the rest is
/// taken out once, so that ten thousand pods are not held twice.
pub(crate) struct Passing<T> {
    meta: ObjectMeta,
    object: Mutex<Option<Box<T>>>,
}

/// A view with metadata.
pub(crate) trait Named {
    fn metadata(&self) -> &ObjectMeta;
}

impl Named for Pod {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Named for Node {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl<T> Passing<T> {
    /// The object, the first time.
    pub fn take(&self) -> Option<Box<T>> {
        self.object.lock().take()
    }
}

impl<'de, T: Named + Deserialize<'de>> Deserialize<'de> for Passing<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Box::new(T::deserialize(deserializer)?);
        let full = object.metadata();
        let meta = ObjectMeta {
            name: full.name.clone(),
            namespace: full.namespace.clone(),
            uid: full.uid.clone(),
            resource_version: full.resource_version.clone(),
            ..ObjectMeta::default()
        };
        Ok(Passing { meta, object: Mutex::new(Some(object)) })
    }
}

impl<T: Named + for<'de> Deserialize<'de> + Send + 'static> Keyed for Passing<T> {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

/// What an answer to a write tells.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Written {
    pub metadata: WrittenMeta,
    pub status: WrittenStatus,
}

/// Its metadata.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WrittenMeta {
    pub uid: Arc<str>,
    pub resource_version: Arc<str>,
}

/// Its status: whether the server kept the one that came with the object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct WrittenStatus {
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<serde::de::IgnoredAny>,
}
