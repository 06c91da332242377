//! ReplicaSets: as many pods as asked for.

mod core;
mod ranking;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kelson_wire::kube::{Delta, Gvr};
use serde_json::json;

use crate::batch::{MAX_IN_FLIGHT, slow_start};
use crate::claim::{self, Claims};
use crate::control::{self, Created, or_null};
use crate::controller::Controller;
use crate::error::Error;
use crate::events::Events;
use crate::expectation::Expectations;
use crate::queue::{Key, Queue};
use crate::view::{Pod, ReplicaSet, since_epoch};
use crate::world::{World, controller_key, join};

/// Most pods created or deleted in one run; the next run goes on when the cache has seen them.
const BURST: usize = 1000;
/// Least time between two runs for one ReplicaSet: its status is written once for all pods that changed meanwhile.
const INTERVAL: Duration = Duration::from_millis(50);

/// The ReplicaSet controller.
pub(crate) struct ReplicaSets {
    world: Arc<World>,
    queue: Queue,
    expectations: Expectations,
    events: Events,
}

impl ReplicaSets {
    /// A controller that listens to the caches from now on.
    pub(crate) fn new(world: &Arc<World>) -> Arc<ReplicaSets> {
        let this = Arc::new(ReplicaSets {
            world: world.clone(),
            queue: Queue::new(INTERVAL),
            expectations: Expectations::default(),
            events: Events::new(&world.client, "replicaset-controller"),
        });
        let that = this.clone();
        world.replica_sets.on_change(move |delta| {
            let key: Key = delta.latest().metadata.key().into();
            if delta.new.is_none() {
                that.expectations.forget(&key);
            }
            that.queue.add(key);
        });
        let that = this.clone();
        world.pods.on_change(move |delta| that.pod_changed(delta));
        this
    }

    fn pod_changed(&self, delta: &Delta<Pod>) {
        let owner = |pod: &Arc<Pod>| {
            let owner = pod.controller().filter(|owner| owner.kind == Gvr::REPLICA_SETS.kind)?;
            Some(join(&pod.metadata.namespace, &owner.name))
        };
        let before = delta.old.as_ref().and_then(owner);
        let after = delta.new.as_ref().and_then(owner);
        if let (None, Some(_), Some(key)) = (&delta.old, &delta.new, &after) {
            self.expectations.created(key, 1);
        }
        // A pod counts as deleted when its deletion begins: it is no replica from then on.
        if delta.new.as_ref().is_none_or(|new| new.deleted != 0)
            && let Some(key) = before.as_ref().or(after.as_ref())
        {
            self.expectations.deleted(key, &delta.latest().metadata.uid);
        }
        if let Some(key) = before.clone().filter(|before| after.as_ref() != Some(before)) {
            self.queue.add(key);
        }
        match (after, &delta.new) {
            (Some(key), _) => self.queue.add(key),
            (None, Some(pod)) if pod.controller().is_none() && pod.is_active() => {
                let candidates = self.world.replica_sets_by_namespace.get(&pod.metadata.namespace);
                for set in candidates.iter().filter(|set| set.spec.selector.matches(&pod.labels)) {
                    self.queue.add(set.metadata.key().into());
                }
            }
            _ => {}
        }
    }

    async fn claimed(&self, set: &ReplicaSet) -> Result<Vec<Arc<Pod>>, Error> {
        let owned = self.world.pods_by_owner.get(&set.metadata.uid);
        let orphans = self.world.orphan_pods.get(&set.metadata.namespace);
        let claims: Claims<Pod> = claim::sort(&set.metadata, &set.spec.selector, owned, orphans);
        claim::settle(&self.world.client, &Gvr::PODS, &Gvr::REPLICA_SETS, &set.metadata, claims).await
    }

