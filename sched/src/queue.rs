//! Pods that wait: ready ones in priority order, those that back off after a failure, those that nothing but an event
//! can help. Time comes in as milliseconds of any clock that does not go back.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{BitOr, BitOrAssign};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::pod::{Class, Pod, PodId};
use crate::reason::{Filter, FilterSet};

/// Things that happened which may let a pod through that a filter rejected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(u32);

impl Events {
    pub const NODE_ADDED: Events = Events(1);
    /// Some allocatable amount grew.
    pub const NODE_ALLOCATABLE: Events = Events(2);
    pub const NODE_LABELS: Events = Events(4);
    pub const NODE_TAINTS: Events = Events(8);
    /// The node is no longer cordoned.
    pub const NODE_SCHEDULABLE: Events = Events(16);
    /// A pod that held capacity is gone.
    pub const POD_REMOVED: Events = Events(32);
    /// A pod that some constraint counts was placed, or changed its labels.
    pub const POD_COUNTED: Events = Events(64);
    pub const NODE_REMOVED: Events = Events(128);
    /// Labels of a namespace changed.
    pub const NAMESPACE_LABELS: Events = Events(256);
    /// A claim, a volume, a storage class or the room of a driver changed.
    pub const VOLUMES: Events = Events(512);
    /// How many volumes a node may have, or what is attached to it, changed.
    pub const VOLUME_LIMITS: Events = Events(1024);
    /// A node declares other features.
    pub const NODE_FEATURES: Events = Events(2048);
    /// A claim for devices, a slice of devices or a class of them changed.
    pub const DEVICES: Events = Events(4096);

    /// Whether nothing happened.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether any of `other` is among them.
    pub fn intersects(self, other: Events) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether a pod that `filters` rejected may get through now.
    pub fn may_help(self, filters: FilterSet) -> bool {
        let helps = |filter, events: Events| filters.contains(filter) && self.intersects(events | Events::NODE_ADDED);
        helps(Filter::NodeUnschedulable, Events::NODE_SCHEDULABLE)
            || helps(Filter::NodeName, Events::default())
            || helps(Filter::TaintToleration, Events::NODE_TAINTS)
            || helps(Filter::NodeAffinity, Events::NODE_LABELS)
            || helps(Filter::NodePorts, Events::POD_REMOVED)
            || helps(Filter::NodeResourcesFit, Events::POD_REMOVED | Events::NODE_ALLOCATABLE)
            || helps(Filter::VolumeRestrictions, Events::POD_REMOVED | Events::VOLUMES)
            || helps(Filter::NodeVolumeLimits, Events::POD_REMOVED | Events::VOLUMES | Events::VOLUME_LIMITS)
            || helps(Filter::VolumeBinding, Events::VOLUMES | Events::NODE_LABELS)
            || helps(Filter::VolumeZone, Events::VOLUMES | Events::NODE_LABELS)
            || helps(Filter::DynamicResources, Events::DEVICES | Events::NODE_LABELS)
            || helps(Filter::NodeDeclaredFeatures, Events::NODE_FEATURES)
            || helps(
                Filter::PodTopologySpread,
                Events::POD_REMOVED
                    | Events::POD_COUNTED
                    | Events::NODE_LABELS
                    | Events::NODE_TAINTS
                    | Events::NODE_REMOVED,
            )
            || helps(
                Filter::InterPodAffinity,
                Events::POD_REMOVED | Events::POD_COUNTED | Events::NODE_LABELS | Events::NAMESPACE_LABELS,
            )
    }
}

impl BitOr for Events {
    type Output = Events;

    fn bitor(self, other: Events) -> Events {
        Events(self.0 | other.0)
    }
}

impl BitOrAssign for Events {
    fn bitor_assign(&mut self, other: Events) {
        self.0 |= other.0;
    }
}

/// How long pods wait, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// After the first failure; doubles with each further one.
    pub initial_backoff: u64,
    pub max_backoff: u64,
    /// A pod that no event has helped for so long is tried all the same.
    pub max_unschedulable: u64,
}

impl Default for Waits {
    /// kube-scheduler's: 1 s, 10 s, 5 min.
    fn default() -> Waits {
        Waits { initial_backoff: 1_000, max_backoff: 10_000, max_unschedulable: 300_000 }
    }
}

/// `PrioritySort`: higher priority first, then who came first.
type Rank = (Reverse<i32>, u64, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Active,
    Backoff {
        until: u64,
    },
    Unschedulable {
        since: u64,
    },
    /// Popped: being placed or bound.
    InFlight,
}

#[derive(Debug)]
struct Entry {
    class: Arc<Class>,
    rank: Rank,
    part: Part,
    attempts: u32,
    last_attempt: u64,
    rejected_by: FilterSet,
}

/// The queue. It holds each pod once, and is bounded by the number of pods that the caller knows.
#[derive(Debug, Default)]
pub struct Queue {
    waits: Waits,
    entries: FxHashMap<PodId, Entry>,
    active: BTreeMap<Rank, PodId>,
    backoff: BTreeSet<(u64, PodId)>,
    unschedulable: BTreeSet<(u64, PodId)>,
    sequence: u64,
}

