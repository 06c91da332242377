//! `pluginConfig`: arguments of the plugins that have some.

use std::sync::Arc;
use std::time::Duration;

use kelson_sched::{FitStrategy, NodeSelectorTerm, Profile, SpreadConstraint, SpreadDefaults};
use serde_json::Value;

use super::VERSION;
use super::fields::Fields;
use crate::scheduler::{raw, view};

/// Whether these are arguments of the plugin `name`.
fn head(name: &str, fields: &mut Fields<'_>) {
    let (version, kind) = (fields.text("apiVersion"), fields.text("kind"));
    if let Some(version) = version.filter(|version| version != VERSION) {
        fields.invalid("apiVersion", format!("{version:?}"), &format!("must be {VERSION}"));
    }
    if let Some(kind) = kind.filter(|kind| *kind != format!("{name}Args")) {
        fields.invalid("kind", format!("{kind:?}"), &format!("must be {name}Args"));
    }
}

/// Reads the arguments of `VolumeBinding`: how long claims may take to be bound.
pub fn bind_within(mut fields: Fields<'_>) -> Option<Duration> {
    head("VolumeBinding", &mut fields);
    let seconds = fields.number_in("bindTimeoutSeconds", 0, i64::MAX);
    if !fields.take("shape").is_null() {
        fields.say(format!("{}: Forbidden: scoring by volume capacity is not supported", fields.at("shape")));
    }
    seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs)
}

/// Reads the arguments of any other plugin into a profile.
pub fn read(name: &str, mut fields: Fields<'_>, profile: &mut Profile) {
    head(name, &mut fields);
    match name {
        "InterPodAffinity" => {
            if let Some(weight) = fields.number_in("hardPodAffinityWeight", 0, 100) {
                profile.hard_pod_affinity_weight = weight as i32;
            }
            profile.ignore_preferred_terms_of_existing_pods =
                fields.flag("ignorePreferredTermsOfExistingPods").unwrap_or(false);
        }
        "NodeAffinity" => node_affinity(fields.object("addedAffinity"), profile),
        "NodeResourcesFit" => fit(fields, profile),
        "NodeResourcesBalancedAllocation" => {
            let resources = weighted(&mut fields, "resources");
            if let Some(one) = resources.iter().flatten().find(|(_, weight)| *weight != 1) {
                fields.invalid("resources", one.1, "resource weight must be 1");
            }
            if let Some(resources) = resources {
                profile.balanced_resources = resources.into_iter().map(|(name, _)| name).collect();
            }
        }
        "PodTopologySpread" => spread(fields, profile),
        // Every node is looked at, so no sample has a size.
        "DefaultPreemption" => {
            fields.number_in("minCandidateNodesPercentage", 0, 100);
            fields.number_in("minCandidateNodesAbsolute", 0, i64::from(i32::MAX));
        }
        "DynamicResources" => {
            fields.text("filterTimeout");
            fields.text("bindingTimeout");
        }
        _ => {}
    }
}

/// Resources with weights from 1 to 100, 1 where none is given.
fn weighted(fields: &mut Fields<'_>, name: &str) -> Option<Vec<(Arc<str>, i64)>> {
    let mut resources: Vec<(Arc<str>, i64)> = Vec::new();
    fields.each(name, |mut one| {
        let resource = one.text("name").unwrap_or_default();
        let weight = one.number_in("weight", 1, 100).unwrap_or(1);
        if resources.iter().any(|(have, _)| **have == *resource) {
            let path = one.at("name");
            one.say(format!("{path}: Duplicate value: {resource:?}"));
        }
        resources.push((resource.into(), weight));
    });
    (!resources.is_empty()).then_some(resources)
}

fn fit(mut fields: Fields<'_>, profile: &mut Profile) {
    let shared = |names: Vec<String>| -> Vec<Arc<str>> { names.into_iter().map(Into::into).collect() };
    profile.ignored_resources = fields.texts("ignoredResources").map(shared).unwrap_or_default();
    profile.ignored_groups = fields.texts("ignoredResourceGroups").map(shared).unwrap_or_default();
    if let Some(group) = profile.ignored_groups.iter().find(|group| group.contains('/')).cloned() {
        fields.invalid("ignoredResourceGroups", format!("{group:?}"), "resource group name can't contain '/'");
    }
    let mut strategy = fields.object("scoringStrategy");
    let kind = strategy.text("type").unwrap_or_else(|| "LeastAllocated".into());
    if let Some(resources) = weighted(&mut strategy, "resources") {
        profile.fit_resources = resources;
    }
    let mut shape = Vec::new();
    let mut ratio = strategy.object("requestedToCapacityRatio");
    ratio.each("shape", |mut point| {
        let utilization = point.number_in("utilization", 0, 100).unwrap_or(0);
        let score = point.number_in("score", 0, 10).unwrap_or(0);
        if shape.last().is_some_and(|(before, _)| *before >= utilization) {
            point.invalid("utilization", utilization, "utilization values must be sorted in increasing order");
        }
        shape.push((utilization, score));
    });
    drop(ratio);
    profile.fit = match kind.as_str() {
        "LeastAllocated" => FitStrategy::LeastAllocated,
        "MostAllocated" => FitStrategy::MostAllocated,
        "RequestedToCapacityRatio" if shape.is_empty() => {
            let path = strategy.at("requestedToCapacityRatio.shape");
            strategy.say(format!("{path}: Required value: at least one point must be specified"));
            FitStrategy::LeastAllocated
        }
        "RequestedToCapacityRatio" => FitStrategy::RequestedToCapacityRatio(shape),
        _ => {
            let path = strategy.at("type");
            strategy.say(format!(
                "{path}: Unsupported value: {kind:?}: supported values: \"LeastAllocated\", \"MostAllocated\", \
                 \"RequestedToCapacityRatio\""
            ));
            FitStrategy::LeastAllocated
        }
    };
}

