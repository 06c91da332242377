//! Pods that wait for the room that a preemption makes for them on one node.
//!
//! A nominee holds its room against pods of its own and of lower priority, as if it were there; pods of higher priority
//! do not see it.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::ledger::NodeId;
use crate::pod::{Class, Pod, PodId};

#[derive(Debug)]
pub(crate) struct Nominee {
    pub node: NodeId,
    class: Arc<Class>,
    priority: i32,
}

impl Cluster {
    /// Reserves room on a node for a pod that waits for its victims to leave. A pod is nominated to one node at a time,
    /// and no longer once it is placed.
    pub fn nominate(&mut self, pod: &Pod, node: NodeId) {
        self.denominate(pod.id);
        if self.pods.contains(pod.id) {
            return;
        }
        self.state.book(node, &pod.class, true);
        self.nominees.insert(pod.id, Nominee { node, class: pod.class.clone(), priority: pod.priority });
    }

    /// Gives the reserved room back. Returns where it was.
    pub fn denominate(&mut self, id: PodId) -> Option<NodeId> {
        let nominee = self.nominees.remove(&id)?;
        self.state.release(nominee.node, &nominee.class, true);
        Some(nominee.node)
    }

    /// The node that a pod is nominated to.
    pub fn nominated(&self, id: PodId) -> Option<NodeId> {
        self.nominees.get(&id).map(|nominee| nominee.node)
    }

    /// Hides the nominees that a pod of this priority does not see, and its own nomination.
    pub(crate) fn set_aside(&mut self, priority: i32, own: Option<PodId>) -> Vec<PodId> {
        if self.nominees.is_empty() {
            return Vec::new();
        }
        let unseen = self.nominees.iter().filter(|(id, nominee)| nominee.priority < priority || Some(**id) == own);
        let mut unseen: Vec<PodId> = unseen.map(|(id, _)| *id).collect();
        unseen.sort_unstable();
        for id in &unseen {
            let Nominee { node, class, .. } = &self.nominees[id];
            self.state.release(*node, class, true);
        }
        unseen
    }

    /// Shows them again, except those that are no longer nominated.
    pub(crate) fn put_back(&mut self, aside: Vec<PodId>) {
        for id in aside {
            if let Some(Nominee { node, class, .. }) = self.nominees.get(&id) {
                self.state.book(*node, class, true);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{ContainerRequests, Decision, NodeSpec, PodTemplate, Requests, Resources};

    #[test]
    fn reserved_room_is_closed_to_lower_and_equal_priority_and_open_to_higher() {
        let mut cluster = Cluster::default();
        let allocatable = Resources { milli_cpu: 1000, memory: 1 << 30, ..Resources::default() };
        cluster.upsert_node(&NodeSpec { name: "n".into(), allocatable, pods: 10, ..NodeSpec::default() });
        let node = cluster.node("n").expect("present");
        let container = ContainerRequests { milli_cpu: Some(800), ..ContainerRequests::default() };
        let requests = Requests::of_pod(&[container], &[], None, None);
        let class = cluster.class(&Arc::new(PodTemplate { requests, ..PodTemplate::default() }));
        let pod = |id: u64, priority: i32| Pod { id: PodId(id), class: class.clone(), priority };
        let bound = |cluster: &mut Cluster, pod: Pod| matches!(cluster.schedule(&[pod])[0], Decision::Bound(_));
        cluster.nominate(&pod(1, 5), node);
        assert!(!bound(&mut cluster, pod(2, 4)) && !bound(&mut cluster, pod(3, 5)));
        assert!(bound(&mut cluster, pod(4, 6)), "higher priority does not see it");
        assert!(!bound(&mut cluster, pod(1, 5)), "its room was taken");
        cluster.remove_pod(PodId(4));
        assert!(!bound(&mut cluster, pod(2, 4)), "and is kept again");
        assert!(bound(&mut cluster, pod(1, 5)));
        assert_eq!((cluster.nominated(PodId(1)), cluster.usage(node).requested.milli_cpu), (None, 800));
        cluster.remove_pod(PodId(1));
        assert_eq!(cluster.usage(node).requested.milli_cpu, 0);
    }
}
