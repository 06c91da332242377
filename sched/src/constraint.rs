//! What a pod asks of other pods: topology spread, affinity and anti-affinity, and the selectors they share.

use std::sync::Arc;

use crate::selector::{Operator, Requirement};

/// Labels or other pairs of text, sorted by key.
pub type Pairs = Vec<(Arc<str>, Arc<str>)>;

/// A selector on labels: all requirements hold. Without any it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
}

impl LabelSelector {
    /// Selects what carries exactly these pairs, and maybe others.
    pub fn of_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> LabelSelector {
        let requirement = |(key, value): (&str, &str)| Requirement {
            key: key.into(),
            operator: Operator::In,
            values: vec![value.into()],
        };
        LabelSelector { requirements: pairs.into_iter().map(requirement).collect() }
    }

    /// Whether labels, sorted by key, are selected. `Gt` and `Lt` are no operators of label selectors: they select nothing.
    pub fn matches(&self, labels: &[(Arc<str>, Arc<str>)]) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = value_of(labels, &requirement.key);
            match requirement.operator {
                Operator::In => value.is_some_and(|value| requirement.values.contains(value)),
                Operator::NotIn => value.is_none_or(|value| !requirement.values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
                Operator::Gt | Operator::Lt => false,
            }
        })
    }

    /// A pair that everything selected carries, if there is one that can be told without looking at labels.
    pub(crate) fn certain_pair(&self) -> Option<(&Arc<str>, &Arc<str>)> {
        let only = |requirement: &&Requirement| requirement.operator == Operator::In && requirement.values.len() == 1;
        self.requirements.iter().find(only).map(|requirement| (&requirement.key, &requirement.values[0]))
    }
}

/// The value of a label in pairs sorted by key.
pub(crate) fn value_of<'a>(labels: &'a [(Arc<str>, Arc<str>)], key: &str) -> Option<&'a Arc<str>> {
    labels.binary_search_by(|(have, _)| (**have).cmp(key)).ok().map(|at| &labels[at].1)
}

/// One of `spec.topologySpreadConstraints` ("Pod Topology Spread Constraints" of the Kubernetes documentation).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpreadConstraint {
    /// At least 1.
    pub max_skew: i32,
    pub topology_key: Arc<str>,
    /// `DoNotSchedule`; otherwise it only scores.
    pub hard: bool,
    /// Pods that count, of the pod's own namespace. `None` selects nothing; an empty one counts nothing either.
    pub selector: Option<LabelSelector>,
    /// With fewer domains than this, the smallest count is taken to be 0.
    pub min_domains: i32,
    /// Count only nodes that the pod's node selector and affinity allow.
    pub honor_affinity: bool,
    /// Count only nodes whose hard taints the pod tolerates.
    pub honor_taints: bool,
}

/// A term of pod affinity or anti-affinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodTerm {
    /// `None` selects no pod.
    pub selector: Option<LabelSelector>,
    /// Namespaces by name, sorted; the pod's own where the API's term names none and has no selector.
    pub namespaces: Vec<Arc<str>>,
    /// Namespaces by label; an empty one selects all.
    pub namespace_selector: Option<LabelSelector>,
    pub topology_key: Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_on_present_and_absent_labels() {
        let labels = [("app".into(), "web".into()), ("tier".into(), "front".into())];
        for (key, operator, values, want) in [
            ("app", Operator::In, &["web", "db"][..], true),
            ("app", Operator::NotIn, &["web"], false),
            ("zone", Operator::In, &["a"], false),
            ("zone", Operator::NotIn, &["a"], true),
            ("tier", Operator::Exists, &[], true),
            ("tier", Operator::DoesNotExist, &[], false),
            ("zone", Operator::DoesNotExist, &[], true),
            ("tier", Operator::Gt, &["1"], false),
        ] {
            let values = values.iter().map(|value| (*value).into()).collect();
            let selector = LabelSelector { requirements: vec![Requirement { key: key.into(), operator, values }] };
            assert_eq!(selector.matches(&labels), want, "{key} {operator:?}");
        }
        assert!(LabelSelector::default().matches(&labels));
    }
}
