//! The reference: one pod at a time, every node looked at, every sum made anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use kelson_sched::{
    Budget, DevicePlan, Effect, Filter, FitStrategy, HostPort, NodeSelectorTerm, NodeSpec, Operator, Pairs, PodId,
    PodTemplate, Profile, Requirement, Scores, Taint, Toleration, TolerationOperator, VolumePlan,
};

use crate::gear::Gear;
use crate::random::disks::Disks;

mod devices;
mod disks;
mod others;
mod preemption;

#[derive(Default)]
pub struct Naive {
    pub nodes: Vec<NodeSpec>,
    pub pods: BTreeMap<PodId, Held>,
    pub namespaces: BTreeMap<Arc<str>, Pairs>,
    pub budgets: Vec<Budget>,
    pub disks: Disks,
    pub gear: Gear,
    pub profiles: Vec<Profile>,
    /// Pods taken away for a moment. What they were promised stays promised.
    away: BTreeMap<PodId, Held>,
}

/// A pod that holds a place.
pub struct Held {
    pub node: Arc<str>,
    pub template: Arc<PodTemplate>,
    pub terminating: bool,
    pub priority: i32,
    pub started: u64,
    /// What it was promised.
    pub plan: VolumePlan,
    /// The same of devices, as far as the claims do not show it.
    pub devices: DevicePlan,
}

impl Naive {
    pub fn hold(&mut self, id: PodId, node: &Arc<str>, template: &Arc<PodTemplate>) {
        self.pods.insert(
            id,
            Held {
                node: node.clone(),
                template: template.clone(),
                terminating: false,
                priority: 0,
                started: 0,
                plan: VolumePlan::default(),
                devices: DevicePlan::default(),
            },
        );
    }

    /// The profile of a pod.
    pub fn profile(&self, pod: &PodTemplate) -> Profile {
        self.profiles.get(pod.profile).cloned().unwrap_or_default()
    }

    fn on<'a>(&'a self, node: &'a NodeSpec) -> impl Iterator<Item = &'a PodTemplate> {
        self.pods.values().filter(|held| held.node == node.name).map(|held| &*held.template)
    }

    fn sum(&self, node: &NodeSpec, of: impl Fn(&PodTemplate) -> i64) -> i64 {
        self.on(node).map(of).sum()
    }

    /// Reasons of the first filter that rejects; empty if none does.
    fn reject(&self, pod: &PodTemplate, node: &NodeSpec) -> Vec<String> {
        let profile = self.profile(pod);
        let on = |filter| profile.filters.contains(filter);
        let cordon =
            Taint { key: "node.kubernetes.io/unschedulable".into(), value: "".into(), effect: Effect::NoSchedule };
        if on(Filter::NodeUnschedulable)
            && node.unschedulable
            && !pod.tolerations.iter().any(|toleration| tolerates(toleration, &cordon))
        {
            return vec!["node(s) were unschedulable".into()];
        }
        if pod.node_name.as_ref().is_some_and(|name| *name != node.name) {
            return vec!["node(s) didn't match the requested node name".into()];
        }
        for taint in &node.taints {
            let hard = taint.effect != Effect::PreferNoSchedule;
            if on(Filter::TaintToleration)
                && hard
                && !pod.tolerations.iter().any(|toleration| tolerates(toleration, taint))
            {
                return vec!["node(s) had untolerated taint(s)".into()];
            }
        }
        let selected = pod.node_selector.iter().all(|(key, value)| label(node, key) == Some(value));
        let required = pod.required.as_ref().is_none_or(|terms| terms.iter().any(|term| matches(term, node)));
        let enforced = profile.added_affinity.iter().all(|terms| terms.iter().any(|term| matches(term, node)));
        if on(Filter::NodeAffinity) && !enforced {
            return vec!["node(s) didn't match scheduler-enforced node affinity".into()];
        }
        if on(Filter::NodeAffinity) && (!selected || !required) {
            return vec!["node(s) didn't match Pod's node affinity/selector".into()];
        }
        let taken: Vec<&HostPort> = self.on(node).flat_map(|other| &other.host_ports).collect();
        if on(Filter::NodePorts) && pod.host_ports.iter().any(|port| taken.iter().any(|other| conflict(port, other))) {
            return vec!["node(s) didn't have free ports for the requested pod ports".into()];
        }
        let mut short = Vec::new();
        if self.on(node).count() as i64 >= node.pods {
            short.push("Too many pods".to_string());
        }
        let mut check = |name: &str, wanted: i64, used: i64, allocatable: i64| {
            if wanted > 0 && wanted > allocatable - used {
                short.push(format!("Insufficient {name}"));
            }
        };
        let (asks, has) = (&pod.requests.resources, &node.allocatable);
        check("cpu", asks.milli_cpu, self.sum(node, |pod| pod.requests.resources.milli_cpu), has.milli_cpu);
        check("memory", asks.memory, self.sum(node, |pod| pod.requests.resources.memory), has.memory);
        let ephemeral = self.sum(node, |pod| pod.requests.resources.ephemeral_storage);
        check("ephemeral-storage", asks.ephemeral_storage, ephemeral, has.ephemeral_storage);
        let ignored = profile.ignored_resources.iter().chain(&profile.ignored_groups).count() > 0;
        for (name, wanted) in asks.extended.iter().filter(|_| !ignored) {
            check(name, *wanted, self.sum(node, |pod| pod.requests.resources.extended(name)), has.extended(name));
        }
        if on(Filter::NodeResourcesFit) && !short.is_empty() {
            return short;
        }
        let disks = self.reject_disks(pod, node);
        if !disks.is_empty() {
            return disks;
        }
        let spread = self.reject_spread(pod, node).filter(|_| on(Filter::PodTopologySpread));
        let affinity = || self.reject_affinity(pod, node).filter(|_| on(Filter::InterPodAffinity));
        if let Some(reason) = spread.or_else(affinity) {
            return vec![reason.into()];
        }
        if let Err(reason) = self.devices(pod, node) {
            return vec![reason];
        }
        if pod.features.iter().any(|feature| !node.features.contains(feature)) {
            return vec!["node(s) didn't match Pod's required features".into()];
        }
        Vec::new()
    }

