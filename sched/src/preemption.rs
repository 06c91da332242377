//! Making room: which pods of lower priority a pod may push off a node, and on which node that costs least
//! ("Pod Priority and Preemption" of the Kubernetes documentation).
//!
//! A node is tried by taking all pods of lower priority away and putting back, the most important first, those that
//! still fit beside the newcomer. What each node would cost is kept in order per class and priority, and only nodes
//! that changed are tried again; a class that looks at other pods is tried everywhere each time.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::columns::PODS;
use crate::constraint::LabelSelector;
use crate::journal::Change;
use crate::ledger::{NodeId, Take};
use crate::lens;
use crate::pod::{Class, Pod, PodId};
use crate::reason::{Hindrance, Outlook, Reason};
use crate::view::View;

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

/// What trying one node came to.
#[derive(Clone, Debug)]
enum Trial {
    Cost(Cost),
    /// Evictions do not help there, for these reasons; none where the node is not there, or takes the pod as it is.
    Hindered(Vec<Hindrance>),
}

impl Trial {
    fn none() -> Trial {
        Trial::Hindered(Vec::new())
    }
}

/// What it costs on every node, for pods of one class and priority.
#[derive(Debug)]
pub(crate) struct Order {
    class: Arc<Class>,
    priority: i32,
    position: u64,
    budgets_epoch: u64,
    trials: Vec<Trial>,
    sorted: BTreeSet<(Cost, NodeId)>,
    hindrances: BTreeMap<Hindrance, usize>,
}

impl Order {
    fn put(&mut self, node: NodeId, trial: Trial) {
        if let Trial::Cost(cost) = trial {
            self.sorted.insert((cost, node));
        }
        count(&mut self.hindrances, &trial);
        match std::mem::replace(&mut self.trials[node.row()], trial) {
            Trial::Cost(before) => {
                if !matches!(self.trials[node.row()], Trial::Cost(now) if now == before) {
                    self.sorted.remove(&(before, node));
                }
            }
            Trial::Hindered(before) => {
                for hindrance in before {
                    if let Entry::Occupied(mut nodes) = self.hindrances.entry(hindrance) {
                        *nodes.get_mut() -= 1;
                        if *nodes.get() == 0 {
                            nodes.remove();
                        }
                    }
                }
            }
        }
    }
}

