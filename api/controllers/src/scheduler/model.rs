//! What the driver knows: every pod's stage, the core, the queue. Synchronous, and told the time.
//!
//! A pod holds capacity from the moment it is placed. It keeps that place until the API has said, in so many words,
//! that the pod is not bound there; an answer that never came is no such word. So nothing that the scheduler does, and
//! no failure on the way, books a node twice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use kelson_sched::{Budget, Cluster, Decision, Diagnosis, Events, NodeId, Pod, PodId, Queue, Waits};
use kelson_wire::kube::{Delta, Keyed};
use rustc_hash::FxHashMap;

use super::eviction::Eviction;
use super::view::{Condition, NodeView, PodView};

/// The name that a pod without one means.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";
const UNSCHEDULABLE: &str = "Unschedulable";
const SCHEDULER_ERROR: &str = "SchedulerError";

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not ours to place now: another scheduler's, gated, terminating, or with a constraint that is not supported.
    Idle,
    /// In the queue.
    Pending,
    /// It has a node in the core, and a binding is under way.
    Binding,
    /// The API took the binding; the watch has not shown it yet.
    Assumed,
    /// The watch shows it on its node.
    Bound,
}

#[derive(Debug)]
pub(super) struct Known {
    pub view: Arc<PodView>,
    stage: Stage,
    /// Pods that are being evicted for it.
    pub victims: u32,
    /// The message last reported, so that a pod that waits is not reported again for the same reason.
    reported: Option<Arc<str>>,
}

/// A binding to make.
#[derive(Clone, Debug)]
pub struct Binding {
    pub id: PodId,
    pub view: Arc<PodView>,
    pub node: Arc<str>,
    /// How often it was sent without an answer.
    pub unanswered: u32,
}

/// How a binding ended.
#[derive(Debug)]
pub enum Outcome {
    /// The API took it.
    Bound,
    /// The API refused, and the pod is not bound: why.
    Refused(String),
    /// The API refused because of what the pod is now.
    Changed(Box<PodView>),
    /// The pod is gone.
    Gone,
    /// No answer, so it may have been done.
    Unknown(String),
}

/// Something to tell about a pod that cannot be placed.
#[derive(Debug)]
pub struct Report {
    pub id: PodId,
    pub view: Arc<PodView>,
    /// `Unschedulable`, or `SchedulerError` where the pod fits and the API refused.
    pub reason: &'static str,
    pub message: Arc<str>,
    /// The node on which room is being made for it.
    pub nominated: Option<Arc<str>>,
}

/// The driver's knowledge.
pub struct Model {
    pub(super) cluster: Cluster,
    pub(super) queue: Queue,
    scheduler_name: Box<str>,
    pub(super) pods: FxHashMap<PodId, Known>,
    by_uid: FxHashMap<Arc<str>, PodId>,
    next_id: u64,
    /// Pods whose binding the API took, oldest first, with the time by which the watch should have shown it.
    unconfirmed: VecDeque<(u64, PodId)>,
    /// What to tell, the latest for each pod, in the order of `untold`.
    reports: FxHashMap<PodId, Report>,
    untold: VecDeque<PodId>,
    /// Victims, with the pods that they make room for.
    pub(super) evicting: FxHashMap<PodId, PodId>,
    pub(super) evictions: VecDeque<Eviction>,
    pub(super) budgets: BTreeMap<(Arc<str>, Arc<str>), Budget>,
}

impl Model {
    /// Knows nothing yet.
    pub fn new(scheduler_name: &str, workers: usize, seed: u64, waits: Waits) -> Model {
        Model {
            cluster: Cluster::new(workers, seed),
            queue: Queue::new(waits),
            scheduler_name: scheduler_name.into(),
            pods: FxHashMap::default(),
            by_uid: FxHashMap::default(),
            next_id: 0,
            unconfirmed: VecDeque::new(),
            reports: FxHashMap::default(),
            untold: VecDeque::new(),
            evicting: FxHashMap::default(),
            evictions: VecDeque::new(),
            budgets: BTreeMap::new(),
        }
    }

    /// Takes in a change of a node.
    pub fn node_changed(&mut self, delta: &Delta<NodeView>, now: u64) {
        match &delta.new {
            Some(node) => {
                let events = self.cluster.upsert_node(&node.spec);
                self.queue.notice(events, now);
            }
            None => {
                self.cluster.remove_node(&delta.latest().spec.name);
                self.queue.notice(Events::NODE_REMOVED, now);
            }
        }
    }

    /// Takes in a change of a pod.
    pub fn pod_changed(&mut self, delta: &Delta<PodView>, now: u64) {
        let uid = |side: &Option<Arc<PodView>>| side.as_ref().map(|view| view.meta().uid.clone());
        if let Some(old) = uid(&delta.old).filter(|old| uid(&delta.new).as_ref() != Some(old)) {
            // Gone, or replaced by another pod of the same name.
            self.forget_pod(&old, now);
        }
        if let Some(view) = &delta.new {
            self.see_pod(view, now);
        }
    }

