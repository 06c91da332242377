//! Pods that make sense only together: a pod group is placed whole, or not at all.
//!
//! A group is what the coscheduling plugin's users have: pods with the label `scheduling.x-k8s.io/pod-group`, and how many
//! of them are needed at least in a `PodGroup` of that name. Where the API has no such kind, the label
//! `pod-group.scheduling.sigs.k8s.io/min-available` of the plugin's earlier form says it.
//!
//! The queue holds a group as one entry. When its turn comes all its waiting pods are placed together; those that are
//! placed count from then on, so that a pod that comes later, or whose binding was refused, joins them by itself.
//! Nobody is evicted for a group.

use std::collections::BTreeSet;
use std::sync::Arc;

use kelson_sched::{Decision, Diagnosis, FilterSet, Pod, PodId};
use kelson_wire::kube::{Delta, Keyed, ObjectMeta};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Deserializer};

use super::model::{Batch, Model, Stage, UNSCHEDULABLE};
use super::view::PodView;
use super::{raw, view};

const GROUP: &str = "scheduling.x-k8s.io/pod-group";
const OLD_GROUP: &str = "pod-group.scheduling.sigs.k8s.io/name";
const OLD_MINIMUM: &str = "pod-group.scheduling.sigs.k8s.io/min-available";

/// Namespace and name of a group.
pub type GroupKey = (Arc<str>, Arc<str>);

/// A `PodGroup`.
#[derive(Debug)]
pub struct GroupView {
    meta: ObjectMeta,
    /// Pods without which none makes sense.
    pub minimum: usize,
}

impl Keyed for GroupView {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

impl<'de> Deserialize<'de> for GroupView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<GroupView, D::Error> {
        let raw = raw::PodGroup::deserialize(deserializer)?;
        let minimum = usize::try_from(raw.spec.min_member).unwrap_or(0);
        Ok(GroupView { meta: view::meta(&raw.metadata), minimum })
    }
}

/// The group of a pod, and the least number of pods by the pod's own word.
pub fn of(pod: &PodView) -> Option<(GroupKey, usize)> {
    let label = |key: &str| pod.template.labels.iter().find(|(have, _)| **have == *key).map(|(_, value)| value);
    let name = label(GROUP).or_else(|| label(OLD_GROUP)).filter(|name| !name.is_empty())?;
    let minimum = label(OLD_MINIMUM).and_then(|text| text.parse().ok()).unwrap_or(0);
    Some(((pod.template.namespace.clone(), name.clone()), minimum))
}

#[derive(Debug)]
struct Gang {
    /// Its entry in the queue.
    id: PodId,
    waiting: BTreeSet<PodId>,
    placed: FxHashSet<PodId>,
    /// The largest number that a pod of it asked for.
    minimum: usize,
}

/// All groups that have pods.
#[derive(Debug, Default)]
pub struct Gangs {
    gangs: FxHashMap<GroupKey, Gang>,
    by_id: FxHashMap<PodId, GroupKey>,
    minimums: FxHashMap<GroupKey, usize>,
}

impl Gangs {
    /// Whether this entry of the queue stands for a group.
    pub fn is_gang(&self, id: PodId) -> bool {
        !self.by_id.is_empty() && self.by_id.contains_key(&id)
    }

    /// Takes in a change of a `PodGroup`; returns the entry whose pods it may help.
    pub fn group_changed(&mut self, delta: &Delta<GroupView>) -> Option<PodId> {
        let meta = delta.latest().meta();
        let key = (meta.namespace.clone(), meta.name.clone());
        match &delta.new {
            Some(view) => self.minimums.insert(key.clone(), view.minimum),
            None => self.minimums.remove(&key),
        };
        self.gangs.get(&key).map(|gang| gang.id)
    }

    /// A pod of the group waits. Returns the group's entry in the queue, a new one with this id if there is none.
    pub fn wait(&mut self, key: GroupKey, minimum: usize, pod: PodId, new: PodId) -> PodId {
        let by_id = &mut self.by_id;
        let gang = self.gangs.entry(key).or_insert_with_key(|key| {
            by_id.insert(new, key.clone());
            Gang { id: new, waiting: BTreeSet::new(), placed: FxHashSet::default(), minimum: 0 }
        });
        gang.minimum = gang.minimum.max(minimum);
        gang.placed.remove(&pod);
        gang.waiting.insert(pod);
        gang.id
    }

    /// A pod of the group has a place.
    pub fn place(&mut self, key: &GroupKey, pod: PodId) {
        if let Some(gang) = self.gangs.get_mut(key) {
            gang.waiting.remove(&pod);
            gang.placed.insert(pod);
        }
    }

    /// A pod of the group is none of ours any more. Returns the entry to take out of the queue, if nobody waits now.
    pub fn leave(&mut self, key: &GroupKey, pod: PodId) -> Option<PodId> {
        let gang = self.gangs.get_mut(key)?;
        gang.waiting.remove(&pod);
        gang.placed.remove(&pod);
        let id = gang.id;
        let idle = gang.waiting.is_empty();
        if idle && gang.placed.is_empty() {
            self.gangs.remove(key);
            self.by_id.remove(&id);
        }
        idle.then_some(id)
    }
}