    async fn create(&self, key: &Key, set: &ReplicaSet, count: usize) -> Result<(), Error> {
        self.expectations.expect(key, count, []);
        let meta = &set.metadata;
        let prefix = control::pod_prefix(&meta.name);
        let template = set.spec.template.value();
        let body = control::encode(&control::pod_of(&template, &Gvr::REPLICA_SETS, meta, &prefix))?;
        let (created, outcome) = slow_start(count, MAX_IN_FLIGHT, async |_| {
            let pod: Created = self.world.client.create(&Gvr::PODS, &meta.namespace, &body).await?;
            let message = format!("Created pod: {}", pod.metadata.name);
            self.events.normal(&Gvr::REPLICA_SETS, meta, "SuccessfulCreate", &message);
            Ok(())
        })
        .await;
        self.expectations.created(key, count - created);
        if let Err(Error::Api(error)) = &outcome
            && control::is_namespace_ending(error)
        {
            return Ok(());
        }
        if let Err(error) = &outcome {
            let message = format!("Error creating: {error}");
            self.events.warning(&Gvr::REPLICA_SETS, meta, "FailedCreate", &message);
        }
        outcome
    }

    async fn delete(&self, key: &Key, set: &ReplicaSet, doomed: &[Arc<Pod>]) -> Result<(), Error> {
        self.expectations.expect(key, 0, doomed.iter().map(|pod| pod.metadata.uid.clone()));
        let (_, outcome) = slow_start(doomed.len(), MAX_IN_FLIGHT, async |at| {
            let pod = &doomed[at].metadata;
            let deleted = control::delete(&self.world.client, &Gvr::PODS, pod).await;
            if deleted.is_ok() {
                let message = format!("Deleted pod: {}", pod.name);
                self.events.normal(&Gvr::REPLICA_SETS, &set.metadata, "SuccessfulDelete", &message);
            }
            deleted
        })
        .await;
        if let Err(error) = &outcome {
            // Some were not tried: look afresh.
            self.expectations.forget(key);
            let message = format!("Error deleting: {error}");
            self.events.warning(&Gvr::REPLICA_SETS, &set.metadata, "FailedDelete", &message);
        }
        outcome
    }

    /// Pods of the ReplicaSets that share this one's controller: spread over nodes together.
    fn related(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let Some(owner) = set.metadata.controller() else { return self.world.pods_by_owner.get(&set.metadata.uid) };
        let siblings = self.world.replica_sets_by_owner.get(owner.uid.as_str());
        siblings.iter().flat_map(|sibling| self.world.pods_by_owner.get(&sibling.metadata.uid)).collect()
    }

    async fn scale(&self, key: &Key, set: &ReplicaSet, pods: &[Arc<Pod>]) -> Result<(), Error> {
        match core::missing(set, pods) {
            0 => Ok(()),
            missing @ 1.. => self.create(key, set, missing.unsigned_abs().min(BURST)).await,
            surplus => {
                let count = surplus.unsigned_abs().min(BURST);
                let doomed = ranking::choose(pods, count, &self.related(set), since_epoch(SystemTime::now()));
                self.delete(key, set, &doomed).await
            }
        }
    }
}

impl Controller for ReplicaSets {
    const NAME: &'static str = "replicaset";

    fn queue(&self) -> &Queue {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(set) = self.world.replica_sets.get(key) else { return Ok(None) };
        let may_write = self.expectations.satisfied(key);
        let mut pods = self.claimed(&set).await?;
        pods.retain(|pod| pod.is_active());
        let mut scaled = Ok(());
        if may_write && !set.metadata.is_terminating() {
            scaled = self.scale(key, &set, &pods).await;
        }
        let now = SystemTime::now();
        let status = core::status(&set, &pods, scaled.as_ref().err(), now);
        if status != set.status {
            let patch = json!({"metadata": {"uid": set.metadata.uid}, "status": {
                "replicas": status.replicas,
                "fullyLabeledReplicas": or_null(status.fully_labeled_replicas),
                "readyReplicas": or_null(status.ready_replicas),
                "availableReplicas": or_null(status.available_replicas),
                "observedGeneration": status.observed_generation,
                "conditions": if status.conditions.is_empty() { None } else { Some(&status.conditions) },
            }});
            match control::patch_status(&self.world.client, &Gvr::REPLICA_SETS, &set.metadata, &patch).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        scaled?;
        Ok(core::next_available(&set, &pods, since_epoch(now)))
    }
}

/// Key of the Deployment that owns a ReplicaSet.
pub(crate) fn deployment_key(set: &ReplicaSet) -> Option<Key> {
    controller_key(&set.metadata, Gvr::DEPLOYMENTS.kind)
}
