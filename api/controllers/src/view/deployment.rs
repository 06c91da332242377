//! Deployments.

use kelson_wire::kube::meta::null_default;
use kelson_wire::kube::{LabelSelector, ObjectMeta};
use serde::{Deserialize, Serialize};

use super::{Condition, IntOrPercent, Template};

/// A Deployment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Deployment {
    pub metadata: ObjectMeta,
    pub spec: DeploymentSpec,
    pub status: DeploymentStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeploymentSpec {
    pub replicas: Option<i64>,
    pub selector: LabelSelector,
    pub template: Template,
    pub strategy: Strategy,
    pub min_ready_seconds: i64,
    pub revision_history_limit: Option<i64>,
    pub paused: bool,
    pub progress_deadline_seconds: Option<i64>,
}

/// `spec.strategy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Strategy {
    /// `Recreate`, or `RollingUpdate` (also if empty).
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(deserialize_with = "null_default")]
    pub rolling_update: RollingUpdate,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RollingUpdate {
    pub max_surge: Option<IntOrPercent>,
    pub max_unavailable: Option<IntOrPercent>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeploymentStatus {
    pub observed_generation: i64,
    pub replicas: i64,
    pub updated_replicas: i64,
    pub ready_replicas: i64,
    pub available_replicas: i64,
    pub unavailable_replicas: i64,
    pub collision_count: Option<i64>,
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

/// What the API server defaults an absent `maxSurge` and `maxUnavailable` to.
const DEFAULT_FENCE: &str = "25%";

impl Deployment {
    /// Replicas asked for.
    pub(crate) fn replicas(&self) -> i64 {
        self.spec.replicas.unwrap_or(1)
    }

    /// Whether all old pods end before new ones start.
    pub(crate) fn recreates(&self) -> bool {
        self.spec.strategy.kind == "Recreate"
    }

    /// Pods allowed beyond the replicas, and pods allowed to be missing. A rollout that could do neither may miss one.
    pub(crate) fn fences(&self) -> (i64, i64) {
        if self.recreates() {
            return (0, 0);
        }
        let rolling = &self.spec.strategy.rolling_update;
        let of = |fence: &Option<IntOrPercent>, round_up| match fence {
            Some(fence) => fence.of(self.replicas(), round_up),
            None => IntOrPercent::Percent(DEFAULT_FENCE.into()).of(self.replicas(), round_up),
        };
        let (surge, unavailable) = (of(&rolling.max_surge, true).max(0), of(&rolling.max_unavailable, false).max(0));
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(self.replicas())) }
    }
}