/// Reads a part that the API has too, in its words.
fn part<T: Default + for<'de> serde::Deserialize<'de>>(fields: &mut Fields<'_>, name: &str, value: &Value) -> T {
    // By way of text, because the views borrow from it.
    serde_json::from_str(&value.to_string()).unwrap_or_else(|error| {
        fields.invalid(name, value, &error.to_string());
        T::default()
    })
}

#[derive(Default)]
struct Terms(Vec<NodeSelectorTerm>);

impl<'de> serde::Deserialize<'de> for Terms {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Terms, D::Error> {
        let raw = raw::NodeSelector::deserialize(deserializer)?;
        Ok(Terms(raw.node_selector_terms.iter().map(view::term).collect()))
    }
}

#[derive(Default)]
struct Preferences(Vec<(i32, NodeSelectorTerm)>);

impl<'de> serde::Deserialize<'de> for Preferences {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Preferences, D::Error> {
        let raw = Vec::<raw::Preferred<'de>>::deserialize(deserializer)?;
        Ok(Preferences(raw.iter().map(|one| (one.weight, view::term(&one.preference))).collect()))
    }
}

fn node_affinity(mut fields: Fields<'_>, profile: &mut Profile) {
    let required = fields.take("requiredDuringSchedulingIgnoredDuringExecution");
    let preferred = fields.take("preferredDuringSchedulingIgnoredDuringExecution");
    if !required.is_null() {
        let Terms(terms) = part(&mut fields, "requiredDuringSchedulingIgnoredDuringExecution", &required);
        profile.added_affinity = Some(terms);
    }
    if !preferred.is_null() {
        let Preferences(terms) = part(&mut fields, "preferredDuringSchedulingIgnoredDuringExecution", &preferred);
        profile.added_preferences = terms;
    }
}

fn spread(mut fields: Fields<'_>, profile: &mut Profile) {
    let kind = fields.text("defaultingType").unwrap_or_else(|| "System".into());
    let mut constraints = Vec::new();
    fields.each("defaultConstraints", |mut one| {
        let max_skew = one.number("maxSkew").unwrap_or(0);
        if max_skew < 1 || max_skew > i64::from(i32::MAX) {
            one.invalid("maxSkew", max_skew, "not in valid range (0-infinity)");
        }
        let topology_key = one.text("topologyKey").unwrap_or_default();
        if topology_key.is_empty() {
            let path = one.at("topologyKey");
            one.say(format!("{path}: Required value: can not be empty"));
        }
        let when = one.text("whenUnsatisfiable").unwrap_or_default();
        if !matches!(when.as_str(), "DoNotSchedule" | "ScheduleAnyway") {
            let path = one.at("whenUnsatisfiable");
            one.say(format!(
                "{path}: Unsupported value: {when:?}: supported values: \"DoNotSchedule\", \"ScheduleAnyway\""
            ));
        }
        if !one.take("labelSelector").is_null() {
            let path = one.at("labelSelector");
            one.say(format!("{path}: Forbidden: constraint must not define a selector, as they deduced for each pod"));
        }
        constraints.push(SpreadConstraint {
            max_skew: max_skew.clamp(1, i64::from(i32::MAX)) as i32,
            topology_key: topology_key.into(),
            hard: when == "DoNotSchedule",
            selector: None,
            min_domains: 1,
            honor_affinity: true,
            honor_taints: false,
        });
    });
    profile.spread_defaults = match kind.as_str() {
        "System" if constraints.is_empty() => SpreadDefaults::System,
        "List" => SpreadDefaults::List(constraints),
        "System" => {
            fields.invalid("defaultingType", "\"System\"", "when .defaultConstraints are not empty");
            SpreadDefaults::System
        }
        _ => {
            let path = fields.at("defaultingType");
            fields.say(format!("{path}: Unsupported value: {kind:?}: supported values: \"System\", \"List\""));
            SpreadDefaults::System
        }
    };
}
