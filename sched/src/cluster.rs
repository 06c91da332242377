//! The cluster as the scheduler knows it, and the placing of batches of pods.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustc_hash::{FxHashMap, FxHashSet};

use crate::bond::Bonds;
use crate::columns::{EPHEMERAL_STORAGE, MEMORY, MILLI_CPU, PODS};
use crate::constraint::Pairs;
use crate::device::DevicePlan;
use crate::ledger::NodeId;
use crate::nomination::Nominee;
use crate::placements::Placements;
use crate::pod::{Class, Classes, Parts, Pod, PodId, PodTemplate};
use crate::preemption::{Budget, Order};
use crate::profile::Profile;
use crate::queue::Events;
use crate::reason::{Diagnosis, Reason};
use crate::resources::Resources;
use crate::score::{Scores, Scoring};
use crate::state::{NodeSpec, State};
use crate::topology;
use crate::view::View;
use crate::volume::VolumePlan;
use crate::worker::{Worker, score_all};

/// Batches below this size are placed by one worker: threads would cost more than they save.
const PARALLEL_MIN: usize = 4096;
/// Pods that a worker takes at a time.
const STRIDE: usize = 64;

/// What became of one pod.
#[derive(Clone, Debug)]
pub enum Decision {
    /// The node's capacity is claimed for it, until [`Cluster::forget`].
    Bound(NodeId),
    /// No node takes it; the diagnosis is that of the end of the batch, shared by the pods of a class.
    Unschedulable(Arc<Diagnosis>),
}

/// What one node says to one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Feasible(Scores),
    Rejected(Vec<Reason>),
}

/// Capacity of a node and what pods hold of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub allocatable: Resources,
    pub allocatable_pods: i64,
    pub requested: Resources,
    pub pods: i64,
}

/// What is known of a pod that holds a place, beside its template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tenure {
    pub priority: i32,
    /// When it started, in milliseconds of any one clock; 0 before that.
    pub started: u64,
    /// It is being deleted: topology spread no longer counts it.
    pub terminating: bool,
}

#[derive(Debug)]
pub(crate) struct Placed {
    pub node: NodeId,
    pub class: Arc<Class>,
    pub tenure: Tenure,
    /// What was promised to it, where it has volumes or claims.
    pub holdings: Option<Box<Holdings>>,
}

/// What a pod was promised beside capacity.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    pub volumes: VolumePlan,
    /// The promise of each claim of the plan.
    pub promises: Vec<u64>,
    pub devices: DevicePlan,
    /// The same of this plan.
    pub device_promises: Vec<u64>,
}

/// A class that found no node in a batch.
#[derive(Debug, Default)]
struct Failure {
    /// Pods that held places when it was last asked.
    pods: usize,
    diagnosis: Option<Arc<Diagnosis>>,
}

/// Nodes, the pods on them, and what is needed to place more. Knows nothing of clocks, networks or encodings.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) state: State,
    classes: Classes,
    profiles: Vec<Arc<Profile>>,
    pub(crate) pods: Placements,
    workers: Vec<Worker>,
    pub(crate) nominees: FxHashMap<PodId, Nominee>,
    pub(crate) budgets: Vec<Budget>,
    pub(crate) budgets_epoch: u64,
    pub(crate) orders: Vec<Order>,
    /// Pods by row, from the first preemption on.
    pub(crate) residents: Option<Vec<Vec<PodId>>>,
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster::new(1, 0)
    }
}

impl Cluster {
    /// An empty cluster, whose large batches `workers` threads (at least 1) place together. Choices among equally good
    /// nodes follow from `seed`.
    pub fn new(workers: usize, seed: u64) -> Cluster {
        Cluster::with_profiles(workers, seed, vec![Profile::default()])
    }

    /// The same with profiles, of which pods name theirs by its place; the first stands in where there is none.
    pub fn with_profiles(workers: usize, seed: u64, profiles: Vec<Profile>) -> Cluster {
        let profiles = if profiles.is_empty() { vec![Profile::default()] } else { profiles };
        Cluster {
            profiles: profiles.into_iter().map(Arc::new).collect(),
            state: State::new(),
            classes: Classes::default(),
            pods: Placements::default(),
            workers: (0..workers.max(1) as u64).map(|at| Worker::new(seed.wrapping_add(at + 1))).collect(),
            nominees: FxHashMap::default(),
            budgets: Vec::new(),
            budgets_epoch: 0,
            orders: Vec::new(),
            residents: None,
        }
    }

    /// Adds a node, or puts it as it is now. Returns what changed in favour of pods that wait; most updates of a node
    /// return nothing.
    pub fn upsert_node(&mut self, node: &NodeSpec) -> Events {
        self.state.upsert(node)
    }