    /// Whether some node takes it.
    pub fn takes(&self, pod: &PodTemplate) -> bool {
        self.refuse(pod).is_none() && self.nodes.iter().any(|node| self.reject(pod, node).is_empty())
    }

    /// Score vectors of the feasible nodes.
    pub fn scores(&self, pod: &PodTemplate) -> BTreeMap<Arc<str>, Scores> {
        let profile = self.profile(pod);
        let refused = self.refuse(pod).is_some();
        let takes = |node: &&NodeSpec| !refused && self.reject(pod, node).is_empty();
        let feasible: Vec<&NodeSpec> = self.nodes.iter().filter(takes).collect();
        let against = |node: &NodeSpec| {
            let counts = |taint: &&Taint| {
                taint.effect == Effect::PreferNoSchedule && !pod.tolerations.iter().any(|one| tolerates(one, taint))
            };
            node.taints.iter().filter(counts).count() as i64
        };
        let preferred = |node: &NodeSpec| -> i64 {
            let all = pod.preferred.iter().chain(&profile.added_preferences);
            all.filter(|(_, term)| matches(term, node)).map(|(weight, _)| i64::from(*weight)).sum()
        };
        let most_against = feasible.iter().map(|node| against(node)).max().unwrap_or(0);
        let most_preferred = feasible.iter().map(|node| preferred(node)).max().unwrap_or(0);
        let spread = self.spread_scores(pod, &feasible);
        let affinity = self.affinity_scores(pod, &feasible);
        let devices: Vec<i64> =
            feasible.iter().map(|node| self.devices(pod, node).map_or(0, |(_, worth)| worth)).collect();
        let most_devices = devices.iter().copied().max().unwrap_or(0);
        let score = |(at, node): (usize, &&NodeSpec)| {
            let scores = Scores {
                fit: self.fit(pod, node),
                balanced_allocation: self.balanced_allocation(pod, node),
                image_locality: self.image_locality(pod, node),
                taint_toleration: if most_against == 0 { 100 } else { 100 - 100 * against(node) / most_against },
                node_affinity: if most_preferred == 0 { 0 } else { 100 * preferred(node) / most_preferred },
                topology_spread: if profile.weights.topology_spread == 0 { 0 } else { spread[at] },
                pod_affinity: if profile.weights.pod_affinity == 0 { 0 } else { affinity[at] },
                dynamic_resources: if profile.weights.dynamic_resources == 0 || most_devices == 0 {
                    0
                } else {
                    100 * devices[at] / most_devices
                },
            };
            (node.name.clone(), scores)
        };
        feasible.iter().enumerate().map(score).collect()
    }