impl Queue {
    /// An empty queue.
    pub fn new(waits: Waits) -> Queue {
        Queue { waits, ..Queue::default() }
    }

    /// Adds a pod that is to be scheduled, or tells of its own update, which may help it. `timestamp` orders pods of
    /// one priority (its creation, in any unit); equal ones keep the order in which they were added.
    pub fn add(&mut self, id: PodId, class: Arc<Class>, priority: i32, timestamp: u64, now: u64) {
        self.sequence += 1;
        let Some(entry) = self.entries.get_mut(&id) else {
            let rank = (Reverse(priority), timestamp, self.sequence);
            let (attempts, last_attempt, rejected_by) = (0, 0, FilterSet::default());
            let entry = Entry { class, rank, part: Part::Active, attempts, last_attempt, rejected_by };
            self.entries.insert(id, entry);
            self.active.insert(rank, id);
            return;
        };
        let changed = !Arc::ptr_eq(&entry.class, &class) || entry.rank.0 != Reverse(priority);
        entry.class = class;
        if entry.rank.0 != Reverse(priority) {
            if entry.part == Part::Active {
                self.active.remove(&entry.rank);
            }
            entry.rank.0 = Reverse(priority);
            if entry.part == Part::Active {
                self.active.insert(entry.rank, id);
            }
        }
        if changed && let Part::Unschedulable { since } = entry.part {
            self.unschedulable.remove(&(since, id));
            self.wake(id, now);
        }
    }

    /// Takes a pod out: it is bound, gone, or no longer ours.
    pub fn remove(&mut self, id: PodId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        match entry.part {
            Part::Active => {
                self.active.remove(&entry.rank);
            }
            Part::Backoff { until } => {
                self.backoff.remove(&(until, id));
            }
            Part::Unschedulable { since } => {
                self.unschedulable.remove(&(since, id));
            }
            Part::InFlight => {}
        }
    }

