//! Which daemons to start and stop, from the nodes and the pods there are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::eligible::{Needs, Place};
use crate::view::{DaemonSet, DaemonSetStatus, IntOrPercent, Node, Phase, Pod, Seconds};

/// Label of a pod: the revision it was made from.
pub(super) const REVISION_HASH: &str = "controller-revision-hash";
/// Most pods created or deleted in one run.
const BURST: usize = 500;

/// The outcome.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Names of nodes that are to get a pod.
    pub create: Vec<Arc<str>>,
    pub delete: Vec<Arc<Pod>>,
    /// Failed pods among `delete`.
    pub failed: Vec<Arc<Pod>>,
    pub status: DaemonSetStatus,
    pub recheck: Option<Duration>,
}

/// What runs on one node.
struct Site {
    name: Arc<str>,
    place: Place,
    /// Oldest first; those that are ending included.
    pods: Vec<Arc<Pod>>,
}

/// Plans one run. `hash` is the current revision's; `may_retry` tells whether a node whose daemon failed may get another.
pub(super) fn plan(
    set: &DaemonSet,
    needs: &Needs,
    nodes: &[Arc<Node>],
    pods: &[Arc<Pod>],
    hash: &str,
    may_retry: &dyn Fn(&str) -> bool,
    now: Seconds,
) -> Plan {
    let (sites, homeless) = sites(needs, nodes, pods);
    let mut plan = Plan { status: status(set, &sites, hash, now), ..Plan::default() };
    // Their node is gone: the pod collector removes what was bound, this what never will be.
    plan.delete.extend(homeless.into_iter().filter(|pod| pod.node.is_empty()));
    let surge = surge(set, plan.status.desired_number_scheduled);
    for site in &sites {
        manage(site, surge, hash, set.spec.min_ready_seconds, may_retry, now, &mut plan);
    }
    if set.spec.update_strategy.kind != "OnDelete" && plan.create.is_empty() && plan.delete.is_empty() {
        roll(set, &sites, surge, hash, now, &mut plan);
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan.recheck = next_available(set, pods, now);
    plan
}

/// Pods by node, and those of nodes that are not there.
fn sites(needs: &Needs, nodes: &[Arc<Node>], pods: &[Arc<Pod>]) -> (Vec<Site>, Vec<Arc<Pod>>) {
    let mut sites: BTreeMap<&str, Site> = BTreeMap::new();
    for node in nodes {
        let name = node.metadata.name.clone();
        sites.insert(&node.metadata.name, Site { name, place: needs.place(node), pods: Vec::new() });
    }
    let mut homeless = Vec::new();
    for pod in pods {
        let at = if pod.node.is_empty() { pod.destined.as_str() } else { pod.node.as_str() };
        match sites.get_mut(at) {
            Some(site) => site.pods.push(pod.clone()),
            None if pod.deleted == 0 => homeless.push(pod.clone()),
            None => {}
        }
    }
    let mut sites: Vec<Site> = sites.into_values().collect();
    for site in &mut sites {
        site.pods.sort_by(|a, b| (a.created, &a.metadata.name).cmp(&(b.created, &b.metadata.name)));
    }
    (sites, homeless)
}

fn is_new(pod: &Pod, hash: &str) -> bool {
    pod.labels.get(REVISION_HASH).is_some_and(|label| label == hash)
}

/// One daemon on every node that should have one, whatever its revision.
fn manage(
    site: &Site,
    surge: i64,
    hash: &str,
    min_ready: i64,
    may_retry: &dyn Fn(&str) -> bool,
    now: Seconds,
    plan: &mut Plan,
) {
    let live = || site.pods.iter().filter(|pod| pod.deleted == 0);
    match site.place {
        Place::Leave => plan.delete.extend(live().cloned()),
        Place::Run if site.pods.is_empty() => {
            if may_retry(&site.name) {
                plan.create.push(site.name.clone());
            }
        }
        Place::Run | Place::Stay => {
            let (failed, running): (Vec<_>, Vec<_>) = live().cloned().partition(|pod| pod.phase == Phase::Failed);
            for pod in failed {
                plan.failed.push(pod.clone());
                plan.delete.push(pod);
            }
            if surge == 0 {
                plan.delete.extend(running.into_iter().skip(1));
                return;
            }
            // Old and new side by side until the new one is available.
            let (mut new, mut old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| is_new(pod, hash));
            plan.delete.extend(new.drain(new.len().min(1)..));
            plan.delete.extend(old.drain(old.len().min(1)..));
            if new.iter().any(|pod| pod.is_available(min_ready, now)) {
                plan.delete.extend(old);
            }
        }
    }
}

/// Replaces daemons of earlier revisions, as many at a time as the strategy allows.
fn roll(set: &DaemonSet, sites: &[Site], surge: i64, hash: &str, now: Seconds, plan: &mut Plan) {
    let min_ready = set.spec.min_ready_seconds;
    let desired = plan.status.desired_number_scheduled;
    let (mut busy, mut broken, mut candidates) = (0, Vec::new(), Vec::new());
    for site in sites.iter().filter(|site| site.place == Place::Run) {
        let live: Vec<&Arc<Pod>> = site.pods.iter().filter(|pod| pod.deleted == 0).collect();
        let new = live.iter().find(|pod| is_new(pod, hash));
        let old = live.iter().find(|pod| !is_new(pod, hash));
        match (new, old) {
            (Some(_), Some(_)) => busy += 1,
            (Some(new), None) => busy += i64::from(surge == 0 && !new.is_available(min_ready, now)),
            (None, None) => busy += 1,
            (None, Some(old)) if old.is_available(min_ready, now) => candidates.push((site, *old)),
            (None, Some(old)) => {
                busy += i64::from(surge == 0);
                broken.push((site, *old));
            }
        }
    }
    let allowed = if surge > 0 { surge } else { max_unavailable(set, desired) };
    let room = usize::try_from(allowed - busy).unwrap_or(0);
    // One that does not work costs nothing to replace.
    for (site, old) in broken.into_iter().chain(candidates.into_iter().take(room)) {
        if surge > 0 {
            plan.create.push(site.name.clone());
        } else {
            plan.delete.push(old.clone());
        }
    }
}

fn max_unavailable(set: &DaemonSet, desired: i64) -> i64 {
    let rolling = &set.spec.update_strategy.rolling_update;
    let number = rolling.max_unavailable.as_ref().unwrap_or(&IntOrPercent::Int(1)).of(desired, true);
    number.max(1)
}

fn surge(set: &DaemonSet, desired: i64) -> i64 {
    if set.spec.update_strategy.kind == "OnDelete" {
        return 0;
    }
    set.spec.update_strategy.rolling_update.max_surge.as_ref().map_or(0, |surge| surge.of(desired, true).max(0))
}

fn status(set: &DaemonSet, sites: &[Site], hash: &str, now: Seconds) -> DaemonSetStatus {
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation.unwrap_or(0),
        collision_count: set.status.collision_count,
        conditions: set.status.conditions.clone(),
        ..DaemonSetStatus::default()
    };
    for site in sites {
        if site.place != Place::Run {
            status.number_misscheduled += i64::from(!site.pods.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(oldest) = site.pods.iter().find(|pod| pod.deleted == 0).or(site.pods.first()) else { continue };
        status.current_number_scheduled += 1;
        let any = |holds: &dyn Fn(&Pod) -> bool| i64::from(site.pods.iter().any(|pod| holds(pod)));
        status.number_ready += any(&|pod| pod.ready);
        status.number_available += any(&|pod| pod.is_available(set.spec.min_ready_seconds, now));
        let newest = site.pods.iter().rev().find(|pod| pod.deleted == 0).unwrap_or(oldest);
        status.updated_number_scheduled += i64::from(is_new(newest, hash));
    }
    status.number_unavailable = status.desired_number_scheduled - status.number_available;
    status
}

fn next_available(set: &DaemonSet, pods: &[Arc<Pod>], now: Seconds) -> Option<Duration> {
    let wait = set.spec.min_ready_seconds;
    let waiting = pods.iter().filter(|pod| pod.ready && !pod.is_available(wait, now));
    let next = waiting.map(|pod| pod.ready_since + wait - now).min()?;
    Some(Duration::from_secs(u64::try_from(next).unwrap_or(1).max(1)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Model {
        set: DaemonSet,
        nodes: Vec<Arc<Node>>,
        pods: Vec<Pod>,
        made: usize,
    }

    fn model(nodes: usize, strategy: serde_json::Value) -> Model {
        let text = json!({"metadata": {"name": "d", "generation": 1}, "spec": {"updateStrategy": strategy}});
        let node = |number: usize| {
            let mut node = Node::default();
            node.metadata.name = format!("n{number}").into();
            Arc::new(node)
        };
        Model {
            set: serde_json::from_str(&text.to_string()).unwrap(),
            nodes: (0..nodes).map(node).collect(),
            pods: Vec::new(),
            made: 0,
        }
    }

    impl Model {
        fn look(&self, hash: &str) -> Plan {
            let pods: Vec<_> = self.pods.iter().cloned().map(Arc::new).collect();
            plan(&self.set, &Needs::of(&json!({})), &self.nodes, &pods, hash, &|_| true, 100)
        }

        fn step(&mut self, hash: &str) -> Plan {
            let plan = self.look(hash);
            for pod in &plan.delete {
                self.pods.retain(|each| each.metadata.name != pod.metadata.name);
            }
            for node in &plan.create {
                self.made += 1;
                let mut pod = Pod {
                    labels: Arc::new([(REVISION_HASH.to_string(), hash.to_string())].into()),
                    destined: Arc::new(node.to_string()),
                    created: i64::try_from(self.made).unwrap(),
                    ..Pod::default()
                };
                pod.metadata.name = format!("p{}", self.made).into();
                self.pods.push(pod);
            }
            plan
        }

        fn ready(&mut self) {
            for pod in &mut self.pods {
                pod.node = pod.destined.clone();
                (pod.phase, pod.ready, pod.ready_since) = (Phase::Running, true, 50);
            }
        }

        fn available(&self) -> usize {
            let mut nodes: Vec<_> = self.pods.iter().filter(|pod| pod.ready).map(|pod| pod.node.clone()).collect();
            nodes.sort_unstable();
            nodes.dedup();
            nodes.len()
        }
    }

    #[test]
    fn one_pod_a_node_and_none_elsewhere() {
        let mut model = model(3, json!({}));
        assert_eq!(model.step("a").create.len(), 3);
        model.ready();
        let plan = model.step("a");
        assert_eq!((plan.create.len(), plan.delete.len()), (0, 0));
        assert_eq!((plan.status.desired_number_scheduled, plan.status.number_available), (3, 3));
        let mut extra = model.pods[0].clone();
        extra.metadata.name = "extra".into();
        extra.created = 99;
        model.pods.push(extra);
        let doomed: Vec<_> = model.step("a").delete.iter().map(|pod| pod.metadata.name.to_string()).collect();
        assert_eq!(doomed, ["extra"]);
        model.pods[1].phase = Phase::Failed;
        let plan = model.step("a");
        assert_eq!((plan.failed.len(), plan.delete.len()), (1, 1));
        assert_eq!(model.step("a").create.len(), 1);
    }

    #[test]
    fn an_update_takes_one_node_at_a_time() {
        let mut model = model(4, json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}));
        model.step("a");
        model.ready();
        for _ in 0..4 {
            let plan = model.step("b");
            assert_eq!((plan.delete.len(), plan.create.len()), (1, 0));
            assert_eq!(model.available(), 3);
            assert_eq!(model.step("b").create.len(), 1);
            assert!(model.step("b").delete.is_empty(), "waits for the new one");
            model.ready();
        }
        let plan = model.step("b");
        assert_eq!((plan.status.updated_number_scheduled, plan.delete.len()), (4, 0));
    }

    #[test]
    fn a_surge_starts_the_new_one_first() {
        let mut model = model(2, json!({"rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 0}}));
        model.step("a");
        model.ready();
        for _ in 0..2 {
            assert_eq!(model.step("b").create.len(), 1);
            assert_eq!(model.step("b").delete.len(), 0, "both run until the new one is available");
            model.ready();
            assert_eq!(model.available(), 2);
            assert_eq!(model.step("b").delete.len(), 1);
        }
        assert!(model.pods.iter().all(|pod| is_new(pod, "b")) && model.pods.len() == 2);
    }

    #[test]
    fn on_delete_leaves_old_ones_alone() {
        let mut model = model(2, json!({"type": "OnDelete"}));
        model.step("a");
        model.ready();
        assert!(model.step("b").delete.is_empty());
        model.pods.remove(0);
        model.step("b");
        assert_eq!(model.look("b").status.updated_number_scheduled, 1);
    }
}