    fn see_pod(&mut self, view: &Arc<PodView>, now: u64) {
        let uid = &view.meta().uid;
        if view.ended {
            self.forget_pod(uid, now);
            return;
        }
        let id = self.by_uid.get(uid).copied().unwrap_or_else(|| {
            self.next_id += 1;
            let id = PodId(self.next_id);
            self.by_uid.insert(uid.clone(), id);
            let known = Known { view: view.clone(), stage: Stage::Idle, victims: 0, reported: None };
            self.pods.insert(id, known);
            id
        });
        let Some(known) = self.pods.get_mut(&id) else { return };
        known.view = view.clone();
        if view.meta().is_terminating() {
            self.eviction_ended(id);
        }
        let Some(known) = self.pods.get_mut(&id) else { return };
        if !view.node_name.is_empty() {
            known.stage = Stage::Bound;
            self.queue.remove(id);
            let before = self.cluster.placed(id);
            let node = self.cluster.add_pod(id, &view.node_name, &view.template, view.tenure());
            let mut events = Events::default();
            if before.is_some_and(|before| before != node) {
                events |= Events::POD_REMOVED;
            }
            if before != Some(node) || view.meta().is_terminating() {
                let class = self.cluster.class(&view.template);
                events |= if self.cluster.is_counted(&class) { Events::POD_COUNTED } else { Events::default() };
            }
            self.queue.notice(events, now);
            return;
        }
        match known.stage {
            // The watch lags behind the binding.
            Stage::Binding | Stage::Assumed | Stage::Bound => {}
            Stage::Idle | Stage::Pending => self.admit(id, now),
        }
    }

    /// Queues a pod that is not bound, if it is ours to place.
    fn admit(&mut self, id: PodId, now: u64) {
        let Some(known) = self.pods.get_mut(&id) else { return };
        let view = &known.view;
        let ours = *view.scheduler_name == *self.scheduler_name
            || view.scheduler_name.is_empty() && &*self.scheduler_name == DEFAULT_SCHEDULER;
        if !ours || view.gated || view.meta().is_terminating() {
            known.stage = Stage::Idle;
            self.queue.remove(id);
            return;
        }
        if let Some(unsupported) = &view.unsupported {
            let message = unsupported.to_string().into();
            known.stage = Stage::Idle;
            self.queue.remove(id);
            self.report(id, UNSCHEDULABLE, &message, None);
            return;
        }
        known.stage = Stage::Pending;
        let class = self.cluster.class(&view.template);
        if let Some(name) = &view.nominated
            && self.cluster.nominated(id).is_none()
            && let Some(node) = self.cluster.node(name)
        {
            // By a scheduler before this one.
            self.cluster.nominate(&Pod { id, class: class.clone(), priority: view.priority }, node);
        }
        self.queue.add(id, class, view.priority, view.created(), now);
    }

    fn forget_pod(&mut self, uid: &Arc<str>, now: u64) {
        let Some(id) = self.by_uid.remove(uid) else { return };
        self.eviction_ended(id);
        self.pods.remove(&id);
        self.reports.remove(&id);
        self.queue.remove(id);
        let nominated = self.cluster.denominate(id).is_some();
        if self.cluster.remove_pod(id).is_some() || nominated {
            self.queue.notice(Events::POD_REMOVED, now);
        }
    }

    /// Makes ready the pods whose backoff has run out.
    pub fn wake(&mut self, now: u64) {
        self.queue.expire(now);
    }

    /// Number of pods that a batch could place now.
    pub fn ready(&self) -> usize {
        self.queue.ready()
    }

    /// Places a batch of at most `limit` pods, highest priority first. Heavy for a large batch.
    pub fn schedule(&mut self, limit: usize, now: u64) -> Vec<Binding> {
        let pods = self.queue.pop(limit, now);
        if pods.is_empty() {
            return Vec::new();
        }
        let decisions = self.cluster.schedule(&pods);
        let mut bindings = Vec::with_capacity(pods.len());
        let mut counted = false;
        let mut message: Option<(Arc<Diagnosis>, Arc<str>)> = None;
        for (pod, decision) in pods.iter().zip(decisions) {
            match decision {
                Decision::Bound(node) => {
                    counted |= self.cluster.is_counted(&pod.class);
                    bindings.extend(self.bind(pod, node));
                }
                Decision::Unschedulable(diagnosis) => {
                    let nominated = self.make_room(pod);
                    self.queue.reject(pod.id, diagnosis.filters(), now);
                    // Pods of a class share their diagnosis: its text is made once for a run of them.
                    let known = message.take_if(|(of, _)| Arc::ptr_eq(of, &diagnosis));
                    let (_, text) = message.insert(known.unwrap_or_else(|| {
                        let text = diagnosis.to_string().into();
                        (diagnosis, text)
                    }));
                    let text = text.clone();
                    self.report(pod.id, UNSCHEDULABLE, &text, nominated);
                }
            }
        }
        if counted {
            // What was refused before these came may have been waiting for them.
            self.queue.notice(Events::POD_COUNTED, now);
        }
        bindings
    }

