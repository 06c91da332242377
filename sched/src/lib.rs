//! The scheduler core: cluster snapshot and pods in, bindings out.
//!
//! Decisions are kube-scheduler's: its filters in their order, its scores with their weights, its queue. What differs
//! is the way there: nodes are columns, equal pods are one class, a class keeps its nodes in score order and reads what
//! changed instead of looking at all nodes for each pod, and capacity is claimed by compare-and-swap so that several
//! workers may place pods at once. No I/O, no clock, no encoding: the driver brings those.
//!
//! ```
//! use std::sync::Arc;
//! use kelson_sched::{Cluster, Decision, NodeSpec, Pod, PodId, PodTemplate};
//!
//! let mut cluster = Cluster::default();
//! cluster.upsert_node(&NodeSpec { name: "node-1".into(), pods: 110, ..NodeSpec::default() });
//! let class = cluster.class(&Arc::new(PodTemplate::default()));
//! let decisions = cluster.schedule(&[Pod { id: PodId(1), class, priority: 0 }]);
//! assert!(matches!(decisions[0], Decision::Bound(node) if &**cluster.node_name(node) == "node-1"));
//! ```

mod allocator;
mod allotment;
mod binding;
mod bond;
mod census;
mod cluster;
mod columns;
mod constraint;
mod contest;
mod device;
mod explain;
mod intern;
mod inventory;
mod journal;
mod ledger;
mod lens;
mod memo;
mod near;
mod nomination;
mod placements;
mod plan;
mod pod;
mod pool;
mod preemption;
mod presence;
mod profile;
mod promise;
mod queue;
mod reason;
mod resources;
mod score;
mod selector;
mod state;
mod storage;
mod sync;
mod taint;
mod topology;
mod view;
mod volume;
mod worker;

pub use cluster::{Cluster, Decision, Tenure, Usage, Verdict};
pub use constraint::{LabelSelector, Pairs, PodTerm, SpreadConstraint};
pub use device::{
    Allocation, Amount, Attribute, ClaimUse, Counter, Device, DeviceChoice, DeviceClass, DeviceConstraint, DevicePlan,
    DeviceRequest, DeviceResult, DeviceRule, DeviceSelector, Reach, ResourceClaim, ResourceSlice, SelectorLanguage,
};
pub use explain::{Explanation, NodeExplanation, ScoreLine};
pub use ledger::NodeId;
pub use pod::{Class, HostPort, Pod, PodId, PodTemplate, Protocol};
pub use preemption::{Budget, Cost, Preemption};
pub use profile::{FitStrategy, Profile, SpreadDefaults, Weights};
pub use promise::DeviceHold;
pub use queue::{Events, Queue, Waits};
pub use reason::{Diagnosis, Filter, FilterSet, Hindrance, Outlook, Reason};
pub use resources::{ContainerRequests, DEFAULT_MEMORY, DEFAULT_MILLI_CPU, Requests, Resources};
pub use score::{MAX_SCORE, Scores};
pub use selector::{NodeSelectorTerm, Operator, Requirement};
pub use state::NodeSpec;
pub use taint::{Effect, Taint, Toleration, TolerationOperator};
pub use volume::{
    AccessModes, Attachment, ClaimReference, Disk, StorageCapacity, StorageClass, Volume, VolumeClaim, VolumePlan,
    VolumeUse,
};
