//! The reference for preemption: on every node, all pods of lower priority away, then back one by one.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use kelson_sched::{Cost, PodId, PodTemplate};

use super::{Held, Naive};

impl Naive {
    /// Cost and victims per node on which evictions help.
    pub fn preemptions(&mut self, pod: &PodTemplate, priority: i32) -> BTreeMap<Arc<str>, (Cost, Vec<PodId>)> {
        let names: Vec<Arc<str>> = self.nodes.iter().map(|node| node.name.clone()).collect();
        let tried = names.into_iter().filter_map(|name| {
            let found = self.try_node(pod, priority, &name)?;
            Some((name, found))
        });
        tried.collect()
    }

    fn rejects(&self, pod: &PodTemplate, name: &str) -> Vec<String> {
        let node = self.nodes.iter().find(|node| *node.name == *name).expect("present");
        self.reject(pod, node)
    }

    fn try_node(&mut self, pod: &PodTemplate, priority: i32, name: &Arc<str>) -> Option<(Cost, Vec<PodId>)> {
        // Evictions do not mend these (UnschedulableAndUnresolvable).
        let unresolvable =
            ["unschedulable", "requested node name", "taint", "affinity/selector", "pod affinity rules", "missing"];
        let now = self.rejects(pod, name).into_iter().next()?;
        if unresolvable.iter().any(|text| now.contains(text)) {
            return None;
        }
        let lower = self.pods.iter().filter(|(_, held)| held.node == *name && held.priority < priority);
        let mut ids: Vec<PodId> = lower.map(|(id, _)| *id).collect();
        let start = |held: &Held| if held.started == 0 { u64::MAX } else { held.started };
        ids.sort_by_key(|id| (Reverse(self.pods[id].priority), start(&self.pods[id]), *id));
        if ids.is_empty() {
            return None;
        }
        let violating = self.violating(&ids);
        let mut away: BTreeMap<PodId, Held> = ids.iter().filter_map(|id| Some((*id, self.pods.remove(id)?))).collect();
        let mut victims = Vec::new();
        if self.rejects(pod, name).is_empty() {
            let (first, second): (Vec<PodId>, Vec<PodId>) = ids.iter().copied().partition(|id| violating[id]);
            for id in first.into_iter().chain(second) {
                self.pods.insert(id, away.remove(&id)?);
                if !self.rejects(pod, name).is_empty() {
                    away.insert(id, self.pods.remove(&id)?);
                    victims.push(id);
                }
            }
        }
        self.pods.extend(away);
        victims.sort_by_key(|id| (Reverse(self.pods[id].priority), start(&self.pods[id]), *id));
        let highest_priority = self.pods[victims.first()?].priority;
        let cost = Cost {
            violations: victims.iter().filter(|id| violating[id]).count(),
            highest_priority,
            priority_sum: victims.iter().map(|id| i64::from(self.pods[id].priority) + (1 << 31)).sum(),
            pods: victims.len(),
            oldest_start: Reverse(
                victims
                    .iter()
                    .filter(|id| self.pods[id].priority == highest_priority)
                    .map(|id| start(&self.pods[id]))
                    .min()?,
            ),
        };
        Some((cost, victims))
    }

    fn violating(&self, ids: &[PodId]) -> BTreeMap<PodId, bool> {
        let mut taken = vec![0; self.budgets.len()];
        let mut violating = BTreeMap::new();
        for id in ids {
            let template = &self.pods[id].template;
            let mut violates = false;
            for (at, budget) in self.budgets.iter().enumerate() {
                let selects = budget
                    .selector
                    .as_ref()
                    .is_some_and(|one| !one.requirements.is_empty() && one.matches(&template.labels));
                if budget.namespace == template.namespace && selects && !template.labels.is_empty() {
                    taken[at] += 1;
                    violates |= taken[at] > budget.allowed;
                }
            }
            violating.insert(*id, violates);
        }
        violating
    }
}