    /// Takes a node away. Its pods stay booked until they are removed, so that a node of the same name that comes
    /// back meets them. False if there was none.
    pub fn remove_node(&mut self, name: &str) -> bool {
        self.state.remove(name)
    }

    /// The node with this name, if it is present.
    pub fn node(&self, name: &str) -> Option<NodeId> {
        self.state.row(name).filter(|id| self.state.node(*id).present)
    }

    /// Name of a node that is present or holds pods.
    pub fn node_name(&self, node: NodeId) -> &Arc<str> {
        &self.state.node(node).name
    }

    /// Number of nodes.
    pub fn nodes(&self) -> usize {
        self.state.present
    }

    /// Number of pods that hold capacity.
    pub fn pods(&self) -> usize {
        self.pods.len()
    }

    /// Number of classes known, for those who watch memory.
    pub fn classes(&self) -> usize {
        self.classes.len()
    }

    /// Puts the labels of a namespace; `None`: it is gone.
    pub fn set_namespace(&mut self, name: &Arc<str>, labels: Option<Pairs>) -> Events {
        if !self.state.census.set_namespace(name, labels) {
            return Events::default();
        }
        self.state.namespace_epoch += 1;
        Events::NAMESPACE_LABELS
    }

    /// The class of pods with this template.
    pub fn class(&mut self, template: &Arc<PodTemplate>) -> Arc<Class> {
        if self.classes.is_due() {
            self.sweep();
        }
        let state = &mut self.state;
        let profile = self.profiles.get(template.profile).unwrap_or(&self.profiles[0]);
        let make = || {
            let demand = state.columns.demand(&mut state.ledger, &template.requests, &template.host_ports);
            Parts {
                apart: state.columns.part(&demand, profile),
                scoring: Scoring::of(profile, &template.requests, &demand, &state.columns),
                bonds: Bonds::of(template, profile, &mut state.census, &mut state.labels),
                profile: profile.clone(),
                demand,
            }
        };
        self.classes.get(template, make)
    }

    fn sweep(&mut self) {
        let mut alive = FxHashSet::default();
        let state = &mut self.state;
        self.classes.sweep(
            |id| {
                alive.insert(id);
            },
            |class| {
                class.bonds.release(&mut state.census, &mut state.labels);
            },
        );
        self.workers.iter_mut().for_each(|worker| worker.keep_only(&alive));
    }

    /// Books a pod that is bound, whether or not there is room, and whether or not its node is known yet. A pod that
    /// was assumed there is confirmed; one that is elsewhere moves.
    pub fn add_pod(&mut self, id: PodId, node_name: &Arc<str>, template: &Arc<PodTemplate>, tenure: Tenure) -> NodeId {
        let class = self.class(template);
        let node = self.state.row_or_new(node_name);
        if let Some(placed) = self.pods.get_mut(id)
            && placed.node == node
            && Arc::ptr_eq(&placed.class, &class)
        {
            let before = placed.tenure;
            placed.tenure = Tenure { terminating: tenure.terminating || before.terminating, ..tenure };
            if tenure.terminating && !before.terminating {
                self.state.retire(node, &class);
            } else if before != placed.tenure {
                self.state.touch(node, false);
            }
            return node;
        }
        // Booked before the old place is released: the row of an absent node lives by its pods.
        self.state.book(node, &class, !tenure.terminating);
        self.move_in(id, node);
        if let Some(before) = self.pods.insert(id, Placed { node, class, tenure, holdings: None }) {
            self.give_back(&before);
            self.move_out(id, before.node);
            self.state.release(before.node, &before.class, !before.tenure.terminating);
        }
        self.denominate(id);
        node
    }

    /// Whether some constraint of some pod counts pods of this class: then its coming may help others.
    pub fn is_counted(&self, class: &Class) -> bool {
        self.state.census.is_counted(class.bonds.profile)
    }

    /// Frees what a pod holds: it is gone, or has ended. Returns where it was.
    pub fn remove_pod(&mut self, id: PodId) -> Option<NodeId> {
        self.denominate(id);
        let placed = self.pods.remove(id)?;
        self.give_back(&placed);
        self.move_out(id, placed.node);
        self.state.release(placed.node, &placed.class, !placed.tenure.terminating);
        Some(placed.node)
    }

    /// Gives back what [`Cluster::schedule`] claimed for a pod that could not be bound.
    pub fn forget(&mut self, id: PodId) -> Option<NodeId> {
        self.remove_pod(id)
    }

    /// Where a pod holds capacity.
    pub fn placed(&self, id: PodId) -> Option<NodeId> {
        self.pods.get(id).map(|placed| placed.node)
    }

