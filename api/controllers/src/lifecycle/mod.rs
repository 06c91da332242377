//! Node life cycle: lost heartbeats, taints, eviction, and pods that nobody else would delete.

mod eviction;
mod health;
mod reaper;
mod zones;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, stream};
use kelson_wire::kube::{Gvr, PatchKind};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::control;
use crate::controller::{Controller, start};
use crate::error::Error;
use crate::events::Events;
use crate::queue::{Key, Queue};
use crate::view::{Lease, Node, Seconds, rfc3339, since_epoch};
use crate::world::{World, join};
use eviction::Evictor;
pub(crate) use eviction::tolerates;
use health::{Eviction, Heartbeat};
use reaper::Reaper;
use zones::{Turns, zone_of};

/// Namespace of the leases that kubelets renew.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Workers that write node conditions and taints.
const WORKERS: usize = 8;
/// Pods of one lost node that are marked at a time.
const IN_FLIGHT: usize = 32;

/// The parts of the node life cycle, ready to start.
pub(crate) struct Lifecycle {
    nodes: Arc<Nodes>,
    evictor: Arc<Evictor>,
    reaper: Reaper,
}

impl Lifecycle {
    /// Controllers that listen to the caches from now on.
    pub(crate) fn new(world: &Arc<World>, config: &Arc<Config>) -> Lifecycle {
        Lifecycle { nodes: Nodes::new(world, config), evictor: Evictor::new(world), reaper: Reaper::new(world, config) }
    }

    /// Starts them. The caches must be synced.
    pub(crate) fn start(self, tasks: &mut JoinSet<()>, shutdown: &CancellationToken) {
        start(&self.nodes, WORKERS, tasks, shutdown);
        start(&self.evictor, WORKERS, tasks, shutdown);
        let (nodes, reaper) = (self.nodes, self.reaper);
        let (watching, reaping) = (shutdown.clone(), shutdown.clone());
        tasks.spawn(async move {
            let _ = watching.run_until_cancelled_owned(nodes.monitor()).await;
        });
        tasks.spawn(async move {
            let _ = reaping.run_until_cancelled_owned(reaper.run()).await;
        });
    }
}

/// What is known of the nodes beyond the caches.
#[derive(Default)]
struct Known {
    heartbeats: FxHashMap<Arc<str>, Heartbeat>,
    /// Nodes whose pods may be evicted.
    allowed: FxHashMap<Arc<str>, ()>,
    turns: Turns,
}

/// Watches heartbeats and writes conditions and taints; keys are node names.
struct Nodes {
    world: Arc<World>,
    config: Arc<Config>,
    queue: Queue,
    events: Events,
    known: Mutex<Known>,
    started: Instant,
}

impl Nodes {
    fn new(world: &Arc<World>, config: &Arc<Config>) -> Arc<Nodes> {
        let this = Arc::new(Nodes {
            world: world.clone(),
            config: config.clone(),
            queue: Queue::new(Duration::ZERO),
            events: Events::new(&world.client, "node-controller"),
            known: Mutex::default(),
            started: Instant::now(),
        });
        let that = this.clone();
        world.nodes.on_change(move |delta| {
            let node = delta.latest();
            let name = &node.metadata.name;
            if delta.new.is_none() {
                let mut known = that.known.lock();
                known.heartbeats.remove(name);
                known.allowed.remove(name);
                known.turns.leave(&zone_of(node), name);
                return;
            }
            // Most updates are heartbeats, which change nothing here.
            let unchanged = delta.old.as_ref().is_some_and(|old| {
                let statuses = |node: &Node| -> Vec<(String, String)> {
                    node.conditions.iter().map(|c| (c.kind.clone(), c.status.clone())).collect()
                };
                old.spec.unschedulable == node.spec.unschedulable
                    && old.spec.taints == node.spec.taints
                    && statuses(old) == statuses(node)
            });
            if !unchanged {
                that.queue.add(name.clone());
            }
        });
        this
    }

    /// Looks at all heartbeats again and again.
    async fn monitor(self: Arc<Self>) {
        let mut ticks = interval(self.config.node_monitor_period.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for name in self.assess(since_epoch(SystemTime::now())) {
                self.queue.add(name);
            }
        }
    }