impl Model {
    /// Takes in a change of a `PodGroup`.
    pub fn group_changed(&mut self, delta: &Delta<GroupView>, now: u64) {
        if let Some(id) = self.gangs.group_changed(delta) {
            self.queue_gang(id, now);
        }
    }

    /// Puts a group at its place in the queue: that of its most important pod, or of the oldest of those.
    pub(super) fn queue_gang(&mut self, id: PodId, now: u64) {
        let Some(gang) = self.gangs.by_id.get(&id).and_then(|key| self.gangs.gangs.get(key)) else { return };
        let views = gang.waiting.iter().filter_map(|pod| self.pods.get(pod)).map(|known| &known.view);
        let Some(first) = views.min_by_key(|view| (-i64::from(view.priority), view.created())).cloned() else { return };
        let class = self.cluster.class(&first.template);
        // What comes to a group may be what it waited for: it is tried at once.
        self.queue.remove(id);
        self.queue.add(id, class, first.priority, first.created(), now);
    }

    /// Places the waiting pods of a group, if enough of them find a node.
    pub(super) fn schedule_group(&mut self, id: PodId, now: u64, batch: &mut Batch) {
        let Some(key) = self.gangs.by_id.get(&id).cloned() else { return };
        let Some(gang) = self.gangs.gangs.get(&key) else { return };
        let minimum = self.gangs.minimums.get(&key).copied().unwrap_or(0).max(gang.minimum);
        let (have, placed) = (gang.waiting.len() + gang.placed.len(), gang.placed.len());
        let waiting: Vec<PodId> = gang.waiting.iter().copied().collect();
        if have < minimum {
            for pod in &waiting {
                let Some(name) = self.pods.get(pod).map(|known| known.view.meta().name.clone()) else { continue };
                let message = format!(
                    "0/{} nodes are available: pre-filter pod {name} cannot find enough sibling pods, current pods \
                     number: {have}, minMember of group: {minimum}.",
                    self.cluster.nodes()
                );
                self.report(*pod, UNSCHEDULABLE, &message.into(), None);
            }
            for pod in &waiting {
                batch.refuse(self.pods.get(pod).and_then(|known| self.profile(&known.view)));
            }
            // Nothing but another pod of the group helps, and that puts it into the queue anew.
            self.queue.reject(id, FilterSet::default(), now);
            return;
        }
        let mut pods: Vec<Pod> = waiting.iter().filter_map(|pod| self.attempt(*pod, None)).collect();
        pods.sort_by_key(|pod| std::cmp::Reverse(pod.priority));
        let decisions = self.cluster.schedule_gang(&pods, minimum.saturating_sub(placed));
        for (pod, decision) in pods.iter().zip(decisions) {
            match decision {
                Decision::Bound(node) => {
                    self.gangs.place(&key, pod.id);
                    batch.bindings.extend(self.bind(pod, node));
                }
                Decision::Unschedulable(diagnosis) => {
                    self.report(pod.id, UNSCHEDULABLE, &message(&diagnosis, &key.1), None);
                    batch.refuse(self.pods.get(&pod.id).and_then(|known| self.profile(&known.view)));
                }
            }
        }
        if self.gangs.gangs.get(&key).is_some_and(|gang| gang.waiting.is_empty()) {
            self.queue.remove(id);
        } else {
            // The pods of a group may be refused for different reasons: whatever happens may help one of them.
            self.queue.reject(id, FilterSet::ALL, now);
        }
    }

    /// A pod leaves its group, if it has one.
    pub(super) fn leave_gang(&mut self, pod: &PodView, id: PodId) {
        if let Some((key, _)) = of(pod)
            && let Some(idle) = self.gangs.leave(&key, id)
        {
            self.queue.remove(idle);
        }
    }

    /// A pod of a group shows on its node.
    pub(super) fn gang_bound(&mut self, pod: &PodView, id: PodId) {
        let Some((key, minimum)) = of(pod) else { return };
        // Bound before this scheduler began, it counts all the same.
        let new = self.new_id();
        let entry = self.gangs.wait(key.clone(), minimum, id, new);
        self.gangs.place(&key, id);
        if self.gangs.gangs.get(&key).is_some_and(|gang| gang.waiting.is_empty()) {
            self.queue.remove(entry);
        }
    }

    /// Queues a pod by its group. False if it has none.
    pub(super) fn join_gang(&mut self, pod: &PodView, id: PodId, now: u64) -> bool {
        let Some((key, minimum)) = of(pod) else { return false };
        let new = self.new_id();
        if let Some(known) = self.pods.get_mut(&id) {
            known.stage = Stage::Pending;
        }
        let entry = self.gangs.wait(key, minimum, id, new);
        self.queue_gang(entry, now);
        true
    }
}

fn message(diagnosis: &Diagnosis, group: &str) -> Arc<str> {
    if diagnosis.nodes > 0 && diagnosis.refusal.is_none() && diagnosis.reasons.is_empty() {
        let nodes = diagnosis.nodes;
        return format!("0/{nodes} nodes are available: too few of the pods of group {group} fit at once.").into();
    }
    diagnosis.to_string().into()
}
