//! Making room: which pods of lower priority a pod may push off a node, and on which node that costs least
//! ("Pod Priority and Preemption" of the Kubernetes documentation).
//!
//! A node is tried by taking all pods of lower priority away and putting back, the most important first, those that
//! still fit beside the newcomer. What each node would cost is kept in order per class and priority, and only nodes
//! that changed are tried again; a class that looks at other pods is tried everywhere each time.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cluster::{Cluster, reasons};
use crate::constraint::LabelSelector;
use crate::journal::Change;
use crate::ledger::NodeId;
use crate::lens::Lens;
use crate::pod::{Class, Pod, PodId};
use crate::reason::Reason;
use crate::topology::Topology;

/// Orders kept, for the classes and priorities that were last preempted for.
const MAX_ORDERS: usize = 16;

/// A PodDisruptionBudget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    pub namespace: Arc<str>,
    /// `None` and an empty one select no pod here.
    pub selector: Option<LabelSelector>,
    /// `status.disruptionsAllowed`.
    pub allowed: i32,
}

/// What a preemption does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemption {
    pub node: NodeId,
    /// Pods to evict, the most important first.
    pub victims: Vec<PodId>,
    pub cost: Cost,
}

/// What the victims of one node come to; less is better, field by field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    /// Evictions that a budget does not allow.
    pub violations: usize,
    pub highest_priority: i32,
    /// Of priorities, each moved to be above 0, so that more pods cost more.
    pub priority_sum: i64,
    pub pods: usize,
    /// The start of the oldest of the most important victims: the later, the better.
    pub oldest_start: Reverse<u64>,
}

/// What it costs on every node, for pods of one class and priority.
#[derive(Debug)]
pub(crate) struct Order {
    class: Arc<Class>,
    priority: i32,
    position: u64,
    budgets_epoch: u64,
    costs: Vec<Option<Cost>>,
    sorted: BTreeSet<(Cost, NodeId)>,
}

impl Order {
    fn put(&mut self, node: NodeId, cost: Option<Cost>) {
        if let Some(before) = std::mem::replace(&mut self.costs[node.row()], cost) {
            self.sorted.remove(&(before, node));
        }
        if let Some(cost) = cost {
            self.sorted.insert((cost, node));
        }
    }
}

/// A pod that might have to go.
struct Candidate {
    id: PodId,
    class: Arc<Class>,
    priority: i32,
    started: u64,
    live: bool,
}

/// A class's view of the nodes, for one preemption.
struct View {
    lens: Lens,
    topology: Topology,
}

impl View {
    fn new(cluster: &Cluster, class: &Class) -> View {
        let mut lens = Lens::new(&cluster.state, class);
        let topology = Topology::new(&cluster.state, class, &mut lens);
        View { lens, topology }
    }
}

impl Cluster {
    /// Puts all disruption budgets, as they are now.
    pub fn set_budgets(&mut self, budgets: Vec<Budget>) {
        if self.budgets != budgets {
            self.budgets = budgets;
            self.budgets_epoch += 1;
        }
    }

    /// The node where making room for a pod costs least, with the pods that would have to go. `None`: evicting pods
    /// of lower priority helps nowhere, or pods are on their way out of the node that the pod waits for.
    pub fn preempt(&mut self, pod: &Pod) -> Option<Preemption> {
        self.keep_residents();
        let aside = self.set_aside(pod.priority, Some(pod.id));
        let found = self.cheapest(pod);
        self.put_back(aside);
        found
    }

    /// Whether pods of lower priority are on their way out of the node that a pod is nominated to.
    pub fn awaits_victims(&self, pod: &Pod) -> bool {
        let leaving = |node: NodeId| self.candidates(node, pod.priority).iter().any(|candidate| !candidate.live);
        self.nominated(pod.id).is_some_and(leaving)
    }

