//! All agents as one state machine: API objects, answers and the time go in, API calls come out. No I/O, no clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::Millis;
use crate::admission;
use crate::config::{Config, Timings};
use crate::digest::{between, mix};
use crate::lease::{LeaseObject, next_renewal};
use crate::node::{Images, Mode, Node, Shape, network, zone};
use crate::notes::{About, Note, Notes};
use crate::places::Places;
use crate::plan::{ANNOTATION, Plan, Plans, milliseconds};
use crate::pod::{Phase, Pod, Scene};
use crate::queue::{Job, Queue, Slot};
use crate::size::VmSize;
use crate::status;
use crate::view;

/// First and longest pause after a failed call.
const RETRY: (Millis, Millis) = (200, 7_000);

/// What an agent wants from the API.
#[derive(Debug)]
pub(crate) enum Request {
    CreateNode(Value),
    NodeStatus { name: Arc<str>, patch: Value },
    CreateLease(Box<RawValue>),
    RenewLease { name: Arc<str>, lease: Box<RawValue> },
    ReadLease { name: Arc<str> },
    PodStatus { key: Arc<str>, patch: Box<RawValue> },
    DeletePod { key: Arc<str>, uid: Arc<str> },
}

/// A call to make; its answer goes to [`Agents::answered`].
#[derive(Debug)]
pub(crate) struct Call {
    pub job: Job,
    pub request: Request,
}

/// Why a call failed, as far as it matters what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    NotFound,
    Conflict,
    Exists,
    /// The server will not have it, now or later.
    Refused,
    /// No answer, or one that asks to try again.
    Retry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The lease's own beat, for as long as the node is there.
    Lease(Slot),
    /// The status is reported even if it has not changed.
    Heartbeat(Slot),
    LeaseRetry(Slot),
    NodeRetry(Slot),
    Pod(Slot),
}

/// Counts for metrics.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub calls: u64,
    pub retries: u64,
    pub refused_calls: u64,
    pub registered: usize,
    pub ready: usize,
    pub pods_running: usize,
    pub status_writes: u64,
    pub renewals: u64,
    /// Pods that their node refused, by reason.
    pub refusals: std::collections::BTreeMap<String, u64>,
}

/// All VMs, their agents and their pods.
pub(crate) struct Agents {
    pub timings: Timings,
    pub shape: Shape,
    seed: u64,
    capacity: usize,
    pub(crate) nodes: Places<Node>,
    pub(crate) names: FxHashMap<Arc<str>, Slot>,
    pub(crate) pods: Places<Box<Pod>>,
    keys: FxHashMap<Arc<str>, Slot>,
    /// News for agents that cannot be reached; `None`: the pod is gone.
    pub(crate) parked: FxHashMap<Arc<str>, Option<Box<view::Pod>>>,
    plans: Plans,
    images: Images,
    notes: Notes,
    queue: Queue,
    timers: BinaryHeap<Reverse<(Millis, Timer)>>,
    pub(crate) started: bool,
    pub counts: Counts,
}

impl Agents {
    /// The VMs of a configuration; nothing is registered before [`Agents::start`].
    pub fn new(config: &Config, sizes: &[&'static VmSize], port: u16, now: Millis) -> Agents {
        let mut agents = Agents {
            timings: config.timings.clone(),
            shape: Shape {
                region: config.region.as_str().into(),
                max_pods: config.max_pods,
                seed: config.seed,
                address: config.address.to_string(),
                port,
            },
            seed: config.seed,
            capacity: config.nodes,
            nodes: Places::new(),
            names: FxHashMap::default(),
            pods: Places::new(),
            keys: FxHashMap::default(),
            parked: FxHashMap::default(),
            plans: Plans::default(),
            images: Images::default(),
            notes: Notes::new(config.events_per_second, now),
            queue: Queue::default(),
            timers: BinaryHeap::new(),
            started: false,
            counts: Counts::default(),
        };
        let pool: Arc<str> = config.pool.as_str().into();
        let zones: Vec<Arc<str>> = (0..config.zones.len().max(1)).map(|index| zone(config, index).into()).collect();
        for index in 0..config.nodes {
            let size = sizes[index % sizes.len()];
            agents.add(&config.node_name(index), size, pool.clone(), zones[index % zones.len()].clone(), now);
        }
        agents
    }

    pub(crate) fn add(
        &mut self,
        name: &str,
        size: &'static VmSize,
        pool: Arc<str>,
        zone: Arc<str>,
        now: Millis,
    ) -> Slot {
        let slot = self.nodes.next();
        let mut node = Node::new(name, size, pool, zone);
        (node.network, node.prefix) = network(slot.index, self.capacity.max(1 << 12));
        node.booted = now;
        self.names.insert(node.name.clone(), slot);
        self.nodes.insert(node)
    }

    /// Both lists have been seen: whoever is not there registers now, and those that are there report.
    pub fn start(&mut self, now: Millis) {
        self.started = true;
        let slots: Vec<Slot> = self.nodes.iter().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.boot(slot, now);
        }
    }

