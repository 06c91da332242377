//! The cluster's default topology spread: constraints of pods that have none of their own, and that a Service or their
//! ReplicaSet, ReplicationController or StatefulSet selects ("Pod Topology Spread Constraints", cluster-level defaults).

use std::collections::BTreeMap;
use std::sync::Arc;

use kelson_sched::{LabelSelector, Operator, Pairs, PodTemplate, Requirement, SpreadDefaults};
use kelson_wire::kube::{Delta, Keyed, ObjectMeta};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Deserializer};

use super::view::PodView;
use super::{others, raw, view};

/// What a Service or ReplicationController selects: pairs of labels.
#[derive(Debug)]
pub struct PairsView {
    meta: ObjectMeta,
    pub selector: Pairs,
}

/// What a ReplicaSet or StatefulSet selects.
#[derive(Debug)]
pub struct SelectorView {
    meta: ObjectMeta,
    pub selector: LabelSelector,
}

impl Keyed for PairsView {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

impl Keyed for SelectorView {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

impl<'de> Deserialize<'de> for PairsView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PairsView, D::Error> {
        let raw = raw::PairsOwner::deserialize(deserializer)?;
        Ok(PairsView { meta: view::meta(&raw.metadata), selector: others::pairs(&raw.spec.selector) })
    }
}

impl<'de> Deserialize<'de> for SelectorView {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SelectorView, D::Error> {
        let raw = raw::SelectorOwner::deserialize(deserializer)?;
        let selector = raw.spec.selector.as_ref().map(others::selector).unwrap_or_default();
        Ok(SelectorView { meta: view::meta(&raw.metadata), selector })
    }
}

/// Kinds of controllers whose selectors count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnerKind {
    ReplicationController,
    ReplicaSet,
    StatefulSet,
}

/// The controller of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub kind: OwnerKind,
    pub name: Box<str>,
}

/// What selects pods, and what that means for those without constraints.
#[derive(Debug, Default)]
pub struct Spreading {
    /// By namespace and name.
    services: FxHashMap<Arc<str>, BTreeMap<Arc<str>, Pairs>>,
    owners: FxHashMap<(OwnerKind, Arc<str>), BTreeMap<Box<str>, LabelSelector>>,
}

/// That each label has this value.
fn equalities(pairs: &Pairs) -> Vec<Requirement> {
    let equal = |(key, value): &(Arc<str>, Arc<str>)| Requirement {
        key: key.clone(),
        operator: Operator::In,
        values: vec![value.clone()],
    };
    pairs.iter().map(equal).collect()
}

impl Spreading {
    /// Takes in a change of a Service.
    pub fn service_changed(&mut self, delta: &Delta<PairsView>) {
        let meta = delta.latest().meta();
        let of_namespace = self.services.entry(meta.namespace.clone()).or_default();
        match &delta.new {
            // One without a selector selects nothing.
            Some(view) if !view.selector.is_empty() => {
                of_namespace.insert(meta.name.clone(), view.selector.clone());
            }
            _ => {
                of_namespace.remove(&meta.name);
            }
        }
        if of_namespace.is_empty() {
            self.services.remove(&meta.namespace);
        }
    }

    /// Takes in a change of a controller that selects by pairs.
    pub fn pairs_owner_changed(&mut self, kind: OwnerKind, delta: &Delta<PairsView>) {
        let selector = delta.new.as_ref().map(|view| LabelSelector { requirements: equalities(&view.selector) });
        self.owner_changed(kind, delta.latest().meta(), selector);
    }

    /// Takes in a change of a controller that selects by a selector.
    pub fn selector_owner_changed(&mut self, kind: OwnerKind, delta: &Delta<SelectorView>) {
        let selector = delta.new.as_ref().map(|view| view.selector.clone());
        self.owner_changed(kind, delta.latest().meta(), selector);
    }

    fn owner_changed(&mut self, kind: OwnerKind, meta: &ObjectMeta, selector: Option<LabelSelector>) {
        let of_namespace = self.owners.entry((kind, meta.namespace.clone())).or_default();
        match selector {
            Some(selector) => of_namespace.insert((&*meta.name).into(), selector),
            None => of_namespace.remove(&*meta.name),
        };
        if of_namespace.is_empty() {
            self.owners.remove(&(kind, meta.namespace.clone()));
        }
    }

    /// The template of a pod with the default constraints in it; `None` where none apply.
    pub fn of(&self, pod: &PodView, defaults: &SpreadDefaults) -> Option<PodTemplate> {
        if !pod.template.spread.is_empty() {
            return None;
        }
        let (spread, spread_defaulted) = defaults.constraints(&self.selector(pod)?);
        let with = || PodTemplate { spread, spread_defaulted, ..(*pod.template).clone() };
        (!matches!(defaults, SpreadDefaults::List(list) if list.is_empty())).then(with)
    }