    fn cheapest(&mut self, pod: &Pod) -> Option<Preemption> {
        if self.awaits_victims(pod) {
            return None;
        }
        let mut view = View::new(self, &pod.class);
        let (cost, node) = if view.topology.is_empty() {
            self.cheapest_kept(&mut view, &pod.class, pod.priority)?
        } else {
            let mut best = None;
            for node in self.state.ids() {
                let tried = self.attempt(&mut view, &pod.class, pod.priority, node);
                best = tried.map(|(cost, _)| (cost, node)).into_iter().chain(best).min();
            }
            best?
        };
        let (_, victims) = self.attempt(&mut view, &pod.class, pod.priority, node)?;
        Some(Preemption { node, victims, cost })
    }

    /// From the order that is kept for the class, brought up to date.
    fn cheapest_kept(&mut self, view: &mut View, class: &Arc<Class>, priority: i32) -> Option<(Cost, NodeId)> {
        let same = |order: &Order| Arc::ptr_eq(&order.class, class) && order.priority == priority;
        let known = self.orders.iter().position(same).map(|at| self.orders.remove(at));
        let usable = |order: &Order| {
            order.budgets_epoch == self.budgets_epoch
                && order.position >= self.state.journal.oldest()
                && self.state.journal.end() - order.position <= self.state.nodes.len() as u64
        };
        let rows = self.state.nodes.len();
        let order = match known.filter(usable) {
            Some(mut order) => {
                order.costs.resize(rows, None);
                while let Some(Change { node, .. }) = self.state.journal.read(order.position) {
                    order.position += 1;
                    let tried = self.attempt(view, class, priority, node);
                    order.put(node, tried.map(|(cost, _)| cost));
                }
                order
            }
            None => {
                let mut order = Order {
                    class: class.clone(),
                    priority,
                    position: self.state.journal.end(),
                    budgets_epoch: self.budgets_epoch,
                    costs: vec![None; rows],
                    sorted: BTreeSet::new(),
                };
                for node in self.state.ids() {
                    let tried = self.attempt(view, class, priority, node);
                    order.put(node, tried.map(|(cost, _)| cost));
                }
                order
            }
        };
        let best = order.sorted.first().copied();
        // The latest used last.
        if self.orders.len() >= MAX_ORDERS {
            self.orders.remove(0);
        }
        self.orders.push(order);
        best
    }

    /// Pods on a node below a priority, the most important first.
    fn candidates(&self, node: NodeId, priority: i32) -> Vec<Candidate> {
        let Some(residents) = self.residents.as_ref().and_then(|residents| residents.get(node.row())) else {
            return Vec::new();
        };
        let lower = |id: &PodId| {
            let placed = self.pods.get(id).filter(|placed| placed.tenure.priority < priority)?;
            // A pod that has not started counts as the youngest.
            let started = if placed.tenure.started == 0 { u64::MAX } else { placed.tenure.started };
            let (class, priority) = (placed.class.clone(), placed.tenure.priority);
            Some(Candidate { id: *id, class, priority, started, live: !placed.tenure.terminating })
        };
        let mut candidates: Vec<Candidate> = residents.iter().filter_map(lower).collect();
        candidates.sort_by_key(|candidate| (Reverse(candidate.priority), candidate.started, candidate.id));
        candidates
    }