    /// Places pods in the order given, highest priority first. With several workers that order holds up to a few
    /// dozen pods, and every choice is the best of what the worker had seen. A pod that holds a place keeps it.
    pub fn schedule(&mut self, pods: &[Pod]) -> Vec<Decision> {
        self.state.reserve_journal(pods.len());
        for pair in pods.windows(2).filter(|pair| Arc::ptr_eq(&pair[0].class, &pair[1].class)) {
            pair[0].class.ask();
        }
        let mut chosen = vec![None; pods.len()];
        // What a pod sees of others depends on the order in which they come.
        let alone = |pod: &Pod| pod.class.attached || topology::is_bound(&self.state, &pod.class);
        let apart = || self.nominees.is_empty() && !pods.iter().any(alone);
        if self.workers.len() > 1 && pods.len() >= PARALLEL_MIN && apart() {
            self.place_together(pods, &mut chosen);
        }
        let mut failed: FxHashMap<u64, Failure> = FxHashMap::default();
        for (pod, chosen) in pods.iter().zip(&mut chosen) {
            if chosen.is_none() {
                // Refused while others claimed is not refused: asked again, alone.
                *chosen = self.place_alone(pod, &mut failed);
            }
        }
        let decide = |(pod, chosen): (&Pod, Option<NodeId>)| match chosen {
            Some(node) => Decision::Bound(node),
            None => {
                let diagnosis = &mut failed.entry(pod.class.id).or_default().diagnosis;
                Decision::Unschedulable(diagnosis.get_or_insert_with(|| Arc::new(self.diagnose(&pod.class))).clone())
            }
        };
        pods.iter().zip(chosen).map(decide).collect()
    }

    /// A class that found no room finds none later in the batch either, because capacity only goes; unless it looks at
    /// other pods, whose coming may help it.
    fn place_alone(&mut self, pod: &Pod, failed: &mut FxHashMap<u64, Failure>) -> Option<NodeId> {
        if let Some(placed) = self.pods.get(pod.id) {
            return Some(placed.node);
        }
        let hopeless =
            |failure: &Failure| failure.pods == self.pods.len() || !topology::is_bound(&self.state, &pod.class);
        if failed.get(&pod.class.id).is_some_and(hopeless) {
            return None;
        }
        let aside = self.set_aside(pod.priority, Some(pod.id));
        // Nominees that moved aside were written down in the room made for claims.
        self.state.reserve_journal(1);
        let node = self.place_nominee(pod).or_else(|| self.workers[0].place(&self.state, &pod.class));
        match node {
            Some(node) => self.settle(pod, node),
            // A pod of higher priority sees less, and a nominee its own room: that says nothing about others.
            None if !aside.is_empty() => {}
            None => {
                failed.insert(pod.class.id, Failure { pods: self.pods.len(), diagnosis: None });
            }
        }
        self.put_back(aside);
        node
    }

    /// A pod for which room was made goes there, if it can.
    fn place_nominee(&mut self, pod: &Pod) -> Option<NodeId> {
        let node = self.nominated(pod.id)?;
        let mut view = View::new(&self.state, &pod.class);
        let fits = self.state.node(node).present
            && view.refusal(&pod.class).is_none()
            && view.reasons(&self.state, &pod.class, node).is_empty()
            && self.state.claim(node, &pod.class);
        fits.then_some(node)
    }

    fn move_in(&mut self, id: PodId, node: NodeId) {
        if let Some(residents) = &mut self.residents {
            if residents.len() <= node.row() {
                residents.resize(node.row() + 1, Vec::new());
            }
            residents[node.row()].push(id);
        }
    }

    fn move_out(&mut self, id: PodId, node: NodeId) {
        if let Some(residents) = self.residents.as_mut().and_then(|residents| residents.get_mut(node.row()))
            && let Some(at) = residents.iter().position(|have| *have == id)
        {
            residents.swap_remove(at);
        }
    }

    /// Places pods that make sense only together, in order. If fewer than `least` of them find a node, none is placed.
    pub fn schedule_gang(&mut self, pods: &[Pod], least: usize) -> Vec<Decision> {
        let had: Vec<bool> = pods.iter().map(|pod| self.pods.contains(pod.id)).collect();
        let mut decisions = self.schedule(pods);
        let placed = decisions.iter().filter(|decision| matches!(decision, Decision::Bound(_))).count();
        if placed >= least {
            return decisions;
        }
        for ((pod, decision), had) in pods.iter().zip(&mut decisions).zip(had).rev() {
            if matches!(decision, Decision::Bound(_)) && !had {
                self.remove_pod(pod.id);
                *decision = Decision::Unschedulable(Arc::new(self.diagnose(&pod.class)));
            }
        }
        decisions
    }

