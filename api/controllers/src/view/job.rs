//! Jobs.

use kelson_wire::kube::meta::null_default;
use kelson_wire::kube::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};

use super::{Condition, Template};

/// A Job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Job {
    pub metadata: ObjectMeta,
    pub spec: JobSpec,
    pub status: JobStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JobSpec {
    pub parallelism: Option<i64>,
    pub completions: Option<i64>,
    pub backoff_limit: Option<i64>,
    pub active_deadline_seconds: Option<i64>,
    pub ttl_seconds_after_finished: Option<i64>,
    pub suspend: Option<bool>,
    /// `Indexed`, or `NonIndexed` (also if empty).
    pub completion_mode: String,
    pub selector: LabelSelector,
    pub template: Template,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JobStatus {
    pub active: i64,
    pub ready: Option<i64>,
    pub terminating: Option<i64>,
    pub succeeded: i64,
    pub failed: i64,
    pub start_time: Option<String>,
    pub completion_time: Option<String>,
    pub completed_indexes: String,
    pub uncounted_terminated_pods: Option<Uncounted>,
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

/// Pods that ended and still carry the tracking finalizer: not yet in the counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Uncounted {
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub succeeded: Vec<String>,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
}
