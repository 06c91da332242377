//! Making room for pods of higher priority, and what the model knows beside pods and nodes: namespaces, budgets.

use std::sync::Arc;

use kelson_sched::{Budget, Pod, PodId};
use kelson_wire::kube::{Delta, Keyed};

use super::model::Model;
use super::view::{BudgetView, NamespaceView, PodView};

/// A pod to evict for another one.
#[derive(Clone, Debug)]
pub struct Eviction {
    pub id: PodId,
    pub victim: Arc<PodView>,
    /// The uid of the pod that it makes room for.
    pub preemptor: Arc<str>,
    pub node: Arc<str>,
}

impl Model {
    /// Finds the node where making room for a refused pod costs least, and nominates the pod to it. `None` where no
    /// eviction helps, or its victims are on their way out already.
    pub(super) fn make_room(&mut self, pod: &Pod) -> Option<Arc<str>> {
        let known = self.pods.get(&pod.id)?;
        if known.view.never_preempts || known.victims > 0 {
            return None;
        }
        let preemptor = known.view.meta().uid.clone();
        let Ok(found) = self.cluster.preempt(pod) else {
            if !self.cluster.awaits_victims(pod) {
                self.cluster.denominate(pod.id);
            }
            return None;
        };
        let node = self.cluster.node_name(found.node).clone();
        self.cluster.nominate(pod, found.node);
        for id in found.victims {
            let Some(victim) = self.pods.get(&id).map(|known| known.view.clone()) else { continue };
            if victim.meta().is_terminating() || self.evicting.insert(id, pod.id).is_some() {
                continue;
            }
            if let Some(known) = self.pods.get_mut(&pod.id) {
                known.victims += 1;
            }
            self.evictions.push_back(Eviction { id, victim, preemptor: preemptor.clone(), node: node.clone() });
        }
        Some(node)
    }

    /// The next pod to evict. Each pod is evicted for one other at a time.
    pub fn next_eviction(&mut self) -> Option<Eviction> {
        self.evictions.pop_front()
    }

    /// A victim is gone or leaving, or could not be evicted: its preemptor may look for room again.
    pub fn eviction_ended(&mut self, victim: PodId) {
        if let Some(preemptor) = self.evicting.remove(&victim)
            && let Some(known) = self.pods.get_mut(&preemptor)
        {
            known.victims = known.victims.saturating_sub(1);
        }
    }

    /// Takes in a change of a namespace.
    pub fn namespace_changed(&mut self, delta: &Delta<NamespaceView>, now: u64) {
        let labels = delta.new.as_ref().map(|view| view.labels.clone());
        let events = self.cluster.set_namespace(&delta.latest().meta().name, labels);
        self.queue.notice(events, now);
    }

    /// Takes in a change of a PodDisruptionBudget.
    pub fn budget_changed(&mut self, delta: &Delta<BudgetView>) {
        let meta = delta.latest().meta();
        let key = (meta.namespace.clone(), meta.name.clone());
        match &delta.new {
            Some(view) => self.budgets.insert(key, view.budget.clone()),
            None => self.budgets.remove(&key),
        };
        let budgets: Vec<Budget> = self.budgets.values().cloned().collect();
        self.cluster.set_budgets(budgets);
    }
}