    /// What the Services and the controller of a pod select, all together; `None` if that is nothing.
    fn selector(&self, pod: &PodView) -> Option<LabelSelector> {
        let (namespace, labels) = (&pod.template.namespace, &pod.template.labels);
        let holds = |selector: &Pairs| selector.iter().all(|pair| labels.contains(pair));
        let mut pairs: Pairs = Vec::new();
        let of_namespace = self.services.get(namespace);
        for selector in of_namespace.iter().flat_map(|services| services.values()).filter(|selector| holds(selector)) {
            pairs.extend(selector.iter().filter(|pair| !pairs.contains(pair)).cloned().collect::<Pairs>());
        }
        let mut requirements = equalities(&pairs);
        if let Some(owner) = &pod.owner
            && let Some(selector) =
                self.owners.get(&(owner.kind, namespace.clone())).and_then(|owners| owners.get(&owner.name))
        {
            let new = selector.requirements.iter().filter(|requirement| !requirements.contains(requirement));
            let new: Vec<Requirement> = new.cloned().collect();
            requirements.extend(new);
        }
        // In one order, so that equal selectors are equal.
        requirements.sort_unstable_by(|a, b| (&a.key, &a.values).cmp(&(&b.key, &b.values)));
        (!requirements.is_empty()).then_some(LabelSelector { requirements })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(labels: &str, rest: &str) -> PodView {
        let json = format!(
            r#"{{"metadata":{{"name":"p","namespace":"d","uid":"p","labels":{labels},
                "ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"rs","controller":true}}]}},"spec":{{{rest}}}}}"#
        );
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"))
    }

    fn service(name: &str, namespace: &str, selector: &str) -> Delta<PairsView> {
        let json =
            format!(r#"{{"metadata":{{"name":"{name}","namespace":"{namespace}"}},"spec":{{"selector":{selector}}}}}"#);
        Delta { old: None, new: Some(Arc::new(serde_json::from_str(&json).unwrap())) }
    }

    fn selector(template: Option<PodTemplate>) -> Option<Vec<(String, usize)>> {
        let template = template?;
        assert!(template.spread_defaulted);
        let [host, zone] = template.spread.as_slice() else { panic!("two constraints") };
        assert_eq!((host.max_skew, zone.max_skew, host.hard, zone.hard), (3, 5, false, false));
        assert_eq!(host.selector, zone.selector);
        let requirements = &host.selector.as_ref().unwrap().requirements;
        Some(requirements.iter().map(|one| (one.key.to_string(), one.values.len())).collect())
    }

    #[test]
    fn services_and_the_controller_select_together() {
        let mut spreading = Spreading::default();
        let web = pod(r#"{"app":"web","tier":"front"}"#, "");
        assert_eq!(selector(spreading.of(&web, &SpreadDefaults::System)), None, "nothing selects it");
        spreading.service_changed(&service("a", "d", r#"{"tier":"front"}"#));
        spreading.service_changed(&service("b", "d", r#"{"app":"other"}"#));
        spreading.service_changed(&service("c", "elsewhere", r#"{"app":"web"}"#));
        spreading.service_changed(&service("e", "d", "null"));
        let one = |key: &str| (key.to_string(), 1);
        assert_eq!(selector(spreading.of(&web, &SpreadDefaults::System)), Some(vec![one("tier")]));
        let set: SelectorView = serde_json::from_str(
            r#"{"metadata":{"name":"rs","namespace":"d"},"spec":{"selector":{"matchLabels":{"app":"web","tier":"front"}}}}"#,
        )
        .unwrap();
        let set = Some(Arc::new(set));
        spreading.selector_owner_changed(OwnerKind::ReplicaSet, &Delta { old: None, new: set.clone() });
        assert_eq!(selector(spreading.of(&web, &SpreadDefaults::System)), Some(vec![one("app"), one("tier")]));
        let own =
            r#""topologySpreadConstraints":[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule"}]"#;
        assert_eq!(
            selector(spreading.of(&pod(r#"{"app":"web"}"#, own), &SpreadDefaults::System)),
            None,
            "it has its own"
        );
        spreading.selector_owner_changed(OwnerKind::ReplicaSet, &Delta { old: set, new: None });
        spreading.service_changed(&Delta { old: service("a", "d", r#"{"tier":"front"}"#).new, new: None });
        assert_eq!(selector(spreading.of(&web, &SpreadDefaults::System)), None);
    }
}
