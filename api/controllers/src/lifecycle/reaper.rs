//! Deletes pods that nobody else would: those of nodes that are gone, those of nodes out of service, and the oldest of too many
//! ended ones.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kelson_wire::kube::{Gvr, PatchKind};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::batch::{MAX_IN_FLIGHT, slow_start};
use crate::config::Config;
use crate::error::Error;
use crate::view::{Node, Pod, Stub, rfc3339, since_epoch};
use crate::world::World;

use super::health;

/// How long a node has to be missing before its pods are: a cache may lag, and a node may come back under its name.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Taint by which a person says that a node is down for good.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The pod garbage collector.
pub(super) struct Reaper {
    world: Arc<World>,
    config: Arc<Config>,
}

impl Reaper {
    pub(super) fn new(world: &Arc<World>, config: &Arc<Config>) -> Reaper {
        Reaper { world: world.clone(), config: config.clone() }
    }

    pub(super) async fn run(self) {
        let mut ticks = interval(self.config.pod_gc_period.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let quarantine = QUARANTINE.min(2 * self.config.pod_gc_period);
        let mut missing: FxHashMap<Arc<String>, Instant> = FxHashMap::default();
        loop {
            ticks.tick().await;
            for outcome in [
                self.reap(&surplus(self.world.finished_pods.get(&()), self.config.terminated_pod_gc_threshold)).await,
                self.reap(&self.unscheduled()).await,
                self.reap(&self.out_of_service()).await,
                self.reap_orphans(&mut missing, quarantine).await,
            ] {
                if let Err(error) = outcome {
                    tracing::warn!(%error, "pods are left for the next round");
                }
            }
        }
    }

    /// Pods whose deletion was asked for before they had a node: no kubelet will confirm it.
    fn unscheduled(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.world.pods_by_node.get(&String::new());
        pods.retain(|pod| pod.deleted != 0 && pod.metadata.finalizers.is_empty());
        pods
    }

    fn out_of_service(&self) -> Vec<Arc<Pod>> {
        let down = |node: &Arc<Node>| {
            health::readiness(node) != "True" && node.spec.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
        };
        let nodes = self.world.nodes.all().into_iter().filter(down);
        let pods = nodes.flat_map(|node| self.world.pods_by_node.get(&node.metadata.name.to_string()));
        pods.filter(|pod| pod.deleted != 0).collect()
    }

    async fn reap_orphans(
        &self,
        missing: &mut FxHashMap<Arc<String>, Instant>,
        quarantine: Duration,
    ) -> Result<(), Error> {
        let absent = |name: &Arc<String>| !name.is_empty() && self.world.nodes.get(name).is_none();
        let names: FxHashSet<Arc<String>> = self.world.pods_by_node.groups().into_iter().filter(absent).collect();
        missing.retain(|name, _| names.contains(name));
        for name in names {
            let since = *missing.entry(name.clone()).or_insert_with(Instant::now);
            if since.elapsed() < quarantine {
                continue;
            }
            match self.world.client.get::<Stub>(&Gvr::NODES, "", &name).await {
                Err(error) if error.is_not_found() => self.reap(&self.world.pods_by_node.get(&name)).await?,
                outcome => {
                    outcome?;
                    missing.remove(&name);
                }
            }
        }
        Ok(())
    }

    async fn reap(&self, pods: &[Arc<Pod>]) -> Result<(), Error> {
        slow_start(pods.len(), MAX_IN_FLIGHT, async |at| self.remove(&pods[at]).await).await.1
    }

    /// Marks a pod as failed, so that its owner can count it, and removes it without waiting for a kubelet.
    async fn remove(&self, pod: &Pod) -> Result<(), Error> {
        let (client, meta) = (&self.world.client, &pod.metadata);
        if !pod.is_finished() {
            let patch = json!({"metadata": {"uid": meta.uid}, "status": {
                "phase": "Failed",
                "conditions": [{
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "DeletionByPodGC",
                    "message": "PodGC: node no longer exists",
                    "lastTransitionTime": rfc3339(since_epoch(SystemTime::now())),
                }],
            }});
            let kind = PatchKind::Strategic;
            match client.patch::<IgnoredAny>(&Gvr::PODS, &meta.namespace, &meta.name, "status", kind, &patch).await {
                Err(error) if error.is_not_found() => return Ok(()),
                outcome => outcome?,
            };
        }
        let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": meta.uid}});
        match client.delete(&Gvr::PODS, &meta.namespace, &meta.name, &options).await {
            Err(error) if error.is_not_found() => Ok(()),
            outcome => Ok(outcome?),
        }
    }
}

/// The ended pods beyond the threshold: evicted ones first, then the oldest.
fn surplus(mut ended: Vec<Arc<Pod>>, threshold: usize) -> Vec<Arc<Pod>> {
    let count = ended.len().saturating_sub(threshold);
    if threshold == 0 || count == 0 {
        return Vec::new();
    }
    ended.sort_by_key(|pod| (pod.reason.as_deref() != Some("Evicted"), pod.created));
    ended.truncate(count);
    ended.retain(|pod| pod.deleted == 0);
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_beyond_the_threshold_go() {
        let pod =
            |created, reason: Option<&str>| Arc::new(Pod { created, reason: reason.map(Into::into), ..Pod::default() });
        let ended = vec![pod(3, None), pod(1, None), pod(9, Some("Evicted")), pod(2, None)];
        let gone: Vec<_> = surplus(ended.clone(), 2).iter().map(|pod| pod.created).collect();
        assert_eq!(gone, [9, 1]);
        assert!(surplus(ended.clone(), 4).is_empty());
        assert!(surplus(ended, 0).is_empty(), "0 keeps all");
    }
}