    pub(crate) fn boot(&mut self, slot: Slot, now: Millis) {
        let Some(node) = self.nodes.get_mut(slot) else { return };
        node.stale = true;
        // Where the lease stands is not known yet, and whether there is one.
        node.lease.absent = !node.exists;
        let renewal = next_renewal(slot.index, now, &self.timings);
        let first = between(mix(self.seed, &node.name), self.timings.heartbeat / 4, self.timings.heartbeat);
        self.timers.push(Reverse((renewal, Timer::Lease(slot))));
        self.timers.push(Reverse((now + first, Timer::Heartbeat(slot))));
        self.want_node(slot);
        self.want_lease(slot);
    }

    pub(crate) fn want_node(&mut self, slot: Slot) {
        if let Some(node) = self.nodes.get_mut(slot)
            && !node.queued
            && !node.in_flight
            && node.mode == Mode::Up
        {
            node.queued = true;
            self.queue.push(Job::Node(slot));
        }
    }

    pub(crate) fn want_lease(&mut self, slot: Slot) {
        if let Some(node) = self.nodes.get_mut(slot)
            && !node.lease.queued
            && !node.lease.in_flight
            && node.mode == Mode::Up
            && !node.uid.is_empty()
        {
            node.lease.queued = true;
            self.queue.push(Job::Lease(slot));
        }
    }

    /// When [`Agents::advance`] has something to do next.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Calls that wait to be taken.
    pub fn backlog(&self) -> usize {
        self.queue.len()
    }