    fn bind(&mut self, pod: &Pod, node: NodeId) -> Option<Binding> {
        let known = self.pods.get_mut(&pod.id)?;
        known.stage = Stage::Binding;
        let node = self.cluster.node_name(node).clone();
        Some(Binding { id: pod.id, view: known.view.clone(), node, unanswered: 0 })
    }

    fn report(&mut self, id: PodId, reason: &'static str, message: &Arc<str>, nominated: Option<Arc<str>>) {
        let Some(known) = self.pods.get_mut(&id) else { return };
        // Told before this scheduler started.
        let told_before = |condition: &Condition| {
            &*condition.status == "False" && *condition.reason == *reason && *condition.message == **message
        };
        let known_already = match &known.reported {
            Some(reported) => reported == message,
            None => known.view.condition.as_deref().is_some_and(told_before),
        };
        known.reported = Some(message.clone());
        if known_already && nominated.is_none() {
            return;
        }
        let report = Report { id, view: known.view.clone(), reason, message: message.clone(), nominated };
        if self.reports.insert(id, report).is_none() {
            self.untold.push_back(id);
        }
    }

    /// The next thing to tell: at most one report per pod waits, the latest.
    pub fn next_report(&mut self) -> Option<Report> {
        while let Some(id) = self.untold.pop_front() {
            if let Some(report) = self.reports.remove(&id) {
                return Some(report);
            }
        }
        None
    }

    /// A report did not reach the API: the next failure reports again.
    pub fn report_lost(&mut self, id: PodId) {
        if let Some(known) = self.pods.get_mut(&id) {
            known.reported = None;
        }
    }

    /// Takes in how a binding ended. Returns the binding to send again where nobody knows.
    pub fn binding_ended(&mut self, binding: Binding, outcome: Outcome, confirm_by: u64, now: u64) -> Option<Binding> {
        let id = binding.id;
        let stage = self.pods.get(&id).map(|known| known.stage);
        match outcome {
            // The watch was faster, or the pod is gone, or a late answer: nothing is left to do.
            _ if !matches!(stage, Some(Stage::Binding | Stage::Assumed)) => None,
            Outcome::Bound => {
                if let Some(known) = self.pods.get_mut(&id) {
                    known.stage = Stage::Assumed;
                }
                self.queue.remove(id);
                self.unconfirmed.push_back((confirm_by, id));
                None
            }
            Outcome::Refused(why) => {
                self.give_back(id, now);
                self.report(id, SCHEDULER_ERROR, &why.into(), None);
                None
            }
            Outcome::Changed(view) if view.meta().uid == binding.view.meta().uid => {
                if view.node_name.is_empty() && !view.ended {
                    self.give_back(id, now);
                }
                self.see_pod(&Arc::new(*view), now);
                None
            }
            Outcome::Changed(_) | Outcome::Gone => {
                self.forget_pod(&binding.view.meta().uid, now);
                None
            }
            Outcome::Unknown(_) => Some(Binding { unanswered: binding.unanswered + 1, ..binding }),
        }
    }

    /// Whether a binding without an answer is still worth sending again.
    pub fn awaits(&self, binding: &Binding) -> bool {
        self.pods.get(&binding.id).is_some_and(|known| known.stage == Stage::Binding)
    }

    /// Frees a place that the API refused, and lets the pod back off.
    fn give_back(&mut self, id: PodId, now: u64) {
        if self.cluster.forget(id).is_some() {
            self.queue.notice(Events::POD_REMOVED, now);
        }
        if let Some(known) = self.pods.get_mut(&id) {
            known.stage = Stage::Pending;
        }
        self.queue.retry(id, now);
        self.admit(id, now);
    }

    /// Bindings that the API took and the watch has not shown in time: ask the API about them.
    pub fn overdue(&mut self, again_by: u64, now: u64) -> Vec<Binding> {
        let mut overdue = Vec::new();
        while let Some(&(by, id)) = self.unconfirmed.front() {
            let known = self.pods.get(&id).filter(|known| known.stage == Stage::Assumed);
            if known.is_some() && by > now {
                break;
            }
            self.unconfirmed.pop_front();
            if let (Some(known), Some(node)) = (known, self.cluster.placed(id)) {
                let node = self.cluster.node_name(node).clone();
                overdue.push(Binding { id, view: known.view.clone(), node, unanswered: 0 });
                self.unconfirmed.push_back((again_by, id));
            }
        }
        overdue
    }

    /// When time alone next asks for something to be done.
    pub fn next_wake(&self) -> Option<u64> {
        let confirm = self.unconfirmed.front().map(|(by, _)| *by);
        self.queue.next_wake().into_iter().chain(confirm).min()
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