    /// Pops up to `limit` ready pods in order. Each stays in flight until it is removed or given back by
    /// [`Queue::reject`] or [`Queue::retry`].
    pub fn pop(&mut self, limit: usize, now: u64) -> Vec<Pod> {
        self.expire(now);
        let mut pods = Vec::with_capacity(limit.min(self.active.len()));
        while pods.len() < limit
            && let Some((_, id)) = self.active.pop_first()
        {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.part = Part::InFlight;
                entry.attempts = entry.attempts.saturating_add(1);
                entry.last_attempt = now;
                pods.push(Pod { id, class: entry.class.clone(), priority: entry.rank.0.0 });
            }
        }
        pods
    }

    /// Gives back a pod that these filters rejected: it waits for an event.
    pub fn reject(&mut self, id: PodId, filters: FilterSet, now: u64) {
        if let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.part == Part::InFlight) {
            entry.rejected_by = filters;
            entry.part = Part::Unschedulable { since: now };
            self.unschedulable.insert((now, id));
        }
    }

    /// Gives back a pod that failed for a reason of no filter (its binding did): it backs off.
    pub fn retry(&mut self, id: PodId, now: u64) {
        if self.entries.get(&id).is_some_and(|entry| entry.part == Part::InFlight) {
            self.wake(id, now);
        }
    }

    /// Wakes the pods that these events may help. Those that failed a moment ago back off first.
    pub fn notice(&mut self, events: Events, now: u64) {
        if events.is_empty() || self.unschedulable.is_empty() {
            return;
        }
        let entries = &self.entries;
        let helped = |(_, id): &(u64, PodId)| entries.get(id).is_some_and(|entry| events.may_help(entry.rejected_by));
        let woken: Vec<(u64, PodId)> = self.unschedulable.iter().copied().filter(helped).collect();
        for key in woken {
            self.unschedulable.remove(&key);
            self.wake(key.1, now);
        }
    }

    /// When time alone next makes a pod ready; `None` while it cannot.
    pub fn next_wake(&self) -> Option<u64> {
        let backoff = self.backoff.first().map(|(until, _)| *until);
        let flush = self.unschedulable.first().map(|(since, _)| since + self.waits.max_unschedulable);
        backoff.into_iter().chain(flush).min()
    }

    /// Number of pods that are ready.
    pub fn ready(&self) -> usize {
        self.active.len()
    }

    /// Number of pods that are ready, back off, and wait for an event. Those in flight are in none.
    pub fn depths(&self) -> [usize; 3] {
        [self.active.len(), self.backoff.len(), self.unschedulable.len()]
    }

    /// Makes ready the pods whose backoff, or longest wait for an event, has run out. [`Queue::pop`] does so too.
    pub fn expire(&mut self, now: u64) {
        while let Some(&(since, id)) = self.unschedulable.first()
            && since + self.waits.max_unschedulable <= now
        {
            self.unschedulable.pop_first();
            self.wake(id, now);
        }
        while let Some(&(until, id)) = self.backoff.first()
            && until <= now
        {
            self.backoff.pop_first();
            self.activate(id);
        }
    }

    /// To the ready part, by way of the backoff that is left.
    fn wake(&mut self, id: PodId, now: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let doublings = entry.attempts.saturating_sub(1).min(20);
        let backoff = (self.waits.initial_backoff << doublings).min(self.waits.max_backoff);
        let until = entry.last_attempt.saturating_add(backoff);
        if entry.attempts > 0 && until > now {
            entry.part = Part::Backoff { until };
            self.backoff.insert((until, id));
        } else {
            self.activate(id);
        }
    }

    fn activate(&mut self, id: PodId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.part = Part::Active;
            self.active.insert(entry.rank, id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cluster;

    fn class() -> Arc<Class> {
        Cluster::default().class(&Arc::default())
    }

    fn ids(pods: &[Pod]) -> Vec<u64> {
        pods.iter().map(|pod| pod.id.0).collect()
    }

    fn rejected(filter: Filter) -> FilterSet {
        let mut set = FilterSet::default();
        set.insert(filter);
        set
    }

    #[test]
    fn priority_then_age_then_arrival() {
        let mut queue = Queue::default();
        let class = class();
        for (id, priority, timestamp) in [(1, 0, 20), (2, 5, 30), (3, 0, 10), (4, 0, 20)] {
            queue.add(PodId(id), class.clone(), priority, timestamp, 0);
        }
        assert_eq!(ids(&queue.pop(3, 0)), [2, 3, 1]);
        assert_eq!(ids(&queue.pop(3, 0)), [4]);
        assert_eq!(queue.depths(), [0, 0, 0]);
    }

    #[test]
    fn backoff_doubles_to_its_bound() {
        let mut queue = Queue::default();
        queue.add(PodId(1), class(), 0, 0, 0);
        let mut now = 0;
        for wait in [1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
            assert_eq!(ids(&queue.pop(1, now)), [1]);
            queue.retry(PodId(1), now);
            assert_eq!(queue.next_wake(), Some(now + wait));
            assert!(queue.pop(1, now + wait - 1).is_empty());
            now += wait;
        }
    }

    #[test]
    fn only_an_event_that_helps_wakes_a_rejected_pod() {
        let mut queue = Queue::default();
        queue.add(PodId(1), class(), 0, 0, 0);
        queue.pop(1, 0);
        queue.reject(PodId(1), rejected(Filter::TaintToleration), 0);
        queue.notice(Events::POD_REMOVED | Events::NODE_LABELS, 20_000);
        assert!(queue.pop(1, 20_000).is_empty());
        queue.notice(Events::NODE_TAINTS, 20_000);
        assert_eq!(ids(&queue.pop(1, 20_000)), [1], "its backoff ran out long ago");
        queue.reject(PodId(1), rejected(Filter::TaintToleration), 20_000);
        queue.notice(Events::NODE_ADDED, 20_001);
        assert!(queue.pop(1, 20_001).is_empty(), "it backs off first");
        assert_eq!(queue.next_wake(), Some(22_000));
    }

    #[test]
    fn a_forgotten_pod_is_tried_again_after_five_minutes() {
        let mut queue = Queue::default();
        queue.add(PodId(1), class(), 0, 0, 0);
        queue.pop(1, 0);
        queue.reject(PodId(1), rejected(Filter::NodeName), 7);
        assert_eq!(queue.next_wake(), Some(300_007));
        assert!(queue.pop(1, 300_006).is_empty());
        assert_eq!(ids(&queue.pop(1, 300_007)), [1]);
    }

    #[test]
    fn a_removed_pod_is_in_no_part() {
        let mut queue = Queue::default();
        for id in 1..=4 {
            queue.add(PodId(id), class(), 0, id, 0);
        }
        queue.pop(3, 0);
        queue.reject(PodId(1), FilterSet::ALL, 0);
        queue.retry(PodId(2), 0);
        (1..=4).for_each(|id| queue.remove(PodId(id)));
        assert_eq!((queue.depths(), queue.entries.len()), ([0, 0, 0], 0));
        queue.reject(PodId(3), FilterSet::ALL, 0);
        assert_eq!(queue.next_wake(), None);
    }

    #[test]
    fn an_update_of_its_own_wakes_a_pod() {
        let mut queue = Queue::default();
        let mut cluster = Cluster::default();
        let class = cluster.class(&Arc::default());
        queue.add(PodId(1), class.clone(), 0, 0, 0);
        queue.pop(1, 0);
        queue.reject(PodId(1), FilterSet::ALL, 0);
        queue.add(PodId(1), class, 0, 0, 5_000);
        assert!(queue.pop(1, 5_000).is_empty(), "nothing that matters changed");
        let node_name = Some("n1".into());
        let other = cluster.class(&Arc::new(crate::PodTemplate { node_name, ..Default::default() }));
        queue.add(PodId(1), other.clone(), 0, 0, 5_000);
        let popped = queue.pop(1, 5_000);
        assert!(Arc::ptr_eq(&popped[0].class, &other));
    }
}