    /// Carries out everything that is due.
    pub fn advance(&mut self, now: Millis) {
        while let Some(Reverse((at, timer))) = self.timers.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            self.timers.pop();
            match timer {
                Timer::Lease(slot) => {
                    if self.nodes.get(slot).is_some() {
                        self.want_lease(slot);
                        self.timers.push(Reverse((next_renewal(slot.index, now, &self.timings), Timer::Lease(slot))));
                    }
                }
                Timer::Heartbeat(slot) => {
                    if let Some(node) = self.nodes.get_mut(slot) {
                        node.stale = true;
                        self.timers.push(Reverse((now + self.timings.heartbeat, Timer::Heartbeat(slot))));
                        self.want_node(slot);
                    }
                }
                Timer::LeaseRetry(slot) => self.want_lease(slot),
                Timer::NodeRetry(slot) => self.want_node(slot),
                Timer::Pod(slot) => {
                    if let Some(pod) = self.pods.get_mut(slot)
                        && pod.armed == at
                    {
                        pod.armed = Millis::MAX;
                        self.attend(slot, now);
                    }
                }
            }
        }
    }

    /// The next call to make. Its content is worked out now: the latest state wins.
    pub fn next_call(&mut self, now: Millis) -> Option<Call> {
        loop {
            let job = self.queue.pop()?;
            let request = match job {
                Job::Node(slot) => self.node_request(slot, now),
                Job::Lease(slot) => self.lease_request(slot, now),
                Job::Pod(slot) => self.pod_request(slot),
            };
            if let Some(request) = request {
                self.counts.calls += 1;
                return Some(Call { job, request });
            }
        }
    }

    fn node_request(&mut self, slot: Slot, now: Millis) -> Option<Request> {
        let node = self.nodes.get_mut(slot)?;
        node.queued = false;
        if node.mode != Mode::Up || (node.exists && !node.stale) {
            return None;
        }
        node.in_flight = true;
        node.stale = false;
        let node = self.nodes.get(slot)?;
        Some(if !node.exists {
            Request::CreateNode(node.object(&self.shape, &self.images, now))
        } else if node.ready && now > node.booted + self.timings.heartbeat / 4 {
            Request::NodeStatus { name: node.name.clone(), patch: node.heartbeat(&self.images, now) }
        } else {
            let status = node.status(&self.shape, &self.images, now);
            Request::NodeStatus { name: node.name.clone(), patch: serde_json::json!({ "status": status }) }
        })
    }

    fn lease_request(&mut self, slot: Slot, now: Millis) -> Option<Request> {
        let node = self.nodes.get_mut(slot)?;
        node.lease.queued = false;
        if node.mode != Mode::Up || node.uid.is_empty() {
            return None;
        }
        let name = node.name.clone();
        let lease = to_raw_value(&LeaseObject::new(&node.name, &node.uid, &node.lease.version, now)).ok()?;
        node.lease.in_flight = true;
        Some(if node.lease.absent {
            Request::CreateLease(lease)
        } else if node.lease.version.is_empty() {
            Request::ReadLease { name }
        } else {
            self.counts.renewals += 1;
            Request::RenewLease { name, lease }
        })
    }

    fn pod_request(&mut self, slot: Slot) -> Option<Request> {
        let pod = self.pods.get_mut(slot)?;
        pod.queued = false;
        let up = self.nodes.at(pod.node).is_some_and(|n| n.mode == Mode::Up);
        if !up {
            return None;
        }
        if pod.dirty.is_some() && (!pod.goes() || pod.watched_end) {
            pod.dirty = None;
            let patch = status::patch(pod, &self.shape.address, &self.timings).ok()?;
            let digest = mix(1, patch.get());
            if digest != pod.published {
                pod.published = digest;
                pod.in_flight = true;
                self.counts.status_writes += 1;
                return Some(Request::PodStatus { key: pod.key.clone(), patch });
            }
        }
        if pod.goes() && !pod.removed {
            pod.in_flight = true;
            return Some(Request::DeletePod { key: pod.key.clone(), uid: pod.uid.clone() });
        }
        None
    }

    /// The answer to a call.
    pub fn answered(&mut self, now: Millis, call: &Call, answer: Result<view::Written, Failed>) {
        match answer {
            Err(Failed::Retry) => self.counts.retries += 1,
            Err(Failed::Refused) => self.counts.refused_calls += 1,
            _ => {}
        }
        match call.job {
            Job::Node(slot) => {
                self.counted(slot, |agents| agents.node_answered(slot, now, &call.request, answer));
            }
            Job::Lease(slot) => self.lease_answered(slot, now, &call.request, answer),
            Job::Pod(slot) => self.pod_answered(slot, now, &call.request, answer),
        }
    }

    fn node_answered(&mut self, slot: Slot, now: Millis, request: &Request, answer: Result<view::Written, Failed>) {
        let Some(node) = self.nodes.get_mut(slot) else { return };
        node.in_flight = false;
        let creating = matches!(request, Request::CreateNode(_));
        match answer {
            Ok(written) => {
                node.attempts = 0;
                node.uid = written.metadata.uid;
                if creating {
                    node.exists = true;
                    // A server that drops the status of a new object gets it again by itself.
                    node.stale |= written.status.conditions.is_empty();
                }
                node.ready |= !written.status.conditions.is_empty();
                let stale = node.stale;
                if node.lease.version.is_empty() {
                    self.want_lease(slot);
                }
                if stale {
                    self.want_node(slot);
                }
            }
            Err(Failed::Exists) => {
                node.exists = true;
                node.stale = true;
                node.lease.absent = false;
                self.want_node(slot);
            }
            Err(Failed::NotFound) => {
                node.exists = false;
                node.uid = "".into();
                self.want_node(slot);
            }
            Err(_) => {
                node.stale = true;
                let at = now + retry_pause(node.attempts, &node.name, self.seed);
                node.attempts = node.attempts.saturating_add(1);
                self.timers.push(Reverse((at, Timer::NodeRetry(slot))));
            }
        }
    }

    fn lease_answered(&mut self, slot: Slot, now: Millis, request: &Request, answer: Result<view::Written, Failed>) {
        let Some(node) = self.nodes.get_mut(slot) else { return };
        let read = matches!(request, Request::ReadLease { .. });
        node.lease.in_flight = false;
        match answer {
            Ok(written) => {
                node.lease.version = written.metadata.resource_version;
                node.lease.absent = false;
                node.lease.attempts = 0;
                // What was only read is still to be renewed.
                if read {
                    self.want_lease(slot);
                }
            }
            Err(failed) => {
                node.lease.version = "".into();
                node.lease.absent = failed == Failed::NotFound;
                node.lease.attempts = node.lease.attempts.saturating_add(1);
                // What is wrong is known now: try at once, but not for ever.
                let known = matches!(failed, Failed::NotFound | Failed::Conflict | Failed::Exists);
                if known && node.lease.attempts < 4 {
                    self.want_lease(slot);
                } else {
                    let at = now + retry_pause(node.lease.attempts, &node.name, self.seed);
                    self.timers.push(Reverse((at, Timer::LeaseRetry(slot))));
                }
            }
        }
    }

    fn pod_answered(&mut self, slot: Slot, now: Millis, request: &Request, answer: Result<view::Written, Failed>) {
        let Some(pod) = self.pods.get_mut(slot) else { return };
        pod.in_flight = false;
        match answer {
            Ok(_) | Err(Failed::NotFound) => {
                // What is gone from the API will be gone from the watch.
                pod.attempts = 0;
                pod.removed |= matches!(request, Request::DeletePod { .. }) || answer.is_err();
            }
            // Another pod has its name by now.
            Err(Failed::Conflict) if matches!(request, Request::DeletePod { .. }) => pod.removed = true,
            Err(failed) => {
                pod.published = 0;
                pod.attempts = pod.attempts.saturating_add(1);
                let status = matches!(request, Request::PodStatus { .. });
                let hopeless = failed == Failed::Refused || (failed == Failed::Conflict && pod.attempts > 3);
                if status && hopeless {
                    // It is written again when it changes.
                    tracing::warn!(pod = %pod.key, "the API server refuses the pod's status");
                } else {
                    if status {
                        pod.dirty.get_or_insert(now);
                    }
                    pod.not_before = now + retry_pause(pod.attempts, &pod.uid, self.seed);
                }
            }
        }
        self.attend(slot, now);
    }

    /// Brings a pod up to date, and sees to it that it is looked at again when something is due.
    pub(crate) fn attend(&mut self, slot: Slot, now: Millis) {
        let Some(pod) = self.pods.get_mut(slot) else { return };
        let Some(node) = self.nodes.at_mut(pod.node) else {
            return;
        };
        if node.mode == Mode::Crashed {
            return;
        }
        let was_running = pod.phase == Phase::Running;
        let mut scene = Scene {
            now,
            timings: &self.timings,
            seed: self.seed,
            node,
            images: &mut self.images,
            notes: &mut self.notes,
        };
        pod.step(&mut scene);
        let is_running = pod.phase == Phase::Running;
        self.counts.pods_running = self.counts.pods_running + usize::from(is_running) - usize::from(was_running);
        if pod.is_over() && std::mem::take(&mut pod.holds) {
            node.release(&pod.plan, pod.ip);
        }
        let mut at = pod.due(now);
        if node.mode == Mode::Up && !pod.queued && !pod.in_flight {
            let write = match pod.goes() && !(pod.watched_end && pod.dirty.is_some()) {
                true => (!pod.removed).then_some(pod.not_before),
                false => pod.write_at(now, &self.timings),
            };
            match write {
                Some(write) if write <= now => {
                    pod.queued = true;
                    self.queue.push(Job::Pod(slot));
                }
                Some(write) => at = at.min(write),
                None => {}
            }
        }
        // Never for a moment that has passed: that would keep the clock from going on.
        let at = at.max(now + 1);
        if at < pod.armed {
            pod.armed = at;
            self.timers.push(Reverse((at, Timer::Pod(slot))));
        }
    }

    /// A Node as the API has it now.
    pub fn node(&mut self, now: Millis, node: view::Node) {
        let Some(&slot) = self.names.get(&node.metadata.name) else { return };
        let Some(own) = self.nodes.get_mut(slot) else { return };
        // What comes back while the agent registers is its own doing.
        let fresh = own.uid != node.metadata.uid && !own.in_flight;
        self.counted(slot, |agents| {
            if let Some(own) = agents.nodes.get_mut(slot) {
                own.observe(node, &agents.shape);
            }
        });
        let Some(own) = self.nodes.get_mut(slot) else { return };
        if fresh && self.started {
            // Another object of the same name, or one that somebody else made.
            own.lease =
                crate::lease::Lease { queued: own.lease.queued, in_flight: own.lease.in_flight, ..Default::default() };
            own.stale = true;
            self.want_lease(slot);
        } else if !own.ready && self.started && own.mode == Mode::Up {
            // Somebody holds it for lost: it is not.
            own.stale = true;
        }
        if self.nodes.get(slot).is_some_and(|own| own.lease.version.is_empty()) && self.started {
            self.want_lease(slot);
        }
        let stale = self.started && self.nodes.get(slot).is_some_and(|own| own.stale);
        if stale {
            // Not at once: whoever says otherwise might do so again.
            self.timers.push(Reverse((now + RETRY.0, Timer::NodeRetry(slot))));
        }
    }

    /// A Node is gone from the API. Its VM is still there, so its agent registers again.
    pub fn node_gone(&mut self, name: &str, uid: &str) {
        let Some(&slot) = self.names.get(name) else { return };
        let Some(node) = self.nodes.get_mut(slot).filter(|node| node.uid.is_empty() || *node.uid == *uid) else {
            return;
        };
        node.uid = "".into();
        (node.labels, node.taints) = (None, Box::default());
        node.lease.version = "".into();
        node.lease.absent = true;
        self.counted(slot, |agents| {
            if let Some(node) = agents.nodes.get_mut(slot) {
                (node.exists, node.ready) = (false, false);
            }
        });
        if self.started {
            self.want_node(slot);
        }
    }

    /// A Pod as the API has it now.
    pub fn pod(&mut self, now: Millis, pod: Box<view::Pod>) {
        let Some(&node) = self.names.get(pod.spec.node_name.as_str()) else { return };
        let key: Arc<str> = pod.metadata.key().into();
        if self.nodes.get(node).is_none_or(|node| node.mode != Mode::Up) {
            self.parked.insert(key, Some(pod));
            return;
        }
        match self.keys.get(&key).copied() {
            Some(slot) if self.pods.get(slot).is_some_and(|known| known.uid == pod.metadata.uid) => {
                self.update(slot, now, &pod);
            }
            known => {
                if let Some(slot) = known {
                    self.forget(slot);
                }
                self.admit(node, key, now, &pod);
            }
        }
    }

    /// A Pod is gone from the API.
    pub fn pod_gone(&mut self, key: &str, uid: &str) {
        let Some(&slot) = self.keys.get(key) else {
            self.parked.remove(key);
            return;
        };
        let Some(pod) = self.pods.get(slot).filter(|pod| uid.is_empty() || *pod.uid == *uid) else { return };
        let up = self.nodes.at(pod.node).is_none_or(|node| node.mode == Mode::Up);
        if up {
            self.forget(slot);
        } else {
            self.parked.insert(key.into(), None);
        }
    }

    pub(crate) fn forget(&mut self, slot: Slot) {
        let Some(pod) = self.pods.remove(slot) else { return };
        self.keys.remove(&pod.key);
        self.counts.pods_running -= usize::from(pod.phase == Phase::Running);
        if pod.holds
            && let Some(node) = self.nodes.at_mut(pod.node)
        {
            node.release(&pod.plan, pod.ip);
        }
        self.plans.release(pod.plan);
    }

    /// A pod that the agent sees for the first time: new, or left by the agent's former run.
    fn admit(&mut self, node_slot: Slot, key: Arc<str>, now: Millis, seen: &view::Pod) {
        let plan = self.plans.share(Plan::of(seen, &self.timings));
        let mut pod = Pod::new(key.clone(), seen.metadata.uid.clone(), node_slot.index, plan.clone(), now);
        pod.generation = seen.metadata.generation.unwrap_or(0);
        pod.watched_end = status::end_is_watched(plan.restart, !seen.metadata.finalizers.is_empty());
        pod.annotated = is_annotated(seen);
        pod.gates_met = gates_met(&plan, seen);
        let Some(node) = self.nodes.get_mut(node_slot) else { return };
        let known = pod.adopt(seen, node, &mut self.images, &self.timings, now);
        if !known {
            if let Some(failure) = admission::refusal(&seen.spec, &plan, node, &self.shape) {
                *self.counts.refusals.entry(failure.reason.clone()).or_default() += 1;
                let (reason, message) = (failure.reason.clone(), failure.message.clone());
                pod.refuse(&failure.reason, failure.message, now);
                tracing::warn!(pod = %key, node = %node.name, reason, "pod refused");
                let about = About { key: &key, uid: &pod.uid, container: "", node: &node.name };
                self.notes.warning(now, about, refusal_event(&reason), || message);
            } else {
                pod.dirty = Some(now);
                pod.sandbox_at = now + self.timings.sandbox;
            }
        }
        if !pod.is_over() {
            node.take(&plan);
            pod.holds = true;
            if plan.host_network {
                pod.ip = Some(pod.ip.unwrap_or(Ipv4Addr::LOCALHOST));
            } else if pod.ip.is_none() {
                pod.ip = node.new_address();
            }
        }
        self.counts.pods_running += usize::from(pod.phase == Phase::Running);
        let slot = self.pods.insert(Box::new(pod));
        self.keys.insert(key, slot);
        self.update(slot, now, seen);
    }

    fn update(&mut self, slot: Slot, now: Millis, seen: &view::Pod) {
        let Some(pod) = self.pods.get_mut(slot) else { return };
        let Some(node) = self.nodes.at_mut(pod.node) else { return };
        let mut scene = Scene {
            now,
            timings: &self.timings,
            seed: self.seed,
            node,
            images: &mut self.images,
            notes: &mut self.notes,
        };
        let annotated = is_annotated(seen);
        if pod.annotated || annotated || !same_images(pod, seen) {
            pod.annotated = annotated;
            let plan = Plan::of(seen, &self.timings);
            if plan != *pod.plan && plan.containers.len() == pod.containers.len() {
                let plan = self.plans.share(plan);
                let old = pod.replan(plan, &mut scene);
                self.plans.release(old);
            }
        }
        pod.gates_met = gates_met(&pod.plan, seen);
        let generation = seen.metadata.generation.unwrap_or(0);
        if generation != pod.generation {
            pod.generation = generation;
            if !seen.metadata.is_terminating() && !pod.is_over() {
                pod.dirty.get_or_insert(now);
            }
        }
        pod.watched_end = status::end_is_watched(pod.plan.restart, !seen.metadata.finalizers.is_empty());
        if seen.metadata.is_terminating() {
            pod.deleting = true;
            let grace = seen.metadata.deletion_grace_period_seconds.map_or(pod.plan.grace, milliseconds);
            pod.stop(grace, &mut scene);
        }
        self.attend(slot, now);
    }

    /// Events to send.
    pub fn take_notes(&mut self) -> VecDeque<Note> {
        self.notes.take()
    }

    /// Events that were too many.
    pub fn notes_dropped(&self) -> u64 {
        self.notes.dropped
    }

    /// Number of VMs, of registered nodes, of Ready nodes.
    pub fn node_counts(&self) -> (usize, usize, usize) {
        (self.names.len(), self.counts.registered, self.counts.ready)
    }

    /// Does something with a node and keeps the counts of nodes right.
    pub(crate) fn counted(&mut self, slot: Slot, change: impl FnOnce(&mut Agents)) {
        let standing = |agents: &Agents| {
            let node = agents.nodes.get(slot).filter(|node| node.exists);
            (usize::from(node.is_some()), usize::from(node.is_some_and(|node| node.ready)))
        };
        let before = standing(self);
        change(self);
        let after = standing(self);
        self.counts.registered = self.counts.registered + after.0 - before.0;
        self.counts.ready = self.counts.ready + after.1 - before.1;
    }

    /// All pods, with their nodes.
    pub fn pods(&self) -> impl Iterator<Item = (&Pod, &Node)> {
        self.pods.iter().filter_map(|(_, pod)| Some((&**pod, self.nodes.at(pod.node)?)))
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().map(|(_, node)| node)
    }

    /// A pod and its node.
    pub fn find(&self, namespace: &str, name: &str) -> Option<(&Pod, &Node)> {
        let pod = self.pods.get(*self.keys.get(format!("{namespace}/{name}").as_str())?)?;
        Some((pod, self.nodes.at(pod.node)?))
    }
}

fn refusal_event(reason: &str) -> &'static str {
    ["OutOfcpu", "OutOfmemory", "OutOfpods", "NodeAffinity", "NodePorts", "TaintToleration"]
        .into_iter()
        .find(|known| *known == reason)
        .unwrap_or("AdmissionRejected")
}

fn is_annotated(pod: &view::Pod) -> bool {
    pod.metadata.annotations.keys().any(|key| key.starts_with(ANNOTATION))
}

fn same_images(pod: &Pod, seen: &view::Pod) -> bool {
    let images =
        seen.spec.init_containers.iter().chain(&seen.spec.containers).map(|container| container.image.as_str());
    pod.plan.containers.iter().map(|container| &*container.image).eq(images)
}

fn gates_met(plan: &Plan, seen: &view::Pod) -> bool {
    plan.gates.iter().all(|gate| seen.status.conditions.iter().any(|c| *c.r#type == **gate && c.status == "True"))
}

/// The pause before another try: doubles, and differs from object to object.
fn retry_pause(attempts: u8, name: &str, seed: u64) -> Millis {
    let pause = (RETRY.0 << attempts.min(6)).min(RETRY.1);
    pause + between(mix(seed ^ u64::from(attempts), name), 0, pause / 4)
}
