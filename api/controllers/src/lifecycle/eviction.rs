//! Eviction by taint: pods leave a node with a NoExecute taint that they do not tolerate, or tolerate only for a while.
//!
//! The rules are those of the Taints and Tolerations page of the Kubernetes documentation.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kelson_wire::kube::{Gvr, PatchKind};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde::de::IgnoredAny;
use serde_json::json;

use super::health::{NOT_READY, UNREACHABLE};
use crate::control;
use crate::controller::Controller;
use crate::error::Error;
use crate::events::Events;
use crate::queue::{Key, Queue};
use crate::view::{Node, Pod, Seconds, Taint, Toleration, rfc3339, seconds, since_epoch};
use crate::world::World;

/// What admission gives a pod that says nothing about nodes that are not ready or unreachable, in seconds.
const DEFAULT_TOLERATION: i64 = 300;

/// Evicts pods by taint; keys are node names.
pub(super) struct Evictor {
    world: Arc<World>,
    queue: Queue,
    events: Events,
    /// When a taint without a time was first seen, by node and taint key. Only nodes with such taints are in it.
    first_seen: Mutex<FxHashMap<Arc<str>, FxHashMap<String, Seconds>>>,
}

impl Evictor {
    pub(super) fn new(world: &Arc<World>) -> Arc<Evictor> {
        let this = Arc::new(Evictor {
            world: world.clone(),
            queue: Queue::new(Duration::ZERO),
            events: Events::new(&world.client, "taint-eviction-controller"),
            first_seen: Mutex::default(),
        });
        let that = this.clone();
        world.nodes.on_change(move |delta| {
            let node = delta.latest();
            let before = delta.old.as_ref().is_some_and(|old| executes(old));
            let after = delta.new.as_ref().is_some_and(|new| executes(new));
            if after {
                that.queue.add(node.metadata.name.clone());
            } else if before {
                that.first_seen.lock().remove(&node.metadata.name);
            }
        });
        let that = this.clone();
        world.pods.on_change(move |delta| {
            let Some(pod) = delta.new.as_ref().filter(|pod| !pod.node.is_empty() && pod.deleted == 0) else { return };
            let known =
                delta.old.as_ref().is_some_and(|old| old.node == pod.node && old.tolerations == pod.tolerations);
            if !known && that.world.nodes.get(&pod.node).is_some_and(|node| executes(&node)) {
                that.queue.add(pod.node.as_str().into());
            }
        });
        this
    }

    /// The node's NoExecute taints with the time from which each counts.
    fn timed_taints(&self, node: &Node, now: Seconds) -> Vec<(Taint, Seconds)> {
        let mut first_seen = self.first_seen.lock();
        let taints = node.spec.taints.iter().filter(|taint| taint.effect == "NoExecute");
        let timed = taints.map(|taint| {
            let since = match seconds(taint.time_added.as_deref()) {
                0 => {
                    let seen = first_seen.entry(node.metadata.name.clone()).or_default();
                    *seen.entry(taint.key.clone()).or_insert(now)
                }
                added => added,
            };
            (taint.clone(), since)
        });
        timed.collect()
    }

    async fn evict(&self, pod: &Pod, now: Seconds) -> Result<(), Error> {
        let meta = &pod.metadata;
        let message = format!("Marking for deletion Pod {}", meta.key());
        self.events.normal(&Gvr::PODS, meta, "TaintManagerEviction", &message);
        let patch = json!({"metadata": {"uid": meta.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": rfc3339(now),
        }]}});
        let (client, kind) = (&self.world.client, PatchKind::Strategic);
        match client.patch::<IgnoredAny>(&Gvr::PODS, &meta.namespace, &meta.name, "status", kind, &patch).await {
            Err(error) if error.is_not_found() => return Ok(()),
            outcome => outcome?,
        };
        control::delete(client, &Gvr::PODS, meta).await
    }
}

impl Controller for Evictor {
    const NAME: &'static str = "taint eviction";

    fn queue(&self) -> &Queue {
        &self.queue
    }

    async fn sync(&self, key: &Key) -> Result<Option<Duration>, Error> {
        let Some(node) = self.world.nodes.get(key) else { return Ok(None) };
        let now = since_epoch(SystemTime::now());
        let taints = self.timed_taints(&node, now);
        let mut next: Option<Seconds> = None;
        for pod in self.world.pods_by_node.get(&node.metadata.name.to_string()) {
            if pod.deleted != 0 || pod.is_finished() {
                continue;
            }
            match deadline(&pod.tolerations, &taints) {
                Some(at) if at <= now => self.evict(&pod, now).await?,
                Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
                None => {}
            }
        }
        Ok(next.map(|at| Duration::from_secs(u64::try_from(at - now).unwrap_or(1))))
    }
}

fn executes(node: &Node) -> bool {
    node.spec.taints.iter().any(|taint| taint.effect == "NoExecute")
}

/// When a pod with these tolerations has to leave; `None` if never.
fn deadline(tolerations: &[Toleration], taints: &[(Taint, Seconds)]) -> Option<Seconds> {
    let leave = |(taint, since): &(Taint, Seconds)| {
        let matching: Vec<&Toleration> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if matching.is_empty() {
            let automatic = taint.key == NOT_READY || taint.key == UNREACHABLE;
            return Some(if automatic { since + DEFAULT_TOLERATION } else { *since });
        }
        let shortest = matching.iter().filter_map(|toleration| toleration.toleration_seconds).min()?;
        Some(since + shortest.max(0))
    };
    taints.iter().filter_map(leave).min()
}

/// Whether a toleration covers a taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    (toleration.effect.is_empty() || toleration.effect == taint.effect)
        && match toleration.operator.as_str() {
            "Exists" => toleration.key.is_empty() || toleration.key == taint.key,
            _ => toleration.key == taint.key && toleration.value == taint.value,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str) -> (Taint, Seconds) {
        (Taint { key: key.into(), effect: "NoExecute".into(), ..Taint::default() }, 100)
    }

    fn toleration(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration { key: key.into(), operator: "Exists".into(), toleration_seconds: seconds, ..Toleration::default() }
    }

    #[test]
    fn pods_leave_when_their_tolerance_ends() {
        assert_eq!(deadline(&[], &[]), None);
        assert_eq!(deadline(&[], &[taint("maintenance")]), Some(100));
        assert_eq!(deadline(&[], &[taint(UNREACHABLE)]), Some(400));
        assert_eq!(deadline(&[toleration("", None)], &[taint(UNREACHABLE), taint("x")]), None);
        let mixed = [toleration(UNREACHABLE, Some(10)), toleration("x", None)];
        assert_eq!(deadline(&mixed, &[taint(UNREACHABLE)]), Some(110));
        assert_eq!(deadline(&mixed, &[taint("x")]), None);
        assert_eq!(deadline(&mixed, &[taint("x"), taint("y")]), Some(100));
        assert_eq!(deadline(&[toleration("x", Some(-5))], &[taint("x")]), Some(100));
    }

    #[test]
    fn values_and_effects_must_match() {
        let (taint, _) =
            (Taint { key: "k".into(), value: "v".into(), effect: "NoExecute".into(), time_added: None }, ());
        let equal = |value: &str, effect: &str| Toleration {
            key: "k".into(),
            value: value.into(),
            effect: effect.into(),
            ..Toleration::default()
        };
        assert!(tolerates(&equal("v", ""), &taint) && tolerates(&equal("v", "NoExecute"), &taint));
        assert!(!tolerates(&equal("w", ""), &taint) && !tolerates(&equal("v", "NoSchedule"), &taint));
    }
}