    /// Tries a node: what it would cost, and who would have to go. The cluster is as before afterwards.
    fn attempt(&mut self, view: &mut View, class: &Class, priority: i32, node: NodeId) -> Option<(Cost, Vec<PodId>)> {
        let View { lens, topology } = view;
        let bound = !topology.is_empty();
        lens.look(&self.state, class, self.state.node(node)).ok()?;
        let wanted = &class.demand.takes;
        let beyond = |take: &crate::ledger::Take| take.amount > self.state.ledger.column(take.column).capacity(node);
        if wanted.iter().any(beyond) {
            return None;
        }
        let candidates = self.candidates(node, priority);
        if candidates.is_empty() {
            return None;
        }
        if bound {
            // What no eviction mends, by the first filter that rejects now.
            let now = reasons(&self.state, class, lens, topology, node);
            if matches!(now.first(), None | Some(Reason::PodAffinity | Reason::SpreadLabel)) {
                return None;
            }
        } else if self.state.ledger.fits(node, wanted) {
            return None;
        }
        candidates.iter().for_each(|candidate| self.lift(node, candidate, bound));
        let mut victims = vec![false; candidates.len()];
        let mut violations = 0;
        let feasible = self.would_fit(class, node, topology);
        if feasible {
            let violating = self.violating(&candidates);
            let order = (0..candidates.len()).filter(|at| violating[*at]);
            let order: Vec<usize> = order.chain((0..candidates.len()).filter(|at| !violating[*at])).collect();
            for at in order {
                self.lower(node, &candidates[at], bound);
                if !self.would_fit(class, node, topology) {
                    self.lift(node, &candidates[at], bound);
                    victims[at] = true;
                    violations += usize::from(violating[at]);
                }
            }
        }
        for (at, candidate) in candidates.iter().enumerate() {
            if victims[at] || !feasible {
                self.lower(node, candidate, bound);
            }
        }
        topology.refresh(&self.state, node);
        let gone: Vec<&Candidate> =
            candidates.iter().zip(&victims).filter(|(_, gone)| **gone).map(|(one, _)| one).collect();
        let highest_priority = gone.first()?.priority;
        let oldest = gone.iter().filter(|one| one.priority == highest_priority).map(|one| one.started).min()?;
        let cost = Cost {
            violations,
            highest_priority,
            priority_sum: gone.iter().map(|one| i64::from(one.priority) + (1 << 31)).sum(),
            pods: gone.len(),
            oldest_start: Reverse(oldest),
        };
        Some((cost, gone.iter().map(|one| one.id).collect()))
    }

    fn would_fit(&self, class: &Class, node: NodeId, topology: &mut Topology) -> bool {
        if !self.state.ledger.fits(node, &class.demand.takes) {
            return false;
        }
        if topology.is_empty() {
            return true;
        }
        topology.refresh(&self.state, node);
        let mut cells = Vec::with_capacity(topology.width());
        topology.cells(node, &mut cells);
        topology.judge(class, &cells).is_ok()
    }

    /// Takes a pod away for a moment. Nothing is told to the journal: it is as it was before anybody looks again.
    fn lift(&mut self, node: NodeId, candidate: &Candidate, bound: bool) {
        self.state.ledger.release(node, &candidate.class.demand.takes);
        if bound {
            self.state.count(node, &candidate.class, candidate.live, -1);
        }
    }

    /// Puts it back.
    fn lower(&mut self, node: NodeId, candidate: &Candidate, bound: bool) {
        self.state.ledger.book(node, &candidate.class.demand.takes);
        if bound {
            self.state.count(node, &candidate.class, candidate.live, 1);
        }
    }

    /// Which of the candidates, evicted in their order, no budget allows.
    fn violating(&self, candidates: &[Candidate]) -> Vec<bool> {
        let mut allowed: Vec<i32> = self.budgets.iter().map(|budget| budget.allowed).collect();
        let violates = |candidate: &Candidate| {
            let template = &candidate.class.template;
            let mut violates = false;
            for (budget, allowed) in self.budgets.iter().zip(&mut allowed) {
                let selects =
                    |selector: &LabelSelector| !selector.requirements.is_empty() && selector.matches(&template.labels);
                let covers = budget.namespace == template.namespace
                    && !template.labels.is_empty()
                    && budget.selector.as_ref().is_some_and(selects);
                if covers {
                    *allowed -= 1;
                    violates |= *allowed < 0;
                }
            }
            violates
        };
        candidates.iter().map(violates).collect()
    }

    /// Which pods are on which node, from the first preemption on.
    fn keep_residents(&mut self) {
        if self.residents.is_some() {
            return;
        }
        let mut residents = vec![Vec::new(); self.state.nodes.len()];
        for (id, placed) in &self.pods {
            residents[placed.node.row()].push(*id);
        }
        self.residents = Some(residents);
    }
}
