//! Which pods go first when there are too many.
//!
//! The order is kube-controller-manager's: see "Scaling a ReplicaSet" in the Kubernetes documentation.

use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::view::{Pod, Seconds};

/// The `count` pods to delete. `related` are all pods that the set's controller spreads over nodes.
pub(super) fn choose(pods: &[Arc<Pod>], count: usize, related: &[Arc<Pod>], now: Seconds) -> Vec<Arc<Pod>> {
    if count >= pods.len() {
        return pods.to_vec();
    }
    let mut crowd: FxHashMap<&str, usize> = FxHashMap::default();
    for pod in related.iter().filter(|pod| pod.is_active() && !pod.node.is_empty()) {
        *crowd.entry(pod.node.as_str()).or_default() += 1;
    }
    let rank = |pod: &Arc<Pod>| crowd.get(pod.node.as_str()).copied().unwrap_or(0);
    let mut chosen = pods.to_vec();
    if count > 0 {
        chosen.select_nth_unstable_by(count - 1, |a, b| order(a, b, rank(a), rank(b), now));
    }
    chosen.truncate(count);
    chosen
}

/// `Less`: goes before the other.
fn order(a: &Pod, b: &Pod, crowd_a: usize, crowd_b: usize, now: Seconds) -> Ordering {
    let first =
        |pod: &Pod, crowd: usize| (!pod.node.is_empty(), pod.phase, pod.ready, pod.deletion_cost, Reverse(crowd));
    let ready_age = |pod: &Pod| if pod.ready { age(pod.ready_since, now) } else { 0 };
    first(a, crowd_a)
        .cmp(&first(b, crowd_b))
        .then_with(|| ready_age(a).cmp(&ready_age(b)))
        .then_with(|| b.most_restarts.cmp(&a.most_restarts))
        .then_with(|| age(a.created, now).cmp(&age(b.created, now)))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

/// Age on a logarithmic scale, so that pods of about the same age are chosen among by uid, that is at random.
fn age(since: Seconds, now: Seconds) -> u32 {
    u64::try_from(now - since).ok().and_then(u64::checked_ilog2).map_or(0, |log| log + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Phase;

    fn pod(name: &str, change: impl FnOnce(&mut Pod)) -> Arc<Pod> {
        let mut pod = Pod {
            node: Arc::new(format!("node-{name}")),
            phase: Phase::Running,
            ready: true,
            ready_since: 100,
            created: 100,
            ..Pod::default()
        };
        pod.metadata.name = name.into();
        pod.metadata.uid = name.into();
        change(&mut pod);
        Arc::new(pod)
    }

    #[test]
    fn deletes_in_the_documented_order() {
        let pods = [
            pod("z-plain", |_| {}),
            pod("young", |pod| pod.created = 9_000),
            pod("restarted", |pod| pod.most_restarts = 3),
            pod("newly-ready", |pod| pod.ready_since = 9_990),
            pod("crowded", |pod| pod.node = Arc::new("busy".into())),
            pod("cheap", |pod| pod.deletion_cost = -1),
            pod("unready", |pod| pod.ready = false),
            pod("pending", |pod| pod.phase = Phase::Pending),
            pod("unassigned", |pod| pod.node = Arc::default()),
        ];
        let mut related = pods.to_vec();
        related.push(pod("neighbour", |pod| pod.node = Arc::new("busy".into())));
        let order = ["unassigned", "pending", "unready", "cheap", "crowded", "newly-ready", "restarted", "young"];
        for count in 1..=order.len() {
            let chosen = choose(&pods, count, &related, 10_000);
            let mut names: Vec<&str> = chosen.iter().map(|pod| &*pod.metadata.name).collect();
            let mut wanted = order[..count].to_vec();
            names.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(names, wanted);
        }
        assert_eq!(choose(&pods, 20, &related, 10_000).len(), pods.len());
    }
}
