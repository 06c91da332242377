//! The reference for what pods ask of other pods: every pair of pods looked at, for every node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kelson_sched::{LabelSelector, NodeSpec, Operator, PodTemplate, PodTerm, SpreadConstraint};

use super::{Held, Naive, label, matches, tolerates};

impl Naive {
    fn node(&self, name: &str) -> Option<&NodeSpec> {
        self.nodes.iter().find(|node| *node.name == *name)
    }

    /// Pods on nodes that are there, with their nodes.
    fn placed(&self) -> impl Iterator<Item = (&Held, &NodeSpec)> {
        self.pods.values().filter_map(|held| Some((held, self.node(&held.node)?)))
    }

    fn counts(&self, pod: &PodTemplate, constraint: &SpreadConstraint, node: &NodeSpec) -> i64 {
        let selected = |held: &&Held| {
            held.node == node.name
                && !held.terminating
                && held.template.namespace == pod.namespace
                && constraint
                    .selector
                    .as_ref()
                    .is_some_and(|one| !one.requirements.is_empty() && selects(one, &held.template))
        };
        self.pods.values().filter(selected).count() as i64
    }

    /// Node inclusion policies.
    fn included(&self, pod: &PodTemplate, constraint: &SpreadConstraint, node: &NodeSpec) -> bool {
        let selected = pod.node_selector.iter().all(|(key, value)| label(node, key) == Some(value));
        let required = pod.required.as_ref().is_none_or(|terms| terms.iter().any(|term| matches(term, node)));
        let hard = |taint: &&kelson_sched::Taint| taint.effect != kelson_sched::Effect::PreferNoSchedule;
        let tolerated =
            node.taints.iter().filter(hard).all(|taint| pod.tolerations.iter().any(|one| tolerates(one, taint)));
        (!constraint.honor_affinity || selected && required) && (!constraint.honor_taints || tolerated)
    }

