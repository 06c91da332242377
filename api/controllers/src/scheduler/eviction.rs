//! Making room for pods of higher priority, and what the model knows beside pods and nodes: namespaces, budgets.

use std::sync::Arc;

use kelson_sched::{Budget, Outlook, Pod, PodId};
use kelson_wire::kube::{Delta, Keyed};

use super::model::{DEFAULT_SCHEDULER, Model};
use super::view::{BudgetView, NamespaceView, PodView};

/// Said of a pod whose victims are on their way out.
const LEAVING: &str = "not eligible due to a terminating pod on the nominated node.";

/// A pod to evict for another one.
#[derive(Clone, Debug)]
pub struct Eviction {
    pub id: PodId,
    pub victim: Arc<PodView>,
    /// The uid of the pod that it makes room for.
    pub preemptor: Arc<str>,
    /// Which scheduler that pod asks for.
    pub scheduler: Box<str>,
    pub node: Arc<str>,
}

impl Model {
    /// Finds the node where making room for a refused pod costs least, and nominates the pod to it.
    ///
    /// # Errors
    /// Why there is none, in kube-scheduler's words; nothing where the pod's profile does not preempt.
    pub(super) fn make_room(&mut self, pod: &Pod) -> Result<Arc<str>, Option<Outlook>> {
        let known = self.pods.get(&pod.id).ok_or(None)?;
        let profile = self.profile(&known.view).and_then(|at| self.profiles.get(at));
        if profile.is_none_or(|profile| !profile.preempts) {
            return Err(None);
        }
        if known.view.never_preempts {
            return Err(Some(Outlook::NEVER));
        }
        if known.victims > 0 {
            return Err(Some(Outlook::Ineligible(LEAVING)));
        }
        let preemptor = known.view.meta().uid.clone();
        let named = Some(&known.view.scheduler_name).filter(|name| !name.is_empty());
        let scheduler = named.cloned().unwrap_or_else(|| DEFAULT_SCHEDULER.into());
        let found = self.cluster.preempt(pod);
        self.metrics.preempted(found.as_ref().ok().map(|found| found.victims.len()));
        let found = match found {
            Ok(found) => found,
            Err(outlook) => {
                if !self.cluster.awaits_victims(pod) {
                    self.cluster.denominate(pod.id);
                }
                return Err(Some(outlook));
            }
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
            self.evictions.push_back(Eviction {
                id,
                victim,
                preemptor: preemptor.clone(),
                scheduler: scheduler.clone(),
                node: node.clone(),
            });
        }
        Ok(node)
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
        self.notice("NamespaceUpdate", events, now);
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
