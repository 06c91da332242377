//! Profiles: which filters and scores count for a pod, and with what weights and arguments ("Scheduler Configuration" of
//! the Kubernetes documentation). Data, not code: nothing is called through a pointer on the way of a pod.

use std::sync::Arc;

use crate::constraint::{LabelSelector, SpreadConstraint};
use crate::reason::FilterSet;
use crate::selector::NodeSelectorTerm;

/// Weights of the scores; 0 turns one off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    pub fit: i64,
    pub balanced_allocation: i64,
    pub image_locality: i64,
    pub taint_toleration: i64,
    pub node_affinity: i64,
    pub topology_spread: i64,
    pub pod_affinity: i64,
    pub dynamic_resources: i64,
}

impl Default for Weights {
    /// kube-scheduler's.
    fn default() -> Weights {
        Weights {
            fit: 1,
            balanced_allocation: 1,
            image_locality: 1,
            taint_toleration: 3,
            node_affinity: 2,
            topology_spread: 2,
            pod_affinity: 2,
            dynamic_resources: 2,
        }
    }
}

/// How `NodeResourcesFit` scores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FitStrategy {
    LeastAllocated,
    MostAllocated,
    /// Points of a broken line: utilization in percent, rising, and the score there from 0 to 10.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// Default constraints of `PodTopologySpread`, for pods without their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpreadDefaults {
    /// `System`: host names with a skew of 3, zones with 5, both soft; nodes without the keys take part.
    System,
    /// `List`: these, with the selector that the pod's owners give.
    List(Vec<SpreadConstraint>),
}

/// The keys of the system's default constraints, with their skews.
const SYSTEM_SPREAD: [(&str, i32); 2] = [("kubernetes.io/hostname", 3), ("topology.kubernetes.io/zone", 5)];

impl SpreadDefaults {
    /// The constraints of a pod without its own, whose owners (services, replica sets and so on) select it by
    /// `selector`; and whether they are the system's ([`crate::PodTemplate::spread_defaulted`]).
    pub fn constraints(&self, selector: &LabelSelector) -> (Vec<SpreadConstraint>, bool) {
        // A pod that nobody selects is not spread.
        if selector.requirements.is_empty() {
            return (Vec::new(), false);
        }
        match self {
            SpreadDefaults::System => {
                let constraint = |(key, max_skew): (&str, i32)| SpreadConstraint {
                    max_skew,
                    topology_key: key.into(),
                    hard: false,
                    selector: Some(selector.clone()),
                    min_domains: 1,
                    honor_affinity: true,
                    honor_taints: false,
                };
                (SYSTEM_SPREAD.map(constraint).into(), true)
            }
            SpreadDefaults::List(list) => {
                let constraint =
                    |one: &SpreadConstraint| SpreadConstraint { selector: Some(selector.clone()), ..one.clone() };
                (list.iter().map(constraint).collect(), false)
            }
        }
    }
}

/// One profile. Pods name theirs by its place in the list that `Cluster::with_profiles` took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// `schedulerName`.
    pub name: Arc<str>,
    /// Filters that are on.
    pub filters: FilterSet,
    pub weights: Weights,
    pub fit: FitStrategy,
    /// Resources that `fit` scores, with their weights of 1 to 100.
    pub fit_resources: Vec<(Arc<str>, i64)>,
    /// Extended resources that `NodeResourcesFit` does not look at, by name.
    pub ignored_resources: Vec<Arc<str>>,
    /// And those whose name begins with one of these and a slash.
    pub ignored_groups: Vec<Arc<str>>,
    /// Resources that `NodeResourcesBalancedAllocation` balances.
    pub balanced_resources: Vec<Arc<str>>,
    /// What a required affinity term of a pod that is there adds to the score of one that it selects: 0 to 100.
    pub hard_pod_affinity_weight: i32,
    /// Preferred terms of pods that are there do not count for pods without pod affinity of their own.
    pub ignore_preferred_terms_of_existing_pods: bool,
    /// Required node affinity of all pods of the profile, beside their own.
    pub added_affinity: Option<Vec<NodeSelectorTerm>>,
    /// Preferred node affinity likewise.
    pub added_preferences: Vec<(i32, NodeSelectorTerm)>,
    pub spread_defaults: SpreadDefaults,
}

impl Default for Profile {
    /// kube-scheduler's default profile.
    fn default() -> Profile {
        Profile {
            name: "default-scheduler".into(),
            filters: FilterSet::ALL,
            weights: Weights::default(),
            fit: FitStrategy::LeastAllocated,
            fit_resources: vec![("cpu".into(), 1), ("memory".into(), 1)],
            ignored_resources: Vec::new(),
            ignored_groups: Vec::new(),
            balanced_resources: vec!["cpu".into(), "memory".into()],
            hard_pod_affinity_weight: 1,
            ignore_preferred_terms_of_existing_pods: false,
            added_affinity: None,
            added_preferences: Vec::new(),
            spread_defaults: SpreadDefaults::System,
        }
    }
}

impl Profile {
    /// Whether `NodeResourcesFit` passes over a resource.
    pub(crate) fn ignores(&self, resource: &str) -> bool {
        self.ignored_resources.iter().any(|name| **name == *resource)
            || self
                .ignored_groups
                .iter()
                .any(|group| resource.strip_prefix(&**group).is_some_and(|rest| rest.starts_with('/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_the_part_before_the_slash() {
        let profile = Profile {
            ignored_resources: vec!["a.com/x".into()],
            ignored_groups: vec!["b.com".into()],
            ..Profile::default()
        };
        for (name, ignored) in [("a.com/x", true), ("a.com/y", false), ("b.com/y", true), ("b.community/y", false)] {
            assert_eq!(profile.ignores(name), ignored, "{name}");
        }
    }

    #[test]
    fn system_defaults_are_soft_and_need_a_selector() {
        let selector = LabelSelector::of_pairs([("app", "web")]);
        let (constraints, system) = SpreadDefaults::System.constraints(&selector);
        let skews: Vec<_> = constraints.iter().map(|one| (&*one.topology_key, one.max_skew, one.hard)).collect();
        assert_eq!(skews, [("kubernetes.io/hostname", 3, false), ("topology.kubernetes.io/zone", 5, false)]);
        assert!(system);
        assert_eq!(SpreadDefaults::System.constraints(&LabelSelector::default()), (vec![], false));
    }
}