    pub(super) fn reject_spread(&self, pod: &PodTemplate, node: &NodeSpec) -> Option<&'static str> {
        let hard: Vec<&SpreadConstraint> = pod.spread.iter().filter(|constraint| constraint.hard).collect();
        for constraint in &hard {
            let Some(domain) = label(node, &constraint.topology_key) else {
                return Some("node(s) didn't match pod topology spread constraints (missing required label)");
            };
            let mut domains: BTreeMap<&Arc<str>, i64> = BTreeMap::new();
            for other in &self.nodes {
                let complete = hard.iter().all(|one| label(other, &one.topology_key).is_some());
                if let (true, true, Some(value)) =
                    (complete, self.included(pod, constraint, other), label(other, &constraint.topology_key))
                {
                    *domains.entry(value).or_default() += self.counts(pod, constraint, other);
                }
            }
            let mut fewest = domains.values().min().copied().unwrap_or(i64::from(i32::MAX));
            if (domains.len() as i64) < i64::from(constraint.min_domains) {
                fewest = 0;
            }
            let own = i64::from(constraint.selector.as_ref().is_some_and(|one| selects(one, pod)));
            if domains.get(domain).copied().unwrap_or(0) + own - fewest > i64::from(constraint.max_skew) {
                return Some("node(s) didn't match pod topology spread constraints");
            }
        }
        None
    }

    fn term_selects(&self, term: &PodTerm, other: &PodTemplate) -> bool {
        let labels = self.namespaces.get(&other.namespace).cloned().unwrap_or_default();
        let by_label = term.namespace_selector.as_ref().is_some_and(|one| holds_all(one, &labels));
        (term.namespaces.contains(&other.namespace) || by_label)
            && term.selector.as_ref().is_some_and(|one| selects(one, other))
    }

    /// Whether a placed pod that `test` accepts shares the node's domain.
    fn near(&self, node: &NodeSpec, key: &str, test: impl Fn(&PodTemplate) -> bool) -> bool {
        let here = label(node, key);
        here.is_some() && self.placed().any(|(held, on)| label(on, key) == here && test(&held.template))
    }

    pub(super) fn reject_affinity(&self, pod: &PodTemplate, node: &NodeSpec) -> Option<&'static str> {
        let all = |other: &PodTemplate| pod.affinity.iter().all(|term| self.term_selects(term, other));
        let keyed = pod.affinity.iter().all(|term| label(node, &term.topology_key).is_some());
        let near = pod.affinity.iter().all(|term| self.near(node, &term.topology_key, all));
        let anywhere = pod
            .affinity
            .iter()
            .any(|term| self.placed().any(|(held, on)| label(on, &term.topology_key).is_some() && all(&held.template)));
        if !keyed || !near && (anywhere || !all(pod)) {
            return Some("node(s) didn't match pod affinity rules");
        }
        let against = |term: &PodTerm| self.near(node, &term.topology_key, |other| self.term_selects(term, other));
        if pod.anti_affinity.iter().any(against) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        for (held, on) in self.placed() {
            for term in held.template.anti_affinity.iter().filter(|term| self.term_selects(term, pod)) {
                let here = label(node, &term.topology_key);
                if here.is_some() && here == label(on, &term.topology_key) {
                    return Some("node(s) didn't satisfy existing pods anti-affinity rules");
                }
            }
        }
        None
    }

    pub(super) fn spread_scores(&self, pod: &PodTemplate, feasible: &[&NodeSpec]) -> Vec<i64> {
        let soft: Vec<&SpreadConstraint> = pod.spread.iter().filter(|constraint| !constraint.hard).collect();
        if soft.is_empty() {
            return vec![0; feasible.len()];
        }
        let complete = |node: &NodeSpec| soft.iter().all(|one| label(node, &one.topology_key).is_some());
        let takes_part = |node: &NodeSpec| pod.spread_defaulted || complete(node);
        let raw = |node: &NodeSpec| -> Option<i64> {
            if !takes_part(node) {
                return None;
            }
            let mut score = 0.0;
            for constraint in &soft {
                let key = &*constraint.topology_key;
                let taking_part = || feasible.iter().filter(|one| takes_part(one));
                let (size, count) = if key == "kubernetes.io/hostname" {
                    (taking_part().count(), self.counts(pod, constraint, node))
                } else {
                    let domains: BTreeSet<Option<&Arc<str>>> = taking_part().map(|one| label(one, key)).collect();
                    let counted = |other: &&NodeSpec| {
                        label(other, key) == label(node, key)
                            && takes_part(other)
                            && self.included(pod, constraint, other)
                    };
                    let counts = self.nodes.iter().filter(counted).map(|other| self.counts(pod, constraint, other));
                    (domains.len(), counts.sum())
                };
                if label(node, key).is_some() {
                    score += count as f64 * ((size + 2) as f64).ln() + f64::from(constraint.max_skew - 1);
                }
            }
            Some(score.round() as i64)
        };
        let raws: Vec<Option<i64>> = feasible.iter().map(|node| raw(node)).collect();
        let most = raws.iter().flatten().max().copied().unwrap_or(0);
        let fewest = raws.iter().flatten().min().copied().unwrap_or(0);
        let normal = |raw: &Option<i64>| match raw {
            None => 0,
            Some(_) if most == 0 => 100,
            Some(raw) => 100 * (most + fewest - raw) / most,
        };
        raws.iter().map(normal).collect()
    }

    pub(super) fn affinity_scores(&self, pod: &PodTemplate, feasible: &[&NodeSpec]) -> Vec<i64> {
        let profile = self.profile(pod);
        let deaf = profile.ignore_preferred_terms_of_existing_pods
            && pod.preferred_affinity.is_empty()
            && pod.preferred_anti_affinity.is_empty();
        let raw = |node: &&NodeSpec| -> i64 {
            let mut score = 0;
            for (held, on) in self.placed().filter(|_| !deaf) {
                let same = |term: &PodTerm| {
                    let here = label(node, &term.topology_key);
                    here.is_some() && here == label(on, &term.topology_key)
                };
                let mut add = |weight: i32, term: &PodTerm, other: &PodTemplate| {
                    if same(term) && self.term_selects(term, other) {
                        score += i64::from(weight);
                    }
                };
                pod.preferred_affinity.iter().for_each(|(weight, term)| add(*weight, term, &held.template));
                pod.preferred_anti_affinity.iter().for_each(|(weight, term)| add(-*weight, term, &held.template));
                held.template.affinity.iter().for_each(|term| add(profile.hard_pod_affinity_weight, term, pod));
                held.template.preferred_affinity.iter().for_each(|(weight, term)| add(*weight, term, pod));
                held.template.preferred_anti_affinity.iter().for_each(|(weight, term)| add(-*weight, term, pod));
            }
            score
        };
        let raws: Vec<i64> = feasible.iter().map(raw).collect();
        let (least, most) = (raws.iter().min().copied().unwrap_or(0), raws.iter().max().copied().unwrap_or(0));
        let normal = |raw: &i64| {
            if most == least { 0 } else { (100.0 * ((raw - least) as f64 / (most - least) as f64)) as i64 }
        };
        raws.iter().map(normal).collect()
    }
}

fn selects(selector: &LabelSelector, pod: &PodTemplate) -> bool {
    holds_all(selector, &pod.labels)
}

fn holds_all(selector: &LabelSelector, labels: &[(Arc<str>, Arc<str>)]) -> bool {
    selector.requirements.iter().all(|one| {
        let value = labels.iter().find(|(key, _)| *key == one.key).map(|(_, value)| value);
        match one.operator {
            Operator::In => value.is_some_and(|value| one.values.contains(value)),
            Operator::NotIn => !value.is_some_and(|value| one.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt | Operator::Lt => false,
        }
    })
}
