//! Which plugins are on, at which extension points, and with what weights ("Scheduler Configuration", profiles).

use std::collections::BTreeMap;

use kelson_sched::{Filter, FilterSet, Weights};

use super::fields::Fields;

/// Every plugin that kube-scheduler has in its default profile and this scheduler knows, with its default weight.
const KNOWN: &[(&str, i64)] = &[
    ("SchedulingGates", 0),
    ("PrioritySort", 0),
    ("NodeUnschedulable", 0),
    ("NodeName", 0),
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodePorts", 0),
    ("NodeResourcesFit", 1),
    ("VolumeRestrictions", 0),
    ("NodeVolumeLimits", 0),
    ("VolumeBinding", 0),
    ("VolumeZone", 0),
    ("PodTopologySpread", 2),
    ("InterPodAffinity", 2),
    ("DynamicResources", 2),
    ("DefaultPreemption", 0),
    ("NodeResourcesBalancedAllocation", 1),
    ("ImageLocality", 1),
    ("DefaultBinder", 0),
    ("NodeDeclaredFeatures", 0),
];

/// Plugins that score.
const SCORING: &[&str] = &[
    "TaintToleration",
    "NodeAffinity",
    "NodeResourcesFit",
    "PodTopologySpread",
    "InterPodAffinity",
    "DynamicResources",
    "NodeResourcesBalancedAllocation",
    "ImageLocality",
];

/// The extension points of a profile, with the kind by which messages call their plugins.
const POINTS: &[(&str, &str)] = &[
    ("preEnqueue", "PreEnqueuePlugin"),
    ("queueSort", "QueueSortPlugin"),
    ("preFilter", "PreFilterPlugin"),
    ("filter", "FilterPlugin"),
    ("postFilter", "PostFilterPlugin"),
    ("preScore", "PreScorePlugin"),
    ("score", "ScorePlugin"),
    ("reserve", "ReservePlugin"),
    ("permit", "PermitPlugin"),
    ("preBind", "PreBindPlugin"),
    ("bind", "BindPlugin"),
    ("postBind", "PostBindPlugin"),
    ("multiPoint", "multipoint plugin"),
];

/// What one extension point says.
#[derive(Debug, Default)]
struct Set {
    /// With their weights, 0 where none is given.
    enabled: BTreeMap<String, i64>,
    disabled: Vec<String>,
}

impl Set {
    /// Whether a plugin is on, if it is by default.
    fn allows(&self, name: &str, default: bool) -> bool {
        let off = self.disabled.iter().any(|one| one == "*" || one == name);
        self.enabled.contains_key(name) || default && !off
    }

    fn weight(&self, name: &str) -> Option<i64> {
        self.enabled.get(name).copied().filter(|weight| *weight != 0)
    }
}

/// What the plugins of a profile come to.
#[derive(Debug, PartialEq, Eq)]
pub struct Plugins {
    pub filters: FilterSet,
    pub weights: Weights,
    /// Whether `DefaultPreemption` is on.
    pub preempts: bool,
}

/// Whether there is such a plugin.
pub fn is_known(name: &str) -> bool {
    KNOWN.iter().any(|(known, _)| *known == name)
}

/// Reads `plugins`.
pub fn read(mut fields: Fields<'_>) -> Plugins {
    let mut sets: BTreeMap<&str, Set> = BTreeMap::new();
    for (point, kind) in POINTS {
        sets.insert(*point, read_set(fields.object(point), kind));
    }
    for (point, needed) in [("queueSort", "PrioritySort"), ("bind", "DefaultBinder")] {
        if !sets[point].allows(needed, sets["multiPoint"].allows(needed, true)) {
            fields.say(format!("{}: Forbidden: {needed} cannot be turned off", fields.at(point)));
        }
    }
    let weight = |name: &str| -> i64 {
        let default = KNOWN.iter().find(|(known, _)| *known == name).map_or(0, |(_, weight)| *weight);
        let everywhere = sets["multiPoint"].allows(name, true);
        // A plugin that is to score has a weight; turning off what prepares it turns it off.
        let on = sets["score"].allows(name, everywhere) && sets["preScore"].allows(name, true);
        let multi = sets["multiPoint"].weight(name);
        if on { sets["score"].weight(name).or(multi).unwrap_or(default.max(1)) } else { 0 }
    };
    let weights = Weights {
        fit: weight("NodeResourcesFit"),
        balanced_allocation: weight("NodeResourcesBalancedAllocation"),
        image_locality: weight("ImageLocality"),
        taint_toleration: weight("TaintToleration"),
        node_affinity: weight("NodeAffinity"),
        topology_spread: weight("PodTopologySpread"),
        pod_affinity: weight("InterPodAffinity"),
        dynamic_resources: weight("DynamicResources"),
    };
    let mut filters = FilterSet::ALL;
    for filter in Filter::ALL {
        let everywhere = sets["multiPoint"].allows(filter.name(), true);
        if !(sets["filter"].allows(filter.name(), everywhere) && sets["preFilter"].allows(filter.name(), true)) {
            filters.remove(filter);
        }
    }
    let everywhere = sets["multiPoint"].allows("DefaultPreemption", true);
    Plugins { filters, weights, preempts: sets["postFilter"].allows("DefaultPreemption", everywhere) }
}

fn read_set(mut fields: Fields<'_>, kind: &str) -> Set {
    let mut set = Set::default();
    let mut unknown = Vec::new();
    fields.each("enabled", |mut plugin| {
        let name = plugin.text("name").unwrap_or_default();
        let weight = plugin.number("weight").unwrap_or(0);
        if !is_known(&name) {
            unknown.push(name);
            return;
        }
        if weight < 0 || weight > i64::from(i32::MAX) {
            plugin.invalid("weight", weight, "must be a positive 32-bit integer");
        }
        if kind == "ScorePlugin" && !SCORING.contains(&name.as_str()) {
            plugin.say(format!("{kind} {name:?} does not extend {kind} plugin"));
        }
        if set.enabled.insert(name.clone(), weight).is_some() {
            plugin.say(format!("plugin {name:?} already registered as {kind:?}"));
        }
    });
    fields.each("disabled", |mut plugin| {
        let name = plugin.text("name").unwrap_or_default();
        plugin.take("weight");
        set.disabled.push(name);
    });
    for name in unknown {
        fields.say(format!("{kind} {name:?} does not exist"));
    }
    set
}
