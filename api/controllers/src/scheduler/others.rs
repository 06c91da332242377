//! What a pod asks of other pods, read from the API's form.

use std::sync::Arc;

use kelson_sched::{LabelSelector, Operator, Pairs, PodTemplate, PodTerm, Requirement, SpreadConstraint};

use super::raw;
use super::view::requirement;

/// The parts of a template that other pods see, and that look at other pods.
pub fn template(meta: &raw::Meta<'_>, spec: &raw::PodSpec<'_>) -> PodTemplate {
    let labels = pairs(&meta.labels);
    let affinity = spec.affinity.as_ref();
    let towards = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    let away = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let term = |raw: &raw::PodTerm<'_>| term(raw, &meta.namespace, &labels);
    let required = |rules: Option<&raw::PodAffinity<'_>>| -> Vec<PodTerm> {
        rules.map(|rules| rules.required.iter().map(term).collect()).unwrap_or_default()
    };
    let preferred = |rules: Option<&raw::PodAffinity<'_>>| -> Vec<(i32, PodTerm)> {
        let weighted = |one: &raw::PreferredPods<'_>| (one.weight, term(&one.pod_affinity_term));
        rules.map(|rules| rules.preferred.iter().map(weighted).collect()).unwrap_or_default()
    };
    PodTemplate {
        namespace: meta.namespace.as_str().into(),
        spread: spec.topology_spread_constraints.iter().map(|raw| spread(raw, &labels)).collect(),
        affinity: required(towards),
        anti_affinity: required(away),
        preferred_affinity: preferred(towards),
        preferred_anti_affinity: preferred(away),
        labels,
        ..PodTemplate::default()
    }
}

/// Pairs of text, sorted by key.
pub fn pairs(raw: &raw::Pairs<'_>) -> Pairs {
    let mut pairs: Pairs = raw.0.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect();
    pairs.sort_unstable();
    pairs
}

/// A label selector; what it says in an unknown operator selects nothing.
pub fn selector(raw: &raw::LabelSelector<'_>) -> LabelSelector {
    let equal = |(key, value): &(raw::Text<'_>, raw::Text<'_>)| Requirement {
        key: key.as_str().into(),
        operator: Operator::In,
        values: vec![value.as_str().into()],
    };
    let mut requirements: Vec<Requirement> = raw.match_labels.0.iter().map(equal).collect();
    // In one order, so that equal selectors are equal.
    requirements.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    requirements.extend(raw.match_expressions.iter().map(requirement));
    LabelSelector { requirements }
}

/// `matchLabelKeys` and `mismatchLabelKeys`: the pod's own values of these labels join the selector. The API server
/// does that when it admits the pod; doing it again changes nothing.
fn joined(
    selector: Option<LabelSelector>,
    keys: &[raw::Text<'_>],
    operator: Operator,
    labels: &Pairs,
) -> Option<LabelSelector> {
    let mut selector = selector?;
    for key in keys {
        let Some((key, value)) = labels.iter().find(|(have, _)| **have == **key) else { continue };
        let own = Requirement { key: key.clone(), operator, values: vec![value.clone()] };
        if !selector.requirements.contains(&own) {
            selector.requirements.push(own);
        }
    }
    Some(selector)
}

fn term(raw: &raw::PodTerm<'_>, own: &raw::Text<'_>, labels: &Pairs) -> PodTerm {
    let of_pods = joined(raw.label_selector.as_ref().map(selector), &raw.match_label_keys, Operator::In, labels);
    let mut namespaces: Vec<Arc<str>> = raw.namespaces.iter().map(|name| name.as_str().into()).collect();
    let namespace_selector = raw.namespace_selector.as_ref().map(selector);
    if namespaces.is_empty() && namespace_selector.is_none() {
        namespaces.push(own.as_str().into());
    }
    namespaces.sort_unstable();
    PodTerm {
        selector: joined(of_pods, &raw.mismatch_label_keys, Operator::NotIn, labels),
        namespaces,
        namespace_selector,
        topology_key: raw.topology_key.as_str().into(),
    }
}

fn spread(raw: &raw::TopologySpread<'_>, labels: &Pairs) -> SpreadConstraint {
    SpreadConstraint {
        max_skew: raw.max_skew.max(1),
        topology_key: raw.topology_key.as_str().into(),
        // `DoNotSchedule` is the default.
        hard: raw.when_unsatisfiable != "ScheduleAnyway",
        selector: joined(raw.label_selector.as_ref().map(selector), &raw.match_label_keys, Operator::In, labels),
        min_domains: raw.min_domains.unwrap_or(1),
        honor_affinity: raw.node_affinity_policy != "Ignore",
        honor_taints: raw.node_taints_policy == "Honor",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_on_other_pods_are_read_in_full() {
        let pod: raw::Pod<'_> = serde_json::from_str(
            r#"{"metadata":{"name":"web-1","namespace":"shop","labels":{"tier":"front","app":"web"}},
              "spec":{
                "topologySpreadConstraints":[
                  {"maxSkew":2,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule","minDomains":3,"nodeTaintsPolicy":"Honor",
                   "labelSelector":{"matchLabels":{"app":"web"}},"matchLabelKeys":["tier","absent"]},
                  {"maxSkew":1,"topologyKey":"host","whenUnsatisfiable":"ScheduleAnyway","nodeAffinityPolicy":"Ignore"}],
                "affinity":{
                  "podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[
                    {"topologyKey":"zone","labelSelector":{"matchExpressions":[{"key":"app","operator":"Exists"}]}}]},
                  "podAntiAffinity":{
                    "requiredDuringSchedulingIgnoredDuringExecution":[
                      {"topologyKey":"host","namespaces":["b","a"],"labelSelector":{"matchLabels":{"app":"web"}},"mismatchLabelKeys":["tier"]}],
                    "preferredDuringSchedulingIgnoredDuringExecution":[
                      {"weight":7,"podAffinityTerm":{"topologyKey":"host","namespaceSelector":{},"labelSelector":{}}}]}}}}"#,
        )
        .unwrap();
        let template = template(&pod.metadata, &pod.spec);
        assert_eq!(template.labels, [("app".into(), "web".into()), ("tier".into(), "front".into())]);
        let [hard, soft] = template.spread.as_slice() else { panic!("two constraints") };
        assert_eq!(hard.selector, Some(LabelSelector::of_pairs([("app", "web"), ("tier", "front")])));
        assert_eq!(
            (hard.max_skew, hard.min_domains, hard.hard, hard.honor_affinity, hard.honor_taints),
            (2, 3, true, true, true)
        );
        assert_eq!((soft.selector.is_none(), soft.min_domains, soft.hard), (true, 1, false));
        assert_eq!((soft.honor_affinity, soft.honor_taints), (false, false));
        assert_eq!(template.affinity[0].namespaces, ["shop".into()]);
        let anti = &template.anti_affinity[0];
        assert_eq!(anti.namespaces, ["a".into(), "b".into()]);
        assert_eq!(anti.selector.as_ref().unwrap().requirements[1].operator, Operator::NotIn);
        let (weight, preferred) = &template.preferred_anti_affinity[0];
        assert_eq!((*weight, preferred.namespaces.len()), (7, 0));
        assert_eq!(preferred.namespace_selector, Some(LabelSelector::default()));
    }

    #[test]
    fn unknown_operators_select_nothing() {
        let raw: raw::LabelSelector<'_> =
            serde_json::from_str(r#"{"matchExpressions":[{"key":"a","operator":"Like","values":["b"]}]}"#).unwrap();
        assert!(!selector(&raw).matches(&[("a".into(), "b".into())]));
    }
}
