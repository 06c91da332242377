//! What the driver knows: every pod's stage, the core, the queue. Synchronous, and told the time.
//!
//! A pod holds capacity from the moment it is placed. It keeps that place until the API has said, in so many words,
//! that the pod is not bound there; an answer that never came is no such word. So nothing that the scheduler does, and
//! no failure on the way, books a node twice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use kelson_sched::{
    Budget, Class, Cluster, Decision, Diagnosis, Events, NodeId, Pod, PodId, PodTemplate, Queue, Waits,
};
use kelson_wire::kube::{Delta, Keyed};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::time::Instant;

use super::configuration::ProfileSettings;
use super::devices::{Cel, Devices, ResourceClaimView};
use super::eviction::Eviction;
use super::gang::Gangs;
use super::metrics::{Metrics, Sizes};
use super::spreading::Spreading;
use super::storage::Storage;
use super::view::{Condition, NodeView, PodView};

/// The name that a pod without one means.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";
pub(super) const UNSCHEDULABLE: &str = "Unschedulable";
const SCHEDULER_ERROR: &str = "SchedulerError";
/// The parts of the queue, in the order of its depths.
const PARTS: [&str; 3] = ["active", "backoff", "unschedulable"];

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not ours to place now: another scheduler's, gated, or terminating.
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
    pub stage: Stage,
    /// Its template as its profile completes it, where that is how it was placed.
    completed: Option<Arc<PodTemplate>>,
    /// Pods that are being evicted for it.
    pub victims: u32,
    /// Attempts to place it.
    attempts: u32,
    /// When it first could be placed.
    since: Option<u64>,
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
    /// The attempt that placed it, from 1.
    pub attempts: u32,
    /// When the pod first could be placed, in the model's milliseconds.
    pub since: u64,
    /// Which profile decides, by its place in the list.
    pub profile: usize,
}

/// A binding on its way.
#[derive(Debug)]
pub struct Sending {
    pub binding: Binding,
    /// When the batch began that placed it.
    pub began: Instant,
    pub next: Next,
}

/// What of a binding is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Binding its claims for volumes.
    Volumes,
    /// Reserving its claims for devices.
    Devices,
    /// The binding itself.
    Bind,
}

/// What became of the pods of a batch.
#[derive(Debug, Default)]
pub struct Batch {
    pub bindings: Vec<Binding>,
    /// Pods that no node takes, by profile.
    pub unschedulable: BTreeMap<usize, usize>,
    /// Claims whose devices are to be freed for them.
    pub deallocations: Vec<Arc<ResourceClaimView>>,
}

impl Batch {
    /// Counts a pod that no node takes.
    pub(super) fn refuse(&mut self, profile: Option<usize>) {
        *self.unschedulable.entry(profile.unwrap_or(0)).or_default() += 1;
    }
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
    pub(super) profiles: Vec<ProfileSettings>,
    pub(super) pods: FxHashMap<PodId, Known>,
    by_uid: FxHashMap<Arc<str>, PodId>,
    next_id: u64,
    /// Pods of ours that their scheduling gates hold back.
    gated: FxHashSet<PodId>,
    /// Pods whose binding the API took, oldest first, with the time by which the watch should have shown it.
    unconfirmed: VecDeque<(u64, PodId)>,
    /// What to tell, the latest for each pod, in the order of `untold`.
    reports: FxHashMap<PodId, Report>,
    untold: VecDeque<PodId>,
    /// Victims, with the pods that they make room for.
    pub(super) evicting: FxHashMap<PodId, PodId>,
    pub(super) evictions: VecDeque<Eviction>,
    pub(super) budgets: BTreeMap<(Arc<str>, Arc<str>), Budget>,
    pub(super) spreading: Spreading,
    pub(super) gangs: Gangs,
    pub(super) storage: Storage,
    pub(super) devices: Devices,
    pub(super) metrics: Arc<Metrics>,
}