    /// Capacity of a resource, what pods have of it and what this one asks for; `None` where it does not count.
    fn amounts(&self, pod: &PodTemplate, node: &NodeSpec, name: &str, defaults: bool) -> Option<(i64, i64, i64)> {
        let of = |pod: &PodTemplate| match (name, defaults) {
            ("cpu", true) => pod.requests.scored_milli_cpu,
            ("cpu", false) => pod.requests.resources.milli_cpu,
            ("memory", true) => pod.requests.scored_memory,
            ("memory", false) => pod.requests.resources.memory,
            ("ephemeral-storage", _) => pod.requests.resources.ephemeral_storage,
            _ => pod.requests.resources.extended(name),
        };
        let capacity = match name {
            "cpu" => node.allocatable.milli_cpu,
            "memory" => node.allocatable.memory,
            "ephemeral-storage" => node.allocatable.ephemeral_storage,
            // Only for pods that ask for it.
            _ if of(pod) == 0 => 0,
            _ => node.allocatable.extended(name),
        };
        (capacity > 0).then(|| (capacity, self.sum(node, of), of(pod)))
    }

    fn fit(&self, pod: &PodTemplate, node: &NodeSpec) -> i64 {
        let profile = self.profile(pod);
        let (mut sum, mut weights) = (0, 0);
        for (name, weight) in &profile.fit_resources {
            let Some((capacity, used, more)) = self.amounts(pod, node, name, true) else { continue };
            let wanted = used + more;
            let score = match &profile.fit {
                FitStrategy::LeastAllocated => (capacity - wanted).max(0) * 100 / capacity,
                FitStrategy::MostAllocated => wanted.min(capacity) * 100 / capacity,
                FitStrategy::RequestedToCapacityRatio(shape) => {
                    let at = if wanted > capacity { 100 } else { wanted * 100 / capacity };
                    let above = shape.iter().position(|(utilization, _)| at <= *utilization);
                    match above {
                        None => shape[shape.len() - 1].1 * 10,
                        Some(0) => shape[0].1 * 10,
                        Some(i) => {
                            let ((x0, y0), (x1, y1)) = (shape[i - 1], shape[i]);
                            y0 * 10 + (y1 - y0) * 10 * (at - x0) / (x1 - x0)
                        }
                    }
                }
            };
            if score > 0 || !matches!(profile.fit, FitStrategy::RequestedToCapacityRatio(_)) {
                sum += score * weight;
                weights += weight;
            }
        }
        match profile.fit {
            _ if weights == 0 => 0,
            FitStrategy::RequestedToCapacityRatio(_) => (sum as f64 / weights as f64).round() as i64,
            _ => sum / weights,
        }
    }

    fn balanced_allocation(&self, pod: &PodTemplate, node: &NodeSpec) -> i64 {
        let names = self.profile(pod).balanced_resources;
        let asks = |name: &Arc<str>| match &**name {
            "cpu" => pod.requests.resources.milli_cpu,
            "memory" => pod.requests.resources.memory,
            "ephemeral-storage" => pod.requests.resources.ephemeral_storage,
            name => pod.requests.resources.extended(name),
        };
        if names.iter().all(|name| asks(name) == 0) {
            return 0;
        }
        let amounts: Vec<_> = names.iter().filter_map(|name| self.amounts(pod, node, name, false)).collect();
        let balance = |with: bool| {
            let fraction =
                |one: &(i64, i64, i64)| f64::min(1.0, (one.1 + if with { one.2 } else { 0 }) as f64 / one.0 as f64);
            let all: Vec<f64> = amounts.iter().map(fraction).collect();
            let deviation = match all.len() {
                0 | 1 => 0.0,
                2 => f64::abs((all[0] - all[1]) / 2.0),
                count => {
                    let mean = all.iter().sum::<f64>() / count as f64;
                    let mut sum = 0.0;
                    all.iter().for_each(|one| sum += (one - mean) * (one - mean));
                    f64::sqrt(sum / count as f64)
                }
            };
            ((1.0 - deviation) * 100.0) as i64
        };
        50 + (50 + balance(true) - balance(false)) / 2
    }

