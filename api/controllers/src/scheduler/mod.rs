//! The scheduler: feeds the core with what the API tells, and the API with what the core decides.
//!
//! Reflectors keep nodes, pods and what else decides; their changes reach the model as deltas. All pods that wait form a batch, the
//! core places it, and the bindings go out many at a time: each is one guarded write of the API, and the store commits
//! those that wait together. Nothing runs while nothing changes.
//!
//! Run at most one per cluster and scheduler name (leader election is the caller's): two would not bind a pod twice,
//! but each would fill nodes unaware of the other until its watch shows the other's bindings.

mod binder;
pub mod configuration;
mod devices;
mod driver;
mod eviction;
mod explain;
mod gang;
mod inbox;
mod metrics;
mod model;
mod others;
mod raw;
#[cfg(test)]
mod script;
mod source;
mod spreading;
mod storage;
mod view;

use std::sync::Arc;
use std::time::Duration;

use kelson_sched::Waits;
use kelson_wire::kube::{Client, Gvr};
use tokio_util::sync::CancellationToken;

use configuration::ProfileSettings;
use driver::Driver;
pub use explain::{Explanation, NodeVerdict, Rejection, Score, explain};
use inbox::Inbox;
pub use metrics::{Attempt, Metrics};
pub use model::DEFAULT_SCHEDULER;
use source::{
    ATTACHMENTS, BUDGETS, CAPACITIES, CLAIMS, CSI_DRIVERS, CSI_NODES, DEVICE_CLASSES, POD_GROUPS,
    REPLICATION_CONTROLLERS, RESOURCE_CLAIMS, RESOURCE_SLICES, STATEFUL_SETS, STORAGE_CLASSES, Sources, VOLUMES,
};

/// How the scheduler works. The default is what `kelson dev` runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods whose `spec.schedulerName` is the name of one of these are ours.
    pub profiles: Vec<ProfileSettings>,
    /// Threads that place a large batch together, at least 1.
    pub workers: usize,
    /// Pods placed in one batch at most. What exceeds it waits for the next one, in order.
    pub batch: usize,
    /// Bindings sent and not answered at most. Pods that are placed wait for their turn.
    pub bindings_in_flight: usize,
    /// Status writes of pods that cannot be placed, sent and not answered at most.
    pub reports_in_flight: usize,
    /// Evictions of pods that make room for others, sent and not answered at most.
    pub evictions_in_flight: usize,
    /// Backoff and flush of pods that could not be placed.
    pub waits: Waits,
    /// A binding that the API took and the watch has not shown for so long is asked about.
    pub confirm_within: Duration,
    /// Decides among equally good nodes.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            profiles: vec![ProfileSettings::default()],
            workers: 1,
            batch: 4096,
            bindings_in_flight: 128,
            reports_in_flight: 16,
            evictions_in_flight: 32,
            waits: Waits::default(),
            confirm_within: Duration::from_secs(30),
            seed: rand::random(),
        }
    }
}

/// Schedules until `shutdown`, then waits a few seconds for the answers that are under way. `metrics` counts what is
/// done.
pub async fn run(client: Client, config: Config, metrics: Arc<Metrics>, shutdown: CancellationToken) {
    let inbox = Arc::new(Inbox::new());
    let mut sources = Sources::new(client.clone());
    let follow = async {
        sources.follow(Gvr::NODES, &inbox.nodes);
        sources.follow(Gvr::PODS, &inbox.pods);
        sources.follow(Gvr::NAMESPACES, &inbox.namespaces);
        sources.follow_if_served(BUDGETS, &inbox.budgets).await;
        sources.follow_if_served(Gvr::SERVICES, &inbox.services).await;
        sources.follow_if_served(REPLICATION_CONTROLLERS, &inbox.replication_controllers).await;
        sources.follow_if_served(Gvr::REPLICA_SETS, &inbox.replica_sets).await;
        sources.follow_if_served(STATEFUL_SETS, &inbox.stateful_sets).await;
        sources.follow_if_served(POD_GROUPS, &inbox.pod_groups).await;
        sources.follow_if_served(STORAGE_CLASSES, &inbox.storage_classes).await;
        sources.follow_if_served(CSI_DRIVERS, &inbox.csi_drivers).await;
        sources.follow_if_served(CSI_NODES, &inbox.csi_nodes).await;
        sources.follow_if_served(CAPACITIES, &inbox.capacities).await;
        sources.follow_if_served(ATTACHMENTS, &inbox.attachments).await;
        sources.follow_if_served(VOLUMES, &inbox.volumes).await;
        sources.follow_if_served(CLAIMS, &inbox.claims).await;
        sources.follow_if_served(RESOURCE_SLICES, &inbox.resource_slices).await;
        sources.follow_if_served(DEVICE_CLASSES, &inbox.device_classes).await;
        sources.follow_if_served(RESOURCE_CLAIMS, &inbox.resource_claims).await;
        // Half the truth would place pods on capacity that is taken.
        sources.synced().await;
    };
    if shutdown.run_until_cancelled(follow).await.is_none() {
        return;
    }
    tracing::info!("scheduler started");
    metrics.set_leading(true);
    Driver::new(client, config, metrics.clone(), inbox).run(shutdown).await;
    metrics.set_leading(false);
}