impl Model {
    /// Knows nothing yet.
    pub fn new(
        profiles: Vec<ProfileSettings>,
        workers: usize,
        seed: u64,
        waits: Waits,
        metrics: Arc<Metrics>,
    ) -> Model {
        let cores = profiles.iter().map(|profile| profile.core.clone()).collect();
        let mut cluster = Cluster::with_profiles(workers, seed, cores);
        match Cel::new() {
            Ok(language) => cluster.set_selector_language(Arc::new(language)),
            Err(error) => tracing::error!(%error, "selectors of devices cannot be compiled"),
        }
        Model {
            cluster,
            queue: Queue::new(waits),
            profiles,
            pods: FxHashMap::default(),
            by_uid: FxHashMap::default(),
            next_id: 0,
            gated: FxHashSet::default(),
            unconfirmed: VecDeque::new(),
            reports: FxHashMap::default(),
            untold: VecDeque::new(),
            evicting: FxHashMap::default(),
            evictions: VecDeque::new(),
            budgets: BTreeMap::new(),
            spreading: Spreading::default(),
            gangs: Gangs::default(),
            storage: Storage::default(),
            devices: Devices::default(),
            metrics,
        }
    }

    /// Takes in a change of a node.
    pub fn node_changed(&mut self, delta: &Delta<NodeView>, now: u64) {
        match &delta.new {
            Some(node) => {
                let events = self.cluster.upsert_node(&node.spec);
                let what = if events.intersects(Events::NODE_ADDED) { "NodeAdd" } else { "NodeUpdate" };
                self.storage_of_node_changed(&node.spec.name, events);
                self.notice(what, events, now);
            }
            None => {
                let name = &delta.latest().spec.name;
                self.cluster.remove_node(name);
                self.storage_of_node_changed(name, Events::NODE_REMOVED);
                self.notice("NodeDelete", Events::NODE_REMOVED, now);
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

    /// A number that nobody has.
    pub(super) fn new_id(&mut self) -> PodId {
        self.next_id += 1;
        PodId(self.next_id)
    }

    fn see_pod(&mut self, view: &Arc<PodView>, now: u64) {
        let uid = &view.meta().uid;
        if view.ended {
            self.forget_pod(uid, now);
            return;
        }
        let known = self.by_uid.get(uid).copied();
        let id = known.unwrap_or_else(|| {
            let id = self.new_id();
            self.by_uid.insert(uid.clone(), id);
            let known = Known {
                view: view.clone(),
                stage: Stage::Idle,
                completed: None,
                victims: 0,
                attempts: 0,
                since: None,
                reported: None,
            };
            self.pods.insert(id, known);
            id
        });
        let Some(known) = self.pods.get_mut(&id) else { return };
        let before = std::mem::replace(&mut known.view, view.clone());
        if *before.template != *view.template {
            known.completed = None;
        }
        if view.meta().is_terminating() {
            self.eviction_ended(id);
        }
        let Some(known) = self.pods.get_mut(&id) else { return };
        if !view.node_name.is_empty() {
            known.stage = Stage::Bound;
            let completed = known.completed.clone();
            self.storage.leave(id);
            self.queue.remove(id);
            self.gang_bound(view, id);
            // As it was placed, so that it does not move to another class.
            let template = completed.unwrap_or_else(|| view.template.clone());
            let before = self.cluster.placed(id);
            let node = self.cluster.add_pod(id, &view.node_name, &template, view.tenure());
            let mut events = Events::default();
            if before.is_some_and(|before| before != node) {
                events |= Events::POD_REMOVED;
            }
            if before != Some(node) || view.meta().is_terminating() {
                let class = self.cluster.class(&template);
                events |= if self.cluster.is_counted(&class) { Events::POD_COUNTED } else { Events::default() };
            }
            self.notice("AssignedPodUpdate", events, now);
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
        let Some(view) = self.pods.get(&id).map(|known| known.view.clone()) else { return };
        let view = &view;
        let ours = self.profile(view).is_some();
        let Some(known) = self.pods.get_mut(&id) else { return };
        if ours && view.gated {
            self.gated.insert(id);
        } else {
            self.gated.remove(&id);
        }
        if !ours || view.gated || view.meta().is_terminating() {
            known.stage = Stage::Idle;
            self.queue.remove(id);
            self.leave_gang(view, id);
            return;
        }
        known.since.get_or_insert(now);
        if self.join_gang(view, id, now) {
            return;
        }
        let Some(known) = self.pods.get_mut(&id) else { return };
        known.stage = Stage::Pending;
        let class = self.cluster.class(&view.template);
        if let Some(name) = &view.nominated
            && self.cluster.nominated(id).is_none()
            && let Some(node) = self.cluster.node(name)
        {
            // By a scheduler before this one.
            self.cluster.nominate(&Pod { id, class: class.clone(), priority: view.priority }, node);
        }
        let before = self.queue.depths();
        self.queue.add(id, class, view.priority, view.created(), now);
        self.came("PodAdd", before);
    }

    /// The profile that a pod names, if it is one of ours.
    pub(super) fn profile(&self, view: &PodView) -> Option<usize> {
        let name = if view.scheduler_name.is_empty() { DEFAULT_SCHEDULER } else { &view.scheduler_name };
        self.profiles.iter().position(|profile| *profile.core.name == *name)
    }

    /// The template of a pod as its profile has it, where that is not the pod's own.
    pub(super) fn completed(&self, view: &PodView) -> Option<Arc<PodTemplate>> {
        let at = self.profile(view).unwrap_or(0);
        let spread = self.profiles.get(at).and_then(|profile| self.spreading.of(view, &profile.core.spread_defaults));
        if spread.is_none() && at == 0 {
            return None;
        }
        let mut template = spread.unwrap_or_else(|| (*view.template).clone());
        template.profile = at;
        Some(Arc::new(template))
    }

    /// Wakes the pods that `events` may help; `what` is the name that kube-scheduler has for their cause.
    pub(super) fn notice(&mut self, what: &'static str, events: Events, now: u64) {
        let before = self.queue.depths();
        self.queue.notice(events, now);
        self.came(what, before);
    }

    /// Counts what came into the parts of the queue.
    fn came(&self, what: &'static str, before: [usize; 3]) {
        for (queue, (before, now)) in PARTS.into_iter().zip(before.into_iter().zip(self.queue.depths())) {
            self.metrics.incoming(what, queue, now.saturating_sub(before));
        }
    }

    fn forget_pod(&mut self, uid: &Arc<str>, now: u64) {
        let Some(id) = self.by_uid.remove(uid) else { return };
        self.eviction_ended(id);
        if let Some(known) = self.pods.remove(&id) {
            self.leave_gang(&known.view, id);
        }
        self.gated.remove(&id);
        self.reports.remove(&id);
        self.queue.remove(id);
        self.storage.leave(id);
        let nominated = self.cluster.denominate(id).is_some();
        let devices = self.devices_of(id);
        if self.cluster.remove_pod(id).is_some() || nominated {
            self.notice("AssignedPodDelete", Events::POD_REMOVED | devices, now);
        }
    }

    /// Makes ready the pods whose backoff has run out.
    pub fn wake(&mut self, now: u64) {
        let before = self.queue.depths();
        self.queue.expire(now);
        self.came("BackoffComplete", before);
    }

    /// Number of pods that a batch could place now.
    pub fn ready(&self) -> usize {
        self.queue.ready()
    }

    /// Places a batch of at most `limit` pods, highest priority first. Heavy for a large batch.
    pub fn schedule(&mut self, limit: usize, now: u64) -> Batch {
        let pods = self.queue.pop(limit, now);
        let mut batch = Batch::default();
        let mut alone = Vec::with_capacity(pods.len());
        for pod in pods {
            if self.gangs.is_gang(pod.id) {
                // In the order of the queue.
                self.schedule_alone(std::mem::take(&mut alone), now, &mut batch);
                self.schedule_group(pod.id, now, &mut batch);
            } else {
                alone.push(pod);
            }
        }
        self.schedule_alone(alone, now, &mut batch);
        batch
    }

    /// A pod as it is to be placed now, `queued` in this class; counts as an attempt.
    pub(super) fn attempt(&mut self, id: PodId, queued: Option<Arc<Class>>) -> Option<Pod> {
        let view = self.pods.get(&id)?.view.clone();
        // What selects it may have changed since it was queued.
        let completed = self.completed(&view);
        let known = self.pods.get_mut(&id)?;
        known.attempts = known.attempts.saturating_add(1);
        known.completed = completed;
        let class = match (&mut known.completed, queued) {
            (Some(template), _) => {
                let class = self.cluster.class(template);
                *template = class.template().clone();
                class
            }
            (None, Some(class)) => class,
            (None, None) => self.cluster.class(&known.view.template),
        };
        Some(Pod { id, class, priority: known.view.priority })
    }

    /// Places pods that are in no group.
    fn schedule_alone(&mut self, pods: Vec<Pod>, now: u64, batch: &mut Batch) {
        if pods.is_empty() {
            return;
        }
        let pods: Vec<Pod> = pods.into_iter().filter_map(|pod| self.attempt(pod.id, Some(pod.class))).collect();
        let decisions = self.cluster.schedule(&pods);
        batch.bindings.reserve(pods.len());
        let mut counted = false;
        let mut message: Option<(Arc<Diagnosis>, Arc<str>)> = None;
        for (pod, decision) in pods.iter().zip(decisions) {
            match decision {
                Decision::Bound(node) => {
                    counted |= self.cluster.is_counted(&pod.class);
                    batch.bindings.extend(self.bind(pod, node));
                }
                Decision::Unschedulable(diagnosis) => {
                    // Where there are no nodes, nobody looks for room.
                    let room = if diagnosis.nodes == 0 { Err(None) } else { self.make_room(pod) };
                    let (deallocation, said) = self.deallocation(pod, &diagnosis);
                    batch.deallocations.extend(deallocation);
                    let before = self.queue.depths();
                    self.queue.reject(pod.id, diagnosis.filters(), now);
                    self.came("ScheduleAttemptFailure", before);
                    batch.refuse(self.pods.get(&pod.id).and_then(|known| self.profile(&known.view)));
                    // Pods of a class share their diagnosis: its text is made once for a run of them.
                    let known = message.take_if(|(of, _)| Arc::ptr_eq(of, &diagnosis));
                    let (_, text) = message.insert(known.unwrap_or_else(|| {
                        let text = diagnosis.to_string().into();
                        (diagnosis, text)
                    }));
                    let (text, nominated) = match room {
                        Ok(node) => (text.clone(), Some(node)),
                        Err(None) => (text.clone(), None),
                        Err(Some(outlook)) => {
                            let said = said.map_or_else(String::new, |said| format!("{said}, "));
                            (format!("{text} {said}{outlook}").into(), None)
                        }
                    };
                    self.report(pod.id, UNSCHEDULABLE, &text, nominated);
                }
            }
        }
        if counted {
            // What was refused before these came may have been waiting for them.
            self.notice("AssignedPodAdd", Events::POD_COUNTED, now);
        }
    }

    pub(super) fn bind(&mut self, pod: &Pod, node: NodeId) -> Option<Binding> {
        let profile = self.pods.get(&pod.id).and_then(|known| self.profile(&known.view)).unwrap_or(0);
        let known = self.pods.get_mut(&pod.id)?;
        known.stage = Stage::Binding;
        let node = self.cluster.node_name(node).clone();
        Some(Binding {
            id: pod.id,
            view: known.view.clone(),
            node,
            unanswered: 0,
            attempts: known.attempts,
            since: known.since.unwrap_or_default(),
            profile,
        })
    }

    pub(super) fn report(&mut self, id: PodId, reason: &'static str, message: &Arc<str>, nominated: Option<Arc<str>>) {
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
        self.storage.leave(id);
        let devices = self.devices_of(id);
        if self.cluster.forget(id).is_some() {
            self.notice("AssignedPodDelete", Events::POD_REMOVED | devices, now);
        }
        if let Some(known) = self.pods.get_mut(&id) {
            known.stage = Stage::Pending;
        }
        let before = self.queue.depths();
        self.queue.retry(id, now);
        self.came("ScheduleAttemptFailure", before);
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
                let (attempts, since) = (known.attempts, known.since.unwrap_or_default());
                let profile = self.profile(&known.view).unwrap_or(0);
                overdue.push(Binding { id, view: known.view.clone(), node, unanswered: 0, attempts, since, profile });
                self.unconfirmed.push_back((again_by, id));
            }
        }
        overdue
    }

    /// How much waits, and how much is known.
    pub fn sizes(&self) -> Sizes {
        let [active, backoff, unschedulable] = self.queue.depths();
        let (nodes, pods) = (self.cluster.nodes(), self.cluster.pods());
        let (gated, assumed) = (self.gated.len(), self.unconfirmed.len());
        Sizes { active, backoff, unschedulable, gated, nodes, pods, assumed }
    }

    /// When time alone next asks for something to be done.
    pub fn next_wake(&self) -> Option<u64> {
        let confirm = self.unconfirmed.front().map(|(by, _)| *by);
        let volumes = self.storage.next_deadline();
        self.queue.next_wake().into_iter().chain(confirm).chain(volumes).min()
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