    fn image_locality(&self, pod: &PodTemplate, node: &NodeSpec) -> i64 {
        let mib = 1024 * 1024;
        let mut sum = 0;
        for image in &pod.images {
            let last = image.rsplit('/').next().unwrap_or(image);
            let full = if last.contains(':') { image.to_string() } else { format!("{image}:latest") };
            let size = |node: &NodeSpec| node.images.iter().find(|(name, _)| **name == *full).map(|(_, size)| *size);
            let share = self.nodes.iter().filter(|node| size(node).is_some()).count() as f64 / self.nodes.len() as f64;
            sum += size(node).map_or(0, |size| (size as f64 * share) as i64);
        }
        let (least, most) = (23 * mib, 1000 * mib * pod.images.len() as i64);
        100 * (sum.clamp(least, most) - least) / (most - least)
    }

    /// kube-scheduler's message for a pod that no node takes.
    pub fn message(&self, pod: &PodTemplate) -> String {
        if self.nodes.is_empty() {
            return "no nodes available to schedule pods".into();
        }
        let by_name = self.profile(pod).filters.contains(Filter::NodeAffinity);
        let named = pod.required.as_ref().filter(|_| by_name).and_then(|terms| names(terms));
        if named.as_ref().is_some_and(|names| names.is_empty()) {
            return format!("0/{} nodes are available: pod affinity terms conflict.", self.nodes.len());
        }
        if let Some(refusal) = self.refuse(pod) {
            return format!("0/{} nodes are available: {refusal}.", self.nodes.len());
        }
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for node in &self.nodes {
            let outside = named.as_ref().is_some_and(|names| !names.contains(&node.name));
            let why = if outside {
                vec!["node(s) didn't satisfy plugin(s) [NodeAffinity]".to_string()]
            } else {
                self.reject(pod, node)
            };
            for reason in why {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        let mut parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        // A pod that fits now may have been refused before others came.
        let counts = if parts.is_empty() { String::new() } else { format!(" {}.", parts.join(", ")) };
        format!("0/{} nodes are available:{counts}", self.nodes.len())
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    if toleration.effect.is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    if !toleration.key.is_empty() && toleration.key != taint.key {
        return false;
    }
    toleration.operator == TolerationOperator::Exists
        || toleration.operator == TolerationOperator::Equal && toleration.value == taint.value
}

fn label<'a>(node: &'a NodeSpec, key: &str) -> Option<&'a Arc<str>> {
    node.labels.iter().find(|(have, _)| **have == *key).map(|(_, value)| value)
}

fn holds(requirement: &Requirement, value: Option<&Arc<str>>) -> bool {
    let number = |text: &Arc<str>| text.parse::<i64>().ok();
    let bound = requirement.values.first().and_then(number);
    match requirement.operator {
        Operator::In => value.is_some_and(|value| requirement.values.contains(value)),
        Operator::NotIn => !value.is_some_and(|value| requirement.values.contains(value)),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
        Operator::Gt => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value > bound),
        Operator::Lt => value.and_then(number).zip(bound).is_some_and(|(value, bound)| value < bound),
    }
}

fn matches(term: &NodeSelectorTerm, node: &NodeSpec) -> bool {
    let some = !term.expressions.is_empty() || !term.fields.is_empty();
    some && term.expressions.iter().all(|one| holds(one, label(node, &one.key)))
        && term.fields.iter().all(|one| holds(one, Some(&node.name)))
}

pub fn conflict(a: &HostPort, b: &HostPort) -> bool {
    let all = |port: &HostPort| port.ip.is_empty() || &*port.ip == "0.0.0.0";
    a.protocol == b.protocol && a.port == b.port && (all(a) || all(b) || a.ip == b.ip)
}

fn names(terms: &[NodeSelectorTerm]) -> Option<Vec<Arc<str>>> {
    let mut all = Vec::new();
    for term in terms {
        let lists: Vec<_> = term.fields.iter().filter(|field| field.operator == Operator::In).collect();
        let first = lists.first()?;
        all.extend(first.values.iter().filter(|name| lists.iter().all(|list| list.values.contains(name))).cloned());
    }
    Some(all)
}