fn count(hindrances: &mut BTreeMap<Hindrance, usize>, trial: &Trial) {
    if let Trial::Hindered(found) = trial {
        for hindrance in found {
            *hindrances.entry(hindrance.clone()).or_default() += 1;
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

impl Cluster {
    /// Puts all disruption budgets, as they are now.
    pub fn set_budgets(&mut self, budgets: Vec<Budget>) {
        if self.budgets != budgets {
            self.budgets = budgets;
            self.budgets_epoch += 1;
        }
    }

    /// The node where making room for a pod costs least, with the pods that would have to go; or why there is none:
    /// evicting pods of lower priority helps nowhere, or pods are on their way out of the node that the pod waits for.
    pub fn preempt(&mut self, pod: &Pod) -> Result<Preemption, Outlook> {
        if self.awaits_victims(pod) {
            return Err(Outlook::Ineligible("not eligible due to a terminating pod on the nominated node."));
        }
        self.keep_residents();
        let aside = self.set_aside(pod.priority, Some(pod.id));
        let found = self.cheapest(pod);
        self.put_back(aside);
        found.map_err(|hindrances| Outlook::Hindered { nodes: self.state.present, hindrances })
    }

    /// Whether pods of lower priority are on their way out of the node that a pod is nominated to.
    pub fn awaits_victims(&self, pod: &Pod) -> bool {
        let leaving = |node: NodeId| self.candidates(node, pod.priority).iter().any(|candidate| !candidate.live);
        self.nominated(pod.id).is_some_and(leaving)
    }

    fn cheapest(&mut self, pod: &Pod) -> Result<Preemption, BTreeMap<Hindrance, usize>> {
        let mut view = View::new(&self.state, &pod.class);
        if view.refusal(&pod.class).is_some() {
            let all = (Hindrance::Unhelpful, self.state.present);
            return Err(Some(all).filter(|(_, nodes)| *nodes > 0).into_iter().collect());
        }
        let best = if view.topology.is_empty() && !pod.class.attached {
            self.cheapest_kept(&mut view, &pod.class, pod.priority)
        } else {
            let mut best = None;
            let mut hindrances = BTreeMap::new();
            for node in self.state.ids() {
                match self.attempt(&mut view, &pod.class, pod.priority, node) {
                    Ok((cost, _)) => best = Some((cost, node)).into_iter().chain(best).min(),
                    Err(found) => count(&mut hindrances, &Trial::Hindered(found)),
                }
            }
            best.ok_or(hindrances)
        };
        let (cost, node) = best?;
        match self.attempt(&mut view, &pod.class, pod.priority, node) {
            Ok((_, victims)) => Ok(Preemption { node, victims, cost }),
            Err(hindrances) => Err(hindrances.into_iter().map(|hindrance| (hindrance, 1)).collect()),
        }
    }

    /// From the order that is kept for the class, brought up to date.
    fn cheapest_kept(
        &mut self,
        view: &mut View,
        class: &Arc<Class>,
        priority: i32,
    ) -> Result<(Cost, NodeId), BTreeMap<Hindrance, usize>> {
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
                order.trials.resize(rows, Trial::none());
                while let Some(Change { node, .. }) = self.state.journal.read(order.position) {
                    order.position += 1;
                    order.put(node, self.trial(view, class, priority, node));
                }
                order
            }
            None => {
                let mut order = Order {
                    class: class.clone(),
                    priority,
                    position: self.state.journal.end(),
                    budgets_epoch: self.budgets_epoch,
                    trials: vec![Trial::none(); rows],
                    sorted: BTreeSet::new(),
                    hindrances: BTreeMap::new(),
                };
                for node in self.state.ids() {
                    order.put(node, self.trial(view, class, priority, node));
                }
                order
            }
        };
        let best = order.sorted.first().copied().ok_or_else(|| order.hindrances.clone());
        // The latest used last.
        if self.orders.len() >= MAX_ORDERS {
            self.orders.remove(0);
        }
        self.orders.push(order);
        best
    }

    fn trial(&mut self, view: &mut View, class: &Class, priority: i32, node: NodeId) -> Trial {
        match self.attempt(view, class, priority, node) {
            Ok((cost, _)) => Trial::Cost(cost),
            Err(hindrances) => Trial::Hindered(hindrances),
        }
    }

    /// Pods on a node below a priority, the most important first.
    fn candidates(&self, node: NodeId, priority: i32) -> Vec<Candidate> {
        let Some(residents) = self.residents.as_ref().and_then(|residents| residents.get(node.row())) else {
            return Vec::new();
        };
        let lower = |id: &PodId| {
            let placed = self.pods.get(*id).filter(|placed| placed.tenure.priority < priority)?;
            // A pod that has not started counts as the youngest.
            let started = if placed.tenure.started == 0 { u64::MAX } else { placed.tenure.started };
            let (class, priority) = (placed.class.clone(), placed.tenure.priority);
            Some(Candidate { id: *id, class, priority, started, live: !placed.tenure.terminating })
        };
        let mut candidates: Vec<Candidate> = residents.iter().filter_map(lower).collect();
        candidates.sort_by_key(|candidate| (Reverse(candidate.priority), candidate.started, candidate.id));
        candidates
    }

    /// Whether evictions may help on a node, by what its first filter says now; and why not.
    fn may_help(&self, view: &mut View, class: &Class, node: NodeId) -> Result<(), Vec<Hindrance>> {
        let unhelpful = Err(vec![Hindrance::Unhelpful]);
        if !self.state.node(node).present {
            return Err(Vec::new());
        }
        let state = &self.state;
        if view.is_plain(class) {
            if view.lens.look(state, class, state.node(node)).is_err() {
                return unhelpful;
            }
            if state.ledger.fits(node, class.checked()) {
                return Err(Vec::new());
            }
        } else {
            match view.reasons(state, class, node).first() {
                None => return Err(Vec::new()),
                Some(reason) if !reason.is_mendable() => return unhelpful,
                Some(_) => {}
            }
        }
        // Nobody can go whose going would give a node what it never had.
        let beyond = |take: &Take| take.column != PODS && take.amount > state.ledger.capacity(take.column, node);
        let beyond = class.checked().iter().any(beyond);
        if beyond && !lens::shortages(state, class, node).contains(&Reason::Ports) { unhelpful } else { Ok(()) }
    }

    /// Tries a node: what it would cost, and who would have to go. The cluster is as before afterwards.
    fn attempt(
        &mut self,
        view: &mut View,
        class: &Class,
        priority: i32,
        node: NodeId,
    ) -> Result<(Cost, Vec<PodId>), Vec<Hindrance>> {
        self.may_help(view, class, node)?;
        let candidates = self.candidates(node, priority);
        if candidates.is_empty() {
            return Err(vec![Hindrance::NoVictims]);
        }
        let bound = !view.topology.is_empty();
        candidates.iter().for_each(|candidate| self.lift(node, candidate, bound));
        let mut victims = vec![false; candidates.len()];
        let mut violations = 0;
        let feasible = self.would_fit(class, node, view);
        let mut still = Vec::new();
        if !feasible {
            still = view.reasons(&self.state, class, node).into_iter().map(Hindrance::Still).collect();
        } else {
            let violating = self.violating(&candidates);
            let order = (0..candidates.len()).filter(|at| violating[*at]);
            let order: Vec<usize> = order.chain((0..candidates.len()).filter(|at| !violating[*at])).collect();
            for at in order {
                self.lower(node, &candidates[at], bound);
                if !self.would_fit(class, node, view) {
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
        view.topology.refresh(&self.state, node);
        let gone: Vec<&Candidate> =
            candidates.iter().zip(&victims).filter(|(_, gone)| **gone).map(|(one, _)| one).collect();
        let Some(first) = gone.first() else { return Err(still) };
        let highest_priority = first.priority;
        let oldest = gone.iter().filter(|one| one.priority == highest_priority).map(|one| one.started).min();
        let cost = Cost {
            violations,
            highest_priority,
            priority_sum: gone.iter().map(|one| i64::from(one.priority) + (1 << 31)).sum(),
            pods: gone.len(),
            oldest_start: Reverse(oldest.unwrap_or(u64::MAX)),
        };
        Ok((cost, gone.iter().map(|one| one.id).collect()))
    }

    fn would_fit(&self, class: &Class, node: NodeId, view: &mut View) -> bool {
        if !self.state.ledger.fits(node, class.checked()) {
            return false;
        }
        if view.is_plain(class) {
            return true;
        }
        view.topology.refresh(&self.state, node);
        view.reasons(&self.state, class, node).is_empty()
    }

    /// Takes a pod away for a moment. Nothing is told to the journal: it is as it was before anybody looks again.
    fn lift(&mut self, node: NodeId, candidate: &Candidate, bound: bool) {
        self.state.ledger.release(node, &candidate.class.demand.takes);
        if bound || candidate.class.attached {
            self.state.count(node, &candidate.class, candidate.live, -1);
        }
    }

    /// Puts it back.
    fn lower(&mut self, node: NodeId, candidate: &Candidate, bound: bool) {
        self.state.ledger.book(node, &candidate.class.demand.takes);
        if bound || candidate.class.attached {
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
        for (id, placed) in self.pods.iter() {
            residents[placed.node.row()].push(id);
        }
        self.residents = Some(residents);
    }
}