    /// One look. Returns the nodes that something is to be written about.
    fn assess(&self, now: Seconds) -> Vec<Arc<str>> {
        let nodes = self.world.nodes.all();
        let mut known = self.known.lock();
        let known = &mut *known;
        let mut work = Vec::new();
        let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        let mut lost = Vec::new();
        for node in &nodes {
            let name = &node.metadata.name;
            let heartbeat = known.heartbeats.entry(name.clone()).or_default();
            heartbeat.observe(node, self.renewed(name), now);
            if heartbeat.is_lost(node, &self.config, now) && !health::unknown_conditions(node, now).is_empty() {
                work.push(name.clone());
            }
            let count = counts.entry(zone_of(node)).or_default();
            if health::readiness(node) == "True" {
                count.0 += 1;
                known.allowed.remove(name);
            } else {
                count.1 += 1;
                lost.push(node);
            }
        }
        let was_suspended = known.turns.suspended;
        let elapsed = self.started.elapsed().as_secs_f64();
        known.turns.assess(&counts, &self.config, elapsed);
        if known.turns.suspended != was_suspended {
            // Into the storm: let go of all. Out of it: give every node time to report.
            known.allowed.clear();
            if was_suspended {
                known.heartbeats.values_mut().for_each(|heartbeat| heartbeat.heard = now);
            }
            work.extend(lost.iter().map(|node| node.metadata.name.clone()));
        }
        for node in lost.iter().filter(|node| !known.allowed.contains_key(&node.metadata.name)) {
            known.turns.wait(&zone_of(node), &node.metadata.name);
        }
        for name in known.turns.take(elapsed) {
            // One that has recovered meanwhile does not use up its turn's effect: its taints follow its condition.
            known.allowed.insert(name.clone(), ());
            work.push(name);
        }
        work
    }

    fn renewed(&self, node: &str) -> u64 {
        self.world.leases.get(&join(LEASE_NAMESPACE, node)).map_or(0, |lease: Arc<Lease>| lease.renewed)
    }

    fn is_lost(&self, node: &Node, now: Seconds) -> bool {
        // What this view of the node shows counts: a report that the monitor has not looked at yet must not be overwritten.
        let renewed = self.renewed(&node.metadata.name);
        let mut known = self.known.lock();
        let heartbeat = known.heartbeats.entry(node.metadata.name.clone()).or_default();
        heartbeat.observe(node, renewed, now);
        heartbeat.is_lost(node, &self.config, now)
    }

    fn eviction(&self, name: &str) -> Eviction {
        let known = self.known.lock();
        match (known.turns.suspended, known.allowed.contains_key(name)) {
            (true, _) => Eviction::Suspended,
            (_, true) => Eviction::Allowed,
            _ => Eviction::Waiting,
        }
    }

    /// A pod on a lost node is not ready, whatever it said last.
    async fn mark_pods(&self, node: &Node, now: Seconds) -> Result<(), Error> {
        let pods = self.world.pods_by_node.get(&node.metadata.name.to_string());
        let ready = pods.iter().filter(|pod| pod.ready);
        let mark = |pod: &Arc<crate::view::Pod>| {
            let pod = pod.clone();
            async move {
                let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [
                    {"type": "Ready", "status": "False", "lastTransitionTime": rfc3339(now)},
                ]}});
                let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
                self.world
                    .client
                    .patch::<IgnoredAny>(&Gvr::PODS, namespace, name, "status", PatchKind::Strategic, &patch)
                    .await
            }
        };
        let calls: Vec<_> = ready.map(mark).collect();
        let mut outcomes = stream::iter(calls).buffer_unordered(IN_FLIGHT);
        while let Some(outcome) = outcomes.next().await {
            if let Err(error) = outcome
                && !error.is_not_found()
            {
                return Err(error.into());
            }
        }
        Ok(())
    }
}

impl Controller for Nodes {
    const NAME: &'static str = "node lifecycle";

    fn queue(&self) -> &Queue {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(node) = self.world.nodes.get(key) else { return Ok(None) };
        let now = since_epoch(SystemTime::now());
        if self.is_lost(&node, now) {
            let conditions = health::unknown_conditions(&node, now);
            if !conditions.is_empty() {
                if health::readiness(&node) == "True" {
                    let message = format!("Node {key} status is now: NodeNotReady");
                    self.events.normal(&Gvr::NODES, &node.metadata, "NodeNotReady", &message);
                }
                let meta = &node.metadata;
                let patch = json!({
                    "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
                    "status": {"conditions": conditions},
                });
                let kind = PatchKind::Strategic;
                self.world.client.patch::<IgnoredAny>(&Gvr::NODES, "", key, "status", kind, &patch).await?;
                // The rest follows with the event that this brings.
                return Ok(None);
            }
        }
        if let Some(taints) = health::taints(&node, self.eviction(key), now) {
            let meta = &node.metadata;
            let patch = json!({
                "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
                "spec": {"taints": if taints.is_empty() { None } else { Some(taints) }},
            });
            control::patch(&self.world.client, &Gvr::NODES, meta, &patch).await?;
        }
        if crate::view::condition(&node.conditions, "Ready").is_some_and(|ready| ready.status == "Unknown") {
            self.mark_pods(&node, now).await?;
        }
        Ok(None)
    }
}
