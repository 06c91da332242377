//! The reference for preemption: on every node, all pods of lower priority away, then back one by one.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use kelson_sched::{Cost, Filter, PodId, PodTemplate};

use super::{Held, Naive};

/// What one node costs, and who goes.
pub type Trial = (Cost, Vec<PodId>);

const UNHELPFUL: &str = "Preemption is not helpful for scheduling";

fn outlook(nodes: usize, hindrances: Vec<String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    hindrances.into_iter().for_each(|why| *counts.entry(why).or_default() += 1);
    let mut parts: Vec<String> = counts.iter().map(|(why, count)| format!("{count} {why}")).collect();
    parts.sort();
    let counts = if parts.is_empty() { String::new() } else { format!(" {}.", parts.join(", ")) };
    format!("preemption: 0/{nodes} nodes are available:{counts}")
}

impl Naive {
    /// Cost and victims per node on which evictions help, and what is said where they help nowhere.
    pub fn preemptions(&mut self, pod: &PodTemplate, priority: i32) -> (BTreeMap<Arc<str>, Trial>, String) {
        if self.refuse(pod).is_some() {
            return (BTreeMap::new(), outlook(self.nodes.len(), vec![UNHELPFUL.into(); self.nodes.len()]));
        }
        let names: Vec<Arc<str>> = self.nodes.iter().map(|node| node.name.clone()).collect();
        let mut found = BTreeMap::new();
        let mut hindrances = Vec::new();
        for name in names {
            match self.try_node(pod, priority, &name) {
                Ok(trial) => drop(found.insert(name, trial)),
                Err(why) => hindrances.extend(why),
            }
        }
        (found, outlook(self.nodes.len(), hindrances))
    }

    fn rejects(&self, pod: &PodTemplate, name: &str) -> Vec<String> {
        let node = self.nodes.iter().find(|node| *node.name == *name).expect("present");
        self.reject(pod, node)
    }

    fn try_node(&mut self, pod: &PodTemplate, priority: i32, name: &Arc<str>) -> Result<Trial, Vec<String>> {
        // Evictions do not mend these (UnschedulableAndUnresolvable).
        let unresolvable = [
            "unschedulable",
            "requested node name",
            "taint",
            "affinity/selector",
            "pod affinity rules",
            "missing",
            "node affinity",
            "to bind",
            "free storage",
            "volume zone",
            "required features",
            "enforced",
            "allocate all claims",
            "resourceclaim not available",
            "resource pool",
            "claim ",
        ];
        let now = self.rejects(pod, name).into_iter().next().ok_or_else(Vec::new)?;
        let node = self.nodes.iter().find(|node| node.name == *name).expect("present");
        let (asks, has) = (&pod.requests.resources, &node.allocatable);
        let profile = self.profile(pod);
        let ignored = profile.ignored_resources.iter().chain(&profile.ignored_groups).count() > 0;
        let looked = if ignored { &[][..] } else { &asks.extended };
        let fit = profile.filters.contains(Filter::NodeResourcesFit);
        // More than the node has when it is empty.
        let beyond = asks.milli_cpu > has.milli_cpu
            || asks.memory > has.memory
            || asks.ephemeral_storage > has.ephemeral_storage
            || looked.iter().any(|(name, amount)| *amount > has.extended(name));
        let beyond = beyond && fit;
        if unresolvable.iter().any(|text| now.contains(text)) || beyond && !now.contains("ports") {
            return Err(vec![UNHELPFUL.into()]);
        }
        let lower = self.pods.iter().filter(|(_, held)| held.node == *name && held.priority < priority);
        let mut ids: Vec<PodId> = lower.map(|(id, _)| *id).collect();
        let start = |held: &Held| if held.started == 0 { u64::MAX } else { held.started };
        ids.sort_by_key(|id| (Reverse(self.pods[id].priority), start(&self.pods[id]), *id));
        if ids.is_empty() {
            return Err(vec!["No preemption victims found for incoming pod".into()]);
        }
        let violating = self.violating(&ids);
        self.away = ids.iter().filter_map(|id| Some((*id, self.pods.remove(id)?))).collect();
        let mut victims = Vec::new();
        let still = self.rejects(pod, name);
        if still.is_empty() {
            let (first, second): (Vec<PodId>, Vec<PodId>) = ids.iter().copied().partition(|id| violating[id]);
            for id in first.into_iter().chain(second) {
                let back = self.away.remove(&id).expect("away");
                self.pods.insert(id, back);
                if !self.rejects(pod, name).is_empty() {
                    let gone = self.pods.remove(&id).expect("back");
                    self.away.insert(id, gone);
                    victims.push(id);
                }
            }
        }
        self.pods.append(&mut self.away);
        victims.sort_by_key(|id| (Reverse(self.pods[id].priority), start(&self.pods[id]), *id));
        let Some(first) = victims.first() else { return Err(still) };
        let highest_priority = self.pods[first].priority;
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
                    .min()
                    .unwrap_or(u64::MAX),
            ),
        };
        Ok((cost, victims))
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