    /// Notes a claim.
    fn settle(&mut self, pod: &Pod, node: NodeId) {
        // Before it counts itself.
        let holdings = pod.class.attached.then(|| self.promise(pod, node));
        self.state.count(node, &pod.class, true, 1);
        let tenure = Tenure { priority: pod.priority, ..Tenure::default() };
        self.move_in(pod.id, node);
        self.pods.insert(pod.id, Placed { node, class: pod.class.clone(), tenure, holdings });
        // Its own reservation is set aside while it is placed, and not needed any more.
        self.nominees.remove(&pod.id);
    }

    fn place_together(&mut self, pods: &[Pod], chosen: &mut [Option<NodeId>]) {
        let (state, placed, next) = (&self.state, &self.pods, &AtomicUsize::new(0));
        let work = |worker: &mut Worker| {
            let mut done = Vec::new();
            loop {
                let from = next.fetch_add(STRIDE, Ordering::Relaxed);
                let Some(rest) = pods.get(from..) else { return done };
                for (at, pod) in rest.iter().take(STRIDE).enumerate() {
                    if !placed.contains(pod.id) {
                        done.extend(worker.place(state, &pod.class).map(|node| (from + at, node)));
                    }
                }
            }
        };
        let done: Vec<(usize, NodeId)> = std::thread::scope(|scope| {
            let (first, others) = self.workers.split_first_mut().map_or((None, &mut [][..]), |(a, b)| (Some(a), b));
            let threads: Vec<_> = others.iter_mut().map(|worker| scope.spawn(move || work(worker))).collect();
            let mut done = first.map(work).unwrap_or_default();
            for thread in threads {
                done.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            done
        });
        for (at, node) in done {
            let pod = &pods[at];
            if let Some(placed) = self.pods.get(pod.id) {
                // The pod is in the batch twice.
                chosen[at] = Some(placed.node);
                self.state.count(node, &pod.class, true, 1);
                self.state.release(node, &pod.class, true);
                continue;
            }
            self.settle(pod, node);
            chosen[at] = Some(node);
        }
    }

    /// Why no node takes pods of a class now. Reasons of nodes that would take one are not in it.
    pub fn diagnose(&self, class: &Class) -> Diagnosis {
        let mut diagnosis = Diagnosis { nodes: self.state.present, ..Diagnosis::default() };
        let mut view = View::new(&self.state, class);
        diagnosis.refusal = view.refusal(class);
        if diagnosis.refusal.is_some() {
            return diagnosis;
        }
        let mut looked_at = 0;
        let mut look = |id: NodeId| {
            let node = self.state.node(id);
            if !node.present {
                return;
            }
            looked_at += 1;
            for reason in view.reasons(&self.state, class, id) {
                *diagnosis.reasons.entry(reason).or_default() += 1;
            }
        };
        match &class.named {
            Some(names) => names.iter().filter_map(|name| self.state.row(name)).for_each(&mut look),
            None => self.state.ids().for_each(&mut look),
        }
        if looked_at < self.state.present {
            diagnosis.reasons.insert(Reason::NotNamed, self.state.present - looked_at);
        }
        diagnosis
    }

    /// What each node says to a class right now, in no particular order.
    pub fn explain(&self, class: &Class) -> Vec<(NodeId, Verdict)> {
        let scored = score_all(&self.state, class).into_iter();
        let mut feasible: FxHashMap<NodeId, Scores> = scored.map(|(id, scores, _)| (id, scores)).collect();
        let mut view = View::new(&self.state, class);
        let refusal = view.refusal(class);
        let mut explain = |id: NodeId| {
            if let Some(scores) = feasible.remove(&id) {
                return Some((id, Verdict::Feasible(scores)));
            }
            let node = self.state.node(id);
            let named = class.named.as_ref().is_none_or(|names| names.contains(&node.name));
            if !node.present {
                return None;
            }
            let reasons = match &refusal {
                Some(refusal) => vec![refusal.clone()],
                None if named => view.reasons(&self.state, class, id),
                None => vec![Reason::NotNamed],
            };
            Some((id, Verdict::Rejected(reasons)))
        };
        self.state.ids().filter_map(&mut explain).collect()
    }

    /// Capacity and requests of a node; extended resources are those that any node has or any pod asks for.
    pub fn usage(&self, node: NodeId) -> Usage {
        let capacity = |column| self.state.ledger.capacity(column, node);
        let used = |column| self.state.ledger.used(column, node);
        let resources = |of: &dyn Fn(u32) -> i64| Resources {
            milli_cpu: of(MILLI_CPU),
            memory: of(MEMORY),
            ephemeral_storage: of(EPHEMERAL_STORAGE),
            extended: self.state.columns.extended().map(|(name, column)| (name.clone(), of(column))).collect(),
        };
        let mut usage = Usage {
            allocatable: resources(&capacity),
            allocatable_pods: capacity(PODS),
            requested: resources(&used),
            pods: used(PODS),
        };
        usage.allocatable.extended.sort_unstable();
        usage.requested.extended.sort_unstable();
        usage
    }
}
